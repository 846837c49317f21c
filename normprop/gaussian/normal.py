r"""The standard normal density, distribution function and its tail.

Scalars go through :mod:`math`, whose ``erfc`` keeps full relative accuracy in the tail;
arrays go through the same function element by element, because NumPy has no ``erfc`` and
the meshes of this package have a few hundred nodes.
"""

import math

import numpy as np

EPS = float(np.finfo(np.float64).eps)
REACH = 14.0
"""Integrals over the line are cut at this many standard deviations."""

BEYOND = math.erfc(REACH / math.sqrt(2.0))
"""Probability that is cut away, P(|z| > REACH) = 1.6e-44."""

_SQRT_HALF = math.sqrt(0.5)
_SQRT_2PI = math.sqrt(2.0 * math.pi)
# Beyond this, the closed forms in terms of the density and the distribution function lose
# digits to cancellation, and the continued fraction already converges fast.
_FAR = 2.0
_FRACTION_DEPTH = 160


def pdf(z):
    r"""Density :math:`\varphi(z) = e^{-z^2/2}/\sqrt{2\pi}` of a float or an array."""
    if isinstance(z, float):
        return math.exp(-0.5 * z * z) / _SQRT_2PI
    return np.exp(-0.5 * z * z) / _SQRT_2PI


def cdf(z: float) -> float:
    r"""Distribution function :math:`\Phi(z)`, accurate relative to its value in the left tail."""
    return 0.5 * math.erfc(-z * _SQRT_HALF)


def upper_tail(z: np.ndarray) -> np.ndarray:
    r"""Array version of :math:`1 - \Phi(z) = \Phi(-z)`."""
    return 0.5 * np.array([math.erfc(v) for v in (z * _SQRT_HALF).tolist()])


def log_cdf(z: np.ndarray) -> np.ndarray:
    r"""Array version of :math:`\log\Phi(z)`, accurate relative to its value on both sides."""
    smaller = upper_tail(np.abs(z))
    with np.errstate(divide="ignore"):
        return np.where(z < 0, np.log(smaller), np.log1p(-smaller))


def rectified(t: float) -> tuple[float, float, float]:
    r"""Mean, variance and probability of being positive of ``max(z - t, 0)``, t ≥ 0.

    .. math::
        M(t) = \varphi(t) - t\Phi(-t), \qquad
        V(t) = (1 + t^2)\Phi(-t) - t\varphi(t) - M(t)^2, \qquad \Phi(-t).

    Far out these cancel, and products of the convergents :math:`K_j = j/(t + K_{j+1})` of
    Mills' ratio :math:`\Phi(-t)/\varphi(t) = 1/(t + K_1)` take over:
    :math:`M = \Phi(-t) K_1` and :math:`E\max(z-t, 0)^2 = M K_2`.
    """
    active = cdf(-t)
    if t < _FAR:
        mean = pdf(t) - t * active
        second = (1.0 + t * t) * active - t * pdf(t)
    else:
        first, follower = _mills_fractions(t)
        mean = active * first
        second = mean * follower
    return mean, second - mean * mean, active


def _mills_fractions(t: float) -> tuple[float, float]:
    """K₁ and K₂ of the continued fraction of Mills' ratio at t > 0."""
    fraction = 0.0
    for j in range(_FRACTION_DEPTH, 1, -1):
        fraction = j / (t + fraction)
    return 1.0 / (t + fraction), fraction
