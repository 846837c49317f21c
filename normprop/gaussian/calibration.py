r"""Input laws at which a deep stack keeps its scale, the gradient's and the signal's.

A forward-normalised layer multiplies the squared gradient by χ(m, s), and a small deviation of
the signal's second moment by Q'(1): :mod:`normprop.gaussian.maps` has both.  A stack of a given
depth multiplies the squared gradient by a given factor where :math:`\chi(m, s)^{depth}` is that
factor: along a curve of laws.  It keeps its signal where Q'(1) < 1: on a part of that curve.

On that part :func:`calibrate` takes the least linear law.  A straight line has all its variance in
the first Hermite polynomial, and Q(q) = q.  What a law lacks of the one and of the other makes

.. math::
    N\,(1 - Q'(1)), \qquad N = 1 - \frac{a_1^2}{\sigma_f^2}, \qquad N \le \chi - 1,

and the law with the greatest product is the farthest from a line.  N alone would not do: where
it is near χ - 1, f is curved like a parabola, and nothing fades; it has no greatest value among the
laws with Q'(1) < 1, as it grows towards their edge.  Nor would Q'(1) alone: where it is
smallest, f is an odd function, and N half as large.
"""

import itertools
import math
from dataclasses import dataclass

from normprop.gaussian.elementwise import elementwise
from normprop.gaussian.functions import Function
from normprop.gaussian.law import Normal
from normprop.gaussian.maps import Bounded, chi, scale_slope
from normprop.gaussian.search import OCTAVES, STD_OCTAVES, Laws, bisected, has_no_scale, laws_of

# Where the search along one axis looks: from where χ - 1 drowns in rounding to where every known
# function is its own limit.
_SMALLEST, _LARGEST, _STEPS = 1e-4, 1e4, 96
_FARTHEST_MEAN = 12.0


@dataclass(frozen=True)
class Calibration:
    """A law of the input, and what one layer does there.

    Attributes:
        mean: mean m of the input.
        std: standard deviation s of the input.
        chi: χ(m, s) with its error bound; χ^depth is the growth of the squared gradient that was
            asked for.
        slope: Q'(1) with its error bound: what a layer multiplies a small deviation of the signal's
            second moment by.
    """

    mean: float
    std: float
    chi: Bounded
    slope: Bounded

    @property
    def stable(self) -> bool:
        """Whether such a deviation fades from layer to layer, Q'(1) < 1."""
        return self.slope.value + self.slope.error < 1.0


def calibrate(function: Function, depth: int, growth: float) -> Calibration:
    r"""The least linear law with :math:`\chi(m, s)^{depth}` = ``growth`` and Q'(1) < 1.

    Where there are such laws, it is one that a signal finds back to from standard deviations of
    1/16 to 16.  Where f has no scale of its own, as ReLU, s is 1.

    Raises:
        ValueError: no law that was looked at has both, or f has jumps, whose slope is not in χ.
    """
    target = growth ** (1.0 / depth)
    asked = f"growth {growth:g} over depth {depth} asks for χ = {target:.6g}"
    # Softplus has one where it turns linear, of e^-20.
    if function.jumps > 1e-6 * function.lipschitz:
        raise ValueError(
            f"{function.name} must have no jumps, whose slope is not in χ; they sum up to "
            f"{function.jumps:g}"
        )
    widest, refused = math.inf, ""
    while True:
        laws = laws_of(function, target, widest)
        law = laws.farthest()
        if law is None:
            raise ValueError(refused or f"{asked}; {_why_none(function, laws)}")
        found = _found_at(function, law, target, asked)
        if isinstance(found, Calibration):
            break
        # A bend that nobody knows of lies between the nodes of laws that are too wide.
        refused = refused or found
        widest = law.std if law.std < widest else 0.5 * widest
    if not found.stable:
        raise ValueError(
            f"{asked}; {function.name} has it at N({found.mean:g}, {found.std:g}²), where the "
            f"slope of its scale map must be less than 1; it was {found.slope.value:.6g} ± "
            f"{found.slope.error:.1g}"
        )
    return found


def _found_at(function: Function, law: Normal, target: float, asked: str) -> Calibration | str:
    """The law beside this one at which χ is ``target`` to rounding, or what is there instead."""
    by_mean = has_no_scale(function, law, target)

    def at(place: float) -> Normal:
        return Normal(place, 1.0) if by_mean else Normal(law.mean, place)

    def excess(place: float) -> float:
        return chi(function, at(place)).value - target

    place = law.mean / law.std if by_mean else law.std
    low, high = place, place
    for share in (1e-9, 1e-7, 1e-5, 1e-3):
        low, high = place - share * abs(place), place + share * abs(place)
        if (excess(low) < 0) != (excess(high) < 0):
            break
    else:
        return (
            f"{function.name} must be as smooth as it looks near N({law.mean:g}, {law.std:g}²), "
            f"where {asked}; another χ was found there, {target + excess(place):.6g}"
        )
    sign = 1.0 if excess(high) >= 0 else -1.0
    return _at(function, at(bisected(lambda x: sign * excess(x), low, high)))


def _at(function: Function, law: Normal) -> Calibration:
    figures = elementwise(function, law)
    slope = scale_slope(function, law, figures.mean, figures.std, 1.0)
    return Calibration(law.mean, law.std, chi(function, law), slope)


def _why_none(function: Function, laws: Laws) -> str:
    where = (
        f"at means up to {2.0 ** OCTAVES[-1]:g} from where {function.name} bends and std from "
        f"{2.0 ** STD_OCTAVES[0]:.1g} to {2.0 ** STD_OCTAVES[-1]:g}"
    )
    if not len(laws.mean):
        return f"{function.name} has it nowhere {where}, and {laws.most:.6g} at most"
    at = int(laws.slope.argmin())
    return (
        f"{function.name} has it nowhere that the signal keeps its scale, {where}: the slope of "
        f"its scale map must be less than 1, and is {laws.slope[at]:.6g} at least, at "
        f"N({laws.mean[at]:.4g}, {laws.std[at]:.4g}²)"
    )


def calibrate_std(function: Function, depth: int, growth: float, mean: float = 0.0) -> Calibration:
    r"""The smallest s at which :math:`\chi(m, s)^{depth}` is ``growth``.

    Where f is smooth at m and f'(m) is not 0, χ tends to 1 as s → 0, so that any growth
    above 1 is met on the way up, unless χ stays below it for every s.  Whether the signal keeps
    its scale there is for the caller to see, in ``stable`` of what is returned.

    Raises:
        ValueError: no s has this growth.
    """
    low, high = math.log(_SMALLEST), math.log(_LARGEST)
    grid = [low + (high - low) * k / _STEPS for k in range(_STEPS + 1)]
    refused = (
        f"{function.name} must be smooth at mean {mean:g} with a slope other than 0, or the "
        "growth larger: there",
        " at any small std, and",
        "; move the mean instead",
    )

    def law(log_std: float) -> Normal:
        return Normal(mean, math.exp(log_std))

    return _first(function, depth, growth, grid, law, 1.0, "std", refused)


def calibrate_mean(function: Function, depth: int, growth: float, std: float = 1.0) -> Calibration:
    r"""The smallest m ≥ 0, in steps of s, at which :math:`\chi(m, s)^{depth}` is ``growth``.

    For ReLU, whose χ at mean 0 is π/(π - 1) at every scale, χ falls to 1 as the mean moves
    to the side where it is a straight line.

    Raises:
        ValueError: no such mean has this growth.
    """
    grid = [_FARTHEST_MEAN * std * k / _STEPS for k in range(_STEPS + 1)]
    refused = f"growth must be less than {function.name} has at mean 0, where", ";", ""
    return _first(
        function, depth, growth, grid, lambda mean: Normal(mean, std), -1.0, "mean", refused
    )


def _first(function, depth, growth, grid, law, sign, what, refused) -> Calibration:
    """The first law along a grid at which χ rises to what is asked for, or with sign -1 falls."""
    target = growth ** (1.0 / depth)
    asked = f"growth {growth:g} over depth {depth} asks for"

    def excess(place: float) -> float:
        return sign * (chi(function, law(place)).value - target)

    if excess(grid[0]) >= 0:
        where, between, instead = refused
        seen = chi(function, law(grid[0])).value
        raise ValueError(f"{where} χ is {seen:.6g}{between} {asked} {target:.6g}{instead}")
    for start, end in itertools.pairwise(grid):
        if excess(end) >= 0:
            return _at(function, law(bisected(excess, start, end)))
    raise ValueError(
        f"{asked} χ = {target:.6g}; {function.name} reaches it at no {what} that was searched"
    )
