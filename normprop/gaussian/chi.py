r"""Sums over the square length of a normal vector: g = \|x\|²/2 ~ Gamma(d/2) for x ~ N(0, I_d).

.. math:: E F(g) = \frac{1}{\Gamma(a)}\int F(e^y)\,e^{ay - e^y}\,dy, \qquad a = d/2,

by the trapezoidal rule.  The density continues to the strip \|Im y\| < π/2, where it grows by at
most :math:`(\cos y)^{-a}` in the mean; the step follows from that.
"""

import math
from dataclasses import dataclass

import numpy as np

from normprop.gaussian.normal import EPS

Array = np.ndarray

DEPTH = 44.0
"""Nodes whose weight is below e^-44 of the largest are left out."""


@dataclass(frozen=True)
class Nodes:
    """A rule for E F(g)."""

    nodes: Array  # values of g
    weights: Array  # their weights, which add up to 1
    rounding: Array  # relative rounding errors of the weights
    # Relative error for an F whose modulus on the strip is at most that of F(g cos y).
    truncation: float


def gamma_rule(shape: float, refine: int = 1, shift: float = 0.0, depth: float = DEPTH) -> Nodes:
    """Nodes for g ~ Gamma(``shape``), or for a mixture.

    Args:
        shape: a > 0.
        refine: how many times finer the step is.
        shift: λ/2 of a noncentral square length: a + a Poisson number of that mean.
        depth: nodes of a weight below e^-depth are left out, for an F that grows towards 0.
    """
    wide = shape + shift
    height = min(1.4, 9.0 / math.sqrt(wide))
    decay = 40.0 - (wide + 3.0) * math.log(math.cos(height))
    step = 2.0 * math.pi * height / decay / refine
    center = math.log(wide)

    def log_density(t):
        # Around its top, with t = y - log a: a(t - (e^t - 1)).
        return _mixture(shape, shift, center + t) if shift else shape * (t - np.expm1(t))

    top = log_density(np.zeros(1))
    left, right = (
        _reach(lambda t: log_density(np.array([t])) - top, side, depth) for side in (-1, 1)
    )
    t = step * np.arange(math.floor(left / step), math.ceil(right / step) + 1)
    if shift:
        slack = (wide + 10.0 * math.sqrt(wide)) * np.abs(t) + wide * abs(center)
    else:
        slack = shape * np.abs(t) * 2.0
    logs = log_density(t)
    weights = np.exp(logs - logs.max())
    weights = weights / math.fsum(weights)
    rounding = EPS * (8.0 + slack + float(weights @ slack))
    truncation = 4.0 * math.exp(-40.0) + 8.0 * math.exp(-DEPTH) * len(t)
    return Nodes(np.exp(center + t), weights, rounding, truncation)


def _reach(log_density, side: int, depth: float) -> float:
    """How far out a log density has fallen by the depth, on one side."""
    t = 0.125 * side
    while log_density(t) > -depth:
        t *= 1.25
    return t


def _mixture(shape: float, shift: float, y: Array) -> Array:
    """Log density of log g where the shape has a Poisson number added to it."""
    spread = 12.0 * math.sqrt(shift) + 40.0
    counts = range(max(0, math.floor(shift - spread)), math.ceil(shift + spread) + 1)
    logs = np.array(
        [j * math.log(shift) - shift - math.lgamma(j + 1) - math.lgamma(shape + j) for j in counts]
    )
    terms = logs[:, None] + (shape + np.array(counts))[:, None] * y - np.exp(y)
    top = terms.max(0)
    return top + np.log(np.exp(terms - top).sum(0))
