"""Functions that move numbers to other places, and join them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from normprop.graph import calls, fields
from normprop.graph.calls import Call, Step, by_torch, inside, rule, unknown
from normprop.graph.fields import Array, Axis, Chain, Dims, Field, at_zero, dims_of, ones
from normprop.graph.trace import in_place_of_values

# From which correlation on two places are not taken for independent.
_ALIKE = 0.05


@rule(
    "clone", "contiguous", "to", "float", "double", "half", "bfloat16", "type", "type_as", "cpu",
    "cuda", "alias", "positive", "requires_grad", "roll", "flip", "fliplr", "flipud", "identity",
)  # fmt: skip
def _same(call: Call, *_, **__) -> Step:
    """The same numbers, in other places of the same axes, or of another type."""
    value = call.values()[0]
    law = call.law(value)
    if law.values is None and any(call.real[:1]):
        return unknown(call, f"{call.name} makes numbers of integers")
    return Step.curve(value, law)


@rule("detach", "data")
def _detached(call: Call, input) -> Step:
    return Step([call.law(input)])


@rule("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "ravel")
def _reshaped(call: Call, *_, **__) -> Step:
    value = call.values()[0]
    law, shape = call.law(value), call.shapes[0]
    if math.prod(law.shape) != math.prod(shape):
        return unknown(call)
    dims, chain = _dims_in(law.axes, shape), Chain([law.axes])
    chain.regroup(0, tuple(axis for dim in dims for axis in dim))
    chain.dims = dims
    return Step.curve(value, law.moved(chain), array=chain.back)


def _dims_in(axes: Sequence[Axis], shape: Sequence[int]) -> Dims:
    """Axes dealt out to dimensions of a shape, divided where they have to be."""
    left, dims = list(axes), []
    for size in shape:
        dim, rest = [], size
        while rest > 1:
            axis = left.pop(0)
            if rest % axis.size and axis.size % rest:
                # Nothing fits: whatever there is counts as one axis.
                return dims_of(shape, any(a.samples for a in axes))
            part = math.gcd(rest, axis.size)
            dim.append(Axis(part, axis.samples))
            rest //= part
            if part < axis.size:
                left.insert(0, Axis(axis.size // part))
        dims.append(tuple(dim))
    return tuple(dims)


@rule(
    "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT", "H",
    "mH", "adjoint", "squeeze", "unsqueeze", "getitem", "chunk", "split", "tensor_split", "unbind",
    "narrow", "select", "expand", "expand_as", "broadcast_to", "split_with_sizes",
)  # fmt: skip
def _viewed(call: Call, *args, **kwargs) -> Step:
    """A view: which places it takes is seen from its strides."""
    value = call.values()[0]
    law = call.law(value)
    # The strides of a tensor that lies in order are those that tell its dimensions apart.
    probe, like = torch.empty(law.shape, device="meta"), call.name.endswith("_as")

    def stand_in(leaf):
        if leaf == value:
            return probe
        return torch.empty(call.law(leaf).shape, device="meta") if like else None

    args, kwargs = in_place_of_values(stand_in, (args, kwargs))
    try:
        views = tree_leaves(call.function(*args, **kwargs))
    except (RuntimeError, TypeError, IndexError, ValueError):
        return _picked(call)
    whole = probe.untyped_storage()._cdata
    # What comes out need not be a view, as where a list says places.
    of_it = all(view.untyped_storage()._cdata == whole for view in views)
    if len(call.values()) > 1 + like or not of_it:
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
            yield value, fields.shifted(own if piece.taken else gradient, piece.chain.back)

    return Step([piece.law for piece in pieces], back)


@rule("gather", "index_select", "take_along_dim", "masked_select", "sort", "take")
def _picked(call: Call, *_, **__) -> Step:
    """Numbers of a tensor, from places that other tensors say."""
    value = call.values()[0]
    law = call.law(value)
    if law.values is None or not any(call.real):
        return unknown(call)
    call.notes.append(f"the places that {call.name} takes are taken to be independent")
    dims = dims_of(call.shapes[0])
    share = math.prod(call.shapes[0]) / math.prod(law.shape)
    made = Field(dims, ones(dims), law.values, law.roots)
    step = Step.linear(value, made, lambda array: ones(law.dims) * (share * at_zero(array)))
    return Step([made, *map(Field.tokens, call.shapes[1:])], step.back)


@by_torch("repeat", "tile")
def _repeat(input, *counts, dims=(), repeats=()):
    """Copies, behind one another."""
    counts = tree_leaves((counts, dims, repeats))
    shape = [1] * (len(counts) - input.ndim) + [*input.shape]
    counts = [1] * (len(shape) - len(counts)) + counts
    pairs = [n for pair in zip(counts, shape, strict=True) for n in pair]
    beside = input.reshape([n for size in shape for n in (1, size)]).expand(pairs)
    return beside.reshape([n * size for n, size in zip(counts, shape, strict=True)])


@rule("repeat_interleave")
def _repeated(call: Call, input, repeats=None, dim=None, **_) -> Step:
    """Copies, beside what they are copies of."""
    if not isinstance(repeats, int):
        return _picked(call)

    def copied(x):
        place = 0 if dim is None else dim % x.ndim
        x = x.flatten() if dim is None else x
        shape = (*x.shape[: place + 1], repeats, *x.shape[place + 1 :])
        return x.unsqueeze(place + 1).expand(shape).flatten(place, place + 1)

    return inside(call, copied, input)


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
    """Some places of a tensor, in another order of its dimensions.

    Attributes:
        taken: of a dimension that is not all there, where it begins and how much is.
        apart: whether places that are not there have something in common with those that are.
    """

    def __init__(self, law: Field, strides: Sequence[int], shape: Sequence[int], start: int):
        own = [(math.prod(law.shape[d + 1 :]), d) for d, n in enumerate(law.shape) if n > 1]
        # By dimension of the view the one that it comes from, and by that one place and step.
        comes: list[int | None] = []
        kept: dict[int, tuple[int, int]] = {}
        for stride, size in zip(strides, shape, strict=True):
            fits = [(s, d) for s, d in own if stride and s <= stride < s * law.shape[d]]
            fits = [(s, d) for s, d in fits if stride % s == 0 and size > 1]
            if stride and size > 1 and not fits:
                raise ValueError("a diagonal")
            comes.append(fits[0][1] if fits else None)
            if fits:
                kept[fits[0][1]] = size, stride // fits[0][0]
        self.chain, taken = Chain(law.dims), []
        for d, whole in enumerate(law.shape):
            part, step = kept.get(d, (1, 0))
            if part < whole:
                taken.append((d, start, part))
            if d not in kept:
                self.chain.one(d, dealt=True)
            elif part < whole:
                _take(self.chain, d, part, step)
        self.chain.permute(comes)
        for place, size in enumerate(shape):
            if comes[place] is None:
                self.chain.copy(place, dims_of([size])[0])
        self.law, self.taken, self.apart = law.moved(self.chain), tuple(taken), False
        # A gradient comes back to these places alone.
        if taken:
            # Other places are another tensor, where they are independent with nothing in common.
            apart = all(law.rho.shape[k] == 1 for k in law.along(*(d for d, *_ in taken)))
            self.apart = not apart
            roots = frozenset((r, *taken) for r in law.roots) if apart else law.roots
            self.law = replace(self.law, source=(law.source, *taken), roots=roots)


def _take(chain: Chain, dim: int, part: int, step: int) -> None:
    """Some places of a dimension; what comes back is averaged over all pairs of places."""
    chain.merge(dim)
    k, whole = chain.place(dim), chain.dims[dim][0].size

    def forward(array: Array) -> Array:
        if array.shape[k] <= 2:
            return array
        return array.take(whole - 1 + step * np.arange(1 - part, part), axis=k)

    def back(array: Array) -> Array:
        same = fields.at(array, k) * (part / whole)
        if array.shape[k] == 1:
            return np.expand_dims(same, k)
        mean = fields.average(array, k, part) * (part / whole) ** 2
        return np.stack([same, fields.elsewhere(same, mean, whole)], axis=k)

    chain.then(forward, back)
    chain.dims[dim] = fields.sized(chain.dims[dim], part)


def _alike(law: Field, dim: int) -> float:
    """Correlation of two places of a dimension, on average."""
    array, axes, size = law.covariance, law.along(dim), law.shape[dim]
    for k in reversed(range(array.ndim)):
        array = fields.average(array, k, law.axes[k].size) if k in axes else fields.at(array, k)
    if not law.variance or size == 1:
        return 0.0
    return abs(float(fields.elsewhere(1.0, array / law.variance, size)))


@rule("cat", "concat", "concatenate", "stack")
def _joined(call: Call, tensors, dim=0, **_) -> Step:
    """Concatenation, and stacking: a mixture."""
    laws, shape = [call.law(part) for part in tensors], call.shapes[0]
    if any(law.values is None for law in laws):
        return Step([Field.tokens(shape)])
    dim = dim % len(shape)
    if call.name == "stack":
        laws = [replace(law, dims=(*law.dims[:dim], (), *law.dims[dim:])) for law in laws]
    sizes = [law.shape[dim] if law.shape[dim:] else 1 for law in laws]
    shares = [n / sum(sizes) for n in sizes]
    kept = [max((law.dims[d] for law in laws), key=len) for d in range(len(shape))]
    kept[dim] = ()
    chains, place = [], sum(map(len, kept[:dim]))
    for law in laws:
        chain = Chain(law.dims)
        chain.one(dim)
        chains.append(chain.spread(kept))
    mean = sum(r * law.mean for r, law in zip(shares, laws, strict=True))
    seconds = fields.agreeing(*(chain(law.second) for chain, law in zip(chains, laws, strict=True)))
    second = sum(r * s for r, s in zip(shares, seconds, strict=True))
    covariance = np.expand_dims(fields.plus(second, -(mean**2)), place)
    if any(_alike(law, dim) > _ALIKE for law in laws):
        call.notes.append(f"along the dimension of {call.name} places are taken for independent")
    kept[dim] = (Axis(sum(sizes)),)
    if all(law.is_normal for law in laws) and np.ptp([law.variance for law in laws]) < 1e-9:
        made = Field.normal(tuple(kept), mean, covariance, fields.roots_of(*laws))
    else:
        made = calls.mixture(laws, shares, covariance, kept)

    def back(gradients):
        for i, (part, law, chain) in enumerate(zip(tensors, laws, chains, strict=True)):
            own = calls.portion(gradients[0], law, made, i)
            own = fields.shifted(own, partial(fields.at, k=place))
            yield part, fields.shifted(own, chain.back)

    return Step([made], back)
