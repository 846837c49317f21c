r"""Random fields: laws of whole tensors, and of the gradients at them, in mean field.

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
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
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
BELOW = np.cumsum(WEIGHTS) - 0.5 * WEIGHTS
"""How probable it is that z is below."""
# Places of a second variable, and its probabilities.
_FEW = ((np.arange(160) + 0.5) / 80.0 - 1.0) * 6.0
_CHANCES = np.exp(-0.5 * _FEW**2) / np.exp(-0.5 * _FEW**2).sum()
# What counts as none of a covariance, and the largest array of covariances of an image.
_NOTHING = 1e-12
_LARGEST = 2**22


@lru_cache(maxsize=1)
def _hermite() -> Array:
    """He_k/√k! times the weights, k = 0 … terms - 1."""
    rows = [np.ones_like(GRID), GRID]
    for k in range(1, _TERMS - 1):
        rows.append((GRID * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.stack(rows) * WEIGHTS


def _energies(values: Array) -> Array:
    """Squares of the Hermite coefficients; what is left of E F² stands last."""
    found = (_hermite() @ values) ** 2
    return np.append(found, max(float(WEIGHTS @ values**2) - found.sum(), 0.0))


def _series(coefficients: Array, rho: Array) -> Array:
    """Powers beyond the first are those of a correlation.

    At a distance that few pairs have, the quotient by the variance of all can be more than 1.
    """
    inside = np.clip(rho, -1.0, 1.0)
    beyond = coefficients[1] * (rho - inside)
    if rho.size <= 4096:
        return np.polynomial.polynomial.polyval(inside, coefficients) + beyond
    # Denser at the ends, where the series is steep.
    places = np.sin(np.linspace(-0.5, 0.5, 2049) * math.pi)
    table = np.polynomial.polynomial.polyval(places, coefficients)
    return np.interp(inside.ravel(), places, table).reshape(rho.shape) + beyond


def quantiles(values: Array, chances: Array) -> Array:
    """The increasing function of z that has the law of these values."""
    order = np.argsort(values, axis=None, kind="stable")
    values, chances = values.ravel()[order], chances.ravel()[order]
    return np.interp(BELOW, (np.cumsum(chances) - 0.5 * chances) / chances.sum(), values)


def largest(count: float, correlation: float) -> tuple[Array, Array]:
    """The maximum of normals that are all correlated alike.

    Returns:
        The maximum as an increasing function of z; and for one of them the probability that it is
        the largest, times ``count``, by its own z.
    """
    shared, own = math.sqrt(correlation), math.sqrt(max(1.0 - correlation, 1e-12))
    below = np.interp((GRID[:, None] - shared * _FEW) / own, GRID, BELOW, 0.0, 1.0)
    made = np.interp(BELOW, below**count @ _CHANCES, GRID)
    # Given one, what they share is N(√c z, 1 - c).
    given = (GRID[:, None] - shared * (shared * GRID[:, None] + own * _FEW)) / own
    chance = np.interp(given, GRID, BELOW, 0.0, 1.0) ** (count - 1.0) @ _CHANCES
    return made, count * chance


# Arrays over distances.


class Axis(NamedTuple):
    """An axis of a tensor: how many places it has, and whether they are samples."""

    size: int
    samples: bool = False


Dim = tuple[Axis, ...]
Dims = tuple[Dim, ...]


def dims_of(shape: Sequence[int], samples: bool = False) -> Dims:
    """Dimensions of an axis each."""
    return tuple((Axis(int(n), samples and i == 0),) if n != 1 else () for i, n in enumerate(shape))


def size_of(dim: Dim) -> int:
    """How many places a dimension has."""
    return math.prod(axis.size for axis in dim)


def sized(dim: Dim, size: int) -> Dim:
    """A dimension in the place of another."""
    return (Axis(size, any(axis.samples for axis in dim)),) if size > 1 else ()


def ones(dims: Dims) -> Array:
    """The array that says that all places are independent."""
    return np.ones([1] * sum(map(len, dims)))


def middle(shape: Sequence[int]) -> tuple[int, ...]:
    """Where the entry of no distance is."""
    return tuple(n // 2 if n > 2 else 0 for n in shape)


def at_zero(array: Array) -> float:
    """The entry of no distance."""
    return float(array[middle(array.shape)])


def at(array: Array, k: int) -> Array:
    """At no distance along an axis, without that axis."""
    return array.take(*middle(array.shape[k : k + 1]), axis=k)


def widened(array: Array, k: int, entries: int) -> Array:
    """An axis with two entries at least, or one for every distance."""
    if array.shape[k] == 1 < entries:
        array = np.concatenate([array, 0.0 * array], axis=k)
    if array.shape[k] == 2 < entries:
        others = [1] * (entries // 2)
        array = array.take([*others, 0, *others], axis=k)
    return array


def agreeing(*arrays: Array) -> list[Array]:
    """Arrays over the same axes with the same entries."""
    entries = [max(shape) for shape in zip(*(a.shape for a in arrays), strict=True)]
    return [_all_widened(array, entries) for array in arrays]


def product(*arrays: Array) -> Array:
    """Their product, entry by entry."""
    return math.prod(agreeing(*arrays))


def twos(array: Array) -> Array:
    """All axes with two entries at least."""
    return _all_widened(array, [2] * array.ndim)


def _all_widened(array: Array, entries: Sequence[int]) -> Array:
    for k, n in enumerate(entries):
        array = widened(array, k, n)
    return array


def compact(array: Array) -> Array:
    """Without entries that say that different places are independent."""
    for k in range(array.ndim):
        if array.shape[k] == 2 and np.abs(array.take(1, axis=k)).max() <= _NOTHING * at_zero(array):
            array = array.take([0], axis=k)
    return array


def plus(array: Array, number: float) -> Array:
    """With a number at every distance."""
    return twos(array) + number if number else array


def average(array: Array, k: int, size: int) -> Array:
    """Over all pairs of places, without that axis: the variance of a mean."""
    entries = array.shape[k]
    weights = np.array([1.0, size - 1.0][:entries]) / size
    if entries > 2:
        weights = (size - np.abs(np.arange(1 - size, size))) / size**2
    return np.tensordot(array, weights, (k, 0))


def elsewhere(same: Array, mean: Array, size: int) -> Array:
    """The average over different places, from that over one and that over all pairs."""
    return (size * mean - same) / (size - 1)


def by_kinds(sizes: Sequence[int], mean: Callable[[tuple[int, ...]], Array]) -> Array:
    """By distance, of two kinds an axis, from means over all pairs of places along some axes."""
    chosen = itertools.product((0, 1), repeat=len(sizes))
    found = np.array([mean(tuple(k for k, c in enumerate(row) if c)) for row in chosen])
    array = found.reshape([2] * len(sizes) + list(found.shape[1:]))
    for k, size in enumerate(sizes):
        same, all_pairs = array.take([0], axis=k), array.take([1], axis=k)
        array = np.concatenate([same, elsewhere(same, all_pairs, size)], axis=k)
    return array


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
    if entries <= 2:
        places = np.minimum(np.indices([entries] * len(sizes)).sum(0), 1)
    else:
        steps = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
        distances = np.meshgrid(*(np.arange(1 - n, n) for n in sizes), indexing="ij")
        places = sum(s * d for s, d in zip(steps, distances, strict=True)) + entries // 2
    found = array.take(places.ravel(), axis=k)
    return found.reshape(*array.shape[:k], *places.shape, *array.shape[k + 1 :])


def _regrouped(array: Array, old: Sequence[int], new: Sequence[int], k: int) -> Array:
    """Axes of these sizes, from k on, as axes of those, in the order of memory."""
    old, new = list(old), list(new)
    while old:
        left, right = [old.pop(0)], [new.pop(0)]
        while math.prod(left) != math.prod(right):
            shorter, rest = (left, old) if math.prod(left) < math.prod(right) else (right, new)
            shorter.append(rest.pop(0))
        if len(left) > 1:
            array = _merged(array, k, left)
        if len(right) > 1:
            array = _divided(array, k, right)
        k += len(right)
    return array


class Chain:
    """Linear maps of a tensor, one after the other, as what they make of arrays over distances.

    The adjoints take an array of the gradient, reversed, to what comes back of it; ``dims`` are
    those of what comes out.
    """

    def __init__(self, dims: Sequence[Dim]) -> None:
        self.dims = list(dims)
        self.maps: list[tuple[Map, Map]] = []

    def place(self, dim: int) -> int:
        """Which axis is the first of a dimension."""
        return sum(map(len, self.dims[:dim]))

    def then(self, forward: Map, back: Map) -> None:
        """Add a map."""
        self.maps.append((forward, back))

    def regroup(self, dim: int, axes: Dim) -> None:
        """A dimension as other axes, in the order of memory."""
        k = self.place(dim)
        old, new = [a.size for a in self.dims[dim]], [a.size for a in axes]
        self.dims[dim] = axes
        if old != new:
            self.then(
                partial(_regrouped, old=old, new=new, k=k),
                partial(_regrouped, old=new, new=old, k=k),
            )

    def merge(self, *dims: int) -> None:
        """Dimensions as one axis each."""
        for dim in dims:
            self.regroup(dim, sized(self.dims[dim], size_of(self.dims[dim])))

    def copy(self, dim: int, axes: Dim) -> None:
        """A dimension of one place with axes along which all places are the same."""
        for k, axis in enumerate(axes, start=self.place(dim)):
            self.then(partial(_copied, k=k), partial(_summed, k=k, size=axis.size))
        self.dims[dim] = axes

    def sum(self, dim: int) -> None:
        """The sum over a dimension."""
        for k, axis in reversed(list(enumerate(self.dims[dim], start=self.place(dim)))):
            self.then(partial(_summed, k=k, size=axis.size), partial(_copied, k=k))
        self.dims[dim] = ()

    def one(self, dim: int, dealt: bool = False) -> None:
        """One place of a dimension; what comes back reaches all, or is dealt out to them."""
        k = self.place(dim)
        for axis in self.dims[dim]:
            share = axis.size if dealt else 1.0
            self.then(partial(at, k=k), lambda array, n=share: np.expand_dims(array, k) / n)
        self.dims[dim] = ()

    def permute(self, order: Sequence[int | None]) -> None:
        """The dimensions in another order, among them new ones of one place."""
        known = [dim for dim in order if dim is not None]
        axes = [self.place(dim) + k for dim in known for k in range(len(self.dims[dim]))]
        self.dims = [() if dim is None else self.dims[dim] for dim in order]
        back = np.argsort(axes) if axes else axes
        self.then(lambda array: array.transpose(axes), lambda array: array.transpose(back))

    def spread(self, dims: Sequence[Dim]) -> "Chain":
        """Broadcast to dimensions."""
        self.dims = [()] * (len(dims) - len(self.dims)) + self.dims
        for dim, axes in enumerate(dims):
            (self.regroup if self.dims[dim] else self.copy)(dim, axes)
        return self

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


def _copied(array: Array, k: int) -> Array:
    return np.stack([array, array], axis=k)


def _summed(array: Array, k: int, size: int) -> Array:
    return average(array, k, size) * size**2


# Fields.

fresh = itertools.count()
"""Numbers of sources and noises."""


@dataclass(frozen=True, eq=False)
class Field:
    """The law of a tensor.

    Attributes:
        dims: by dimension, the axes that it is made of.
        rho: correlation of z, an array over the distances along all axes.
        values: F on the grid; of a tensor of tokens there is none, and ``rho`` is the
            probability that two are the same.
        roots: which results of layers with weights it was made of without such a layer.
        source: which z it is: laws with the same one are functions of one another.
        seen: of logits, how many of each row are not hidden, where some are.
        uneven: of what a layer with weights gives, for each channel its variance, and how much of
            its gradient goes on, both over their mean.
    """

    dims: Dims
    rho: Array
    values: Array | None
    roots: frozenset = frozenset()
    source: object = field(default_factory=lambda: next(fresh))
    seen: Array | None = None
    uneven: Array | None = None

    @classmethod
    def normal(cls, dims: Dims, mean: float, covariance: Array, roots=frozenset()) -> "Field":
        """A normal tensor with this array of covariances."""
        variance = max(at_zero(covariance), 0.0)
        if not variance > 0:
            return cls.constant(dims, mean)
        return cls(dims, covariance / variance, mean + math.sqrt(variance) * GRID, roots)

    @classmethod
    def standard(cls, dims: Dims, roots=frozenset()) -> "Field":
        """N(0, 1), independent at all places."""
        return cls(dims, ones(dims), GRID, roots)

    @classmethod
    def constant(cls, dims: Dims, number: float) -> "Field":
        """The same number everywhere."""
        return cls(dims, ones(dims), np.full(_POINTS, float(number)))

    @classmethod
    def tokens(cls, shape: Sequence[int], samples: bool = False) -> "Field":
        """Tokens, or places, that all differ."""
        dims = dims_of(shape, samples)
        return cls(dims, ones(dims), None)

    @property
    def axes(self) -> Dim:
        """Of all dimensions."""
        return tuple(axis for dim in self.dims for axis in dim)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(map(size_of, self.dims))

    @cached_property
    def _energies(self) -> Array:
        return _energies(self.values)

    @cached_property
    def mean(self) -> float:
        """Mean of an element."""
        return float(WEIGHTS @ self.values)

    @cached_property
    def variance(self) -> float:
        """Variance of an element, over places, weights and samples."""
        return max(float(WEIGHTS @ (self.values - self.mean) ** 2), 0.0)

    @property
    def std(self) -> float:
        """Standard deviation of an element."""
        return math.sqrt(self.variance)

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

    def along(self, *dims: int) -> list[int]:
        """Places of the axes of dimensions among all."""
        starts = [sum(map(len, self.dims[:dim])) for dim in dims]
        return [s + k for s, d in zip(starts, dims, strict=True) for k in range(len(self.dims[d]))]

    @property
    def sample_std(self) -> float | None:
        """Standard deviation of what differs between two samples; None where none are told."""
        if self.values is None:
            return None
        if not any(axis.samples for axis in self.axes):
            return 0.0 if self.variance == 0 else None
        array = self.covariance
        for k, axis in reversed(list(enumerate(self.axes))):
            array = widened(array, k, 2).take(-1, axis=k) if axis.samples else at(array, k)
        return math.sqrt(max(self.variance - float(array), 0.0))

    def image(self, values: Array) -> "Field":
        """A function of it."""
        return replace(self, values=values, seen=None, uneven=None)

    def moved(self, chain: Chain) -> "Field":
        """The same numbers in other places."""
        dims, rho = tuple(chain.dims), chain(self.rho)
        if not chain.maps and dims == self.dims:
            return self
        return replace(self, dims=dims, rho=rho, seen=None, uneven=None)

    def with_covariance(self, values: Array, covariance: Array, roots=None, dims=None) -> "Field":
        """Another tensor, of increasing values, with this array of covariances."""
        roots, dims = self.roots if roots is None else roots, self.dims if dims is None else dims
        made = Field(dims, covariance, values, roots)
        if not made.variance > 0:
            return Field.constant(dims, made.mean)
        places = np.linspace(-1.0, 1.0, 1025)
        table = np.polynomial.polynomial.polyval(places, np.append(0.0, made._energies[1:]))
        ratio = covariance * (made.variance / at_zero(covariance))
        # An increasing function has an increasing series; a flat end does not bring it back.
        table = np.maximum.accumulate(table)
        rho = np.interp(ratio.ravel(), table, places).reshape(ratio.shape)
        return replace(made, rho=np.where(ratio == 0.0, 0.0, rho))

    def rescaled(self, mean: float, covariance: Array, dims: Dims | None = None) -> "Field":
        """The same form, moved and stretched."""
        variance, dims = max(at_zero(covariance), 0.0), self.dims if dims is None else dims
        if self.variance <= 0 or variance == 0 or self.is_normal:
            return Field.normal(dims, mean, covariance, self.roots)
        values = mean + (self.values - self.mean) * math.sqrt(variance / self.variance)
        return self.with_covariance(np.sort(values), covariance, dims=dims)


def roots_of(*laws: Field) -> frozenset:
    """What any of them was made of."""
    return frozenset().union(*(law.roots for law in laws))


def measured(tensor: Tensor, samples: bool = False, roots=frozenset()) -> Field:
    """The law of numbers; covariances of places of an image are kept at every distance."""
    dims = dims_of(tensor.shape, samples)
    sizes = [axis.size for dim in dims for axis in dim]
    tensor = tensor.detach().cpu()
    if not (tensor.is_floating_point() or tensor.dtype == torch.bool):
        return Field(dims, _matches(tensor.squeeze()), None)
    numbers = tensor.to(torch.float64).reshape(sizes).numpy()
    mean, variance = float(numbers.mean()), float(numbers.var())
    if not variance > 0:
        return Field.constant(dims, mean)
    image = tensor.ndim >= 4 and math.prod(2 * n for n in sizes[-2:]) * 8 <= _LARGEST
    fine = range(max(len(sizes) - (tensor.ndim - 2), 0), len(sizes)) if image else ()
    return Field.normal(dims, mean, _covariances(numbers - mean, fine), roots)


def _covariances(centred: Array, fine: Sequence[int]) -> Array:
    """Mean products by distance: at all distances along fine axes, which are the last."""
    sizes, first = [centred.shape[k] for k in fine], centred.ndim - len(fine)

    def products(over: tuple[int, ...]) -> Array:
        x = centred.mean(axis=over, keepdims=True)
        if not sizes:
            return np.mean(x * x)
        spectrum = np.fft.rfftn(x, [2 * n for n in sizes], axes=range(-len(sizes), 0))
        power = np.abs(spectrum.reshape(-1, *spectrum.shape[first:])) ** 2
        found = np.fft.irfftn(power.mean(0), [2 * n for n in sizes], axes=range(len(sizes)))
        for k, n in enumerate(sizes):
            found = np.roll(found, n - 1, axis=k).take(range(2 * n - 1), axis=k)
            counts = n - np.abs(np.arange(1 - n, n))
            found = found / counts.reshape([-1 if j == k else 1 for j in range(len(sizes))])
        return found

    return by_kinds(centred.shape[:first], products)


def _matches(tokens: Tensor) -> Array:
    """By distance, of two kinds an axis, how probable it is that two tokens are the same."""
    _, tokens = tokens.unique(return_inverse=True)
    kinds = int(tokens.max()) + 1 if tokens.numel() else 1

    def mean(over: tuple[int, ...]) -> float:
        kept = [k for k in range(tokens.ndim) if k not in over]
        rows = tokens.permute(*kept, *over).reshape(math.prod(tokens.shape[k] for k in kept), -1)
        places = torch.arange(len(rows), device="cpu").unsqueeze(1) * kinds + rows
        _, counts = places.unique(return_counts=True)
        return float((counts.double() ** 2).sum()) / (len(rows) * rows.shape[1] ** 2)

    return by_kinds(tokens.shape, mean)


class Pair:
    """A function of two independent tensors over the same axes."""

    def __init__(self, left: Field, right: Field, function: Callable[[Array, Array], Array]):
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


Gradient = dict[object, Part]
"""By number of the noise; noises are independent of one another and of the tensor, of mean 0."""
_MOST_PARTS = 8


def gradient_of(covariance: Array) -> Gradient:
    """Noise with this array of covariances, whatever the tensor is."""
    variance = at_zero(covariance)
    if not variance > 0:
        return {}
    return {next(fresh): Part(math.sqrt(variance), covariance / variance)}


def total(gradient: Gradient, law: Field) -> Array:
    """The array of covariances of a gradient at a tensor of that law."""
    found = np.zeros([1] * len(law.axes))
    for part in gradient.values():
        rho = part.rho
        if np.ndim(part.amplitude):
            rho, own = agreeing(rho, law.rho)
            rho = rho * _series(_energies(part.amplitude), own)
        else:
            rho = rho * part.amplitude**2
        found = sum(agreeing(found, rho))
    return found


def added(left: Gradient, right: Gradient, law: Field) -> Gradient:
    """The sum: parts of one noise add their amplitudes, others their variances."""
    found = left | right
    for noise in left.keys() & right.keys():
        one, other = left[noise], right[noise]
        rho = 0.5 * sum(agreeing(one.rho, other.rho))
        found[noise] = Part(one.amplitude + other.amplitude, rho)
    return found if len(found) <= _MOST_PARTS else gradient_of(total(found, law))


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
