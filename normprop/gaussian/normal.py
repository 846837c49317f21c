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
FAR = 2.0
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
    if t < FAR:
        mean = pdf(t) - t * active
        second = (1.0 + t * t) * active - t * pdf(t)
    else:
        first, follower, *_ = _fractions(t)
        mean = active * first
        second = mean * follower
    return mean, second - mean * mean, active


TAIL_ORDER = 4
"""Highest power whose tail moment is computed."""

NOTHING_BEYOND = 38.0
"""Tails that start farther out hold less than 3e-316, which is nothing in double precision."""


def tail_moments(t: float) -> tuple[list[float], list[float]]:
    r"""Moments of a tail, :math:`I_k(t) = E \max(z - t, 0)^k`, t ≥ 0, k = 0 … 4, and bounds.

    Integration by parts gives :math:`I_k = (k-1) I_{k-2} - t I_{k-1}` from
    :math:`I_0 = \Phi(-t)` and :math:`I_1 = \varphi(t) - t I_0`.  Far out the terms cancel, and
    the fractions of Mills' ratio take over: :math:`I_k = I_{k-1} K_k`, all positive.

    Returns:
        The moments, and bounds on their absolute errors.  The bounds allow for an error of one
        ulp of t, as in t = (c - m)/s; :math:`I_k' = -k I_{k-1}`.
    """
    density, active = pdf(t), cdf(-t)
    moments = [active]
    errors = [EPS * ((4.0 + t * t) * active + t * density)]
    if t < FAR:
        moments.append(density - t * active)
        errors.append(EPS * (4.0 + t * t) * density + t * (errors[0] + EPS * active))
        for k in range(2, TAIL_ORDER + 1):
            first, second = (k - 1) * moments[k - 2], t * moments[k - 1]
            moments.append(first - second)
            rounding = 3.0 * EPS * (first + second)
            errors.append((k - 1) * errors[k - 2] + t * errors[k - 1] + rounding)
    else:
        for fraction in _fractions(t):
            moments.append(moments[-1] * fraction)
        errors += [EPS * (t * t + 12.0 * k + 8.0) * moments[k] for k in range(1, TAIL_ORDER + 1)]
        # The ulp of t: k t I_{k-1} relative to I_k is t(t + K_{k+1}), at most t² + k + 1.
        errors = [e + EPS * (t * t + k + 1.0) * moments[k] for k, e in enumerate(errors)]
    return moments, errors


def mills(t: float) -> float:
    r"""Mills' ratio :math:`R(t) = \Phi(-t)/\varphi(t)` for t ≥ 0, to 16 ulp of itself."""
    if t < FAR:
        return cdf(-t) / pdf(t)
    return 1.0 / (t + _fractions(t)[0])


def mills_defect(t: float) -> float:
    r"""The small :math:`1 - t R(t) = R K_1`, t ≥ 0, to 32 ulp of itself."""
    if t < FAR:
        return 1.0 - t * mills(t)
    first = _fractions(t)[0]
    return first / (t + first)


def _fractions(t: float) -> list[float]:
    """K₁ … K₄ of the continued fraction of Mills' ratio."""
    fraction, found = 0.0, []
    for j in range(_FRACTION_DEPTH, 0, -1):
        fraction = j / (t + fraction)
        if j <= TAIL_ORDER:
            found.append(fraction)
    return found[::-1]
