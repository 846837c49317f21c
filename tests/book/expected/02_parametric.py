"""Chapter 2: norms of weights, phases of a stride, the gradient of a weight."""

import math
import sys

from tests.book.expectations import Equals, Estimate, Exact, PerRun, Within

EPS = sys.float_info.epsilon
OWN = {"samples": 400_000}
SMALL = {"samples": 50_000, "replicates": 32}
# A norm adds some hundred squares pairwise, takes a root and divides: a few roundings each.
NORM = 32 * EPS


def error_near(relative, figure=1.0):
    """The standard error of a figure that a million samples would give to this relative error.

    That is 1/√(2·independent values); how many values are independent depends on windows that
    overlap, hence a factor of 5 either way. A convolution's sample is a whole picture and each
    replicate has one at least, so the small run need not be much smaller.
    """
    own = figure * relative * math.sqrt(1e6 / OWN["samples"])
    small = figure * relative * math.sqrt(1e6 / SMALL["samples"])
    why = "1/√(2·values) of the figure, values within a factor"
    return PerRun(own=Within(own / 5, own * 5, why), small=Within(own / 5, small * 5, why))


def scores(count):
    """The root mean square of this many z-scores."""
    reach = 4.5 / math.sqrt(2 * count)
    return Within(1 - reach, 1 + reach, f"1 ± 4.5 standard errors, {count} scores")


def chi_spread(n):
    """Std of the norm of n independent normal numbers of variance 1/n."""
    mean = math.sqrt(2 / n) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))
    return math.sqrt(1 - mean**2)


def estimate(name, figure, error):
    """The expectations of an estimate and of its standard error."""
    return {name: Estimate(figure, f"{name}_se"), f"{name}_se": error_near(error)}


RATIO = 1 / math.sqrt(math.pi - 1)
SHARES = {"centred": 0.0, "small": 0.1, "relu": RATIO, "one": 1.0}

EXPECTED = {
    "rows_bwd_rms": Exact(2.0, 2 * NORM),
    "rows_fwd_rms": Exact(1.0, NORM),
    "columns_bwd_worst": Exact(0.0, NORM),
    **estimate("columns_first", 1.0, 1 / math.sqrt(2 * 1e6 / 64)),
    "columns_z_rms": scores(64),
    "factor_bwd_rms": Exact(1.0, NORM),
    "factor_spread": Estimate(chi_spread(256), "factor_spread_se"),
    "factor_spread_se": Within(
        0.6 * chi_spread(256) / math.sqrt(126),
        1.4 * chi_spread(256) / math.sqrt(126),
        "spread/√(2·63), the spread itself ± 4.5/√126",
    ),
}
for stride in (1, 2, 3, 4):
    size = 1 / math.sqrt(2 * 1e6 / 8)
    EXPECTED[f"ours_{stride}_worst"] = Exact(0.0, NORM)
    EXPECTED |= estimate(f"ours_{stride}", 1.0, size)
    EXPECTED |= estimate(f"post_{stride}", 1 / stride, size / stride)

# Taps that reach a phase, of 9, over their mean.
for phase, taps in {"00": 1, "01": 2, "10": 2, "11": 4}.items():
    EXPECTED |= estimate(f"plain_{phase}", taps * 4 / 9, taps * 4 / 9 * 2 / math.sqrt(2e6))
    EXPECTED |= estimate(f"even_{phase}", 1.0, 2 / math.sqrt(2e6))
EXPECTED |= estimate("dilated_00", 4.0, 8 / math.sqrt(2e6))
EXPECTED |= {f"dilated_{phase}": Exact(0.0, 0.0) for phase in ("01", "10", "11")}

for side in (4, 8, 16, 32):
    EXPECTED |= estimate(f"border_{side}", 1 - 2 / (3 * side), 1 / math.sqrt(2e6))

EXPECTED |= {
    # 16 terms, rounded, of a gradient that is up to 128 times as long before it is projected.
    "normalize_cosine": Exact(0.0, 16 * 128 * EPS),
    "project_cosine": Within(0.1, 1.0, "a cosine, of a gradient that nothing has projected"),
    "normalize_used": Exact(0.0, NORM),
    "project_used": Exact(0.0, NORM),
    # 60 steps, each some roundings of a number of order 1.
    "pythagoras": Exact(0.0, 60 * 8 * EPS),
    "normalize_never_shrinks": Equals(True),
    "normalize_stored": Within(1.0, 2.0, "grows, by Pythagoras, in small steps"),
    # Least squares on noise: a column of 16 weights has E ‖w‖² = 16/(256 - 32 - 1).
    "plain_used": Within(
        0.84 * math.sqrt(16 / 223), 1.16 * math.sqrt(16 / 223), "4.5 standard errors of 512 weights"
    ),
    "zero_before": Exact(0.0, 0.0),
    "zero_gradient_is_finite": Equals(True),
    "zero_can_move": Equals(True),
    "zero_after": Exact(1.0, NORM),
    "double_bwd_rms": Exact(math.sqrt(0.5), NORM),
    "double_z_rms": scores(16),
    "fourfold_bwd_rms": Exact(1.0, NORM),
    "fourfold_z_rms": scores(16),
    "orthogonal_fwd_worst": Exact(0.0, 64 * EPS),
    "orthogonal_bwd_worst": Exact(0.0, 64 * EPS),
    "relu_ratio": Exact(RATIO, 8 * EPS),
    "sinkhorn_rows": Exact(0.0, NORM),
    "sinkhorn_columns": Exact(0.0, NORM),
    "sinkhorn_largest": Within(1.7, 2.1, "2 in the limit of large matrices, n^(-2/3) around it"),
}
for kind, terms in {"dense": (1, 4, 16, 64, 256), "convolved": (16, 64, 256)}.items():
    for n in terms:
        EXPECTED |= estimate(f"{kind}_{n}", math.sqrt(n), 0.006 * math.sqrt(n))
for name, mean in SHARES.items():
    figure = (1 / 64 + mean**2) / (1 + mean**2)
    EXPECTED[f"share_{name}"] = Estimate(figure, f"share_{name}_se")
    EXPECTED[f"share_{name}_se"] = Within(1e-4, 0.1 * figure, "a tenth of the share at most")
