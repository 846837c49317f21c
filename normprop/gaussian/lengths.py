r"""Norms of a normal vector, of n independent x ~ N(m, 1).

The length :math:`\|x\|`: its half square is Gamma(n/2), with a Poisson number of mean nm²/2 added
to the shape.  At m = 0, :math:`E\|x\| = \sqrt 2\,\Gamma((n+1)/2)/\Gamma(n/2)`.

The largest and the smallest :math:`|x_i|`: with :math:`S(y) = \Phi(m - y) + \Phi(-m - y)`, the
probability that one is beyond y, their densities are :math:`-n S'(1 - S)^{n-1}` and
:math:`-n S' S^{n-1}`.
"""

import math
from functools import lru_cache

import numpy as np

from normprop.gaussian.chi import gamma_rule
from normprop.gaussian.law import std_error
from normprop.gaussian.normal import BEYOND, EPS, REACH, pdf, upper_tail
from normprop.gaussian.quadrature import converged_mesh

FARTHEST = 2e4
"""The largest n·m² that is computed."""


@lru_cache(maxsize=1024)
def length(n: int, mean: float = 0.0) -> tuple[float, float, float]:
    """Mean and standard deviation of the length of n independent N(mean, 1), and a bound on both.

    Raises:
        ValueError: the vector is too far from the origin.
    """
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

    def integrand(u):
        density = _size_density(n, m, u, largest)[0]
        return density * np.stack([np.ones_like(u), u, u * u])

    breaks = np.unique(np.concatenate([np.linspace(left, REACH, 17), fine]))
    mesh = converged_mesh(integrand, breaks)
    u = mesh.nodes
    density, ulps = _size_density(n, m, u, largest)
    weights = mesh.weights * density
    # Distances from m, so that a far vector keeps its digits.
    shift = math.fsum(weights * u)
    off = u - shift
    variance = math.fsum(weights * off**2)
    rounded = EPS * np.abs(weights) * ulps
    cut = 2.0 * n * BEYOND * (2.0 * REACH) ** 2
    error_mean = float(rounded @ np.abs(u)) + mesh.truncation[1] + cut
    error_square = (
        float(rounded @ off**2)
        + mesh.truncation[2]
        + 2.0 * abs(shift) * mesh.truncation[1]
        + shift**2 * mesh.truncation[0]
        + cut
    )
    error = max(error_mean, std_error(variance, error_square)) + 4.0 * EPS * (m + abs(shift))
    return m + shift, math.sqrt(variance), float(error)


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
