"""Chapter 4: pooling. References come from definitions (60 digits), enumeration or closed forms."""

import math
from fractions import Fraction

from mpmath import mp

from tests import reference
from tests.book.expectations import Estimate, Exact, Expectation, Within

SMALL = {"samples": 50_000, "tensors": 200}

FIGURES = ("fwd_mean", "fwd_std", "bwd_std")
FORWARD, BACKWARD = FIGURES[:2], FIGURES[2:]


def promised(value) -> Exact:
    """A figure to the accuracy that the package promises: 1e-13·max(|reference|, 1e-3)."""
    value = float(value)
    return Exact(value, 1e-13 * max(abs(value), 1e-3))


def exact(name, figures, kinds=FIGURES) -> dict[str, Expectation]:
    return {
        f"{name}_{kind}": promised(value)
        for kind, value in zip(FIGURES, figures, strict=True)
        if kind in kinds
    }


def standard_error(size, spread=8.0) -> Within:
    """A standard error of spread·size/√(a million) at most, four hundred times less at least.

    The small run has 20 times fewer samples, and its error is taken from as few as 64
    replicates, hence 2·√20 times more.
    """
    top = spread * float(size) / 1000
    why = f"{spread}·{float(size):.3g}/√samples in the page's run"
    return Within(top / 400, 2 * math.sqrt(20) * top, why)


def estimated(name, figures, kinds=FIGURES, spread=8.0) -> dict[str, Expectation]:
    expected = {}
    for kind, value in zip(FIGURES, figures, strict=True):
        if kind in kinds:
            size = figures[1] if kind in FORWARD else value
            expected[f"{name}_{kind}"] = Estimate(float(value), f"{name}_{kind}_se")
            expected[f"{name}_{kind}_se"] = standard_error(size, spread)
    return expected


def power(name, value, spread=60.0) -> dict[str, Expectation]:
    """Mean square of dx at one place: one value an image, and an image has many inputs."""
    return {
        f"{name}_power": Estimate(value, f"{name}_power_se"),
        f"{name}_power_se": standard_error(value, spread),
    }


def script(name, std, draws=100_000) -> dict[str, Expectation]:
    """The std of so many normals, each handed to entries in parts whose squares sum to 1/K."""
    error = float(std) / math.sqrt(2 * draws)
    return {
        f"{name}_script": Estimate(float(std), f"{name}_script_se"),
        f"{name}_script_se": Exact(error, 1e-12),
    }


def ratio(name, value) -> dict[str, Expectation]:
    """True over naive standard error, from 4000 or 200 tensors."""
    why = f"{value:.3g}/√(2·tensors), 4000 and 200 of them, up to the excess of a fourth moment"
    return {
        f"{name}_ratio": Estimate(value, f"{name}_ratio_se"),
        f"{name}_ratio_se": Within(value * 0.007, value * 0.2, why),
    }


def pool(kind, window, stride=None):
    rule = reference.max_pool if kind == "max" else reference.avg_pool
    return rule(window, stride or window, 0, 1)


def behind_relu(k):
    """(mean, std) of the largest of k² normalised ReLUs, by the constants of normals."""
    relu_mean, relu_std, _ = reference.elementwise("relu", 0, 1)
    mean, std = reference.maximum_of("relu", k * k, 0, 1)
    normal_mean, normal_std = reference.maximum(k * k, 0, 1)
    with mp.workdps(60):
        normalised = (mean - relu_mean) / relu_std
        return (normalised - normal_mean) / normal_std, std / relu_std / normal_std, 0


def mixture():
    """(mean, std) of the maximum over 4, 6 or 9 inputs with the chances 1, 14 and 49 in 64."""
    with mp.workdps(60):
        parts = [(c, *reference.maximum(n, 0, 1)) for c, n in ((1, 4), (14, 6), (49, 9))]
        mean = sum(c * m for c, m, _ in parts) / 64
        return mean, mp.sqrt(sum(c * (s**2 + m**2) for c, m, s in parts) / 64 - mean**2), 0.5


SQUARES = {f"{kind}{k}": pool(kind, (k, k)) for kind in ("max", "avg") for k in (2, 3)}
SHAPES = {
    "1d": ((3,), (2,)),
    "2d": ((3, 3), (2, 2)),
    "3d": ((3, 3, 3), (2, 2, 2)),
    "_oblong": ((2, 3), (1, 2)),
}
CASES = {
    f"{kind}{name}": pool(kind, *shape) for kind in ("max", "avg") for name, shape in SHAPES.items()
}
MIXTURE = mixture()
# A 3×3 mean with padding=1 and stride 2 on 16×16: 23 pairs of output and input along an axis.
PADDED_AVERAGE = (0.0, math.sqrt(23**2 / 64) / 9, math.sqrt(23**2 / 256) / 9)

EXPECTED: dict[str, Expectation] = {
    # The post's four layers, C10 to C13, and its scripts at their own size.
    **{key: item for name, f in SQUARES.items() for key, item in script(name, f[2]).items()},
    **script("nine", Fraction(1, 9), 900_000),
    **{key: item for name, f in SQUARES.items() for key, item in exact(name, f).items()},
    **{
        key: item
        for name, f in SQUARES.items()
        for key, item in estimated(f"{name}_sim", f).items()
    },
    # Other strides, dimensions and windows: T^(−1/2) and (KT)^(−1/2), counted by enumeration.
    **estimated("stride1_max", pool("max", (3, 3), (1, 1)), BACKWARD, 20.0),
    **estimated("stride4_avg", pool("avg", (3, 3), (4, 4)), BACKWARD, 20.0),
    **{key: item for name, f in CASES.items() for key, item in exact(name, f, BACKWARD).items()},
    **{
        key: item
        for name, f in CASES.items()
        for key, item in estimated(f"{name}_sim", f, BACKWARD).items()
    },
    # Windows that a place lies in, out of nine.
    **power("once", 1 / 9),
    **power("corner", 1 / 9),
    **power("twice", 2 / 9),
    **power("four_times", 4 / 9),
    # Order statistics.
    **exact("of2", (1 / math.sqrt(math.pi), math.sqrt(1 - 1 / math.pi), 0), FORWARD),
    **exact("of3", (*reference.maximum(3, 0, 1), 0), FORWARD),
    **estimated("of2_sim", (*reference.maximum(2, 0, 1), 0), FORWARD),
    **estimated("of3_sim", (*reference.maximum(3, 0, 1), 0), FORWARD),
    **exact("of5", (*reference.maximum(5, 0, 1), 0), FORWARD),
    "by_formula_mean": promised(reference.maximum(4, 0, 1)[0]),
    "by_formula_std": promised(reference.maximum(4, 0, 1)[1]),
    "five_mean": promised(reference.maximum(5, 0, 1)[0]),
    "five_std": promised(reference.maximum(5, 0, 1)[1]),
    # Two promised figures, relative to a standard error of 2.2e-4.
    "post_forward_z": Exact(
        float(
            (1.0291 - reference.maximum(4, 0, 1)[0])
            / reference.maximum(4, 0, 1)[1]
            * mp.sqrt(10**7)
        ),
        1e-9,
    ),
    # Standard errors: √K, √(2/(3 − 1/K)), and by counting shared inputs on 37×37.
    **ratio("avg3", 3.0),
    **ratio("avg2", 2.0),
    **ratio("max3", math.sqrt(9 / 13)),
    **ratio("overlap", math.sqrt(2 * 196**2 / (3 * 88**2 - 54**4 / 37**2))),
    # Behind a normalised ReLU.
    **exact("plain2", behind_relu(2), FORWARD),
    **exact("plain3", behind_relu(3), FORWARD),
    **estimated("plain2_sim", behind_relu(2), FORWARD),
    **estimated("plain3_sim", behind_relu(3), FORWARD),
    **estimated("composite2_sim", (0, 1, 0), FORWARD),
    **estimated("composite3_sim", (0, 1, 0), FORWARD),
    "relu_inverse": promised(1 / math.sqrt(0.5 - 0.5 / math.pi)),
    **estimated("tied", (0, 0, 0.5), BACKWARD),
    **power("first", 19 / 64),
    **power("other", 15 / 64),
    # The pair: slope 1 unless all K inputs are negative.
    **{f"pair{k}_formula": promised(math.sqrt(2 * (1 - 0.5 ** (k * k)))) for k in (2, 3)},
    **estimated("pair2", (0, 0, math.sqrt(2 * (1 - 0.5**4))), BACKWARD),
    **estimated("pair3", (0, 0, math.sqrt(2 * (1 - 0.5**9))), BACKWARD),
    **{f"joint{k}": Estimate(1.0, f"joint{k}_se") for k in (2, 3)},
    **{f"joint{k}_se": standard_error(1.0) for k in (2, 3)},
    # Borders: outputs over inputs along an axis.
    **estimated("side8", (0, 0, 3 / 8), BACKWARD, 20.0),
    **estimated("side8_padded", (0, 0, 4 / 8), BACKWARD, 20.0),
    **estimated("side32", (0, 0, 15 / 32), BACKWARD, 20.0),
    **exact("padded_max", MIXTURE, FORWARD),
    **exact("padded_avg", PADDED_AVERAGE, FIGURES[1:]),
    **estimated("padded_max_sim", MIXTURE),
    **estimated("padded_avg_sim", PADDED_AVERAGE),
    # Dilation changes nothing.
    **exact("dilated", pool("max", (3, 3), (2, 2))),
    **estimated("dilated_sim", pool("max", (3, 3), (2, 2))),
    # A smoothed field: 19/27 for averages; the maximum has no closed form that we know.
    **estimated("smooth_avg", (0, 19 / 27, 1 / 9), FIGURES[1:]),
    **estimated("smooth_max", (0, 0, 1 / 3), BACKWARD),
    "smooth_max_fwd_mean": Within(
        math.sqrt(8 / 9 / math.pi),
        1.4850131622,
        "the maximum of two corners, whose correlation is 1/9, from below; independence from above",
    ),
    "smooth_max_fwd_mean_se": standard_error(0.7),
    **exact("global", pool("avg", (7, 7))),
}
