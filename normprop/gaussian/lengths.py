r"""The square length of a normal vector, and what follows from it and from the sizes of entries.

With g = \|x\|²/2 ~ Gamma(d/2) for x ~ N(0, I_d), and a = d/2,

.. math:: E F(g) = \frac{1}{\Gamma(a)}\int F(e^y)\,e^{ay - e^y}\,dy,

by the trapezoidal rule.  The density continues to the strip \|Im y\| < π/2, where it grows by at
most :math:`(\cos y)^{-a}` in the mean; the step follows from that.

The length :math:`\|x\|`: its half square is Gamma(n/2), with a Poisson number of mean nm²/2 added
to the shape.  At m = 0, :math:`E\|x\| = \sqrt 2\,\Gamma((n+1)/2)/\Gamma(n/2)`.

The largest and the smallest :math:`|x_i|`: with :math:`S(y) = \Phi(m - y) + \Phi(-m - y)`, the
probability that one is beyond y, their densities are :math:`-n S'(1 - S)^{n-1}` and
:math:`-n S' S^{n-1}`.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from normprop.gaussian import families
from normprop.gaussian.elementwise import elementwise
from normprop.gaussian.law import Figures, Normal, std_error
from normprop.gaussian.normal import BEYOND, EPS, REACH, pdf, upper_tail
from normprop.gaussian.order import moments_of_density

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


FARTHEST = 2e4
"""The largest n·m² that is computed."""


@lru_cache(maxsize=1024)
def length(n: int, mean: float = 0.0) -> tuple[float, float, float]:
    """Mean and std of the length of n independent N(mean, 1), and a bound on the errors of both."""
    if not n * mean * mean <= FARTHEST:
        raise ValueError(
            f"n·mean²/std² must be at most {FARTHEST:g} for the length of n elements; it was "
            f"{n * mean * mean:g}"
        )
    if n == 1 and mean == 0:
        expected = math.sqrt(2.0 / math.pi)
        return expected, math.sqrt(1.0 - 2.0 / math.pi), 4.0 * EPS
    rule = gamma_rule(0.5 * n, shift=0.5 * n * mean * mean)
    lengths = np.sqrt(2.0 * rule.nodes)
    expected = math.fsum(rule.weights * lengths)
    off = lengths - expected
    variance = math.fsum(rule.weights * off**2)
    # The weights add up to 1, so that their errors act on what lies off the mean.  A node is
    # off by the rounding of the logarithm that it is the exponential of.
    node = EPS * (4.0 + np.abs(np.log(rule.nodes))) * lengths
    rounded = rule.weights * rule.rounding
    # On the strip |√(2g) - E|² is at most 1200 in the mean: the strip narrows as n grows.
    cut = 1200.0 * rule.truncation
    error_mean = float(rounded @ np.abs(off) + rule.weights @ node) + cut
    error_square = float(rounded @ off**2 + 2.0 * rule.weights @ (np.abs(off) * node)) + cut
    error_square += 2.0 * error_mean**2
    std = math.sqrt(variance)
    return expected, std, max(error_mean, std_error(variance, error_square)) + 4.0 * EPS * expected


@lru_cache(maxsize=1024)
def extreme_size(n: int, mean: float = 0.0, *, largest: bool = True) -> tuple[float, float, float]:
    """Mean and standard deviation of the largest or smallest size, and a bound on both."""
    m = abs(mean)
    left = max(-m, -REACH)
    # The smallest is of the order of 1/n where 0 is in reach.
    fine = left + (REACH - left) * 0.5 ** np.arange(1, 4 + max(4, n.bit_length()))

    breaks = np.unique(np.concatenate([np.linspace(left, REACH, 17), fine]))
    cut = 2.0 * n * BEYOND * (2.0 * REACH) ** 2
    # Of distances from m, so that a far vector keeps its digits.
    found = moments_of_density(lambda u: _size_density(n, m, u, largest), breaks, cut)
    shift, variance, error = found
    return m + shift, math.sqrt(variance), error + 4.0 * EPS * (m + abs(shift))


def _size_density(n: int, m: float, u: np.ndarray, largest: bool) -> tuple[np.ndarray, np.ndarray]:
    """Density of an extreme size at m + u, and how many ulp it is off."""
    far = u + 2.0 * m
    beyond = upper_tail(u) + upper_tail(far)
    single = pdf(u) + pdf(far)
    # A tail is off by z² ulp and a few.
    tail = 16.0 + u * u + np.minimum(far, REACH) ** 2
    if n == 1:
        return single, tail
    with np.errstate(divide="ignore"):
        logs = (n - 1) * (np.log1p(-np.minimum(beyond, 1.0)) if largest else np.log(beyond))
    logs = np.maximum(logs, -800.0)
    # What the tail is off by, as a share of the power's base, counts n - 1 times.
    share = beyond / np.maximum(1.0 - beyond, EPS) if largest else 1.0
    ulps = tail + np.minimum((n - 1) * share * tail - 2.0 * logs, 1.0 / EPS)
    return n * single * np.exp(logs), ulps


def cosine(n: int, std: float, eps: float) -> Figures:
    r"""The cosine between two vectors of mean 0, and its gradient at an entry of one of them.

    Directions are uniform and independent of lengths, so that
    :math:`E\cos^2 = 1/n`, and with :math:`\nabla = (u_2 - \cos\, u_1)/\|x_1\|`

    .. math:: \sigma_b^2 = \frac1n E\|\nabla\|^2
        = \frac{1 - 1/n}{n} E\|x_1\|^{-2} = \frac{n - 1}{n^2 (n - 2) s^2}.

    n is not 2, s is the standard deviation of an entry; the length below which torch divides by
    ``eps`` instead is in the bound.
    """
    if n == 2:
        raise ValueError(
            "a vector must have 1 or more than 2 entries: in a plane the gradient of the cosine "
            "has no variance"
        )
    slope = 0.0 if n == 1 else math.sqrt((n - 1) / (n - 2)) / (n * std)
    # The share of the vectors that are shorter than eps, and their part of E|x|^-2.
    half, short = 0.5 * n, 0.0
    if eps:
        logs = 2.0 * (math.log(eps) - math.log(std)) - math.log(2.0)
        short = math.exp(min(half * logs - math.lgamma(half + 1.0), 0.0))
    error = std_error(1.0 / n, 2.0 * short) + 4.0 * EPS * max(1.0, slope)
    if n > 2 and eps:
        part = math.exp((half - 1.0) * logs - math.lgamma(half)) / ((n - 2.0) * std * std)
        error += std_error(slope * slope, 2.0 * part / n)
    return Figures(0.0, 1.0 / math.sqrt(n), slope, error, "closed form")


def distance(n: int, std: float, p: float, eps: float) -> Figures:
    r"""‖x₁ - x₂ + ε‖_p of two vectors of one mean, and its gradient at an entry, for p = 1 or 2.

    The differences are N(ε, 2s²).  For p = 1 the distance is a sum of n absolute values, whose
    slope is ±1.  For p = 2 it is √2 s times the length of a normal vector, and its gradient has
    the length 1, which makes :math:`\sigma_b = n^{-1/2}`.

    n entries of a vector have the standard deviation s; torch adds ε to each difference, which for
    p = 2 is in the bound.
    """
    if p == 1:
        one = elementwise(families.absolute(), Normal(float(eps), math.sqrt(2.0) * std))
        error = n * one.error + 4.0 * EPS * n * one.mean
        return Figures(n * one.mean, math.sqrt(n) * one.std, one.slope, error, one.method)
    if p != 2:
        raise ValueError(f"p must be 1 or 2; it was {p}")
    scale = math.sqrt(2.0) * std
    mean, spread, error = length(n)
    # E√ is concave: ε raises the mean by a share of at most ε²/(4s²), the mean square by nε².
    share = (eps / scale) ** 2
    error += 0.5 * share * mean + std_error(spread * spread, share * (n + mean * mean))
    slope = 1.0 / math.sqrt(n)
    # Where the lengths are, a gradient's length is 1 whatever ε; its entries differ by its mean.
    error = scale * error + 4.0 * EPS * (slope + scale * (mean + 1.0))
    return Figures(scale * mean, scale * spread, slope, error, "quadrature")
