"""What integration needs to know of a scalar function.

A function is described once: its value, its slope, its increments without cancellation, where
it bends, and its closed form where it has one.  ``normprop.gaussian.families`` and
``normprop.gaussian.smooth`` make such descriptions; those that have a name are in
``normprop.gaussian.named``, where :func:`by_name` enters them.
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


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        """Its name: messages print it, and the rest is made of closures."""
        return f"Function({self.name!r})"

    def farthest(self, std: float, reach: float) -> float:
        """Bound on the distance of f from f(c) over the outskirts that integration leaves out."""
        return min(self.span, 2.0 * reach * std * self.lipschitz + self.jumps)

    def marks(
        self, mean: float, std: float, shares: tuple[float, ...] = (0.0, 1.0, -1.0, 0.1)
    ) -> list[float]:
        """The features and these shares of the width beside them, in standard deviations."""
        return [(c + share * self.width - mean) / std for c in self.features for share in shares]


MAKERS: dict[str, Callable[..., Function]] = {}
"""The functions that have a name, from torch's parameters in torch's order."""

Maker = TypeVar("Maker", bound=Callable[..., Function])


def by_name(make: Maker) -> Maker:
    """Let the package know a function by the name of what makes it, and make it once.

    Without arguments that makes the function with torch's default parameters.
    """
    MAKERS[make.__name__] = lru_cache(maxsize=1024)(make)
    return MAKERS[make.__name__]
