"""Smooth functions that have no closed form here, but for GELU, described exactly.

All are stable in both tails: no exponential is taken of a large positive number.
"""

import math
from functools import lru_cache

import numpy as np

from normprop.gaussian import closed
from normprop.gaussian.families import gated_increment, relu_increment
from normprop.gaussian.functions import Array, Function, by_name
from normprop.gaussian.normal import pdf, upper_tail

# Beyond this every gate is 0 or 1; the powers that are taken of x stay in range.
_GATE_REACH = 1e6


def logistic(x: Array) -> Array:
    """1/(1 + exp(-x)), accurate relative to its value for every x."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def logistic_slope(x: Array) -> Array:
    """Slope of the same, as accurate."""
    small = np.exp(-np.abs(x))
    return small / (1.0 + small) ** 2


def logistic_increment(c: float, h: Array) -> Array:
    """Increment from c to c + h."""
    # σ(c+h) - σ(c) = σ(c+h) σ(-c) (1 - e^-h).  The factor is bounded for h ≥ 0; for h < 0
    # swap the ends.  Both need only the exponential of a negative number.
    start, end = np.asarray(c, dtype=float), c + h
    low, high = np.minimum(start, end), np.maximum(start, end)
    rise = -np.expm1(-np.abs(h)) * logistic(high) * logistic(-low)
    return np.copysign(rise, h)


def tanh_slope(x: Array) -> Array:
    """Slope of tanh, as accurate."""
    return 4.0 * logistic_slope(2.0 * x)


def tanh_increment(c: float, h: Array) -> Array:
    """Increment of tanh from c to c + h."""
    return 2.0 * logistic_increment(2.0 * c, 2.0 * h)


@by_name
def sigmoid() -> Function:
    """The function 1/(1 + e^-x)."""
    return Function(
        name="sigmoid",
        value=logistic,
        slope=logistic_slope,
        increment=logistic_increment,
        width=40.0,
        lipschitz=0.25,
        span=1.0,
        log_slope=1.0,
        increasing=True,
    )


@by_name
def tanh() -> Function:
    """The function tanh x."""
    return Function(
        name="tanh",
        value=np.tanh,
        slope=tanh_slope,
        increment=tanh_increment,
        width=20.0,
        lipschitz=1.0,
        span=2.0,
        log_slope=2.0,
        increasing=True,
    )


def gated(name: str, gate, gate_slope, gate_increment, curvature, width: float, **more) -> Function:
    """The function x·g(x), a line but for |x| < ``width``, with a gate g that rises from 0 to 1.

    ``curvature`` is a bound on |2g' + xg''|; increments of g are accurate relative to themselves.
    """

    def slope(x: Array) -> Array:
        near = np.clip(x, -_GATE_REACH, _GATE_REACH)
        return gate(x) + near * gate_slope(near)

    return Function(
        name=name,
        value=lambda x: x * gate(x),
        slope=slope,
        increment=gated_increment(gate, gate_increment),
        width=width,
        lipschitz=1.25,
        curvature=curvature,
        looseness=12.0,
        **more,
    )


@by_name
def silu() -> Function:
    """The function x·sigmoid(x)."""

    def curvature(x: Array) -> Array:
        return logistic_slope(x) * (2.0 + np.abs(x))

    return gated("silu", logistic, logistic_slope, logistic_increment, curvature, 40.0)


def _cdf(x: Array) -> Array:
    x = np.asarray(x, dtype=float)
    return upper_tail(-x.ravel()).reshape(x.shape)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
_LONG_NODES, _LONG_WEIGHTS = np.polynomial.legendre.leggauss(16)


def _cdf_increment(c: float, h: Array) -> Array:
    """Φ(c + h) - Φ(c): by the density over short ways, by the smaller tails over long ones."""
    steps = np.minimum(np.abs(h), 0.5)
    ways = np.copysign(steps, h)[..., None] * (0.5 + 0.5 * _NODES)
    short = np.copysign(steps, h) * 0.5 * (pdf(c + ways) @ _WEIGHTS)
    side = -1.0 if c > 0 else 1.0
    far = side * (_cdf(side * (c + h)) - _cdf(np.array([side * c])))
    return np.where(np.abs(h) <= 0.5, short, far)


@by_name
def gelu() -> Function:
    """The function x·Φ(x), in closed form."""

    def curvature(x: Array) -> Array:
        return pdf(x) * (2.0 + x * x)

    return gated("gelu", _cdf, pdf, _cdf_increment, curvature, 9.0, closed=closed.gelu)


def _curvature(x: Array) -> Array:
    """Of both gates below."""
    return 3.0 * (1.0 + np.abs(x)) * np.exp(-np.abs(x))


_TANH_RATE = math.sqrt(2.0 / math.pi)
_TANH_CUBE = 0.044715


def _tanh_gate_argument(x: Array) -> Array:
    x = np.clip(x, -_GATE_REACH, _GATE_REACH)
    return 2.0 * _TANH_RATE * x * (1.0 + _TANH_CUBE * x * x)


def _tanh_gate_slope(x: Array) -> Array:
    rate = 2.0 * _TANH_RATE * (1.0 + 3.0 * _TANH_CUBE * x * x)
    return logistic_slope(_tanh_gate_argument(x)) * rate


def _tanh_gate_increment(c: float, h: Array) -> Array:
    start = min(max(c, -_GATE_REACH), _GATE_REACH)
    end = np.clip(c + h, -_GATE_REACH, _GATE_REACH)
    way = np.where((end == c + h) & (start == c), h, end - start)
    squares = start * start + start * end + end * end
    step = 2.0 * _TANH_RATE * way * (1.0 + _TANH_CUBE * squares)
    return logistic_increment(float(_tanh_gate_argument(np.array(start))), step)


@lru_cache(maxsize=1)
def gelu_tanh() -> Function:
    """The function x·(1 + tanh(√(2/π)(x + 0.044715x³)))/2, GELU with ``approximate="tanh"``."""

    def gate(x: Array) -> Array:
        return logistic(_tanh_gate_argument(x))

    return gated("gelu_tanh", gate, _tanh_gate_slope, _tanh_gate_increment, _curvature, 9.0)


def _mish_gate(x: Array) -> Array:
    """tanh(log(1 + w)) = w(w + 2)/(w(w + 2) + 2) with w = e^x, on the right by v = e^-x."""
    w = np.exp(-np.abs(x))
    left, right = w * (w + 2.0), 1.0 + 2.0 * w
    return np.where(x > 0, right / (right + 2.0 * w * w), left / (left + 2.0))


def _mish_gate_slope(x: Array) -> Array:
    """4w(w + 1)/(w² + 2w + 2)²."""
    w = np.exp(-np.abs(x))
    right = 4.0 * w * w * (1.0 + w) / (1.0 + 2.0 * w + 2.0 * w * w) ** 2
    return np.where(x > 0, right, 4.0 * w * (w + 1.0) / (w * (w + 2.0) + 2.0) ** 2)


def _mish_gate_increment(c: float, h: Array) -> Array:
    """2(D(b) - D(a))/(D(a)D(b)) for D = w² + 2w + 2, by the lower and the higher end."""
    start, end = np.asarray(c, dtype=float), c + h
    low, high = np.minimum(start, end), np.maximum(start, end)
    w = np.exp(np.minimum(low, 300.0))
    top = np.exp(-np.abs(high))
    right = (np.exp(-np.abs(h)) + 1.0 + 2.0 * top) / (1.0 + 2.0 * top + 2.0 * top * top)
    left = top * (w + top + 2.0) / (top * (top + 2.0) + 2.0)
    rise = -np.expm1(-np.abs(h)) * np.where(high > 0, right, left) * 2.0 / (w * (w + 2.0) + 2.0)
    return np.copysign(rise, h)


@by_name
def mish() -> Function:
    """The function x·tanh(softplus(x))."""
    return gated("mish", _mish_gate, _mish_gate_slope, _mish_gate_increment, _curvature, 45.0)


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _softplus_increment(c: float, h: Array) -> Array:
    """log(1 + σ(c)(e^h - 1)) over short ways; over long ones ReLU's and what is added to it."""
    start = np.array([c], dtype=float)
    short = np.log1p(logistic(start) * np.expm1(np.clip(h, -1.0, 1.0)))
    rest = np.log1p(np.exp(-np.abs(c + h))) - np.log1p(np.exp(-np.abs(start)))
    return np.where(np.abs(h) <= 1.0, short, relu_increment(c, h) + rest)


@by_name
def softplus(beta: float = 1.0, threshold: float = 20.0) -> Function:
    """The function log(1 + e^(βx))/β, but x where βx > ``threshold``, as torch has it; β > 0.

    Raises:
        ValueError: β is not positive, or the threshold not finite.
    """
    if not (0 < beta < math.inf and math.isfinite(threshold)):
        raise ValueError(
            f"beta must be greater than 0, and it and threshold finite; "
            f"they were {beta} and {threshold}"
        )
    limit = threshold / beta
    jump = -float(np.log1p(np.exp(-np.abs(threshold))) + max(-threshold, 0.0)) / beta

    def increment(c: float, h: Array) -> Array:
        smooth = _softplus_increment(beta * c, beta * h) / beta
        # Beyond the threshold the rest of f above x is missing, softplus(-x).
        excess = _softplus(-beta * (c + h)) / beta
        if beta * c > threshold:
            return np.where(c + h > limit, h, h + excess)
        missing = np.where(beta * (c + h) > threshold, excess, 0.0)
        return smooth - missing

    return Function(
        name="softplus",
        value=lambda x: np.where(beta * x > threshold, x, _softplus(beta * x) / beta),
        slope=lambda x: np.where(beta * x > threshold, 1.0, logistic(beta * x)),
        increment=increment,
        features=(0.0, limit) if limit else (0.0,),
        width=40.0 / beta,
        lipschitz=1.0,
        log_slope=beta,
        # At the threshold f falls by a little, 2e-9 for torch's defaults.
        increasing=jump > -1e-6,
        looseness=8.0,
        jumps=abs(jump),
        falls=abs(jump),
        convex=True,
    )


@by_name
def logsigmoid() -> Function:
    """The function log sigmoid(x) = -log(1 + e^-x)."""
    return Function(
        name="logsigmoid",
        value=lambda x: -_softplus(-x),
        slope=lambda x: logistic(-x),
        increment=lambda c, h: -_softplus_increment(-c, -h),
        width=40.0,
        lipschitz=1.0,
        log_slope=1.0,
        increasing=True,
    )


def _softsign_increment(c: float, h: Array) -> Array:
    x = c + h
    product = (1.0 + abs(c)) * (1.0 + np.abs(x))
    # On both sides of 0 the two values add up.
    across = x / (1.0 + np.abs(x)) - c / (1.0 + abs(c))
    return np.where(x * np.sign(c) >= 0, h / product, across) if c else x / product


@by_name
def softsign() -> Function:
    """The function x/(1 + |x|)."""
    return Function(
        name="softsign",
        value=lambda x: x / (1.0 + np.abs(x)),
        slope=lambda x: (1.0 + np.abs(x)) ** -2.0,
        increment=_softsign_increment,
        # It is nowhere straight; panels of this size are a start.
        width=10.0,
        lipschitz=1.0,
        span=2.0,
        log_slope=2.0,
        increasing=True,
    )


def _tanhshrink_increment(c: float, h: Array) -> Array:
    """By the mean slope tanh² over short ways, as h - Δtanh over long ones."""
    steps = np.clip(h, -1.0, 1.0)
    ways = c + steps[..., None] * (0.5 + 0.5 * _LONG_NODES)
    short = steps * 0.5 * (np.tanh(ways) ** 2 @ _LONG_WEIGHTS)
    return np.where(np.abs(h) <= 1.0, short, h - tanh_increment(c, h))


@by_name
def tanhshrink() -> Function:
    """The function x - tanh x."""
    return Function(
        name="tanhshrink",
        value=lambda x: _tanhshrink_increment(0.0, x),
        slope=lambda x: np.tanh(x) ** 2,
        increment=_tanhshrink_increment,
        width=20.0,
        lipschitz=1.0,
        increasing=True,
        curvature=lambda x: 2.0 * tanh_slope(x),
        looseness=8.0,
    )
