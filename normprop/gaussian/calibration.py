"""Input laws at which a stack of given depth multiplies the gradient by a given factor."""

import itertools
import math
from dataclasses import dataclass

from normprop.gaussian.functions import Function
from normprop.gaussian.law import Normal
from normprop.gaussian.maps import Bounded, chi

# Where the search looks: from where χ - 1 drowns in rounding to where every known function
# is its own limit.
_SMALLEST, _LARGEST, _STEPS = 1e-4, 1e4, 96
_FARTHEST_MEAN = 12.0


@dataclass(frozen=True)
class Calibration:
    """A law of the input, and the growth of the squared gradient that one layer has there.

    Attributes:
        mean: mean m of the input.
        std: standard deviation s of the input.
        chi: χ(m, s) with its error bound; χ^depth is the growth that was asked for.
    """

    mean: float
    std: float
    chi: Bounded


def calibrate_std(function: Function, depth: int, growth: float, mean: float = 0.0) -> Calibration:
    r"""The smallest s at which :math:`\chi(m, s)^{depth}` is ``growth``.

    Where f is smooth at m and f'(m) is not 0, χ tends to 1 as s → 0, so that any growth
    above 1 is met on the way up, unless χ stays below it for every s.

    Raises:
        ValueError: no s has this growth.
    """
    target = growth ** (1.0 / depth)

    def excess(log_std: float) -> float:
        return chi(function, Normal(mean, math.exp(log_std))).value - target

    low, high = math.log(_SMALLEST), math.log(_LARGEST)
    grid = [low + (high - low) * k / _STEPS for k in range(_STEPS + 1)]
    if excess(grid[0]) >= 0:
        at = chi(function, Normal(mean, _SMALLEST)).value
        raise ValueError(
            f"{function.name} must be smooth at mean {mean:g} with a slope other than 0, or the "
            f"growth larger: there χ is {at:.6g} at any small std, and growth {growth:g} over "
            f"depth {depth} asks for {target:.6g}; move the mean instead"
        )
    start, end = _bracket(excess, grid, function, depth, growth, target, "std")
    std = math.exp(_bisected(excess, start, end))
    return Calibration(mean, std, chi(function, Normal(mean, std)))


def calibrate_mean(function: Function, depth: int, growth: float, std: float = 1.0) -> Calibration:
    r"""The smallest m ≥ 0, in steps of s, at which :math:`\chi(m, s)^{depth}` is ``growth``.

    For ReLU, whose χ at mean 0 is π/(π - 1) at every scale, χ falls to 1 as the mean moves
    to the side where it is a straight line.

    Raises:
        ValueError: no such mean has this growth.
    """
    target = growth ** (1.0 / depth)

    def excess(mean: float) -> float:
        return target - chi(function, Normal(mean, std)).value

    grid = [_FARTHEST_MEAN * std * k / _STEPS for k in range(_STEPS + 1)]
    if excess(grid[0]) >= 0:
        raise ValueError(
            f"growth must be less than {function.name} has at mean 0, where χ is "
            f"{chi(function, Normal(0.0, std)).value:.6g}; growth {growth:g} over depth {depth} "
            f"asks for {target:.6g}"
        )
    start, end = _bracket(excess, grid, function, depth, growth, target, "mean")
    mean = _bisected(excess, start, end)
    return Calibration(mean, std, chi(function, Normal(mean, std)))


def _bracket(excess, grid, function, depth, growth, target, what) -> tuple[float, float]:
    for start, end in itertools.pairwise(grid):
        if excess(end) >= 0:
            return start, end
    raise ValueError(
        f"growth {growth:g} over depth {depth} asks for χ = {target:.6g}; "
        f"{function.name} reaches it at no {what} that was searched"
    )


def _bisected(excess, start: float, end: float) -> float:
    """The point between start and end where ``excess`` turns from negative, to rounding."""
    while True:
        middle = 0.5 * (start + end)
        if middle in (start, end):
            return end
        start, end = (middle, end) if excess(middle) < 0 else (start, middle)
