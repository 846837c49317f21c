"""What integration needs to know of a scalar function, and the functions that others are made of.

A function is described once: its value, its slope, its increments without cancellation, where
it bends, and its closed form where it has one.  ``normprop.gaussian.families`` and
``normprop.gaussian.smooth`` make such descriptions, ``normprop.gaussian.named`` lists those
that have a name: :func:`by_name` enters them there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from normprop.gaussian.law import Figures, Normal

Array = np.ndarray


@dataclass(frozen=True)
class Function:
    """An elementwise function, as integration against a normal density sees it.

    Where nothing is given, nothing is promised: bounds are infinite.

    Attributes:
        name: the name by which ``moments`` finds it, PyTorch's spelling.
        value: f(x) for an array x.
        slope: f'(x); at a kink, torch's choice.
        increment: ``increment(c, h)`` = f(c + h) - f(c), accurate relative to its own value
            also where h is tiny, but for ``looseness`` and ``noise``.
        width: half width of the neighbourhood of a feature outside of which f is a straight
            line to double precision (0 for a kink).
        features: points where f bends or has a kink; integration panels end there.
        lipschitz: bound on the absolute slope.
        span: sup f - inf f.
        log_slope: bound on the absolute value of f''/f', which turns a rounding error of x
            into one of f'.
        increasing: whether f never decreases, so that the maximum of f is f of the maximum.
        both: value and slope at once, of a function that is known by nothing else: its
            increments are differences of values, with their rounding, it may have kinks that
            ``features`` does not name, and its tails are unknown.  What is not finite raises
            ``ArithmeticError``, but for ``finite=False``.
        curvature: bound on the absolute f''(x) for an array x, for a function whose slope has
            zeros, so that ``log_slope`` does not exist.
        looseness: how many ulp of h an increment, and how many ulp of 1 a slope, may be off
            beside the usual few of themselves; where f' changes its sign.
        noise: how many ulp of 1 an increment may be off; where jumps cancel.
        jumps: sum of the absolute heights f(c+) - f(c-) of f's jumps.
        falls: height of a jump downwards, beyond which the slope is at least 1, of a function
            that counts as increasing all the same; order statistics have it in their bound.
        convex: whether f' never decreases, or never increases.
        closed: the figures under a normal law, where there is a closed form.
    """

    name: str
    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    increment: Callable[[float, Array], Array]
    width: float
    features: tuple[float, ...] = (0.0,)
    lipschitz: float = math.inf
    span: float = math.inf
    log_slope: float = math.inf
    increasing: bool = False
    both: Callable[..., tuple[Array, Array]] | None = None
    curvature: Callable[[Array], Array] | None = None
    looseness: float = 0.0
    noise: float = 0.0
    jumps: float = 0.0
    falls: float = 0.0
    convex: bool = False
    closed: Callable[[Normal], Figures] | None = None

    def farthest(self, std: float, reach: float) -> float:
        """Bound on the distance of f from f(c) over the outskirts that integration leaves out."""
        return min(self.span, 2.0 * reach * std * self.lipschitz + self.jumps)

    @property
    def bounded(self) -> bool:
        """Whether the growth of f is known."""
        return math.isfinite(self.lipschitz)


MAKERS: dict[str, Callable[..., Function]] = {}
"""The functions that have a name, from torch's parameters in torch's order."""

Maker = TypeVar("Maker", bound=Callable[..., Function])


def by_name(make: Maker) -> Maker:
    """Let the package know a function by the name of what makes it, and make it once.

    Without arguments that makes the function with torch's default parameters.
    """
    MAKERS[make.__name__] = lru_cache(maxsize=1024)(make)
    return MAKERS[make.__name__]


def sigmoid(x: Array) -> Array:
    """1/(1 + exp(-x)), accurate relative to its value for every x."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def sigmoid_slope(x: Array) -> Array:
    """Slope of the sigmoid, accurate relative to its value for every x."""
    small = np.exp(-np.abs(x))
    return small / (1.0 + small) ** 2


def sigmoid_increment(c: float, h: Array) -> Array:
    """Increment of the sigmoid from c to c + h."""
    # σ(c+h) - σ(c) = σ(c+h) σ(-c) (1 - e^-h).  The factor is bounded for h ≥ 0; for h < 0
    # swap the ends.  Both need only the exponential of a negative number.
    start, end = np.asarray(c, dtype=float), c + h
    low, high = np.minimum(start, end), np.maximum(start, end)
    rise = -np.expm1(-np.abs(h)) * sigmoid(high) * sigmoid(-low)
    return np.copysign(rise, h)


def tanh_slope(x: Array) -> Array:
    """Slope of tanh, accurate relative to its value for every x."""
    return 4.0 * sigmoid_slope(2.0 * x)


def tanh_increment(c: float, h: Array) -> Array:
    """Increment of tanh from c to c + h."""
    return 2.0 * sigmoid_increment(2.0 * c, 2.0 * h)


def relu_increment(c: float, h: Array) -> Array:
    """Increment of max(x, 0) from c to c + h."""
    return np.maximum(h, -c) if c > 0 else np.maximum(c + h, 0.0)


def hardsigmoid(x: Array) -> Array:
    """x/6 + 1/2, clipped to [0, 1]."""
    return np.clip(x / 6.0 + 0.5, 0.0, 1.0)


def hardsigmoid_increment(c: float, h: Array) -> Array:
    """Increment of the hard sigmoid from c to c + h."""
    # Clipping the ends first leaves a difference of numbers of at most 3 in size.
    start = min(max(c, -3.0), 3.0)
    inside = np.abs(c + h) < 3.0
    shift = np.where(inside & (start == c), h, np.clip(c + h, -3.0, 3.0) - start)
    return shift / 6.0
