"""Chapter 3: activations. References come from definitions (60 digits) or are written out."""

import math

from mpmath import mp, mpf

from tests import reference
from tests.book.expectations import Estimate, Exact, Expectation, Parameter, Within

SMALL = {"samples": 50_000, "repetitions": 40}

FIGURES = ("fwd_mean", "fwd_std", "bwd_std")


def promised(value, factor=1.0) -> Exact:
    """A figure to the accuracy that the package promises: 1e-13·max(|reference|, 1e-3).

    `factor` is how much a formula of such figures multiplies their errors. The reference is
    rounded to a double, which the promise leaves room for.
    """
    value = float(value)
    return Exact(value, factor * 1e-13 * max(abs(value), 1e-3))


def exact(name, figures) -> dict[str, Expectation]:
    return {f"{name}_{kind}": promised(value) for kind, value in zip(FIGURES, figures, strict=True)}


def estimated(name, figures, spread, kinds=FIGURES) -> dict[str, Expectation]:
    """Estimates, and their standard errors, which lie below `spread`.

    spread: the standard error of each figure is below `spread`/√samples for what is simulated
    with all samples; the small run has 20 times fewer.
    """
    expected = {}
    for kind, value in zip(FIGURES, figures, strict=True):
        if kind in kinds:
            expected[f"{name}_{kind}"] = Estimate(float(value), f"{name}_{kind}_se")
            expected[f"{name}_{kind}_se"] = standard_error(spread)
    return expected


def standard_error(spread, samples=1_000_000) -> Within:
    """A standard error of spread/√samples at most.

    From a hundredth of it upwards, as figures of one layer differ, and up to twice √20 times as
    much in the small run: the error is itself estimated, from 256 or 64 replicates.
    """
    top = spread / math.sqrt(samples)
    return Within(top / 100, 2 * top * math.sqrt(20), f"spread {spread} over √samples, both runs")


def of_masks(name, mean, std) -> dict[str, Expectation]:
    """Mean and std of 100 000 masked normals, whose fourth moment is 3/2."""
    bounds = Within(1e-3, 4e-3, "0.58 to 0.79 over √100 000")
    return {
        f"{name}_mean": Estimate(mean, f"{name}_mean_se"),
        f"{name}_std": Estimate(std, f"{name}_std_se"),
        f"{name}_mean_se": bounds,
        f"{name}_std_se": bounds,
    }


def chi(name, m, s) -> Exact:
    _, fwd_std, bwd_std = reference.elementwise(name, m, s)
    with mp.workdps(60):
        # A square of a quotient of two figures: their errors count twice each.
        return promised((s * bwd_std / fwd_std) ** 2, 4.0)


def affine(layer_law, input_law) -> tuple:
    """ReLU with the constants of one law under another, forward and backward separated."""
    mean, fwd, bwd = reference.elementwise("relu", *layer_law)
    seen = reference.elementwise("relu", *input_law)
    with mp.workdps(60):
        return (seen[0] - mean) / fwd, seen[1] / fwd, seen[2] / bwd


RELU = reference.elementwise("relu", 0, 1)
SIGMOID = reference.elementwise("sigmoid", 0, 1)
TANH = reference.elementwise("tanh", 0, 1)
CHI_RELU = math.pi / (math.pi - 1)

with mp.workdps(60):
    # f' of sigmoid is 1/(4 cosh²(z/2)); the integrals are those of the definitions.
    def _slope_power(k):
        return mp.quad(
            lambda z: (mp.sech(z / 2) / 2) ** (2 * k) * mp.npdf(z), mp.linspace(-20, 20, 41)
        )

    FOURTH = _slope_power(4)
    # Var y(1−y) = E f'² − (E f')², and E f' = ¼ − σ_f².
    SLOPE_MEAN = _slope_power(1)
    SLOPE_STD = mp.sqrt(SIGMOID[2] ** 2 - SLOPE_MEAN**2)
    SE = mp.sqrt((3 * FOURTH - SIGMOID[2] ** 4) / 100_000) / (2 * SIGMOID[2])
    MISS = mpf("0.2123") - SIGMOID[2]
    CHANCE = mp.erfc(MISS / SE / mp.sqrt(2))
    NEEDED = (mpf("1.959964") * SE * mp.sqrt(100_000) / (mpf("0.21175") - SIGMOID[2])) ** 2
    # Equal steps of ½ and ¾, and the bound of the chapter at a = 2.
    BOUND = mp.exp(2) / (2 * (1 + mp.cos(2)) ** 2)
    HALF_STEP = BOUND / mp.expm1(8 * mp.pi) / (2 * SIGMOID[2])
    WIDER_STEP = BOUND / mp.expm1(mpf(16) / 3 * mp.pi) / (2 * SIGMOID[2])

EXPECTED: dict[str, Expectation] = {
    # ReLU at N(0, 1), closed forms.
    "relu_fwd_mean": promised(1 / math.sqrt(2 * math.pi)),
    "relu_fwd_std": promised(math.sqrt(0.5 - 0.5 / math.pi)),
    "relu_bwd_std": promised(math.sqrt(0.5)),
    **estimated("relu_sim", RELU, 0.8),
    "relu_sim_bwd_mean": Estimate(0.0, "relu_sim_bwd_mean_se"),
    "relu_sim_bwd_mean_se": standard_error(0.8),
    # The mask by the sign, and by a coin: 100 000 samples in both runs.
    **of_masks("sign_signal", 1 / math.sqrt(2 * math.pi), math.sqrt(0.5 - 0.5 / math.pi)),
    **of_masks("coin_signal", 0.0, math.sqrt(0.5)),
    **of_masks("sign_gradient", 0.0, math.sqrt(0.5)),
    **of_masks("coin_gradient", 0.0, math.sqrt(0.5)),
    # ReLU with the constants of N(0, 1) and of N(−1, 1), a tenth of the samples.
    **estimated("naive_left", affine((0, 1), (-1, 1)), 4.0, FIGURES[1:]),
    **estimated("naive_right", affine((0, 1), (1, 1)), 4.0, FIGURES[1:]),
    **estimated("fixed_left", (0, 1, 1), 9.0, FIGURES[1:]),
    # Three normalisations: E y, E y² and E dx².
    "by_forward_mean": Estimate(0.0, "by_forward_mean_se"),
    "by_forward_signal": Estimate(1.0, "by_forward_signal_se"),
    "by_forward_gradient": Estimate(CHI_RELU, "by_forward_gradient_se"),
    "by_backward_mean": Estimate(0.0, "by_backward_mean_se"),
    "by_backward_signal": Estimate(1 / CHI_RELU, "by_backward_signal_se"),
    "by_backward_gradient": Estimate(1.0, "by_backward_gradient_se"),
    "by_root_two_mean": Estimate(1 / math.sqrt(math.pi), "by_root_two_mean_se"),
    "by_root_two_signal": Estimate(1.0, "by_root_two_signal_se"),
    "by_root_two_gradient": Estimate(1.0, "by_root_two_gradient_se"),
    **{
        f"{rule}_{figure}_se": standard_error(spread)
        for rule in ("by_forward", "by_backward", "by_root_two")
        for figure, spread in (("mean", 1.1), ("signal", 3.0), ("gradient", 4.0))
    },
    # χ.
    "chi_relu": promised(CHI_RELU, 4.0),
    "chi_relu_30": promised(CHI_RELU, 4.0),
    "chi_sigmoid": chi("sigmoid", 0, 1),
    "chi_tanh": chi("tanh", 0, 1),
    "chi_sigmoid_wide": chi("sigmoid", 0, 4),
    "chi_tanh_wide": chi("tanh", 0, 4),
    "chi_shifted": chi("sigmoid", 4, 1),
    "ablation_chi": chi("relu", -1, 1),
    "ablation_chi_right": chi("relu", 1, 1),
    "ablation_chi_far": chi("relu", -8, 1),
    # y(1 − y), printed, and y(1 − y) dy, meant.
    **estimated("printed", (SLOPE_MEAN, SLOPE_STD, 0), 0.06, FIGURES[:2]),
    **estimated("script", SIGMOID, 0.3),
    "script_bwd_mean": Estimate(0.0, "script_bwd_mean_se"),
    "script_bwd_mean_se": standard_error(0.3),
    # Stein: E x f(x) = E f'(x) = ¼ − σ_f².
    **exact("sigmoid", SIGMOID),
    "sigmoid_error": Within(0.0, 1e-13 * 0.2, "the promise for the smallest of the figures"),
    **estimated("silu", (SLOPE_MEAN, 0, 0), 0.7, FIGURES[:1]),
    "stein": promised(SLOPE_MEAN, 2.0),
    "stein_variance": Estimate(float(SLOPE_MEAN), "stein_variance_se"),
    "stein_variance_se": standard_error(0.06),
    # The sum at equal steps: within its own bound.
    "by_hand": Exact(float(SIGMOID[2]), float(HALF_STEP)),
    "by_hand_bound": Exact(float(HALF_STEP), 1e-8 * float(HALF_STEP)),
    "few_points": Exact(float(SIGMOID[2]), float(WIDER_STEP)),
    "few_points_bound": Exact(float(WIDER_STEP), 1e-8 * float(WIDER_STEP)),
    # The same sum with steps of 0.36, whose bound lies far below rounding: 51 terms, 1e-15.
    "third_slope": Exact(float(SIGMOID[2]), 1e-14),
    # The post's run, repeated.
    "repetitions": Parameter("repetitions"),
    "se_formula": promised(SE, 4.0),
    "se_measured": Estimate(float(SE), "se_measured_se"),
    "se_measured_se": Within(1e-5, 1e-4, "5.2e-4/√(2·(repetitions − 1)), 400 and 40 of them"),
    "rerun_mean": Estimate(float(SIGMOID[2]), "rerun_mean_se"),
    "rerun_mean_se": Within(1.5e-5, 1.3e-4, "5.2e-4/√repetitions, 400 and 40 of them"),
    # The errors of σ_b and of the standard error, relative to the miss of 5.5e-4.
    "post_z": Exact(float(MISS / SE), 1e-9),
    "far_chance": Exact(float(CHANCE), 1e-9),
    "far_share": Estimate(float(CHANCE), "far_share_se"),
    "far_share_se": Within(0.02, 0.08, "√(0.286·0.714/repetitions), 400 and 40 of them"),
    "excess_1": Exact(float(mpf("0.2123") / SIGMOID[2] - 1), 1e-12),
    "room": Exact(float(mpf("0.21175") - SIGMOID[2]), 1e-13),
    "excess_100": promised((mpf("0.2123") / SIGMOID[2]) ** 100, 200.0),
    "samples_needed": Exact(float(NEEDED), 1e-6 * float(NEEDED)),
    # tanh from sigmoid.
    **exact("tanh", TANH),
    **exact("from_sigmoid", reference.elementwise("tanh", 0.5, 1.5)),
    **estimated("tanh_sim", reference.elementwise("tanh", 0.5, 1.5), 1.0),
    "tanh_excess": Exact(float(chi("tanh", 0, 0.1).reference) - 1, 4e-13 + 2 * math.ulp(1.0)),
    # Sigmoid at other laws, a tenth of the samples.
    **exact("wide", reference.elementwise("sigmoid", 0, 8)),
    **estimated("wide_sim", reference.elementwise("sigmoid", 0, 8), 0.9, FIGURES[1:]),
    "wide_limit": promised(1 / math.sqrt(48 * math.sqrt(2 * math.pi))),
    **exact("shifted", reference.elementwise("sigmoid", 4, 1)),
    **estimated("shifted_sim", reference.elementwise("sigmoid", 4, 1), 0.4, FIGURES[1:]),
}
