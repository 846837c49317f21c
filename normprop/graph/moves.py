"""Functions that move numbers to other places, and join them."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from normprop.graph.calls import Call, Spread, Step, by_torch, rule, unknown
from normprop.graph.laws import (
    WEIGHTS,
    Array,
    Axis,
    Dims,
    Law,
    agreeing,
    at,
    at_zero,
    average,
    dims_of,
    fresh,
    gradient_of,
    plus,
    quantiles,
    regrouped,
    shifted,
    total,
)
from normprop.graph.trace import is_value


@rule(
    "clone", "contiguous", "to", "float", "double", "half", "bfloat16", "type", "type_as", "cpu",
    "cuda", "alias", "positive", "requires_grad", "roll", "flip", "fliplr", "flipud", "identity",
)  # fmt: skip
def _same(call: Call) -> Step:
    """The same numbers, in other places of the same axes, or of another type."""
    value = call.values()[0]
    law = call.law(value)
    if law.values is None and any(call.real[:1]):
        return unknown(call, f"{call.name} makes numbers of integers")
    return Step([law], lambda gradients: [(value, gradients[0])])


@rule("detach", "data")
def _detached(call: Call) -> Step:
    return Step([call.law(call.args[0])], lambda gradients: ())


@rule("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "ravel")
def _reshaped(call: Call) -> Step:
    value = call.values()[0]
    law = call.law(value)
    if math.prod(law.shape) != math.prod(call.shapes[0]):
        return unknown(call)
    dims = _dims_in(law.axes, call.shapes[0])
    old, new = [a.size for a in law.axes], [a.size for dim in dims for a in dim]
    made = law.moved(dims, lambda array: regrouped(array, old, new))

    def back(gradients):
        yield value, shifted(gradients[0], lambda array: regrouped(array, new, old))

    return Step([made], back)


def _dims_in(axes: Sequence[Axis], shape: Sequence[int]) -> Dims:
    """Axes dealt out to dimensions of a shape, divided where they have to be."""
    left, dims = list(axes), []
    for size in shape:
        dim, rest = [], size
        while rest > 1:
            axis = left.pop(0)
            if rest % axis.size == 0:
                dim.append(axis)
                rest //= axis.size
            elif axis.size % rest == 0:
                dim.append(Axis(rest, axis.samples))
                left.insert(0, Axis(axis.size // rest))
                rest = 1
            else:
                # Nothing fits: whatever there is counts as one axis.
                samples = any(a.samples for a in axes)
                return tuple(
                    (Axis(n, samples and not i),) if n > 1 else () for i, n in enumerate(shape)
                )
        dims.append(tuple(dim))
    return tuple(dims)


@rule(
    "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT", "H",
    "mH", "adjoint", "squeeze", "unsqueeze", "getitem", "chunk", "split", "tensor_split", "unbind",
    "narrow", "select", "expand", "expand_as", "broadcast_to", "split_with_sizes",
)  # fmt: skip
def _viewed(call: Call) -> Step:
    """A view: which places it takes is seen from its strides."""
    value = call.values()[0]
    law = call.law(value)
    # The strides of a tensor that lies in order are those that tell its dimensions apart.
    probe = torch.empty(law.shape, device="meta")
    args, kwargs = tree_map(
        lambda leaf: _shaped(call, leaf, value, probe) if is_value(leaf) else leaf,
        (call.args, call.kwargs),
        is_leaf=is_value,
    )
    try:
        views = tree_leaves(call.function(*args, **kwargs))
    except (RuntimeError, TypeError, IndexError, ValueError):
        return _picked(call)
    if [tuple(v.shape) for v in views] != list(call.shapes) or len(call.values()) > 1 + _like(call):
        return _picked(call)
    try:
        pieces = [_View(law, view.stride(), view.shape, view.storage_offset()) for view in views]
    except ValueError:
        return unknown(call)
    if len(pieces) == 1 and pieces[0].apart:
        call.notes.append("a gradient that comes to some places alone is taken to reach all alike")

    def back(gradients):
        for piece, gradient in zip(pieces, gradients, strict=True):
            # The noise at other places is another noise.
            own = {(noise, *piece.taken): part for noise, part in gradient.items()}
            yield value, shifted(own if piece.taken else gradient, piece.back)

    return Step([piece.law for piece in pieces], back)


def _like(call: Call) -> bool:
    return call.name.endswith("_as")


def _shaped(call: Call, leaf, value, probe):
    if leaf == value:
        return probe
    return torch.empty(call.law(leaf).shape, device="meta") if _like(call) else None


@rule("gather", "index_select", "take_along_dim", "masked_select", "sort", "take")
def _picked(call: Call) -> Step:
    """Numbers of a tensor, from places that other tensors say."""
    value = call.values()[0]
    law = call.law(value)
    if law.values is None or not any(call.real):
        return unknown(call)
    call.notes.append(f"the places that {call.name} takes are taken to be independent")
    dims = dims_of(call.shapes[0])
    ones = np.ones([1] * sum(map(len, dims)))
    share = math.prod(call.shapes[0]) / math.prod(law.shape)
    laws = [Law(dims, ones, law.values, next(fresh), law.roots)]
    laws += [Law(dims_of(s), np.ones([1] * len(s)), None, next(fresh)) for s in call.shapes[1:]]

    def back(gradients):
        array = np.full([1] * len(law.axes), share * at_zero(total(gradients[0], laws[0])))
        yield value, gradient_of(array)

    return Step(laws, back)


@rule("repeat", "tile", "repeat_interleave")
def _repeated(call: Call) -> Step:
    """Copies, behind or beside what they are copies of."""
    value = call.values()[0]
    law, shape = call.law(value), call.shapes[0]
    if len(call.values()) > 1:
        return _picked(call)
    own = ((),) * (len(shape) - len(law.dims)) + law.dims
    inside = call.name == "repeat_interleave"
    dims, steps, k = [], [], 0
    for size, dim in zip(shape, own, strict=True):
        count = size // math.prod(axis.size for axis in dim)
        copies = (Axis(count),) if count > 1 else ()
        if copies:
            steps.append((k + len(dim) if inside else k, count))
        dims.append((*dim, *copies) if inside else (*copies, *dim))
        k += len(dims[-1])

    def forward(array: Array) -> Array:
        for k, _ in steps:
            array = np.stack([array, array], axis=k)
        return array

    def back(gradients):
        def summed(array: Array) -> Array:
            for k, count in reversed(steps):
                array = average(array, k, count) * count**2
            return array

        yield value, shifted(gradients[0], summed)

    return Step([law.moved(tuple(dims), forward)], back)


@by_torch("pixel_shuffle")
def _pixel_shuffle(input, factor):
    """Channels to places."""
    parts = input.unflatten(-3, (-1, factor, factor))
    return parts.movedim((-4, -3), (-3, -1)).flatten(-4, -3).flatten(-2)


@by_torch("pixel_unshuffle")
def _pixel_unshuffle(input, factor):
    parts = input.unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor))
    return parts.movedim((-3, -1), (-4, -3)).flatten(-5, -3)


@by_torch("channel_shuffle")
def _channel_shuffle(input, groups):
    return input.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class _View:
    """Some places of a tensor, in another order of its dimensions."""

    def __init__(self, law: Law, strides: Sequence[int], shape: Sequence[int], start: int):
        self.given = law
        own = [(math.prod(law.shape[d + 1 :]), d) for d, n in enumerate(law.shape) if n > 1]
        # By dimension of the view: the dimension that it comes from, and the step in it.
        self.comes: list[tuple[int, int] | None] = []
        for stride, size in zip(strides, shape, strict=True):
            fits = [(s, d) for s, d in own if stride and s <= stride < s * law.shape[d]]
            fits = [(s, d) for s, d in fits if stride % s == 0]
            if stride and size > 1 and not fits:
                raise ValueError("a diagonal")
            self.comes.append((fits[0][1], stride // fits[0][0]) if fits and size > 1 else None)
        self.shape = shape
        dims = []
        for place, come in enumerate(self.comes):
            size = shape[place]
            whole = come is not None and law.shape[come[0]] == size
            fresh = (Axis(size),) if size > 1 else ()
            if come is None:
                dims.append(fresh)
            elif whole:
                dims.append(law.dims[come[0]])
            else:
                samples = any(a.samples for a in law.dims[come[0]])
                dims.append((Axis(size, samples),))
        self.law = law.moved(tuple(dims), self.forward)
        taken = [(d, start, shape[p]) for p, (d, _) in self._taken() if shape[p] < law.shape[d]]
        kept = {come[0] for come in self.comes if come}
        taken += [(d, start, 1) for d, n in enumerate(law.shape) if n > 1 and d not in kept]
        # A gradient comes back to these places alone.
        self.apart, self.taken = bool(taken), tuple(taken)
        if taken:
            # Other places are another tensor, where they are independent with nothing in common.
            apart = all(law.rho.shape[k] == 1 for d, *_ in taken for k in law.along(d))
            self.apart = not apart
            roots = frozenset((r, *taken) for r in law.roots) if apart else law.roots
            self.law = replace(self.law, source=(law.source, *taken), roots=roots)

    def _taken(self):
        return [(p, come) for p, come in enumerate(self.comes) if come]

    def forward(self, array: Array) -> Array:
        """An array over distances in the whole as one over those in the view."""
        kept = {come[0]: place for place, come in enumerate(self.comes) if come}
        axes: dict[int, list[int]] = {}
        k = 0
        for d, dim in enumerate(self.given.dims):
            n, place = self.given.shape[d], kept.get(d)
            if place is None:
                for _ in dim:
                    array = at(array, k)
                continue
            size, step = self.shape[place], self.comes[place][1]
            if size != n:
                array = regrouped(array, [a.size for a in dim], [n], k)
                if array.shape[k] > 2:
                    array = array.take(n - 1 + step * np.arange(1 - size, size), axis=k)
                axes[place] = [k]
            else:
                axes[place] = list(range(k, k + len(dim)))
            k += len(axes[place])
        order = [axis for place in sorted(axes) for axis in axes[place]]
        array, k = array.transpose(order), 0
        for place, size in enumerate(self.shape):
            if place not in axes and size > 1:
                array = np.stack([array, array], axis=k)
            k += len(axes.get(place, [0] if size > 1 else []))
        return array

    def back(self, array: Array) -> Array:
        """The noise of a gradient that is 0 at the places that are left out."""
        comes, k = {}, 0
        for place, come in enumerate(self.comes):
            if come is None and self.shape[place] > 1:
                array = average(array, k, self.shape[place]) * self.shape[place] ** 2
            elif come is not None:
                count = 1 if self.shape[place] != self.given.shape[come[0]] else None
                width = count or len(self.given.dims[come[0]])
                comes[come[0]] = (place, list(range(k, k + width)))
                k += width
        order = [axis for d in sorted(comes) for axis in comes[d][1]]
        array, k = array.transpose(order), 0
        for d, dim in enumerate(self.given.dims):
            n = self.given.shape[d]
            if n > 1 and d not in comes:
                array = np.expand_dims(array, tuple(range(k, k + len(dim)))) / n
            elif n > 1 and self.shape[comes[d][0]] != n:
                array = _thinned(array, k, self.shape[comes[d][0]], n)
                array = regrouped(array, [n], [a.size for a in dim], k)
            k += len(dim)
        return array


def _thinned(array: Array, k: int, part: int, whole: int) -> Array:
    """Noise at some places of an axis, averaged over all of its pairs."""
    same = at(array, k) * (part / whole)
    if array.shape[k] == 1:
        return np.expand_dims(same, k)
    other = average(array, k, part) * (part / whole) ** 2
    return np.stack([same, (whole * other - same / 1.0) / (whole - 1)], axis=k)


_ALIKE = 0.05


def _alike(law: Law, dim: int) -> float:
    """Correlation of two places of a dimension, on average."""
    array, axes = law.covariance, list(law.along(dim))
    for k in reversed(range(array.ndim)):
        if k not in axes:
            array = at(array, k)
    mean = array
    for k in reversed(range(len(axes))):
        mean = average(mean, k, law.axes[axes[k]].size)
    n = math.prod(law.axes[k].size for k in axes)
    return abs(n * float(mean) / law.variance - 1.0) / (n - 1) if law.variance and n > 1 else 0.0


@rule("cat", "concat", "concatenate", "stack")
def _joined(call: Call) -> Step:
    """Concatenation, and stacking: a mixture."""
    parts = call.get(0, "tensors")
    laws = [call.law(p) for p in parts]
    shape, stacked = call.shapes[0], call.name == "stack"
    if any(law.values is None for law in laws):
        return Step([Law(dims_of(shape), laws[0].rho.reshape([1] * 0), None, -1)], lambda g: ())
    dim = call.get(1, "dim", 0) % len(shape)
    if stacked:
        laws = [replace(law, dims=(*law.dims[:dim], (), *law.dims[dim:])) for law in laws]
    sizes = [law.shape[dim] if law.shape[dim:] else 1 for law in laws]
    kept = [max((law.dims[d] for law in laws), key=len) for d in range(len(shape))]
    kept[dim] = ()
    shares = [n / sum(sizes) for n in sizes]
    seconds, spreads = [], []
    for law in laws:
        own = replace(law, dims=(*law.dims[:dim], (), *law.dims[dim + 1 :]))
        array, k = law.second, sum(map(len, law.dims[:dim]))
        entries = _alike(law, dim)
        for _ in law.dims[dim]:
            array = at(array, k)
        spread = Spread(replace(own, rho=array), tuple(kept))
        seconds.append(spread.law.rho)
        spreads.append((spread, entries, k))
    mean = sum(r * law.mean for r, law in zip(shares, laws, strict=True))
    axes = [a for d in kept for a in d]
    seconds = agreeing(seconds, axes)
    second = sum(r * s for r, s in zip(shares, seconds, strict=True))
    covariance = np.expand_dims(plus(second, -(mean**2)), sum(map(len, kept[:dim])))
    if any(e > _ALIKE for _, e, _ in spreads):
        call.notes.append(f"along the dimension of {call.name} places are taken for independent")
    kept[dim] = (Axis(sum(sizes)),)
    values = quantiles(
        np.concatenate([law.values for law in laws]), np.concatenate([r * WEIGHTS for r in shares])
    )
    roots = frozenset().union(*(law.roots for law in laws))
    if all(law.is_normal for law in laws) and np.ptp([law.variance for law in laws]) < 1e-9:
        made = Law.normal(tuple(kept), mean, covariance, roots)
    else:
        made = laws[0].with_covariance(values, covariance, roots, tuple(kept))
    place = sum(map(len, kept[:dim]))

    def back(gradients):
        for i, (part, law, (spread, _, k)) in enumerate(zip(parts, laws, spreads, strict=True)):
            found = {}
            for noise, p in gradients[0].items():
                amplitude = p.amplitude
                if np.ndim(amplitude):
                    amplitude = np.interp(law.values, made.values, amplitude)
                found[(noise, "part", i)] = replace(p, amplitude=amplitude)

            def narrow(array, law=law, spread=spread, k=k):
                array = spread.back(at(array, place))
                axes = len(law.dims[dim])
                return np.expand_dims(array, tuple(range(k, k + axes))) if axes else array

            yield part, shifted(found, narrow)

    return Step([made], back)
