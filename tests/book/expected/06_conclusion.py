"""What chapter 6 records: the table's 18 cells by enumeration, and the networks over depth."""

import math
from itertools import product

import numpy as np
import torch

from tests import reference
from tests.book.expectations import Equals, Estimate, Exact, Parameter, PerRun, Within

SMALL = {"samples": 50_000, "seeds": 2, "width": 64, "batch": 16}

OWN_SAMPLES = 1_000_000
ROWS = ("fwd_mean", "fwd_std", "bwd_std")
ACTIVATIONS = ("relu", "sigmoid", "tanh")
SCALINGS = ("backward", "forward", "separate")


# The table: references.


def convolution():
    """Weights are the table's input, no result: drawn here as there."""
    generator = torch.Generator().manual_seed(28032016)
    weight = torch.empty(16, 8, 3, 3, dtype=torch.float64).normal_(std=0.1, generator=generator)
    outputs, backward = reference.convolution(weight, None, 1, 1, 1, 0.0, 1.0)
    return (*outputs[0], backward[0])


FIGURES = {
    "convolution": convolution(),
    "relu": reference.elementwise("relu", 0.0, 1.0),
    "sigmoid": reference.elementwise("sigmoid", 0.0, 1.0),
    "max_pooling": reference.max_pool((3, 3), (3, 3), 0.0, 1.0),
    "average_pooling": reference.avg_pool((3, 3), (3, 3), 0.0, 1.0),
    "dropout": reference.dropout(1.0 - 0.8, 0.0, 1.0),
}
VERDICTS = {
    "convolution": ("confirmed", "confirmed", "qualified"),
    "relu": ("confirmed", "confirmed", "confirmed"),
    "sigmoid": ("confirmed", "confirmed", "corrected"),
    "max_pooling": ("confirmed", "confirmed", "qualified"),
    "average_pooling": ("confirmed", "confirmed", "qualified"),
    "dropout": ("confirmed", "qualified", "qualified"),
}


def agreeing(value) -> Exact:
    """The house's bound for a figure: 1e-13·max(|reference|, 1e-3)."""
    return Exact(float(value), 1e-13 * max(abs(float(value)), 1e-3))


# The table: standard errors, from the kurtosis of what is averaged and the count of it.

STEP = 0.005
Z = STEP * np.arange(-2000, 2001)
DENSITY = np.exp(-Z * Z / 2) / math.sqrt(2 * math.pi) * STEP


def mean(values) -> float:
    # The trapezoidal rule converges geometrically for what is smooth and dies out.
    return float((values * DENSITY).sum())


def kurtosis(values, density=DENSITY) -> float:
    centred = values - (values * density).sum()
    return float((centred**4 * density).sum() / (centred**2 * density).sum() ** 2)


SIGMOID = 1 / (1 + np.exp(-Z))
SLOPE = SIGMOID * (1 - SIGMOID)
NORMAL_CDF = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in Z])
KURTOSIS = {
    "relu": (kurtosis(np.maximum(Z, 0)), 3 * 0.5 / 0.5**2),
    "sigmoid": (kurtosis(SIGMOID), 3 * mean(SLOPE**4) / mean(SLOPE**2) ** 2),
    # Backward: the squares of one dy, whole or in nine equal parts, are what is independent.
    "max_pooling": (kurtosis(Z, 9 * NORMAL_CDF**8 * DENSITY), 3.0),
    "average_pooling": (3.0, 3.0),
    "dropout": (3 / 0.8, 3 / 0.8),
}
SAMPLE = {"convolution": 8 * 17 * 17, "max_pooling": 39 * 39, "average_pooling": 39 * 39}
ELEMENTS_A_WINDOW = {"max_pooling": 9, "average_pooling": 9}


def drawn(column, samples) -> int:
    """Input elements: whole samples in each of 256 replicates."""
    size = SAMPLE.get(column, 1)
    return 256 * math.ceil(samples / (256 * size)) * size


def standard_error(column, row, samples) -> Within:
    figures = dict(zip(ROWS, map(float, FIGURES[column]), strict=True))
    if column == "convolution":
        count = drawn(column, samples) / SAMPLE[column] * 15 * 15
        low = figures["fwd_std"] if row == "fwd_mean" else figures[row] / math.sqrt(2)
        low /= math.sqrt(count)
        return Within(
            0.7 * low,
            7 * low,
            "between independent positions and windows of 5×5 of them in lockstep",
        )
    count = drawn(column, samples) / ELEMENTS_A_WINDOW.get(column, 1)
    if row == "fwd_mean":
        expected = figures["fwd_std"] / math.sqrt(count)
    else:
        fourth = KURTOSIS[column][ROWS.index(row) - 1]
        expected = figures[row] * math.sqrt((fourth - 1) / (4 * count))
    return Within(
        0.7 * expected, 1.3 * expected, "256 replicates know a standard error to 4.4 %: seven times"
    )


def cells():
    for column, row in product(FIGURES, ROWS):
        index, name = ROWS.index(row), f"{column}_{row}"
        exact = FIGURES[column][index]
        yield f"{name}_exact", agreeing(exact)
        yield f"{name}_simulated", Estimate(float(exact), f"{name}_se")
        yield (
            f"{name}_se",
            PerRun(
                own=standard_error(column, row, OWN_SAMPLES),
                small=standard_error(column, row, SMALL["samples"]),
            ),
        )
        yield f"{name}_verdict", Equals(VERDICTS[column][index])


# Depth: the maps, iterated with sums over a fine grid instead of `moments`.


def shape(name, s) -> tuple[float, float, float]:
    """E f, E f² and E f'² at N(0, s²)."""
    if name == "relu":
        return s / math.sqrt(2 * math.pi), s * s / 2, 0.5
    x = s * Z
    if name == "tanh":
        f = np.tanh(x)
        slope = 1 - f * f
    else:
        f = 1 / (1 + np.exp(-x))
        slope = f * (1 - f)
    return mean(f), mean(f * f), mean(slope**2)


def iterated(name, scaling, depth=100) -> tuple[float, float]:
    """Std of the signal at the last layer, and of the gradient at the first."""
    mu, second, square = shape(name, 1.0)
    variance = second - mu * mu
    forward = square if scaling == "backward" else variance
    backward = variance if scaling == "forward" else square
    q, gradient = 1.0, 1.0
    for _ in range(depth):
        last = math.sqrt(q)
        first, second, square = shape(name, last)
        gradient *= square / backward
        q = (second - 2 * mu * first + mu * mu) / forward
        if name == "relu" and scaling != "backward":
            # The fixed point repels rounding errors too; it is 1 exactly.
            q = 1.0
    return last, math.sqrt(gradient)


GRADIENT = "a network's log gradient spreads by √(5·depth/width)/2, 0.7 here"
RELU_FORWARD = Within(
    10.0,
    (1 / (2 * (0.5 - 0.5 / math.pi))) ** 49.5 * 10,
    "the fixed point 1 repels from above, and Q grows by 1/2σ_f² a layer at most",
)


def chains():
    for name, scaling in product(ACTIVATIONS, SCALINGS):
        scale, gradient = iterated(name, scaling)
        key = f"{name}_{scaling}"
        # A hundred layers of rounding, each of a few ulps.
        yield f"{key}_scale_theory", Exact(scale, 1e-11)
        yield f"{key}_gradient_theory", Exact(gradient, 1e-11 * gradient)
        # At width 64 the networks leave the limit of infinite width by 5 to 20 %.
        if name == "relu" and scaling != "backward":
            yield (
                f"{key}_scale",
                PerRun(own=RELU_FORWARD, small=Within(0.1, 1e9, "width 64")),
            )
            yield f"{key}_scale_se", Within(0.0, 1e9, "as large as the scale itself")
        else:
            yield (
                f"{key}_scale",
                PerRun(
                    own=Estimate(scale, f"{key}_scale_se"),
                    small=Within(0.6 * scale, 1.6 * scale, "width 64, two networks"),
                ),
            )
            yield f"{key}_scale_se", Within(1e-4, 0.3, "six networks, or two narrow ones")
        yield (
            f"{key}_gradient",
            PerRun(
                own=Within(gradient / 3, gradient * 3, f"{GRADIENT}: 0.3 for six"),
                small=Within(gradient / 60, gradient * 10, f"{GRADIENT}, 1.4 at 64"),
            ),
        )
        yield (
            f"{key}_gradient_log_se",
            PerRun(
                own=Within(1e-3, 0.7, GRADIENT),
                small=Within(1e-4, 5.0, "two networks of width 64 give no more than a size"),
            ),
        )
    for name in ACTIVATIONS:
        _, std, slope = reference.elementwise(name, 0.0, 1.0)
        chi = float((slope / std) ** 2)
        settled, _ = iterated(name, "backward")
        first, second, square = shape(name, settled)
        chi_settled = settled**2 * square / (second - first**2)
        yield f"{name}_chi", Exact(chi, 1e-12)
        # For an odd function around its mean the growth is χ there; ReLU's slope has no scale.
        growth = 1.0 if name == "relu" else chi_settled
        yield f"{name}_growth", Exact(growth, 1e-11)
        if name != "relu":
            yield f"{name}_share", Exact((chi - 1) / 2, 1e-12)
            yield f"{name}_share_settled", Exact((chi_settled - 1) / 2, 1e-11)


def across(layer) -> float:
    """Std across inputs before that layer, counted from 1: ReLU's kernel in its angular form."""
    q, v = 1.0, 0.0
    for _ in range(layer - 1):
        angle = math.acos(v / q)
        kernel = q * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / math.pi
        centre = 1 / math.pi - 2 * math.sqrt(q) / math.pi
        q, v = q + centre, kernel + centre
    return math.sqrt(q - v)


def collapse():
    for label in (10, 100):
        theory = across(label)
        # q - v loses three digits at layer 100.
        yield f"across_{label}_theory", Exact(theory, 1e-10)
        yield (
            f"across_{label}",
            PerRun(
                own=Estimate(theory, f"across_{label}_se"),
                small=Within(0.1 * theory, 2 * theory, "width 64: the collapse is faster"),
            ),
        )
        yield f"across_{label}_se", Within(1e-4, 0.1, "six networks, or two narrow ones")
    yield (
        "declared_two",
        PerRun(
            own=Estimate(1.0, "declared_two_se"), small=Within(0.5, 2.0, "width 64, two networks")
        ),
    )
    yield "declared_two_se", Within(1e-3, 0.5, "twice that of std 1")
    yield "declared_two_across", Within(0.0, 0.15, "twice the collapsed std of std 1")


# Separate scales.


def separate():
    std, slope = (float(f) for f in reference.elementwise("tanh", 0.0, 1.0)[1:])
    factor = (std / slope) ** 12
    yield "chain_one_minus_cosine", Exact(0.0, 1e-14)
    yield "chain_factor_error", Exact(0.0, 1e-13)
    yield "chain_first_factor", Exact(factor, 1e-13)
    yield "chain_first_factor_theory", Exact(factor, 1e-14)
    yield "chain_last_factor", Exact(std / slope, 1e-14)
    _, std, slope = reference.elementwise("relu", 0.0, 1.0)
    chi = float((slope / std) ** 2)
    yield "relu_join_32_theory", Exact((0.5 + math.sqrt(chi) / (1 + chi)) ** 16, 1e-13)
    yield "relu_join_32", Within(0.87, 1.0, "above the formula: the forward signal has run away")
    for name, blocks in product(ACTIVATIONS, (1, 16)):
        _, std, slope = reference.elementwise(name, 0.0, 1.0)
        chi = float((slope / std) ** 2)
        # Squared: another form of the same expression.
        cosine = (0.5 + math.sqrt(chi) / (1 + chi)) ** (blocks / 2)
        turn = 1 - cosine
        yield f"{name}_join_{blocks}_theory", Exact(cosine, 1e-13)
        yield (
            f"{name}_join_{blocks}",
            Within(1 - 1.6 * turn, 1 - 0.6 * turn, "width 256: paths are orthogonal to 0.06"),
        )


def calibrated() -> float:
    """s with χ(s)^100 = 2 for tanh, by halving on sums over the grid."""
    low, high = 0.01, 1.0
    for _ in range(80):
        s = (low + high) / 2
        _, second, square = shape("tanh", s)
        low, high = (s, high) if s * s * square / second < 2**0.01 else (low, s)
    return low


EXPECTED = {
    **dict(cells()),
    "cells": Equals(18),
    "confirmed": Equals(sum(v.count("confirmed") for v in VERDICTS.values())),
    "qualified": Equals(sum(v.count("qualified") for v in VERDICTS.values())),
    "corrected": Equals(sum(v.count("corrected") for v in VERDICTS.values())),
    "largest_score": Within(0.5, 4.5, "the largest of 18 scores, each held to 4.5"),
    "depth": Parameter("depth"),
    "width": Parameter("width"),
    "seeds": Parameter("seeds"),
    **dict(chains()),
    **dict(collapse()),
    **dict(separate()),
    # Where χ(s)^100 crosses 2 its slope in s is 9; χ is known to a few ulps.
    "calibrated_std": Exact(calibrated(), 1e-11),
    "calibrated_std_guess": Exact((3 * math.log(2) / 400) ** 0.25, 1e-15),
}
assert set(VERDICTS) == set(FIGURES)
