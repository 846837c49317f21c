r"""The length of a normal vector, :math:`\|x\|` of n independent x ~ N(m, 1).

Its half square is Gamma(n/2), with a Poisson number of mean nm²/2 added to the shape.  At m = 0,
:math:`E\|x\| = \sqrt 2\,\Gamma((n+1)/2)/\Gamma(n/2)`.
"""

import math
from functools import lru_cache

import numpy as np

from normprop.gaussian.chi import gamma_rule
from normprop.gaussian.law import std_error
from normprop.gaussian.normal import EPS

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
