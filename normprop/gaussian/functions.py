"""The scalar functions that the package knows by name.

A function is described once, by what integration needs: its value, its slope, its increments
without cancellation, and where it bends.  A new activation is one more row here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Function:
    """An elementwise function, as integration against a normal density sees it.

    Attributes:
        name: the name by which ``moments`` finds it, PyTorch's spelling.
        value: f(x) for an array x.
        slope: f'(x); at a kink, torch's choice.
        increment: ``increment(c, h)`` = f(c + h) - f(c), accurate relative to its own value
            also where h is tiny.
        features: points where f bends or has a kink; integration panels end there.
        width: half width of the neighbourhood of a feature outside of which f is a straight
            line to double precision (0 for a kink).
        lipschitz: bound on |f'|.
        span: sup f - inf f.
        log_slope: bound on |f''/f'|, which turns a rounding error of x into one of f'.
        exact_increments: whether ``increment`` is accurate relative to itself; if not, it is
            a difference of values, with their rounding.
        increasing: whether f never decreases, so that the maximum of f is f of the maximum.
    """

    name: str
    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    increment: Callable[[float, Array], Array]
    features: tuple[float, ...]
    width: float
    lipschitz: float
    span: float
    log_slope: float
    increasing: bool
    exact_increments: bool = True

    def farthest(self, std: float, reach: float) -> float:
        """Bound on |f(x) - f(c)| over the outskirts that integration leaves out."""
        return min(self.span, 2.0 * reach * std * self.lipschitz)

    @property
    def bounded(self) -> bool:
        """Whether the growth of f is known."""
        return math.isfinite(self.lipschitz)


def sigmoid(x: Array) -> Array:
    """1/(1 + exp(-x)), accurate relative to its value for every x."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _sigmoid_slope(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return small / (1.0 + small) ** 2


def _sigmoid_increment(c: float, h: Array) -> Array:
    # σ(c+h) - σ(c) = σ(c+h) σ(-c) (1 - e^-h).  The factor is bounded for h ≥ 0; for h < 0
    # swap the ends.  Both need only the exponential of a negative number.
    start, end = np.asarray(c, dtype=float), c + h
    low, high = np.minimum(start, end), np.maximum(start, end)
    rise = -np.expm1(-np.abs(h)) * sigmoid(high) * sigmoid(-low)
    return np.copysign(rise, h)


def _tanh_slope(x: Array) -> Array:
    return 4.0 * _sigmoid_slope(2.0 * x)


def _tanh_increment(c: float, h: Array) -> Array:
    return 2.0 * _sigmoid_increment(2.0 * c, 2.0 * h)


def _relu_increment(c: float, h: Array) -> Array:
    return np.maximum(h, -c) if c > 0 else np.maximum(c + h, 0.0)


def _hardsigmoid(x: Array) -> Array:
    return np.clip(x / 6.0 + 0.5, 0.0, 1.0)


def _hardsigmoid_increment(c: float, h: Array) -> Array:
    # Clipping the ends first leaves a difference of numbers of at most 3 in size.
    start = min(max(c, -3.0), 3.0)
    inside = np.abs(c + h) < 3.0
    shift = np.where(inside & (start == c), h, np.clip(c + h, -3.0, 3.0) - start)
    return shift / 6.0


FUNCTIONS = {
    f.name: f
    for f in (
        Function(
            name="relu",
            value=lambda x: np.maximum(x, 0.0),
            slope=lambda x: (x > 0).astype(float),
            increment=_relu_increment,
            features=(0.0,),
            width=0.0,
            lipschitz=1.0,
            span=math.inf,
            log_slope=0.0,
            increasing=True,
        ),
        # torch's float64 gradient of hardsigmoid uses a float32 sixth; this one does not.
        Function(
            name="hardsigmoid",
            value=_hardsigmoid,
            slope=lambda x: np.where(np.abs(x) < 3.0, 1.0 / 6.0, 0.0),
            increment=_hardsigmoid_increment,
            features=(-3.0, 3.0),
            width=0.0,
            lipschitz=1.0 / 6.0,
            span=1.0,
            log_slope=0.0,
            increasing=True,
        ),
        Function(
            name="sigmoid",
            value=sigmoid,
            slope=_sigmoid_slope,
            increment=_sigmoid_increment,
            features=(0.0,),
            width=40.0,
            lipschitz=0.25,
            span=1.0,
            log_slope=1.0,
            increasing=True,
        ),
        Function(
            name="tanh",
            value=np.tanh,
            slope=_tanh_slope,
            increment=_tanh_increment,
            features=(0.0,),
            width=20.0,
            lipschitz=1.0,
            span=2.0,
            log_slope=2.0,
            increasing=True,
        ),
    )
}
"""Every function that has a name, by that name."""
