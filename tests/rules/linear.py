"""Figures of a linear layer by enumeration: its matrix, one impulse after the other."""

import math
from types import SimpleNamespace

import torch

EPS = 2.0**-52


def matrix_of(layer, shape) -> tuple[torch.Tensor, torch.Tensor]:
    """What every input adds to every output, shape (inputs, outputs), and the output of zeros."""
    size = math.prod(shape)
    impulses = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    nothing = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
    return layer(impulses).reshape(size, -1) - nothing, nothing


def enumerated(layer, shape, mean: float, std: float) -> SimpleNamespace:
    """Mean, spread and slope over all outputs and inputs of a sample."""
    weights, nothing = matrix_of(layer, shape)
    return figures_of(weights, nothing, mean, std, weights.square().sum(1).mean())


def figures_of(weights, nothing, mean, std, slope_square) -> SimpleNamespace:
    means = mean * weights.sum(0) + nothing
    variance = std**2 * weights.square().sum(0).mean() + means.var(correction=0)
    return SimpleNamespace(
        fwd_mean=float(means.mean()),
        fwd_std=float(variance.sqrt()),
        bwd_std=math.sqrt(slope_square),
    )


def agree(got, wanted, size: int) -> bool:
    """Whether figures agree within their bound and the rounding of an enumeration.

    A weight comes from a position among ``size`` elements, which is rounded; the sums are no
    longer than that.
    """
    for name in ("fwd_mean", "fwd_std", "bwd_std"):
        a, b = getattr(got, name), getattr(wanted, name)
        if abs(a - b) > got.error + 32 * EPS * size * (1 + abs(b)):
            return False
    return True


def worst(estimate, exact) -> float:
    """The largest deviation in standard errors."""
    return max(abs(score) for score in estimate.z(exact).values())
