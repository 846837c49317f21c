"""What the claims page records: a verdict and the evidence for each of the 17 claims."""

import math
from collections import Counter

from tests import reference
from tests.book.expectations import Equals, Estimate, Exact, PerRun, Within

SMALL = {"samples": 50_000}

OWN_SAMPLES = 200_000
VERDICTS = {
    **dict.fromkeys(range(1, 18), "qualified"),
    **dict.fromkeys((4, 15), "confirmed"),
    **dict.fromkeys((7, 8, 9), "corrected"),
}
FIGURES = {name: reference.elementwise(name, 0.0, 1.0) for name in ("relu", "sigmoid", "tanh")}
CHI = {name: float((slope / std) ** 2) for name, (_, std, slope) in FIGURES.items()}
SIGMOID_SLOPE = float(FIGURES["sigmoid"][2])


def rounded(value) -> Exact:
    """The house's bound for a figure: 1e-13·max(|reference|, 1e-3)."""
    return Exact(float(value), 1e-13 * max(abs(float(value)), 1e-3))


def ratio(value) -> Exact:
    """A few figures combined: ten times the bound of one."""
    return Exact(float(value), 1e-12)


def relu_error(samples) -> Within:
    # dx is dy or 0, each for half of the inputs: its kurtosis is 6.
    expected = math.sqrt(0.5) * math.sqrt(5 / (4 * samples))
    return Within(0.7 * expected, 1.3 * expected, "256 replicates know it to 4.4 %")


def sigmoid_slope(s, power) -> float:
    """E f'^power at N(0, s²), by the trapezoidal rule."""
    step, total = 0.005, 0.0
    for k in range(-2000, 2001):
        z = step * k
        small = math.exp(-abs(s * z))
        total += (small / (1 + small) ** 2) ** power * math.exp(-z * z / 2)
    return total * step / math.sqrt(2 * math.pi)


def tanh_square(s) -> tuple[float, float]:
    """E f² and E f'² at N(0, s²), by the trapezoidal rule."""
    step, value, slope = 0.005, 0.0, 0.0
    for k in range(-2000, 2001):
        z = step * k
        f, density = math.tanh(s * z), math.exp(-z * z / 2)
        value += f * f * density
        slope += (1 - f * f) ** 2 * density
    scale = step / math.sqrt(2 * math.pi)
    return value * scale, slope * scale


def halved(too_low) -> float:
    low, high = 0.5, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if too_low(middle) else (low, middle)
    return low


def levels():
    """Where σ_f²(s) = s² σ_b²(1): the sigmoid is tanh(x/2)/2 around its mean."""
    square = SIGMOID_SLOPE**2
    sigmoid = halved(lambda s: tanh_square(s / 2)[0] / 4 > s * s * square)
    square = float(FIGURES["tanh"][2]) ** 2
    tanh = halved(lambda s: tanh_square(s)[0] > s * s * square)
    yield "relu_level", Exact(0.5, 1e-12)
    yield "relu_growth", Exact(1.0, 1e-12)
    yield "sigmoid_level", Exact(sigmoid, 1e-10)
    yield "sigmoid_growth", Exact(sigmoid_slope(sigmoid, 2) / SIGMOID_SLOPE**2, 1e-10)
    yield "tanh_level", Exact(tanh, 1e-10)
    yield "tanh_growth", Exact(tanh_square(tanh)[1] / square, 1e-10)


# The post's own simulation: the standard error of a std, from the fourth moment.
POST_ERROR = SIGMOID_SLOPE * math.sqrt(
    (3 * sigmoid_slope(1.0, 4) / SIGMOID_SLOPE**4 - 1) / 4 / 100_000
)
POST_SCORE = (0.2123 - SIGMOID_SLOPE) / POST_ERROR
COSINE = math.sqrt(1 - 1 / math.pi)

EXPECTED = {
    **{f"c{number}": Equals(verdict) for number, verdict in VERDICTS.items()},
    **{verdict: Equals(count) for verdict, count in Counter(VERDICTS.values()).items()},
    **{f"{name}_chi": ratio(chi) for name, chi in CHI.items()},
    "stride_ratio": ratio(2.0),
    "random_inside": Within(-0.05, 0.05, "65 536 weakly dependent pairs: 1/256 if independent"),
    "squared_inside": Within(0.1, 0.5, "Jᵀ J y has a part along y, lost layer by layer"),
    "squared_output": Exact(1.0, 1e-5),
    "relu_bwd_std": rounded(math.sqrt(0.5)),
    "relu_bwd_std_simulated": Estimate(math.sqrt(0.5), "relu_bwd_std_se"),
    "relu_bwd_std_se": PerRun(relu_error(OWN_SAMPLES), relu_error(SMALL["samples"])),
    "relu_second_moment": rounded(0.5),
    "dw_cosine": Within(
        COSINE - 0.03,
        COSINE + 0.03,
        "five times 0.006: the squares of 1024 sums of dy, known to √(2/1024)",
    ),
    "dw_cosine_theory": ratio(COSINE),
    "sigmoid_bwd_std": rounded(SIGMOID_SLOPE),
    "post_error": rounded(POST_ERROR),
    "post_score": rounded(POST_SCORE),
    "post_percent": Exact(100 * (0.2123 / SIGMOID_SLOPE - 1), 1e-10),
    "average_3": rounded(1 / 9),
    "average_2": rounded(1 / 4),
    "average_3_stride_2": rounded(reference.avg_pool((3, 3), (2, 2), 0.0, 1.0)[2]),
    "max_3": rounded(1 / 3),
    "max_2": rounded(1 / 2),
    "max_3_stride_2": rounded(reference.max_pool((3, 3), (2, 2), 0.0, 1.0)[2]),
    # (s² + p m²)/s² with s² = ½ - 1/2π and m² = 1/2π.
    "dropout_relu": ratio(math.sqrt(1 + 0.5 / (math.pi - 1))),
    **dict(levels()),
    "sigmoid_nonlinear": ratio((CHI["sigmoid"] - 1) / 2),
    **{
        f"join_{n}": ratio((0.5 + math.sqrt(CHI["relu"]) / (1 + CHI["relu"])) ** (n / 2))
        for n in (1, 16)
    },
}
