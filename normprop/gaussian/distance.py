"""How near two independent vectors of n entries N(m, s²) lie: their angle and their distance."""

import math

from normprop.gaussian import families
from normprop.gaussian.chi import gamma_rule
from normprop.gaussian.elementwise import elementwise
from normprop.gaussian.law import Figures, Normal, std_error
from normprop.gaussian.normal import EPS


def cosine(n: int, std: float, eps: float) -> Figures:
    r"""The cosine between two vectors of mean 0, and its gradient at an entry of one of them.

    Directions are uniform and independent of lengths, so that
    :math:`E\cos^2 = 1/n`, and with :math:`\nabla = (u_2 - \cos\, u_1)/\|x_1\|`

    .. math:: \sigma_b^2 = \frac1n E\|\nabla\|^2
        = \frac{1 - 1/n}{n} E\|x_1\|^{-2} = \frac{n - 1}{n^2 (n - 2) s^2}.

    n is not 2, s is the standard deviation of an entry; the length below which torch divides by
    ``eps`` instead is in the bound.

    Raises:
        ValueError: n is 2, where the gradient has no variance.
    """
    if n == 2:
        raise ValueError(
            "a vector must have 1 or more than 2 entries: in a plane the gradient of the cosine "
            "has no variance"
        )
    slope = 0.0 if n == 1 else math.sqrt((n - 1) / (n - 2)) / (n * std)
    # The share of the vectors that are shorter than eps, and their part of E|x|^-2.
    half, logs = (
        0.5 * n,
        2.0 * (math.log(eps) - math.log(std)) - math.log(2.0) if eps else -math.inf,
    )
    short = math.exp(min(half * logs - math.lgamma(half + 1.0), 0.0)) if eps else 0.0
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

    Raises:
        ValueError: p is neither.
    """
    if p == 1:
        one = elementwise(families.absolute(), Normal(float(eps), math.sqrt(2.0) * std))
        error = n * one.error + 4.0 * EPS * n * one.mean
        return Figures(n * one.mean, math.sqrt(n) * one.std, one.slope, error, one.method)
    if p != 2:
        raise ValueError(f"p must be 1 or 2; it was {p}")
    rule, scale = gamma_rule(0.5 * n), math.sqrt(2.0) * std
    lengths = (2.0 * rule.nodes) ** 0.5
    mean = math.fsum(rule.weights * lengths)
    variance = math.fsum(rule.weights * (lengths - mean) ** 2)
    # The root is at most 2.5 times as large on the strip as at g cos y.
    rough = rule.rounding + 8.0 * EPS + 2.5 * rule.truncation
    mean_error = float((rule.weights * lengths) @ rough)
    spread = rule.weights * (lengths - mean) ** 2
    whole = math.fsum(rule.weights * (lengths + mean) ** 2)
    square_error = float(spread @ (rule.rounding + 8.0 * EPS)) + 8.0 * rule.truncation * whole
    square_error += 4.0 * EPS * mean * math.sqrt(variance)
    # E√ is concave: ε raises the mean by a share of at most ε²/(4s²), the mean square by nε².
    share = (eps / scale) ** 2
    mean_error += 0.5 * share * mean
    square_error += share * (n + mean * mean)
    error = scale * (mean_error + std_error(variance, square_error))
    slope = 1.0 / math.sqrt(n)
    # Where the lengths are, a gradient's length is 1 whatever ε; its entries differ by its mean.
    error += 4.0 * EPS * (slope + scale * (mean + 1.0))
    return Figures(scale * mean, scale * math.sqrt(variance), slope, error, "quadrature")
