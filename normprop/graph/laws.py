r"""Laws of whole tensors, and of the gradients at them, in mean field.

An element of a tensor is x = F(z) of a standard normal z; F is held by its values on a grid.  Two
elements have correlated z, and the correlation depends on their distance along each axis alone: it
is an array with an axis for each axis of the tensor, of which

* one entry says that different places are independent, as channels behind a layer with weights are;
* two entries say the correlation at the same and at different places, as for two samples;
* 2n - 1 entries say it at every distance from 1 - n to n - 1, as along the rows of an image.

A dimension that was merged from others has the axes of all of them, an axis of one place has none.
The covariance of F(z₁) and F(z₂) is Σ a_k² ρ^k with the Hermite coefficients a_k of F.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
Map = Callable[[Array], Array]

_REACH, _POINTS, _TERMS = 8.5, 4096, 40
GRID = ((np.arange(_POINTS) + 0.5) / _POINTS * 2.0 - 1.0) * _REACH
"""Places of z."""
WEIGHTS = np.exp(-0.5 * GRID**2) / np.exp(-0.5 * GRID**2).sum()
"""Their probabilities."""
_BELOW = np.cumsum(WEIGHTS) - 0.5 * WEIGHTS
# Places of a second variable, and its probabilities.
_FEW = ((np.arange(160) + 0.5) / 80.0 - 1.0) * 6.0
_CHANCES = np.exp(-0.5 * _FEW**2) / np.exp(-0.5 * _FEW**2).sum()


@lru_cache(maxsize=1)
def _hermite() -> Array:
    """He_k/√k! times the weights, k = 0 … terms - 1."""
    rows = [np.ones_like(GRID), GRID]
    for k in range(1, _TERMS - 1):
        rows.append((GRID * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.stack(rows) * WEIGHTS


def energies(values: Array) -> Array:
    """Squares of the Hermite coefficients; what is left of E F² stands last."""
    found = (_hermite() @ values) ** 2
    return np.append(found, max(float(WEIGHTS @ values**2) - found.sum(), 0.0))


def _series(coefficients: Array, rho: Array) -> Array:
    if rho.size <= 4096:
        return np.polynomial.polynomial.polyval(rho, coefficients)
    # Denser at the ends, where the series is steep.
    places = np.sin(np.linspace(-0.5, 0.5, 2049) * math.pi)
    table = np.polynomial.polynomial.polyval(places, coefficients)
    return np.interp(rho.ravel(), places, table).reshape(rho.shape)


def quantiles(values: Array, chances: Array) -> Array:
    """The increasing function of z that has the law of these values."""
    order = np.argsort(values, axis=None, kind="stable")
    values, chances = values.ravel()[order], chances.ravel()[order]
    return np.interp(_BELOW, (np.cumsum(chances) - 0.5 * chances) / chances.sum(), values)


def largest(count: float, correlation: float) -> tuple[Array, Array]:
    """The maximum of normals that are all correlated alike.

    Returns:
        The maximum as an increasing function of z; and for one of them the probability that it is
        the largest, times ``count``, by its own z.
    """
    shared, own = math.sqrt(correlation), math.sqrt(max(1.0 - correlation, 1e-12))
    below = np.interp((GRID[:, None] - shared * _FEW) / own, GRID, _BELOW, 0.0, 1.0)
    made = np.interp(_BELOW, below**count @ _CHANCES, GRID)
    # Given one, what they share is N(√c z, 1 - c).
    given = (GRID[:, None] - shared * (shared * GRID[:, None] + own * _FEW)) / own
    chance = np.interp(given, GRID, _BELOW, 0.0, 1.0) ** (count - 1.0) @ _CHANCES
    return made, count * chance


# Axes of arrays over distances.


class Axis(NamedTuple):
    """An axis of a tensor: how many places it has, and whether they are samples."""

    size: int
    samples: bool = False


def middle(shape: Sequence[int]) -> tuple[int, ...]:
    """Where the entry of no distance is."""
    return tuple(n // 2 if n > 2 else 0 for n in shape)


def at_zero(array: Array) -> float:
    """The entry of no distance."""
    return float(array[middle(array.shape)])


def at(array: Array, k: int) -> Array:
    """At no distance along an axis, without that axis."""
    return array.take(*middle(array.shape[k : k + 1]), axis=k)


def two(array: Array, k: int) -> Array:
    """An axis of independent places as one of two entries."""
    return array if array.shape[k] > 1 else np.concatenate([array, 0.0 * array], axis=k)


def twos(array: Array) -> Array:
    """Likewise with all axes."""
    for k in range(array.ndim):
        array = two(array, k)
    return array


def every(array: Array, k: int, size: int) -> Array:
    """An axis with an entry for every distance."""
    if array.shape[k] > 2 or size == 1:
        return array
    return two(array, k).take([*[1] * (size - 1), 0, *[1] * (size - 1)], axis=k)


def average(array: Array, k: int, size: int) -> Array:
    """Over all pairs of places, without that axis: the variance of a mean."""
    entries = array.shape[k]
    if entries == 1:
        weights = np.array([1.0 / size])
    elif entries == 2:
        weights = np.array([1.0, size - 1.0]) / size
    else:
        weights = (size - np.abs(np.arange(1 - size, size))) / size**2
    return np.tensordot(array, weights, (k, 0))


def elsewhere(same: Array, mean: Array, size: int) -> Array:
    """The average over different places, from that over one and that over all pairs."""
    return (size * mean - same) / (size - 1)


def _merged(array: Array, k: int, sizes: Sequence[int]) -> Array:
    """Axes from k on as one: their average over different places is what is kept of them."""
    if all(n == 1 for n in array.shape[k : k + len(sizes)]):
        return array.reshape(*array.shape[:k], 1, *array.shape[k + len(sizes) :])
    same, mean = array, array
    for a, size in reversed(list(enumerate(sizes, start=k))):
        same, mean = at(same, a), average(mean, a, size)
    return np.stack([same, elsewhere(same, mean, math.prod(sizes))], axis=k)


def _divided(array: Array, k: int, sizes: Sequence[int]) -> Array:
    """One axis as several."""
    entries = array.shape[k]
    if entries == 1:
        return array.reshape(*array.shape[:k], *[1] * len(sizes), *array.shape[k + 1 :])
    steps = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    if entries == 2:
        places = np.ones([2] * len(sizes), dtype=int)
        places[(0,) * len(sizes)] = 0
    else:
        distances = np.meshgrid(*(np.arange(1 - n, n) for n in sizes), indexing="ij")
        places = sum(s * d for s, d in zip(steps, distances, strict=True)) + entries // 2
    found = array.take(places.ravel(), axis=k)
    return found.reshape(*array.shape[:k], *places.shape, *array.shape[k + 1 :])


def compact(array: Array) -> Array:
    """Without entries that say that different places are independent."""
    for k in range(array.ndim):
        if array.shape[k] == 2 and np.abs(array.take(1, axis=k)).max() <= _NOTHING * at_zero(array):
            array = array.take([0], axis=k)
    return array


_NOTHING = 1e-12


def regrouped(array: Array, old: Sequence[int], new: Sequence[int], k: int = 0) -> Array:
    """Axes of these sizes, from k on, as axes of those, in the order of memory."""
    old, new = list(old), list(new)
    while old:
        left, right = [old.pop(0)], [new.pop(0)]
        while math.prod(left) != math.prod(right):
            if math.prod(left) < math.prod(right):
                left.append(old.pop(0))
            else:
                right.append(new.pop(0))
        if left != right:
            if len(left) > 1:
                array = _merged(array, k, left)
            if len(right) > 1:
                array = _divided(array, k, right)
        k += len(right)
    return array


def agreeing(arrays: Sequence[Array], axes: Sequence[Axis]) -> list[Array]:
    """Arrays over the same axes with the same entries."""
    arrays = list(arrays)
    for k, axis in enumerate(axes):
        most = max(a.shape[k] for a in arrays)
        if most == 2:
            arrays = [two(a, k) for a in arrays]
        elif most > 2:
            arrays = [every(a, k, axis.size) for a in arrays]
    return arrays


def plus(array: Array, number: float) -> Array:
    """With a number at every distance."""
    if not number:
        return array
    return twos(array) + number


class Chain:
    """Linear maps of tensors, one after the other, as what they make of arrays over distances.

    The adjoints take an array of the gradient, reversed, to what comes back of it.
    """

    def __init__(self) -> None:
        self.maps: list[tuple[Map, Map]] = []

    def then(self, forward: "Map", back: "Map") -> None:
        """Add a map."""
        self.maps.append((forward, back))

    def regroup(self, old: Sequence[Axis], new: Sequence[Axis], k: int) -> None:
        """Axes from k on as others, in the order of memory."""
        before, after = [a.size for a in old], [a.size for a in new]
        if before != after:
            self.then(
                lambda array: regrouped(array, before, after, k),
                lambda array: regrouped(array, after, before, k),
            )

    def copy(self, size: int, k: int) -> None:
        """A new axis, along which all places are the same."""
        self.then(
            lambda array: np.stack([array, array], axis=k),
            lambda array: average(array, k, size) * size**2,
        )

    def sum(self, size: int, k: int) -> None:
        """The sum over an axis."""
        self.then(
            lambda array: average(array, k, size) * size**2,
            lambda array: np.stack([array, array], axis=k),
        )

    def one(self, k: int, size: float = 1.0) -> None:
        """One place of an axis; what comes back reaches all, or is dealt out to so many."""
        self.then(lambda array: at(array, k), lambda array: np.expand_dims(array, k) / size)

    def transpose(self, order: Sequence[int]) -> None:
        """The axes in another order."""
        back = np.argsort(order) if order else order
        self.then(lambda array: array.transpose(order), lambda array: array.transpose(back))

    def __call__(self, array: Array) -> Array:
        """What the maps make of an array."""
        for forward, _ in self.maps:
            array = forward(array)
        return array

    def back(self, array: Array) -> Array:
        """The adjoint."""
        for _, back in reversed(self.maps):
            array = back(array)
        return array


# Laws.

Dims = tuple[tuple[Axis, ...], ...]


def ones(dims: Dims) -> Array:
    """The array that says that all places are independent."""
    return np.ones([1] * sum(map(len, dims)))


def merged(dims: Dims, first: int) -> Chain:
    """Every dimension from that one on as one axis."""
    chain, k = Chain(), sum(map(len, dims[:first]))
    for own in dims[first:]:
        if own:
            chain.regroup(own, [Axis(math.prod(a.size for a in own))], k)
            k += 1
    return chain


fresh = itertools.count()
"""Numbers of sources and noises."""


@dataclass(frozen=True, eq=False)
class Law:
    """The law of a tensor.

    Attributes:
        dims: by dimension, the axes that it is made of.
        rho: correlation of z, an array over the distances along all axes.
        values: F on the grid; of a tensor of tokens there is none, and ``rho`` is the
            probability that two are the same.
        source: which z it is: laws with the same one are functions of one another.
        roots: which results of layers with weights it was made of without such a layer.
        seen: of logits, how many of each row are not hidden, where some are.
        uneven: of what a layer with weights gives, for each channel its variance, and how much of
            its gradient goes on, both over their mean.
    """

    dims: Dims
    rho: Array
    values: Array | None
    source: int
    roots: frozenset = frozenset()
    seen: Array | None = None
    uneven: Array | None = None

    @classmethod
    def normal(cls, dims: Dims, mean: float, covariance: Array, roots=frozenset()) -> "Law":
        """A normal tensor with this array of covariances."""
        variance = max(at_zero(covariance), 0.0)
        if not variance > 0:
            return cls.constant(dims, mean)
        values = mean + math.sqrt(variance) * GRID
        return cls(dims, covariance / variance, values, next(fresh), roots)

    @classmethod
    def constant(cls, dims: Dims, number: float) -> "Law":
        """The same number everywhere."""
        return cls(dims, ones(dims), np.full(_POINTS, float(number)), next(fresh))

    @classmethod
    def tokens(cls, shape: Sequence[int]) -> "Law":
        """Tokens, or places, that all differ."""
        return cls(dims_of(shape), ones(dims_of(shape)), None, next(fresh))

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Of all dimensions."""
        return tuple(axis for dim in self.dims for axis in dim)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(math.prod(axis.size for axis in dim) for dim in self.dims)

    @cached_property
    def _energies(self) -> Array:
        return energies(self.values)

    @cached_property
    def mean(self) -> float:
        """Mean of an element."""
        return float(WEIGHTS @ self.values)

    @cached_property
    def variance(self) -> float:
        """Variance of an element, over places, weights and samples."""
        return max(float(WEIGHTS @ (self.values - self.mean) ** 2), 0.0)

    @property
    def is_normal(self) -> bool:
        """Whether F is a straight line."""
        return self._energies[2:].sum() <= 1e-9 * self._energies[1:].sum()

    @cached_property
    def covariance(self) -> Array:
        """Of two elements, by their distances."""
        return _series(np.append(0.0, self._energies[1:]), self.rho)

    @cached_property
    def second(self) -> Array:
        """E x₁x₂ of two elements, by their distances."""
        return plus(self.covariance, self.mean**2)

    def along(self, dim: int) -> range:
        """Places of a dimension's axes among all."""
        start = sum(map(len, self.dims[:dim]))
        return range(start, start + len(self.dims[dim]))

    @property
    def sample_std(self) -> float | None:
        """Standard deviation of what differs between two samples; None where none are told."""
        if self.values is None:
            return None
        array, marked = self.covariance, False
        for k, axis in reversed(list(enumerate(self.axes))):
            if axis.samples and array.shape[k] > 1:
                marked, array = True, two(array, k).take([1 if array.shape[k] == 2 else -1], axis=k)
            else:
                marked = marked or axis.samples
                array = 0.0 * array if axis.samples else np.expand_dims(at(array, k), k)
        if not marked:
            return 0.0 if self.variance == 0 else None
        return math.sqrt(max(self.variance - float(array.ravel()[0]), 0.0))

    def image(self, values: Array) -> "Law":
        """A function of it."""
        return replace(self, values=values, seen=None, uneven=None)

    def with_covariance(self, values: Array, covariance: Array, roots=None, dims=None) -> "Law":
        """Another tensor, of increasing values, with this array of covariances."""
        roots, dims = self.roots if roots is None else roots, self.dims if dims is None else dims
        made = Law(dims, covariance, values, next(fresh), roots)
        if not made.variance > 0:
            return Law.constant(dims, made.mean)
        places = np.linspace(-1.0, 1.0, 1025)
        table = np.polynomial.polynomial.polyval(places, np.append(0.0, made._energies[1:]))
        ratio = covariance * (made.variance / at_zero(covariance))
        # An increasing function has an increasing series; a flat end does not bring it back.
        table = np.maximum.accumulate(table)
        rho = np.interp(ratio.ravel(), table, places).reshape(ratio.shape)
        return replace(made, rho=np.where(ratio == 0.0, 0.0, rho))

    def rescaled(self, mean: float, covariance: Array, roots=None, dims=None) -> "Law":
        """The same form, moved and stretched."""
        variance = max(at_zero(covariance), 0.0)
        roots, dims = self.roots if roots is None else roots, self.dims if dims is None else dims
        if self.variance <= 0 or variance == 0 or self.is_normal:
            return Law.normal(dims, mean, covariance, roots)
        values = mean + (self.values - self.mean) * math.sqrt(variance / self.variance)
        return self.with_covariance(np.sort(values), covariance, roots, dims)

    def moved(self, dims: Dims, array: Map) -> "Law":
        """The same numbers in other places, and what that does to an array over distances."""
        return replace(self, dims=dims, rho=array(self.rho), seen=None, uneven=None)


def measured(tensor: Tensor, samples: bool = False, roots=frozenset()) -> Law:
    """The law of numbers; covariances of places of an image are kept at every distance."""
    dims = dims_of(tensor.shape, samples)
    axes = [axis for dim in dims for axis in dim]
    if not tensor.is_floating_point():
        tensor = tensor.detach().cpu()
        if tensor.dtype != torch.bool:
            return Law(dims, _matches(tensor.squeeze()), None, next(fresh))
    numbers = tensor.detach().to("cpu", torch.float64).reshape([a.size for a in axes]).numpy()
    mean, variance = float(numbers.mean()), float(numbers.var())
    if not variance > 0:
        return Law.constant(dims, mean)
    centred = numbers - mean
    image = tensor.ndim >= 4 and math.prod(2 * a.size for a in axes[-2:]) * 8 <= _LARGEST
    fine = [k for k in range(len(axes)) if image and k >= len(axes) - (tensor.ndim - 2)]
    return Law.normal(dims, mean, _covariances(centred, fine), roots)


_LARGEST = 2**22


def dims_of(shape: Sequence[int], samples: bool = False) -> Dims:
    """Dimensions of an axis each."""
    return tuple((Axis(int(n), samples and i == 0),) if n != 1 else () for i, n in enumerate(shape))


def _covariances(centred: Array, fine: list[int]) -> Array:
    """Mean products by distance: at all distances along fine axes, at two kinds along others."""
    others = [k for k in range(centred.ndim) if k not in fine]
    sizes = [centred.shape[k] for k in fine]

    def products(x: Array) -> Array:
        if not fine:
            return np.mean(x * x)
        spectrum = np.fft.rfftn(x, [2 * n for n in sizes], axes=range(-len(fine), 0))
        power = np.abs(spectrum.reshape(-1, *spectrum.shape[-len(fine) :])) ** 2
        found = np.fft.irfftn(power.mean(0), [2 * n for n in sizes], axes=range(len(sizes)))
        for k, n in enumerate(sizes):
            found = np.roll(found, n - 1, axis=k).take(range(2 * n - 1), axis=k)
            counts = n - np.abs(np.arange(1 - n, n))
            found = found / counts.reshape([-1 if j == k else 1 for j in range(len(sizes))])
        return found

    x = centred.transpose(*others, *fine)
    sizes_of_others = [centred.shape[k] for k in others]
    array = by_kinds(sizes_of_others, lambda over: products(x.mean(axis=over, keepdims=True)))
    return array.transpose(np.argsort([*others, *fine]))


def by_kinds(sizes: Sequence[int], mean: Callable[[tuple[int, ...]], Array]) -> Array:
    """By distance, of two kinds an axis, from means over all pairs of places along some axes."""
    chosen = itertools.product((0, 1), repeat=len(sizes))
    found = np.array([mean(tuple(k for k, c in enumerate(row) if c)) for row in chosen])
    array = found.reshape([2] * len(sizes) + list(found.shape[1:]))
    for k, size in enumerate(sizes):
        same, all_pairs = array.take([0], axis=k), array.take([1], axis=k)
        array = np.concatenate([same, elsewhere(same, all_pairs, size)], axis=k)
    return array


def _matches(tokens: Tensor) -> Array:
    """By distance, of two kinds an axis, how probable it is that two tokens are the same."""
    _, tokens = tokens.unique(return_inverse=True)
    kinds = int(tokens.max()) + 1 if tokens.numel() else 1

    def mean(over: tuple[int, ...]) -> float:
        kept = [k for k in range(tokens.ndim) if k not in over]
        rows = tokens.permute(*kept, *over).reshape(math.prod(tokens.shape[k] for k in kept), -1)
        places = torch.arange(len(rows)).unsqueeze(1) * kinds + rows
        _, counts = places.unique(return_counts=True)
        return float((counts.double() ** 2).sum()) / (len(rows) * rows.shape[1] ** 2)

    return by_kinds(tokens.shape, mean)


# Two laws.


class Pair:
    """A function of two independent tensors over the same axes."""

    def __init__(self, left: Law, right: Law, function: Callable[[Array, Array], Array]):
        few = [np.interp(_FEW, GRID, law.values) for law in (left, right)]
        self.few = few[0][:, None], few[1][None, :]
        self.table = function(*self.few)
        self.increasing = quantiles(self.table, _CHANCES[:, None] * _CHANCES[None, :])

    def values(self, mean: float, variance: float) -> Array:
        """The increasing values of the result, with these moments."""
        found = self.increasing
        own = float(WEIGHTS @ found)
        spread = math.sqrt(float(WEIGHTS @ (found - own) ** 2))
        return mean + (found - own) * (math.sqrt(max(variance, 0.0)) / spread if spread else 0.0)

    def given(self, which: int, values: Array, amplitude: Array | float, factor=1.0) -> Array:
        """Root mean square of an amplitude at the result, times a factor, given one of the two."""
        if not np.ndim(amplitude) and not np.ndim(factor):
            return abs(amplitude * factor)
        at = np.interp(self.table, values, amplitude) if np.ndim(amplitude) else amplitude
        at = at * factor
        squares = np.broadcast_to(at * at, self.table.shape)
        found = squares @ _CHANCES if which == 0 else _CHANCES @ squares
        return np.sqrt(np.interp(GRID, _FEW, found))


# Gradients.


@dataclass(frozen=True, eq=False)
class Part:
    """Noise times a function of z: ``amplitude`` on the grid, ``rho`` of the noise, as of a law."""

    amplitude: Array | float
    rho: Array


Gradient = dict[int, Part]
"""By number of the noise; noises are independent of one another and of the tensor, of mean 0."""


def gradient_of(covariance: Array) -> Gradient:
    """Noise with this array of covariances, whatever the tensor is."""
    variance = at_zero(covariance)
    if not variance > 0:
        return {}
    return {next(fresh): Part(math.sqrt(variance), covariance / variance)}


def total(gradient: Gradient, law: Law) -> Array:
    """The array of covariances of a gradient at a tensor of that law."""
    found = np.zeros([1] * len(law.axes))
    for part in gradient.values():
        rho = part.rho
        if np.ndim(part.amplitude):
            rho, own = agreeing([rho, law.rho], law.axes)
            rho = rho * _series(energies(part.amplitude), own)
        else:
            rho = rho * part.amplitude**2
        found, rho = agreeing([found, rho], law.axes)
        found = found + rho
    return found


def added(left: Gradient, right: Gradient, law: Law) -> Gradient:
    """The sum: parts of one noise add their amplitudes, others their variances."""
    found = dict(left)
    for noise, part in right.items():
        if noise in found:
            own, other = agreeing([found[noise].rho, part.rho], law.axes)
            amplitude = found[noise].amplitude + part.amplitude
            found[noise] = Part(amplitude, 0.5 * (own + other))
        else:
            found[noise] = part
    if len(found) <= _MOST_PARTS:
        return found
    return gradient_of(total(found, law))


_MOST_PARTS = 8


def times(gradient: Gradient, factor: Array | float) -> Gradient:
    """Times a function of the tensor's z."""
    return {n: replace(p, amplitude=p.amplitude * factor) for n, p in gradient.items()}


def shifted(gradient: Gradient, array: Map) -> Gradient:
    """With another array of the noise, which may have another variance."""
    found = {}
    for noise, part in gradient.items():
        rho = array(part.rho)
        size = at_zero(rho)
        if size > 0:
            found[noise] = Part(part.amplitude * math.sqrt(size), rho / size)
    return found
