"""Functions that move numbers to other places, and join them."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from normprop.graph.calls import Call, Spread, Step, by_torch, portion, rule, unknown
from normprop.graph.known import in_place_of_values
from normprop.graph.laws import (
    WEIGHTS,
    Array,
    Axis,
    Chain,
    Dims,
    Law,
    agreeing,
    at,
    at_zero,
    average,
    dims_of,
    elsewhere,
    fresh,
    ones,
    plus,
    quantiles,
    shifted,
)


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
    return Step.curve(value, law)


@rule("detach", "data")
def _detached(call: Call) -> Step:
    return Step([call.law(call.input)])


@rule("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "ravel")
def _reshaped(call: Call) -> Step:
    value = call.values()[0]
    law = call.law(value)
    if math.prod(law.shape) != math.prod(call.shapes[0]):
        return unknown(call)
    dims, chain = _dims_in(law.axes, call.shapes[0]), Chain()
    chain.regroup(law.axes, [a for dim in dims for a in dim], 0)
    return Step.curve(value, law.moved(dims, chain), array=chain.back)


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
    probe, like = torch.empty(law.shape, device="meta"), call.name.endswith("_as")

    def stand_in(leaf):
        if leaf == value:
            return probe
        return torch.empty(call.law(leaf).shape, device="meta") if like else None

    args, kwargs = in_place_of_values(stand_in, (call.args, call.kwargs))
    try:
        views = tree_leaves(call.function(*args, **kwargs))
    except (RuntimeError, TypeError, IndexError, ValueError):
        return _picked(call)
    if [tuple(v.shape) for v in views] != list(call.shapes) or len(call.values()) > 1 + like:
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
            yield value, shifted(own if piece.taken else gradient, piece.chain.back)

    return Step([piece.law for piece in pieces], back)


@rule("gather", "index_select", "take_along_dim", "masked_select", "sort", "take")
def _picked(call: Call) -> Step:
    """Numbers of a tensor, from places that other tensors say."""
    value = call.values()[0]
    law = call.law(value)
    if law.values is None or not any(call.real):
        return unknown(call)
    call.notes.append(f"the places that {call.name} takes are taken to be independent")
    dims = dims_of(call.shapes[0])
    share = math.prod(call.shapes[0]) / math.prod(law.shape)
    made = Law(dims, ones(dims), law.values, next(fresh), law.roots)
    step = Step.linear(value, made, lambda array: ones(law.dims) * (share * at_zero(array)))
    return Step([made, *map(Law.tokens, call.shapes[1:])], step.back)


@rule("repeat", "tile", "repeat_interleave")
def _repeated(call: Call) -> Step:
    """Copies, behind or beside what they are copies of."""
    value = call.values()[0]
    law, shape = call.law(value), call.shapes[0]
    if len(call.values()) > 1:
        return _picked(call)
    own = ((),) * (len(shape) - len(law.dims)) + law.dims
    inside = call.name == "repeat_interleave"
    dims, chain, k = [], Chain(), 0
    for size, dim in zip(shape, own, strict=True):
        count = size // math.prod(axis.size for axis in dim)
        copies = (Axis(count),) if count > 1 else ()
        if copies:
            chain.copy(count, k + len(dim) if inside else k)
        dims.append((*dim, *copies) if inside else (*copies, *dim))
        k += len(dims[-1])
    return Step.curve(value, law.moved(tuple(dims), chain), array=chain.back)


@by_torch("pixel_shuffle")
def _pixel_shuffle(input, upscale_factor):
    """Channels to places."""
    parts = input.unflatten(-3, (-1, upscale_factor, upscale_factor))
    return parts.movedim((-4, -3), (-3, -1)).flatten(-4, -3).flatten(-2)


@by_torch("pixel_unshuffle")
def _pixel_unshuffle(input, downscale_factor):
    parts = input.unflatten(-1, (-1, downscale_factor)).unflatten(-3, (-1, downscale_factor))
    return parts.movedim((-3, -1), (-4, -3)).flatten(-5, -3)


@by_torch("channel_shuffle")
def _channel_shuffle(input, groups):
    return input.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class _View:
    """Some places of a tensor, in another order of its dimensions."""

    def __init__(self, law: Law, strides: Sequence[int], shape: Sequence[int], start: int):
        own = [(math.prod(law.shape[d + 1 :]), d) for d, n in enumerate(law.shape) if n > 1]
        # By dimension of the view: the dimension that it comes from, and the step in it.
        comes: list[tuple[int, int] | None] = []
        for stride, size in zip(strides, shape, strict=True):
            fits = [(s, d) for s, d in own if stride and s <= stride < s * law.shape[d]]
            fits = [(s, d) for s, d in fits if stride % s == 0]
            if stride and size > 1 and not fits:
                raise ValueError("a diagonal")
            comes.append((fits[0][1], stride // fits[0][0]) if fits and size > 1 else None)
        dims = []
        for size, come in zip(shape, comes, strict=True):
            given = () if come is None else law.dims[come[0]]
            whole = come is not None and law.shape[come[0]] == size
            part = (Axis(size, any(a.samples for a in given)),) if size > 1 else ()
            dims.append(given if whole else part)
        self.chain = self._chain(law, comes, shape)
        self.law = law.moved(tuple(dims), self.chain)
        kept = {come[0]: n for come, n in zip(comes, shape, strict=True) if come}
        taken = [(d, start, n) for d, n in kept.items() if n < law.shape[d]]
        taken += [(d, start, 1) for d, n in enumerate(law.shape) if n > 1 and d not in kept]
        # A gradient comes back to these places alone.
        self.apart, self.taken = bool(taken), tuple(taken)
        if taken:
            # Other places are another tensor, where they are independent with nothing in common.
            apart = all(law.rho.shape[k] == 1 for d, *_ in taken for k in law.along(d))
            self.apart = not apart
            roots = frozenset((r, *taken) for r in law.roots) if apart else law.roots
            self.law = replace(self.law, source=(law.source, *taken), roots=roots)

    @staticmethod
    def _chain(law: Law, comes: Sequence, shape: Sequence[int]) -> Chain:
        """From distances in the whole to those in the view."""
        chain, k = Chain(), 0
        kept = {come[0]: place for place, come in enumerate(comes) if come}
        axes: dict[int, list[int]] = {}
        for d, dim in enumerate(law.dims):
            if d not in kept:
                for axis in dim:
                    chain.one(k, axis.size)
                continue
            place, whole = kept[d], law.shape[d]
            if shape[place] != whole:
                chain.regroup(dim, [Axis(whole)], k)
                _take(chain, k, shape[place], whole, comes[place][1])
            axes[place] = [k] if shape[place] != whole else list(range(k, k + len(dim)))
            k += len(axes[place])
        order = [axis for place in sorted(axes) for axis in axes[place]]
        chain.transpose(order)
        k = 0
        for place, size in enumerate(shape):
            if place not in axes and size > 1:
                chain.copy(size, k)
            k += len(axes.get(place, [0] if size > 1 else []))
        return chain


def _take(chain: Chain, k: int, part: int, whole: int, step: int) -> None:
    """Some places of an axis; what comes back to them is averaged over all pairs of places."""

    def forward(array: Array) -> Array:
        if array.shape[k] <= 2:
            return array
        return array.take(whole - 1 + step * np.arange(1 - part, part), axis=k)

    def back(array: Array) -> Array:
        same = at(array, k) * (part / whole)
        if array.shape[k] == 1:
            return np.expand_dims(same, k)
        mean = average(array, k, part) * (part / whole) ** 2
        return np.stack([same, elsewhere(same, mean, whole)], axis=k)

    chain.then(forward, back)


_ALIKE = 0.05


def _alike(law: Law, dim: int) -> float:
    """Correlation of two places of a dimension, on average."""
    array, axes = law.covariance, law.along(dim)
    size = law.shape[dim]
    for k in reversed(range(array.ndim)):
        array = average(array, k, law.axes[k].size) if k in axes else at(array, k)
    if not law.variance or size == 1:
        return 0.0
    return abs(float(elsewhere(1.0, array / law.variance, size)))


@rule("cat", "concat", "concatenate", "stack")
def _joined(call: Call) -> Step:
    """Concatenation, and stacking: a mixture."""
    parts = call.get(0, "tensors")
    laws = [call.law(p) for p in parts]
    shape = call.shapes[0]
    if any(law.values is None for law in laws):
        return Step([Law.tokens(shape)])
    dim = call.get(1, "dim", 0) % len(shape)
    if call.name == "stack":
        laws = [replace(law, dims=(*law.dims[:dim], (), *law.dims[dim:])) for law in laws]
    sizes = [law.shape[dim] if law.shape[dim:] else 1 for law in laws]
    kept = [max((law.dims[d] for law in laws), key=len) for d in range(len(shape))]
    kept[dim] = ()
    place = sum(map(len, kept[:dim]))
    shares = [n / sum(sizes) for n in sizes]
    chains, seconds = [], []
    for law in laws:
        chain, k = Chain(), sum(map(len, law.dims[:dim]))
        for _ in law.dims[dim]:
            chain.one(k)
        own = replace(law, dims=(*law.dims[:dim], (), *law.dims[dim + 1 :]), rho=chain(law.second))
        spread = Spread(own, tuple(kept))
        seconds.append(spread.law.rho)
        chain.then(lambda array: array, spread.back)
        chain.then(lambda array: array, lambda array: at(array, place))
        chains.append(chain)
    mean = sum(r * law.mean for r, law in zip(shares, laws, strict=True))
    seconds = agreeing(seconds, [a for d in kept for a in d])
    second = sum(r * s for r, s in zip(shares, seconds, strict=True))
    covariance = np.expand_dims(plus(second, -(mean**2)), place)
    if any(_alike(law, dim) > _ALIKE for law in laws):
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

    def back(gradients):
        for i, (part, law, chain) in enumerate(zip(parts, laws, chains, strict=True)):
            yield part, shifted(portion(gradients[0], law, made, i), chain.back)

    return Step([made], back)
