"""Chapter 11: any activation. References are written out, or integrated from definitions."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from mpmath import mp, mpf

from tests.book.expectations import Equals, Estimate, Exact, Expectation, Within

ROOT = Path(__file__).resolve().parents[3]
CERTIFIED = json.loads((ROOT / "normprop/gaussian/certified.json").read_text("utf-8"))[
    "elementwise"
]
FIGURES = ("fwd_mean", "fwd_std", "bwd_std")


def promised(value, factor=1.0) -> Exact:
    """To the accuracy that the package promises: 1e-13·max(|reference|, 1e-3)."""
    value = float(value)
    return Exact(value, factor * 1e-13 * max(abs(value), 1e-3))


def hermite(slope, n: int, exact: float) -> float:
    """Error of Gauss–Hermite quadrature, with the nodes of the physicists' weight."""
    nodes, weights = np.polynomial.hermite.hermgauss(n)
    square = math.fsum(weights * slope(math.sqrt(2) * nodes) ** 2) / math.sqrt(math.pi)
    return abs(math.sqrt(square) - exact)


def gelu_slope(x):
    phi = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return np.array([0.5 * math.erfc(-t / math.sqrt(2)) for t in x]) + x * phi


with mp.workdps(40):
    _PHI, _IN = mp.npdf(1), 2 * mp.ncdf(1) - 1
    HARDTANH = (mpf(0), mp.sqrt(1 - 2 * _PHI), mp.sqrt(_IN))
    _E2, _E4, _E8 = (mp.exp(-k) for k in (2, 4, 8))
    SNAKE = (
        (1 - _E2) / 2,
        mp.sqrt(1 + ((1 + _E8) / 2 - _E4) / 4),
        mp.sqrt(1 + (1 - _E8) / 2),
    )
    _U, _V, _TARGET = (1 - _E8) / 2, ((1 + _E8) / 2 - _E4) / 4, mp.pi / (mp.pi - 1)
    AMPLITUDE = mp.sqrt((_TARGET - 1) / (_U - _TARGET * _V))
    RELU_30 = mp.npdf(30) - 30 * mp.erfc(30 / mp.sqrt(2)) / 2
    WIDE = (2 * mp.pi) ** mpf(-0.25) / mp.sqrt(6 * mpf(10) ** 8) * 10**4

EXPECTED: dict[str, Expectation] = {
    "closed_bound": Within(1e-16, 1e-13, "the promise"),
    "numeric_bound": Within(1e-16, 1e-13, "the promise"),
    "snake_bound": Within(1e-16, 1e-13, "the promise"),
    "adaptive_bound": Within(1e-16, 1e-13, "the promise"),
    "adaptive_error": Within(0.0, 1e-13, "the bound holds"),
    "evaluations": Within(100, 1e5, "some panels of tens of nodes, and their halves"),
    # Rounding alone is left at 128 nodes; at 32 it is the rule's own error.
    "hermite_gelu_32": Exact(
        hermite(gelu_slope, 32, float(CERTIFIED["gelu"]["bwd_std"]["digits"])), 1e-14
    ),
    "hermite_gelu_128": Within(0.0, 1e-14, "converged to rounding"),
    **{
        f"hermite_hardtanh_{n}": Exact(
            hermite(lambda x: (np.abs(x) < 1).astype(float), n, float(HARDTANH[2])), 1e-13
        )
        for n in (32, 128)
    },
    # A chain of 100 layers of width 256 with a stable map, whose slope is below 1: the std of one
    # network scatters by a few times 1/√256.
    "snake_after_100": Within(0.8, 1.2, "1 ± three times 1/√256"),
    "snake_chi": promised((SNAKE[2] / SNAKE[1]) ** 2, 4.0),
    "gelu_chi": promised(CERTIFIED["gelu"]["chi"]["digits"], 4.0),
    "relu_chi": promised(math.pi / (math.pi - 1), 4.0),
    **{f"refused_{key}": Equals(True) for key in ("mixing", "random", "steep", "growing")},
    # 1 + erf is off by an ulp of 1 at most, times t, relative to a mean of 3.8e-4, 5.3e-8, 7.6e-17.
    "naive_3": Within(0.0, 3 * 2.3e-16 / 3.8e-4, "an ulp of 1, times t, beside the mean"),
    "naive_5": Within(0.0, 5 * 2.3e-16 / 5.3e-8, "an ulp of 1, times t, beside the mean"),
    "naive_8": Within(0.1, 8 * 2.3e-16 / 7.5e-17, "an ulp of 1, times t, beside the mean"),
    # t² ulp, as t itself is exact: the exponential of 450 is.
    "relu_30": Exact(float(RELU_30), 1e-12 * float(RELU_30)),
    # The rule's own error is of the order 1/s² relative.
    "sigmoid_wide": Exact(float(WIDE), 1e-12),
    "wide_rule": Exact(float(WIDE), 1e-14),
    "named": Equals(sum(hasattr(torch.nn.functional, name) for name in CERTIFIED)),
    "largest_error": Within(0.0, 1e-13, "the promise"),
    "largest_bound": Within(1e-16, 1e-13, "the promise"),
    "squared_fwd_mean": promised(0.5),
    "squared_fwd_std": promised(math.sqrt(1.25)),
    "squared_bwd_std": promised(math.sqrt(2)),
    "squared_chi": promised(1.6, 4.0),
    "amplitude": promised(AMPLITUDE, 10.0),
}
for name, value, snake in zip(FIGURES, HARDTANH, SNAKE, strict=True):
    for road in ("hand", "closed", "numeric"):
        EXPECTED[f"{road}_{name}"] = promised(value)
    EXPECTED[f"counted_{name}"] = Estimate(float(value), f"counted_{name}_se")
    # σ/√samples with 0.7 for the mean and less for the others; 20 times fewer in the small run.
    EXPECTED[f"counted_{name}_se"] = Within(1e-4, 2 * 1e-3 * math.sqrt(20), "0.8/√samples")
    EXPECTED[f"snake_{name}"] = promised(snake)
    EXPECTED[f"snake_hand_{name}"] = promised(snake)
