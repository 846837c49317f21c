"""Laws of one χ, among which a calibration chooses: found fast, by a quadrature without bounds."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from normprop.gaussian.functions import Array, Function
from normprop.gaussian.law import Normal
from normprop.gaussian.normal import pdf

OCTAVES = range(-8, 8)
STD_OCTAVES = range(-10, 9)
"""Distances of the means from f's features, and standard deviations, that are looked at."""

# Steps of the means within an octave.  They lie on a lattice, so that the same law is chosen on
# every machine, whatever the last digits of a quadrature are there.
_STEPS = 8
# Laws this much alike are chosen among by their std, the nearest to 1.
_ALIKE = 1e-3
# Second moments from which a signal should find back.
_FAR_AWAY = (1.0 / 256.0, 1.0 / 16.0, 1.0 / 4.0, 4.0, 16.0, 256.0)
_ROUNDS = 8
_ROUNDING = 1e-9
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_PANELS = (-9.0, -5.5, -3.5, -1.7, 0.0, 1.7, 3.5, 5.5, 9.0)
_OF_A_WIDTH = np.array([-1.0, -0.25, -0.06, 0.0, 0.06, 0.25, 1.0])


@dataclass(frozen=True)
class Laws:
    """Laws at which χ has one value."""

    mean: Array  # of each, shape (n,)
    std: Array  # of each
    far: Array  # how far each is from a straight line, N(1 - Q'(1))
    slope: Array  # Q'(1) of each
    attracts: Array  # whether second moments far from 1 move towards it, too
    most: float  # the largest χ that was seen at any law

    def farthest(self) -> Normal | None:
        """The farthest from a straight line of those with Q'(1) < 1, if there is one.

        Where there are some that attract from far away, it is one of them.
        """
        stable = self.slope < 1.0
        if not stable.any():
            return None
        kept = stable & self.attracts
        far = np.where(kept if kept.any() else stable, self.far, -np.inf)
        alike = np.nonzero(far >= (1.0 - _ALIKE) * far.max())[0]
        # Of two that mirror each other, the one on the right.
        order = np.lexsort([-self.mean[alike], np.abs(np.log2(self.std[alike])).round(6)])
        chosen = alike[order[0]]
        return Normal(float(self.mean[chosen]), float(self.std[chosen]))


def laws_of(function: Function, target: float, widest: float = math.inf) -> Laws:
    """Laws at which χ is ``target``: coarsely, and more finely around the best of them.

    Their standard deviations lie below ``widest``, or between the same powers of 2.
    """
    centres = np.unique([0.0, *function.features])
    octaves, stds = 2.0 ** np.array(OCTAVES), 2.0 ** np.array(STD_OCTAVES)
    stds = stds[stds < widest]
    coarse = _laws(function, _around(centres, octaves), stds, target)
    best = coarse.farthest()
    if best is None:
        return coarse
    distances = np.abs(best.mean - centres)
    octave = distances[distances > 0].min(initial=math.inf)
    if octave == math.inf:
        return coarse
    within = np.arange(_STEPS, 2 * _STEPS) / _STEPS
    steps = np.outer([octave / 2.0, octave], within).ravel()
    stds = stds[np.abs(np.log2(stds / best.std)) < 2.0]
    fine = _laws(function, _around(centres[distances == octave], steps), stds, target)
    pairs = zip(vars(coarse).values(), vars(fine).values(), strict=True)
    *fields, most = pairs
    return Laws(*map(np.concatenate, fields), max(most))


def has_no_scale(function: Function, law: Normal, target: float) -> bool:
    """Whether f is alike at every scale, so that only m/s has a say in χ."""
    mean = np.array([law.mean, law.mean / law.std])
    own, unit = _figures(function, mean, np.array([law.std, 1.0]))[0]
    return bool(abs(own - unit) < 1e-9 * (target - 1.0))


def _around(centres: Array, steps: Array) -> Array:
    return np.unique(np.add.outer(centres, np.concatenate([-steps, [0.0], steps])))


# Laws too wide for squares give figures that are not finite, and are not looked at.
@np.errstate(all="ignore")
def _laws(function: Function, means: Array, stds: Array, target: float) -> Laws:
    """The laws with these means, between these deviations, whose χ is ``target``."""
    seen = _figures(function, np.repeat(means, len(stds)), np.tile(stds, len(means)))[0]
    seen = seen.reshape(len(means), len(stds))
    above = seen >= target
    row, column = np.nonzero(
        (above[:, 1:] != above[:, :-1]) & np.isfinite(seen[:, 1:] + seen[:, :-1])
    )
    mean = means[row]
    std = _crossings(function, mean, stds[column], seen[row, column], seen[row, column + 1], target)
    _, curved, slope, shift, variance = _figures(function, mean, std)
    # What varies less is rounding.
    sound = variance > (_ROUNDING * shift) ** 2
    mean, std = mean[sound], std[sound]
    curved, slope, shift, variance = (a[sound] for a in (curved, slope, shift, variance))
    attracts = np.full(mean.shape, True)
    for moment in _FAR_AWAY:
        _, weights, f, _ = _sampled(function, mean, math.sqrt(moment) * std)
        behind = (weights * (f - shift[:, None]) ** 2).sum(1) / variance
        attracts &= behind < moment if moment > 1.0 else behind > moment
    most = float(seen[np.isfinite(seen)].max(initial=1.0))
    return Laws(mean, std, curved * (1.0 - slope), slope, attracts, most)


def _crossings(function: Function, mean: Array, low: Array, left: Array, right: Array, target):
    """Where χ crosses ``target`` between a std and its double, by the Illinois method."""

    def height(chi: Array) -> Array:
        # χ - 1 is a power of s where s is small.
        return np.log(np.maximum(chi - 1.0, 1e-300) / (target - 1.0))

    a, b = np.log(low), np.log(2.0 * low)
    below, above = height(left), height(right)
    for _ in range(_ROUNDS):
        between = b - above * (b - a) / (above - below)
        found = height(_figures(function, mean, np.exp(between))[0])
        crossed = (found < 0) != (above < 0)
        a, below = np.where(crossed, b, a), np.where(crossed, above, 0.5 * below)
        b, above = between, found
    return np.exp(b)


def _figures(function: Function, mean: Array, std: Array) -> tuple[Array, ...]:
    """χ, N, Q'(1), the mean and the variance of f, under each law."""
    z, weights, f, slope = _sampled(function, mean, std)
    shift = (weights * f).sum(1)
    g = f - shift[:, None]
    square = weights * g * g
    variance = square.sum(1)
    chi = std**2 * (weights * slope**2).sum(1) / variance
    linear = (weights * z * g).sum(1) ** 2 / variance
    return chi, 1.0 - linear, 0.5 * ((z * z * square).sum(1) / variance - 1.0), shift, variance


def _sampled(function: Function, mean: Array, std: Array) -> tuple[Array, ...]:
    """Nodes, weights, values and slopes under each law, shape (n, nodes)."""
    marks = np.unique(np.add.outer(function.features, function.width * _OF_A_WIDTH))
    ends = np.clip((marks - mean[:, None]) / std[:, None], _PANELS[0], _PANELS[-1])
    ends = np.hstack([ends, np.tile(_PANELS, (len(mean), 1))])
    ends.sort(1)
    start, half = ends[:, :-1, None], 0.5 * np.diff(ends)[:, :, None]
    shape = len(mean), (ends.shape[1] - 1) * len(_NODES)
    z = (start + half * (1.0 + _NODES)).reshape(shape)
    weights = (half * _WEIGHTS).reshape(shape) * pdf(z)
    x = (mean[:, None] + std[:, None] * z).ravel()
    if function.both is None:
        f, slope = function.value(x), function.slope(x)
    else:
        f, slope = function.both(x, finite=False)
    return z, weights, f.reshape(shape), slope.reshape(shape)


def bisected(excess: Callable[[float], float], start: float, end: float) -> float:
    """The point between start and end where ``excess`` turns from negative, to rounding."""
    while True:
        middle = 0.5 * (start + end)
        if middle in (start, end):
            return end
        start, end = (middle, end) if excess(middle) < 0 else (start, middle)
