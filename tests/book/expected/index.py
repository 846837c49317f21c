"""What the landing page records: the figure's ends and the constants of its table."""

import math

from tests import reference
from tests.book.expectations import Exact, Within

SMALL = {"width": 64, "seeds": 2, "samples": 10_000}


def rounded(value) -> Exact:
    """The house's bound for a figure: 1e-13·max(|reference|, 1e-3)."""
    return Exact(float(value), 1e-13 * max(abs(float(value)), 1e-3))


def tanh_level() -> float:
    """Where Var tanh(s z) = s² σ_b², by halving on the trapezoidal rule."""
    step = 0.005
    grid = [(step * k, math.exp(-((step * k) ** 2) / 2)) for k in range(-2000, 2001)]
    square = float(reference.elementwise("tanh", 0.0, 1.0)[2]) ** 2
    low, high = 0.5, 1.0
    for _ in range(50):
        s = (low + high) / 2
        found = sum(math.tanh(s * z) ** 2 * w for z, w in grid) * step / math.sqrt(2 * math.pi)
        low, high = (s, high) if found > s * s * square else (low, s)
    return low


# The mean square is multiplied by 1/6, 2 and 1 a layer. Its logarithm over 50 layers spreads by
# √(5·50/width) and lies half that variance lower: a factor of 10 for these widths.
EXPECTED = {
    "gradient_small": Within(6**-25 / 30, 6**-25 * 5, "6^-25, finite width"),
    "gradient_big": Within(2**25 / 30, 2**25 * 5, "2^25, finite width"),
    "gradient_kept": Within(1 / 30, 5, "1, finite width"),
    "relu_bwd_std": rounded(math.sqrt(0.5)),
    "sigmoid_bwd_std": rounded(reference.elementwise("sigmoid", 0.0, 1.0)[2]),
    "max_bwd_std": rounded(reference.max_pool((3, 3), (2, 2), 0.0, 1.0)[2]),
    "average_bwd_std": rounded(reference.avg_pool((3, 3), (2, 2), 0.0, 1.0)[2]),
    "dropout_fwd_std": rounded(reference.dropout(0.2, 0.0, 1.0)[1]),
    "tanh_level": Exact(tanh_level(), 1e-10),
}
