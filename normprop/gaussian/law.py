"""Laws of a layer's input: a normal variable, or an activation's image of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np

from normprop.gaussian.normal import EPS

if TYPE_CHECKING:
    from normprop.gaussian.functions import Function


@dataclass(frozen=True)
class Figures:
    """Figures of a scalar map under a law.

    Attributes:
        mean: E f.
        std: Std f.
        slope: root mean square of f', the standard deviation of the gradient that passes.
        error: bound on the absolute error of each of the three.
        method: "closed form" or "quadrature".
        slope_error: bound on the error of the slope alone, where it is known; under a wide law
            the other two are larger by far.
    """

    mean: float
    std: float
    slope: float
    error: float
    method: str
    slope_error: float = math.inf


@dataclass(frozen=True)
class Normal:
    """x ~ N(mean, std²)."""

    mean: float
    std: float


@dataclass(frozen=True)
class Image:
    """x = (f(z) - shift)/scale with z ~ N(base.mean, base.std²): what an activation puts out."""

    function: Function
    base: Normal
    shift: float = 0.0
    scale: float = 1.0


Law = Normal | Image

_NOTHING = 1e-12
_SHARE = 1e-2


_Arguments = ParamSpec("_Arguments")
_Found = TypeVar("_Found")

# How the errors of math.fsum and of math.sqrt, and of math.log, begin.
_OF_PYTHON = ("-inf", "math domain error", "expected a")


def in_range(figures: Callable[_Arguments, _Found]) -> Callable[_Arguments, _Found]:
    """Let figures that leave the range of float64 on their way end in one kind of error."""

    @wraps(figures)
    def checked(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Found:
        try:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                return figures(*arguments, **options)
        except (ArithmeticError, ValueError) as problem:
            if isinstance(problem, ValueError) and not str(problem).startswith(_OF_PYTHON):
                raise
            # Python's own words for it are no help: (34, 'Numerical result out of range').
            ours = type(problem) is ArithmeticError
            reason = f": {problem}" if ours else "; at this law they do not"
            raise ValueError(f"figures must stay in the range of float64{reason}") from problem

    return checked


def says_something(figures: Iterable[float], error: float) -> bool:
    """Whether figures are numbers, and a bound says more than their order.

    The bound has to be at most a hundredth of the largest of them, or next to nothing.
    """
    sizes = [abs(figure) for figure in figures]
    return all(map(math.isfinite, sizes)) and error <= max(
        _SHARE * max(sizes, default=0.0), _NOTHING
    )


def std_error(variance: float, error: float) -> float:
    """What an error of a variance does to its root: |√v - √w| = |v - w|/(√v + √w)."""
    root = math.sqrt(max(variance, 0.0))
    return min(error / root, math.sqrt(error)) if root > 0 else math.sqrt(error)


def mixture(parts: Sequence[Figures], chances: Sequence[float]) -> Figures:
    """Figures where one of several functions, or laws, is drawn by itself."""
    weighed = list(zip(chances, parts, strict=True))
    mean = math.fsum(c * part.mean for c, part in weighed)
    gaps = [abs(part.mean - mean) for part in parts]
    error, far = max(part.error for part in parts), max(abs(part.mean) for part in parts)
    spreads = [p.std * p.std + gap * gap for p, gap in zip(parts, gaps, strict=True)]
    variance = math.fsum(c * each for c, each in zip(chances, spreads, strict=True))
    slope = math.fsum(c * part.slope * part.slope for c, part in weighed)
    variance_error, slope_error = 8.0 * EPS * variance, 8.0 * EPS * slope
    for (c, part), gap in zip(weighed, gaps, strict=True):
        variance_error += c * part.error * (2.0 * part.std + 4.0 * gap + 5.0 * part.error)
        variance_error += 8.0 * EPS * c * gap * (abs(part.mean) + abs(mean))
        slope_error += c * part.error * (2.0 * part.slope + part.error)
    bound = max(
        error + 4.0 * EPS * far, std_error(variance, variance_error), std_error(slope, slope_error)
    )
    methods = {part.method for c, part in weighed if c > 0}
    method = "quadrature" if "quadrature" in methods else "closed form"
    return Figures(mean, math.sqrt(variance), math.sqrt(slope), bound, method)
