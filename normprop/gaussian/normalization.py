r"""Layer normalisation and its relatives, over groups of n independent normals.

Centred: y = (x - x̄)/√(v + ε) with v the biased variance; plain: y = x/√(v + ε) with v the mean
square.  The direction of the (centred) vector is uniform on a sphere and independent of its
length, so that everything comes down to

.. math:: R_k = E\frac{v^k}{(v + \varepsilon)^{k+1}}, \qquad v = \frac{2s^2}{n}\,g, \quad
    g \sim \Gamma\bigl((n-1)/2\bigr) \text{ or } \Gamma(n/2).

The Jacobian is (I - 11ᵀ/n - yyᵀ/n)/√(v + ε), without the second term where nothing is centred.
For ε = 0, E 1/v = n/(s²(n - 3)), or n/(s²(n - 2)), and the mean square of the gradient is
(n - 2)/(s²(n - 3)), or (n - 1)/(s²(n - 2)).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from normprop.gaussian.law import std_error
from normprop.gaussian.lengths import DEPTH, gamma_rule
from normprop.gaussian.normal import EPS


@dataclass(frozen=True)
class Normalization:
    """What normalising over a group of n does."""

    variance: float  # E y²
    own: float  # mean square of the derivative of y_i by x_i
    other: float  # mean square of the derivative of y_i by x_j, j ≠ i
    errors: tuple[float, float, float]  # bounds on the absolute errors of the three
    method: str  # "closed form" or "quadrature"

    def slope(self, n: int) -> tuple[float, float]:
        """Root mean square of the gradient for weights of 1, and a bound on its error."""
        square = self.own + (n - 1) * self.other
        error = self.errors[1] + (n - 1) * self.errors[2] + 4.0 * EPS * square
        return math.sqrt(square), std_error(square, error) + EPS * math.sqrt(square)


@lru_cache(maxsize=1024)
def normalization(n: int, std: float, epsilon: float, centered: bool = True) -> Normalization:
    """Second moments over groups of n independent N(m, std²), m = 0 unless ``centered``."""
    if n < 1:
        raise ValueError(f"a group must have at least 1 element; it had {n}")
    if not epsilon >= 0:
        raise ValueError(f"eps must be at least 0; it was {epsilon}")
    free = n - 1 if centered else n
    if free == 0:
        # One element is its own mean: nothing is left of it.
        return Normalization(0.0, 0.0, 0.0, (0.0, 0.0, 0.0), "closed form")
    if epsilon == 0 and free <= 2:
        raise ValueError(
            f"eps must be greater than 0 for a group of {n}: without it the gradient has no "
            "second moment"
        )
    moments, errors, variance, variance_error, method = _inverse(free, n, std, epsilon)
    if centered:
        fourth = 3.0 * (n - 1) / (n * n * (n + 1.0))
        pair = (1.0 / n - fourth) / (n - 1)
        own = ((1.0 - 1.0 / n) ** 2, -2.0 * (1.0 - 1.0 / n) / n, fourth)
        other = (1.0 / n**2, -2.0 / (n * n * (n - 1.0)), pair)
    else:
        fourth, pair = 3.0 / (n * (n + 2.0)), 1.0 / (n * (n + 2.0))
        own, other = (1.0, -2.0 / n, fourth), (0.0, 0.0, pair)

    def total(weights):
        value = math.fsum(w * r for w, r in zip(weights, moments, strict=True))
        error = sum(abs(w) * e for w, e in zip(weights, errors, strict=True))
        size = sum(abs(w) * r for w, r in zip(weights, moments, strict=True))
        return max(value, 0.0), error + 8.0 * EPS * size

    (own_value, own_error), (other_value, other_error) = total(own), total(other)
    return Normalization(
        variance, own_value, other_value, (variance_error, own_error, other_error), method
    )


def _inverse(free: int, n: int, std: float, epsilon: float):
    """R_0, R_1, R_2 with bounds, and E v/(v + ε) with its bound."""
    if epsilon == 0:
        inverse = n / (std * std * (free - 2.0))
        return (inverse,) * 3, (8.0 * EPS * inverse,) * 3, 1.0, 0.0, "closed form"
    offset = epsilon * n / (2.0 * std * std)
    # The integrands reach as far as 1/ε.
    rule = gamma_rule(0.5 * free, depth=DEPTH + math.log1p(1.0 / offset))
    total = rule.nodes + offset
    share = rule.nodes / total
    unit = n / (2.0 * std * std)
    moments, errors = [], []
    # An ulp of g's logarithm beside those of the weights.
    rough = rule.rounding + EPS * 32.0 + rule.truncation
    for k in range(3):
        terms = rule.weights * share**k / total * unit
        moments.append(math.fsum(terms))
        errors.append(float(terms @ rough))
    # 1 - v/(v+ε) is the small part.
    lost = rule.weights * (offset / total)
    variance = 1.0 - math.fsum(lost)
    return moments, errors, variance, float(lost @ rough) + EPS, "quadrature"


@lru_cache(maxsize=1024)
def local_response(
    size: int, std: float, alpha: float, beta: float, bias: float
) -> tuple[float, float, float]:
    r"""Local response normalisation: y_i = x_i/(k + α q/n)^β, q the sum of n squares, k the bias.

    For x ~ N(0, s²), independent, with D = k + αq/n and q = 2s² g, g ~ Γ(n/2):

    .. math::
        \sigma_f^2 &= \tfrac1n E\,q D^{-2\beta}, \\
        \sigma_b^2 &= E\,D^{-2\beta} - \frac{4\alpha\beta}{n^2} E\,q D^{-2\beta-1}
            + \frac{4\alpha^2\beta^2}{n^3} E\,q^2 D^{-2\beta-2}.

    The last are E(∂y_i/∂x_i)² and the n - 1 of its neighbours, where E θ_i⁴ = 3/(n(n+2)) and
    E θ_i²θ_j² = 1/(n(n+2)) for a direction θ.

    Returns:
        σ_f, σ_b and a bound on the error of both; the mean is 0.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1; it was {size}")
    if not (bias > 0 and alpha >= 0 and beta >= 0):
        raise ValueError(
            "k must be greater than 0, and alpha and beta at least 0; "
            f"they were {bias}, {alpha} and {beta}"
        )
    rule = gamma_rule(0.5 * size)
    total = 2.0 * std * std * rule.nodes
    divisor = bias + alpha * total / size
    power = divisor ** (-2.0 * beta)
    # αβq/(nD) lies between 0 and β, so that the terms stay comparable.
    share = alpha * beta * total / (size * divisor)
    # On the strip |D| is at least its real counterpart over √2.
    rough = rule.rounding + EPS * (32.0 + 8.0 * beta) + rule.truncation * 2.0 ** (beta + 2.0)
    terms = rule.weights * total / size * power
    forward, forward_error = math.fsum(terms), float(terms @ rough)
    # 1 - 4a/n + 4a²/n with a the share.
    pieces = (1.0, -4.0 * share / size, 4.0 * share**2 / size)
    terms = rule.weights * power
    backward = math.fsum(terms * sum(pieces))
    backward_error = float((terms * sum(map(abs, pieces))) @ rough)
    error = max(std_error(forward, forward_error), std_error(backward, backward_error))
    forward, backward = math.sqrt(forward), math.sqrt(backward)
    return forward, backward, error + EPS * max(forward, backward)
