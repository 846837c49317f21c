"""Laws of a layer's input: a normal variable, or an activation's image of one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """

    mean: float
    std: float
    slope: float
    error: float
    method: str


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


def std_error(variance: float, error: float) -> float:
    """What an error of a variance does to its root: |√v - √w| = |v - w|/(√v + √w)."""
    root = math.sqrt(max(variance, 0.0))
    return min(error / root, math.sqrt(error)) if root > 0 else math.sqrt(error)
