"""Functions with parameters, and with closed forms: made of lines, parabolas, exponentials.

Each factory checks nothing but what its formula needs; the same parameters give the same
object, whose figures are then remembered.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from normprop.gaussian import closed
from normprop.gaussian.closed import Spline
from normprop.gaussian.functions import Array, Function, by_name
from normprop.gaussian.law import Figures, Normal
from normprop.gaussian.normal import EPS

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946
"""The constants of torch.selu, whose double precision they exceed."""


def piecewise_linear(
    name: str,
    kinks: Sequence[float],
    slopes: Sequence[float],
    jumps: Sequence[float] | None = None,
    at: float = 0.0,
    value: float = 0.0,
) -> Function:
    r"""A function made of straight lines: the fields are those of :class:`Spline`.

    Kinks are finite, and there may be none; jumps are all 0 where they are not given.
    """
    kinks, slopes = tuple(map(float, kinks)), tuple(map(float, slopes))
    jumps = (0.0,) * len(kinks) if jumps is None else tuple(map(float, jumps))
    if not all(map(math.isfinite, (*kinks, *slopes, *jumps, at, value))):
        raise ValueError(f"kinks, slopes and jumps must be finite; they were {kinks}, {slopes}")
    if len(slopes) != len(kinks) + 1 or len(jumps) != len(kinks):
        raise ValueError(
            "there must be one slope more than kinks, and a jump a kink; there were "
            f"{len(slopes)} slopes, {len(kinks)} kinks and {len(jumps)} jumps"
        )
    if list(kinks) != sorted(set(kinks)):
        raise ValueError(f"kinks must be strictly increasing; they were {kinks}")
    curves = (0.0,) * len(slopes)
    return of_pieces(name, Spline(kinks, slopes, curves, jumps, float(at), float(value)))


@lru_cache(maxsize=1024)
def of_pieces(name: str, pieces: Spline) -> Function:
    """A function made of lines and parabolas, with lines at both ends."""
    kinks, at, jumps = pieces.kinks, pieces.at, pieces.jumps
    ends, steep, bends = np.array(kinks), np.array(pieces.slopes), np.array(pieces.curves)
    beside = [(pieces.slope(i, c), pieces.slope(i + 1, c)) for i, c in enumerate(kinks)]
    # At a kink torch takes the slope of the flatter side.
    at_kinks = [min(pair, key=abs) for pair in beside]
    slopes = [pieces.slopes[0], *itertools.chain(*beside), pieces.slopes[-1]]
    steepest, sharpest = float(np.abs(slopes).max()), 2.0 * float(np.abs(bends).max())

    def slope(x: Array) -> Array:
        piece = np.searchsorted(ends, x)
        found = steep[piece] + 2.0 * bends[piece] * x if sharpest else steep[piece]
        for kink, flatter in zip(kinks, at_kinks, strict=True):
            found = np.where(x == kink, flatter, found)
        return found

    def increment(c: float, h: Array) -> Array:
        return _rise(pieces, c, np.asarray(h, dtype=float))

    def curvature(x: Array) -> Array:
        slack = 1e-9 * np.abs(ends).max()
        return np.where((x > ends[0] - slack) & (x < ends[-1] + slack), sharpest, 0.0)

    # Bound on sup f - inf f, where f is flat at both ends.
    span = math.inf
    if slopes[0] == slopes[-1] == 0.0:
        inner = np.abs(slopes[2:-2]).reshape(-1, 2).max(1, initial=0.0)
        span = float(inner @ np.diff(ends)) + sum(map(abs, jumps))
    # Values are counted from f(at), whose rounding stays in those that are smaller.
    noise = 8.0 * (abs(pieces.value) + steepest * abs(at))
    mixed = any(j > 0 for j in jumps) and any(j < 0 for j in jumps)
    turning = any(a > 0 for a in slopes) and any(a < 0 for a in slopes)
    # Where a line rises and a jump falls, the sum of the two may be smaller than both.
    turning |= any(a * j < 0 for a in slopes for j in jumps)
    return Function(
        name=name,
        value=lambda x: pieces.value + increment(at, x - at),
        slope=slope,
        increment=increment,
        width=0.0,
        features=kinks or (0.0,),
        lipschitz=steepest,
        span=span,
        log_slope=math.inf if sharpest else 0.0,
        curvature=curvature if sharpest else None,
        increasing=min(slopes) >= 0 and min(jumps, default=0.0) >= 0,
        looseness=8.0 * steepest if turning else 0.0,
        noise=noise + (8.0 * sum(map(abs, jumps)) if mixed else 0.0),
        jumps=sum(map(abs, jumps)),
        closed=lambda law: closed.spline(pieces, law),
    )


def _rise(pieces: Spline, c: float, h: Array) -> Array:
    """f(c + h) - f(c): the rises of all pieces between the two, and the jumps.

    On the piece that holds c the distance is taken from h, so that a tiny h keeps its digits.
    """
    x = c + h
    total = np.zeros_like(x)
    ends = (-math.inf, *pieces.kinks, math.inf)
    for i, (slope, curve) in enumerate(zip(pieces.slopes, pieces.curves, strict=True)):
        low, high = ends[i], ends[i + 1]
        if slope == curve == 0.0:
            continue
        start = min(max(c, low), high)
        within = low <= c <= high
        way = np.clip(h, low - c, high - c) if within else np.clip(x, low, high) - start
        # The mean slope over a way is that of its middle.
        mean = slope + curve * (start + np.clip(x, low, high)) if curve else slope
        total += mean * way
    for kink, jump in zip(pieces.kinks, pieces.jumps, strict=True):
        # h decides where c + h is rounded onto the kink.
        total += jump * ((h > kink - c).astype(float) - (c > kink))
    return total


def relu_increment(c: float, h: Array) -> Array:
    """Increment of max(x, 0) from c to c + h."""
    return np.maximum(h, -c) if c > 0 else np.maximum(c + h, 0.0)


@by_name
def relu() -> Function:
    """The function max(x, 0)."""
    return Function(
        name="relu",
        value=lambda x: np.maximum(x, 0.0),
        slope=lambda x: (x > 0).astype(float),
        increment=relu_increment,
        width=0.0,
        lipschitz=1.0,
        log_slope=0.0,
        increasing=True,
        closed=closed.relu,
    )


def identity() -> Function:
    """The function x."""
    return piecewise_linear("identity", (), (1.0,))


def absolute() -> Function:
    """The function |x|."""
    return piecewise_linear("abs", (0.0,), (-1.0, 1.0))


@by_name
def leaky_relu(negative_slope: float = 0.01, name: str = "leaky_relu") -> Function:
    """The function x for x > 0, ``negative_slope`` x for x ≤ 0."""
    return piecewise_linear(name, (0.0,), (negative_slope, 1.0))


def rrelu(lower: float = 1.0 / 8.0, upper: float = 1.0 / 3.0) -> Function:
    """Randomised leaky ReLU in evaluation, where the slope is the mean of its bounds."""
    return leaky_relu((lower + upper) / 2.0, "rrelu")


@by_name
def hardtanh(low: float = -1.0, high: float = 1.0, name: str = "hardtanh") -> Function:
    """The function x, clipped to [low, high]."""
    # As near to 0 as it goes, where values are as small as they can be.
    at = min(max(low, 0.0), high)
    return piecewise_linear(name, (low, high), (0.0, 1.0, 0.0), at=at, value=at)


@by_name
def relu6() -> Function:
    """The function x, clipped to [0, 6]."""
    return hardtanh(0.0, 6.0, "relu6")


def threshold(limit: float, value: float) -> Function:
    """The function x for x > ``limit``, the constant ``value`` elsewhere."""
    limit, value = float(limit), float(value)
    return piecewise_linear(
        "threshold", (limit,), (0.0, 1.0), (limit - value,), at=limit, value=value
    )


def _shrunk(name: str, limit: float, jump: float) -> Function:
    if limit < 0:
        raise ValueError(f"lambd must not be negative; it was {limit}")
    if limit == 0:
        return identity()
    return piecewise_linear(name, (-limit, limit), (1.0, 0.0, 1.0), (jump, jump))


@by_name
def hardshrink(limit: float = 0.5) -> Function:
    """The function x for |x| > ``limit``, 0 elsewhere; ``limit`` ≥ 0."""
    return _shrunk("hardshrink", limit, limit)


@by_name
def softshrink(limit: float = 0.5) -> Function:
    """The function x - ``limit`` sign x for |x| > ``limit``, 0 elsewhere; ``limit`` ≥ 0."""
    return _shrunk("softshrink", limit, 0.0)


@by_name
def elu(alpha: float = 1.0, scale: float = 1.0, width: float = 1.0, name: str = "elu") -> Function:
    r"""The function scale·x for x > 0, scale·α(e^(x/width) - 1) for x ≤ 0; width > 0.

    ELU has scale and width 1, CELU has width α, SELU has its scale.  In units of the width it is
    the function of :func:`normprop.gaussian.closed.elu` with γ = α/width.

    Raises:
        ValueError: the width is not positive.
    """
    if not (width > 0 and all(map(math.isfinite, (alpha, scale, width)))):
        raise ValueError(
            f"alpha and scale must be finite, the width of the exponential greater than 0; "
            f"they were {alpha}, {scale} and {width}"
        )
    ratio, amplitude = alpha / width, scale * width
    lipschitz = abs(scale) * max(1.0, abs(ratio))

    def increment(c: float, h: Array) -> Array:
        x, distance = c + h, np.abs(h)
        top = np.minimum(np.maximum(c, x), 0.0) / width
        # The way is cut at 0: below it the exponential, above it the line.
        below = np.where((c <= 0) & (x <= 0), distance, np.maximum(-np.minimum(c, x), 0.0))
        fall = -ratio * np.exp(top) * np.expm1(-below / width)
        line = relu_increment(c, h) / width
        return amplitude * (line + np.sign(h) * fall)

    def figures(law: Normal) -> Figures:
        unit = closed.elu(ratio, Normal(law.mean / width, law.std / width))
        size, steep = abs(amplitude), abs(amplitude / width)
        slope = steep * unit.slope
        off, off_slope = size * unit.error, steep * unit.error
        if width != 1.0:
            # m/width and s/width are rounded.  Mean and std move by at most f's steepest slope
            # times that; the slope's mean square as for another ulp of t, which its bound knows.
            off += 2.0 * EPS * (abs(law.mean) + law.std) * lipschitz
            off_slope *= 2.0
        error = max(off, off_slope)
        error += 4.0 * EPS * max(size * abs(unit.mean), size * unit.std, slope)
        return Figures(amplitude * unit.mean, size * unit.std, slope, error, unit.method)

    return Function(
        name=name,
        value=lambda x: (
            amplitude * np.where(x > 0, x / width, ratio * np.expm1(np.minimum(x / width, 0.0)))
        ),
        slope=lambda x: scale * np.where(x > 0, 1.0, ratio * np.exp(np.minimum(x / width, 0.0))),
        increment=increment,
        width=40.0 * width,
        lipschitz=lipschitz,
        log_slope=1.0 / width,
        increasing=scale >= 0 and alpha >= 0,
        looseness=0.0 if alpha >= 0 else 8.0 * lipschitz,
        convex=0 <= ratio <= 1,
        closed=figures,
    )


@by_name
def celu(alpha: float = 1.0) -> Function:
    """The function x for x > 0, α(e^(x/α) - 1) for x ≤ 0; α > 0."""
    return elu(float(alpha), 1.0, float(alpha), "celu")


@by_name
def selu() -> Function:
    """Scaled ELU with torch's constants."""
    return elu(SELU_ALPHA, SELU_SCALE, 1.0, "selu")


def gated_increment(gate, gate_increment):
    """Increments of x·gate(x).

    From a to b: (b - a) g(a) + b (g(b) - g(a)), or the same with a and b swapped, whichever has
    the smaller factor before the gate's increment.  Both terms are then of the order of b - a,
    which is what ``looseness`` is about.
    """

    def increment(c: float, h: Array) -> Array:
        x = c + h
        rise = gate_increment(c, h)
        here = gate(np.array([c], dtype=float))
        nearer = np.abs(x) < abs(c)
        return np.where(nearer, h * here + x * rise, h * gate(x) + c * rise)

    return increment


@by_name
def hardsigmoid() -> Function:
    """The function x/6 + 1/2, clipped to [0, 1]."""
    # torch's float64 gradient uses a float32 sixth; this one does not.
    return piecewise_linear("hardsigmoid", (-3.0, 3.0), (0.0, 1.0 / 6.0, 0.0), at=-3.0)


@by_name
def hardswish() -> Function:
    """The function x·hardsigmoid(x): 0 up to -3, x(x + 3)/6 up to 3, then x."""
    return replace(of_pieces("hardswish", closed.HARDSWISH), closed=closed.hardswish)
