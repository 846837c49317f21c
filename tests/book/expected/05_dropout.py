"""What chapter 5 records: dropout's figures, its evaluation, and a network with it."""

import math

from tests import reference
from tests.book.expectations import Equals, Estimate, Exact, PerRun, Within

SMALL = {"samples": 40_000, "width": 128, "batch": 32, "seeds": 3}

OWN_SAMPLES = 400_000
REPLICATES = 256
PI = math.pi
ROWS = ("fwd_mean", "fwd_std", "bwd_std")


def rounded(value) -> Exact:
    """The house's bound for a figure: 1e-13·max(|reference|, 1e-3)."""
    return Exact(float(value), 1e-13 * max(abs(float(value)), 1e-3))


def drawn(samples) -> int:
    return REPLICATES * math.ceil(samples / REPLICATES)


def standard_error(spread, share=1) -> PerRun:
    """`spread`/√n; 256 replicates know it to 4.4 %, a seventh of what is allowed."""

    def within(samples):
        expected = spread / math.sqrt(drawn(samples // share))
        return Within(0.7 * expected, 1.3 * expected, "256 replicates know it to 4.4 %")

    return PerRun(own=within(OWN_SAMPLES), small=within(SMALL["samples"]))


def std_spread(std, fourth) -> float:
    """√n times the standard error of a std, from the fourth central moment of an element."""
    return math.sqrt(fourth / std**4 - 1) * std / 2


def masked(m, s, q, third=0.0, fourth=None):
    """Mean, std and fourth central moment of k·x, k = 1 with probability q, x centred so."""
    fourth = 3 * s**4 if fourth is None else fourth
    mean, std = q * m, math.sqrt(q * (s * s + (1 - q) * m * m))
    d = m - mean
    kept = fourth + 4 * d * third + 6 * d * d * s * s + d**4
    return mean, std, q * kept + (1 - q) * mean**4


def one():
    """The three layers at q = ½ and N(0, 1)."""
    for name, inverted, divisor in (
        ("raw", False, 1.0),
        ("inverted", True, 1.0),
        ("text", True, math.sqrt(2.0)),
    ):
        figures = reference.dropout(0.5, 0.0, 1.0, inverted)
        for row, figure in zip(ROWS, figures, strict=True):
            value = float(figure) / divisor
            key = f"{name}_{row}"
            yield key, rounded(value)
            yield f"{key}_simulated", Estimate(value, f"{key}_se")
            std = float(figures[1]) / divisor
            # E y⁴ = 3 q/q⁴ of the mask, whatever it is divided by: kurtosis 3/q.
            spread = std if row == "fwd_mean" else std_spread(std, 6.0 * std**4)
            yield f"{key}_se", standard_error(spread)


def with_mean():
    """kx/√q at m = 2, s = 1."""
    _, std, fourth = masked(2.0, 1.0, 0.5)
    naive, fourth = std * math.sqrt(2), fourth * 4
    yield "naive_two", Estimate(naive, "naive_two_se")
    yield "naive_two_se", standard_error(std_spread(naive, fourth), share=4)
    yield "naive_two_exact", rounded(math.sqrt(3.0))
    yield "told_two", Estimate(1.0, "told_two_se")
    yield "told_two_se", standard_error(std_spread(naive, fourth) / naive, share=4)
    yield "told_two_bwd", rounded(1 / math.sqrt(3.0))


def after_relu():
    """ReLU's moments in closed form, then the mask's."""
    m = 1 / math.sqrt(2 * PI)
    raw3, raw4 = 2 * m, 1.5
    s = math.sqrt(0.5 - m * m)
    third = raw3 - 3 * m * 0.5 + 2 * m**3
    fourth = raw4 - 4 * m * raw3 + 6 * m * m * 0.5 - 3 * m**4
    mean, std, masked_fourth = masked(m, s, 0.5, third, fourth)
    root = math.sqrt(2.0)
    train = (mean * root, std * root, masked_fourth * 4)
    declared = (0.0, 1.0, masked_fourth / std**4)
    expected = {
        ("identity", "train"): train,
        ("scaled", "train"): train,
        ("declared", "train"): declared,
        ("identity", "eval"): (m, s, fourth),
        ("scaled", "eval"): (m / root, s / root, fourth / 4),
        ("declared", "eval"): (0.0, 1.0, fourth / s**4),
    }
    for (name, mode), (mean, std, fourth) in expected.items():
        key = f"relu_{name}_{mode}"
        yield f"{key}_fwd_mean", Estimate(mean, f"{key}_fwd_mean_se")
        yield f"{key}_fwd_mean_se", standard_error(std)
        yield f"{key}_fwd_std", Estimate(std, f"{key}_fwd_std_se")
        yield f"{key}_fwd_std_se", standard_error(std_spread(std, fourth))


VARIANCE = 0.5 - 0.5 / PI


def level(layers=12) -> float:
    """Root of v after 11 times v' = q (v/2 - √v/π + 1/2π)/σ_f², from 1."""
    v = 1.0
    for _ in range(layers - 1):
        v = 0.5 * (v / 2 - math.sqrt(v) / PI + 0.5 / PI) / VARIANCE
    return math.sqrt(v)


def settled() -> float:
    """Where that stands still: halved, not solved."""
    low, high = 0.0, 1.0
    for _ in range(80):
        r = (low + high) / 2
        gain = 0.5 * (r * r / 2 - r / PI + 0.5 / PI) / VARIANCE - r * r
        low, high = (r, high) if gain > 0 else (low, r)
    return low


def network():
    drift = "1 in the limit of infinite width; from above ReLU's map repels"
    yield "network_training", PerRun(own=Within(0.9, 1.3, drift), small=Within(0.7, 2.0, drift))
    yield "network_variance", PerRun(own=Within(0.9, 1.2, drift), small=Within(0.7, 1.8, drift))
    yield (
        "network_mean",
        PerRun(
            own=Estimate(level(), "network_mean_se"),
            small=Within(0.75 * level(), 1.35 * level(), "width 128, three networks"),
        ),
    )
    for name in ("training", "variance", "mean"):
        yield f"network_{name}_se", Within(1e-4, 0.2, "a few networks of finite width")
    yield "network_mean_theory", Exact(level(), 1e-12)


# 200 masks leave noise of p/200q of the signal's square in the average: it lowers a slope by 0.5 %.
SLOPES = {
    "slope_variance_1": (math.sqrt(2), 0.05),
    "slope_variance_2": (2.0, 0.3),
    "slope_mean_1": (1.0, 0.04),
    "slope_mean_2": (1.0, 0.15),
}


def slopes():
    for name, (expected, slack) in SLOPES.items():
        yield (
            name,
            Within(expected - slack, expected + slack, "one network; ReLU bends the second layer"),
        )


def feature():
    root = math.sqrt(2.0)
    for row in ("fwd_std", "bwd_std"):
        yield f"feature_{row}", Estimate(root, f"feature_{row}_se")
        # Twice that of free masks, in samples of 8 channels of 4 × 4.
        yield (
            f"feature_{row}_se",
            PerRun(
                *(
                    Within(
                        0.7 * 2 * std_spread(root, 24.0) / math.sqrt(n),
                        1.3 * 2 * std_spread(root, 24.0) / math.sqrt(n),
                        "256 replicates know it to 4.4 %",
                    )
                    for n in (
                        REPLICATES * math.ceil(samples / (REPLICATES * 128)) * 128
                        for samples in (OWN_SAMPLES, SMALL["samples"])
                    )
                )
            ),
        )
    # The small run rounds both numbers of samples up, to other multiples.
    yield (
        "feature_ratio",
        PerRun(
            own=Estimate(2.0, "feature_ratio_se"),
            small=Within(1.3, 2.5, "2 times √(40 192/65 536) = 1.57, to six standard errors"),
        ),
    )
    # A standard error from 256 replicates has a relative one of 1/√(2·255); a ratio √2 of that.
    yield "feature_ratio_se", Within(0.07, 0.16, "2/√256")
    yield "feature_ratio_theory", rounded(2.0)


EXPECTED = {
    **dict(one()),
    **dict(with_mean()),
    **dict(after_relu()),
    **dict(network()),
    "depth": Equals(12),
    **dict(slopes()),
    **dict(feature()),
    "exercise_relu": rounded(math.sqrt(0.5 - 0.25 / PI)),
    "exercise_level": Exact(settled(), 1e-14),
}
