"""Averages, pools and interpolation, layers with weights, maxima over windows."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from normprop.graph import fields
from normprop.graph.calls import Call, Step, inside, rule, unknown
from normprop.graph.fields import GRID, WEIGHTS, Array, Chain, Field, at, at_zero, total

OF_INPUT = "its weight is made of what the model is given"
# By how much correlations in a window may differ.
_EVEN = 0.1
_POOLS = [f"{kind}max_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)]
# How many places, or inputs, are many, and are few.
_MANY = 64
_FEW = 4
_ROUNDING = 1e-13


def dimensions(argument, ndim: int) -> list[int]:
    """Dimensions that an argument names; all of them where it names none."""
    dims = argument if isinstance(argument, Sequence) else [argument]
    return sorted(d % ndim for d in dims if d is not None) or list(range(ndim))


@rule("mean", "sum")
def _averaged(call: Call, input, dim=None, *_, **__) -> Step:
    """Mean, or sum, over dimensions."""
    law = call.law(input)
    over = dimensions(dim, len(law.dims))
    size = math.prod(law.shape[d] for d in over)
    scale = 1.0 if call.name == "sum" else 1.0 / size
    chain = Chain(law.dims)
    for d in reversed(over):
        chain.sum(d)
    if len(call.shapes[0]) < len(law.dims):
        chain.dims = [dim for d, dim in enumerate(chain.dims) if d not in over]
    free = math.prod(law.axes[k].size for k in law.along(*over) if law.rho.shape[k] == 1)
    # An average of many places has next to nothing in common with each of them.
    own = replace(law, roots=frozenset()) if free >= _MANY else law
    covariance = chain(law.covariance) * scale**2
    made = _blended(own, scale * size, covariance, chain)
    return Step.linear(input, made, lambda array: chain.back(array) * scale**2)


def _blended(law: Field, sums: float, covariance: Array, chain: Chain, before=None) -> Field:
    """A weighted average of several elements: nearly normal, where it is one of many."""
    mean, variance, dims = law.mean * sums, at_zero(covariance), tuple(chain.dims)
    before = law.variance * sums**2 if before is None else before
    if variance >= 0.5 * before:
        return law.rescaled(mean, covariance, dims=dims)
    if mean > 0 and law.values.min() >= 0 and variance > 0:
        # What is positive stays so.
        spread = math.log1p(variance / mean**2)
        values = mean * np.exp(math.sqrt(spread) * GRID - 0.5 * spread)
        return law.with_covariance(values, covariance, dims=dims)
    return Field.normal(dims, mean, covariance, law.roots)


class Along:
    """A linear map along one axis, the same for every row of the others.

    Args:
        matrix: shape (outputs, inputs).
    """

    def __init__(self, matrix: Array):
        self.outputs, self.inputs = matrix.shape
        rows = matrix.sum(1)
        self.sums, self.whole = float(rows.mean()), float((rows**2).mean())
        self.squares = float((matrix**2).sum(1).mean())
        pairs = max(self.outputs * (self.outputs - 1), 1)
        self.between = float((rows.sum() ** 2 - (rows**2).sum()) / pairs)
        products = np.abs(matrix) @ np.abs(matrix).T
        self.apart = not (products - np.diag(products.diagonal())).any()
        self.matrix = matrix

    def __call__(self, array: Array, k: int) -> Array:
        """An array over distances along axis k, where there is one, behind the map."""
        if self.inputs == 1:
            array = np.stack([array, array], axis=k)
        if array.shape[k] <= 2 and (self.apart or 1 in (self.inputs, self.outputs)):
            same, other = (fields.widened(array, k, 2).take(i, axis=k) for i in (0, 1))
            found = self.squares * same + (self.whole - self.squares) * other
            if self.outputs == 1:
                return found
            rest = [self.between * other] if array.shape[k] == 2 else []
            return np.stack([found, *rest], axis=k)
        array = fields.widened(array, k, 2 * self.inputs - 1)
        found = np.moveaxis(np.tensordot(self._distances, array, (1, k)), 0, k)
        return found.squeeze(k) if self.outputs == 1 else found

    @property
    def _distances(self) -> Array:
        """By distance of outputs and of inputs, the mean over outputs of products of weights."""
        o, n = self.matrix.shape
        spectrum = np.fft.rfft(self.matrix, 2 * n)
        found = np.empty((2 * o - 1, 2 * n - 1))
        for step in range(o):
            power = (spectrum[: o - step].conj() * spectrum[step:]).mean(0)
            row = np.roll(np.fft.irfft(power, 2 * n), n - 1)[: 2 * n - 1]
            found[o - 1 + step], found[o - 1 - step] = row, row[::-1]
        return found


def entries_of(argument, count: int) -> tuple:
    """An argument with an entry for each dimension."""
    entries = tuple(argument) if isinstance(argument, Sequence) else (argument,)
    return entries * count if len(entries) == 1 else entries


@rule(*(f"{kind}avg_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)))
@rule("interpolate", "upsample", "upsample_nearest", "upsample_bilinear")
def _pooled(call: Call, input, *args, **kwargs) -> Step:
    count = int(call.name[-2]) if call.name[-1] == "d" else len(call.law(input).dims) - 2
    return _by_unit_vectors(call, input, count, args, kwargs)


@rule("pad")
def _padded(call: Call, input, pad, mode="constant", value=None) -> Step:
    if value:
        # What is left of it there is padded with zeros.
        return inside(call, lambda x: nn.functional.pad(x - value, pad, mode) + value, input)
    if mode == "constant" and 2 * math.prod(call.law(input).shape) < math.prod(call.shapes[0]):
        call.notes.append("most of its places are padding; all places are taken for alike")
    return _by_unit_vectors(call, input, len(pad) // 2, (pad, mode), {})


def _by_unit_vectors(call: Call, value, count: int, args, kwargs) -> Step:
    """A linear map along the last dimensions: it is run on unit vectors, one axis at a time."""
    law = call.law(value)
    first = len(law.dims) - count
    matrices = [
        _matrix(lambda units: call.function(units, *args, **kwargs), law.shape[first:], d, first)
        for d in range(count)
    ]
    # Each holds what the others do to a constant.
    middle = float(matrices[0][matrices[0].shape[0] // 2].sum())
    matrices[1:] = [m / middle if middle else m for m in matrices[1:]]
    chain, sums = Chain(law.dims), 1.0
    chain.merge(*range(first, len(law.dims)))
    for d, matrix in enumerate(matrices, start=first):
        there, back, k = Along(matrix), Along(matrix.T), chain.place(d)
        chain.then(partial(there, k=k), partial(back, k=k))
        chain.dims[d] = fields.sized(chain.dims[d], there.outputs)
        sums *= there.sums
    copies = all(((m != 0).sum(1) == 1).all() and (m.sum(1) == 1).all() for m in matrices)
    if copies and call.name != "pad":
        made = law.moved(chain)
        made = replace(made, rho=made.rho / (at_zero(made.rho) or 1.0))
    else:
        mean = law.mean * sums
        covariance = chain(law.covariance)
        if law.mean:
            covariance = fields.plus(chain(law.second), -(mean**2))
        made = _blended(law, sums, covariance, chain, law.variance)
    return Step.linear(value, made, chain.back)


def _matrix(function, shape: Sequence[int], d: int, first: int) -> Array:
    """What a map does along one dimension, the others being constant."""
    n = shape[d]
    units = torch.eye(n, dtype=torch.float64, device="cpu")
    units = units.reshape(n, *(n if k == d else 1 for k in range(len(shape)))).expand(n, *shape)
    out = function(units.reshape(n, *[1] * (first - 1), *shape))
    out = out[0] if isinstance(out, tuple) else out
    # In the middle of the other dimensions, where no border is.
    for k in range(-len(shape), 0):
        if k != d - len(shape):
            out = out.narrow(k, out.shape[k] // 2, 1)
    return out.reshape(n, -1).T.numpy()


# Layers with weights.


class Windows:
    """The places of a convolution along one axis: strides step over inputs, windows are outputs."""

    def __init__(self, inputs, outputs, taps, stride, padding, dilation):
        self.inputs, self.outputs, self.taps = inputs, outputs, taps
        self.stride, self.dilation = stride, dilation
        self.places = stride * np.arange(outputs)[:, None] + dilation * np.arange(taps) - padding
        self.inside = (self.places >= 0) & (self.places < inputs)
        self.pairs = float(self.inside.sum())

    def hits(self, up: bool) -> Array:
        """By window and tap whether there is a place; or by place and tap whether a window is."""
        if not up:
            return self.inside.astype(float)
        found = np.zeros((self.inputs, self.taps))
        for tap in range(self.taps):
            found[self.places[self.inside[:, tap], tap], tap] = 1.0
        return found

    def ends(self, up: bool) -> tuple[int, int]:
        """Places in front, and behind."""
        return (self.outputs, self.inputs) if up else (self.inputs, self.outputs)

    def through(self, array: Array, k: int, up: bool, taps: int = 0) -> Array:
        """From distances of places to those of windows, or back, for taps that are so far apart."""
        ins, outs = self.ends(up)
        if ins == 1:
            array = np.expand_dims(array, k)
        if array.shape[k] > 2 or (taps and ins > 1):
            array = fields.widened(array, k, 2 * ins - 1)
            apart = np.arange(1 - outs, outs)
            if up:
                steps, rest = np.divmod(apart - self.dilation * taps, self.stride)
                hit = (rest == 0) & (np.abs(steps) < ins)
                array = array.take(np.where(hit, steps + ins - 1, 0), axis=k)
                array = array * hit.reshape([-1 if i == k else 1 for i in range(array.ndim)])
            else:
                apart = np.clip(self.stride * apart + self.dilation * taps, 1 - ins, ins - 1)
                array = array.take(apart + ins - 1, axis=k)
        elif up and array.shape[k] == 2:
            array = np.stack([at(array, k), array.take(1, axis=k) / self.stride], axis=k)
        return at(array, k) if outs == 1 else array


def windows_of(inputs: Sequence[int], outputs: Sequence[int], *geometry) -> list[Windows]:
    """Of all axes; window, stride, padding and dilation may be one number for all of them."""
    entries = (entries_of(numbers, len(inputs)) for numbers in geometry)
    return [Windows(*numbers) for numbers in zip(inputs, outputs, *entries, strict=True)]


class Weight:
    """A weight (outputs, inputs, taps) with its bias, and the one of the backward pass.

    Attributes:
        each: by output, its squares.
        squares, backward: mean over outputs, and over inputs of those of the backward pass.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, groups: int = 1, back=None):
        weight = weight.detach()
        weight = weight.double() if weight.numel() < 2**22 else weight.float()
        self.outputs, width, self.taps = weight.shape
        each = (weight * weight).sum((1, 2))
        self.each, self.squares = each.double().cpu().numpy(), float(each.mean())
        backward = self.squares
        if back is not None:
            backward = float((back.double() ** 2).sum()) / self.outputs
        self.backward = backward * self.outputs / (width * groups)
        self.sums = weight.sum(1).double().cpu().numpy()
        bias = torch.zeros(self.outputs, device="cpu") if bias is None else bias.detach()
        self.offset = bias.double().cpu().numpy()
        self.overlaps = self._overlaps(weight.reshape(-1, self.taps))

    def _overlaps(self, weight: Tensor) -> Array | None:
        """Σ w_a w_b for taps a and b over Σ w², where weights of different taps go together."""
        if self.taps == 1 or not self.squares > 0:
            return None
        gram = (weight.T @ weight).double().cpu().numpy()
        share = gram / np.trace(gram)
        noise = 4.0 / (self.taps * math.sqrt(len(weight)))
        together = np.abs(share - np.diag(share.diagonal())).max()
        return share if together > noise else None

    def of_constant(self, mean: float, windows: Sequence[Windows], up: bool):
        """Mean of what a constant input gives, its covariances, and the variance in each channel.

        Covariances are by distances of two kinds an axis.  At a border some taps are outside, so
        that places differ.
        """
        made = self.sums.reshape(self.outputs, *(axis.taps for axis in windows))
        for axis in windows:
            made = np.tensordot(made, axis.hits(up), (1, 1))
        made = mean * made + self.offset.reshape(-1, *[1] * len(windows))
        spread = made.reshape(self.outputs, -1).var(1)
        centre, places = float(made.mean()), [n for n in made.shape[1:] if n > 1]
        made = made.reshape(self.outputs, *places)

        def squares(over: tuple[int, ...]) -> float:
            return (made.mean(tuple(k + 1 for k in over)) ** 2).mean()

        return centre, fields.by_kinds(places, squares) - centre**2, spread

    def along(self, windows: Sequence[Windows], array: Array, first: int, up: bool) -> Array:
        """An array over places behind the taps, up to the sum of their squares."""

        def once(array: Array, taps: Sequence[int]) -> Array:
            k = first
            for axis, distance in zip(windows, taps, strict=True):
                array = axis.through(array, k, up, distance)
                k += axis.ends(up)[1] > 1
            return array

        if self.overlaps is None or all(n == 1 for n in array.shape[first:]):
            return once(array, [0] * len(windows))
        places = list(product(*(range(axis.taps) for axis in windows)))
        apart: dict[tuple[int, ...], float] = {}
        for (i, a), (j, b) in product(enumerate(places), repeat=2):
            distance = tuple(x - y for x, y in zip(a, b, strict=True))
            apart[distance] = apart.get(distance, 0.0) + float(self.overlaps[i, j])
        sizes = [axis.ends(up)[0] for axis in windows]
        for k, size in enumerate((size for size in sizes if size > 1), start=first):
            array = fields.widened(array, k, 2 * size - 1)
        return sum(share * once(array, distance) for distance, share in apart.items())


def through_weights(call, value, weight, root, channel, windows=(), up=False) -> Step:
    """A map with weights over a dimension of channels and the dimensions of places behind it."""
    law, shape = call.law(value), call.shapes[0]
    ins, outs = (math.prod(axis.ends(up)[end] for axis in windows) for end in (0, 1))
    pairs = math.prod(axis.pairs / axis.taps for axis in windows)
    there, back = weight.squares * pairs / outs, weight.backward * pairs / ins
    chain = Chain(law.dims)
    chain.one(channel)
    chain.merge(*range(channel, len(shape)))
    k = chain.place(channel)
    chain.then(
        lambda array: weight.along(windows, array, k, up) * there,
        lambda array: weight.along(windows, array, k, not up) * back,
    )
    for d in range(channel + 1, len(shape)):
        chain.dims[d] = fields.sized(chain.dims[d], shape[d])
    array = chain(law.covariance)
    mean, constant, spread = weight.of_constant(law.mean, windows, up)
    within, axes = array, [axis for dim in chain.dims for axis in dim]
    for axis in reversed(axes):
        within = fields.average(within, within.ndim - 1, axis.size)
    share = weight.each / (weight.squares or 1.0)
    uneven = (at_zero(array) - float(within)) * share + spread
    if np.abs(constant).max() > _ROUNDING * (at_zero(array) + mean**2):
        # It is the same at all distances along the axes in front.
        array = sum(fields.agreeing(array, np.broadcast_to(constant, (*[2] * k, *constant.shape))))
    chain.dims[channel] = fields.dims_of([weight.outputs])[0]
    if weight.outputs > 1:
        array = np.expand_dims(array, k)
        chain.then(lambda array: np.expand_dims(array, k), lambda array: at(array, k))
    made = Field.normal(tuple(chain.dims), mean, array, root | {("result", next(fields.fresh))})
    if uneven.mean() > 0:
        made = replace(made, uneven=np.stack([np.maximum(uneven / uneven.mean(), 0.0), share]))
    return Step.linear(value, made, chain.back)


def _at_hand(call: Call, weight, bias) -> bool:
    return call.tensor(weight) is not None and (bias is None or call.tensor(bias) is not None)


@rule("linear")
def _linear(call: Call, input, weight, bias=None) -> Step:
    if not _at_hand(call, weight, bias):
        return unknown(call, OF_INPUT)
    return linear(call, input, weight, call.tensor(weight), call.tensor(bias))


def linear(call: Call, value, own, weight: Tensor, bias: Tensor | None) -> Step:
    """A linear map over the last dimension, by a weight of shape (outputs, inputs)."""
    root, back = call.weight(own)
    used = Weight(weight.reshape(-1, weight.shape[-1], 1), bias, 1, back)
    return through_weights(call, value, used, root, len(call.law(value).dims) - 1)


@rule("conv1d", "conv2d", "conv3d")
def _convolution(call: Call, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if not _at_hand(call, weight, bias):
        return unknown(call, OF_INPUT)
    root, back = call.weight(weight)
    weight, count = call.tensor(weight), call.tensor(weight).ndim - 2
    window, channel = weight.shape[2:], len(call.law(input).dims) - count - 1
    if isinstance(padding, str):
        apart = zip(window, entries_of(dilation, count), strict=True)
        padding = [d * (k - 1) // 2 if padding == "same" else 0 for k, d in apart]
    ends = call.law(input).shape[channel + 1 :], call.shapes[0][channel + 1 :]
    up = "transpose" in call.name
    windows = windows_of(*(ends[::-1] if up else ends), window, stride, padding, dilation)
    seen = weight.shape[1] * math.prod(axis.pairs / axis.outputs for axis in windows)
    if groups > 1 and not up and seen <= _FEW:
        call.notes.append("each of its outputs is made of a few inputs, and taken for normal")
    if up:
        weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    used = Weight(weight.flatten(2), call.tensor(bias), groups, back)
    return through_weights(call, input, used, root, channel, windows, up)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed(
    call: Call, input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1,
    dilation=1,
):  # fmt: skip
    return _convolution(call, input, weight, bias, stride, padding, dilation, groups)


# Maxima over windows.


@rule(*_POOLS, *(f"{name}_with_indices" for name in _POOLS))
def _max_pooled(
    call: Call, input, kernel_size=None, stride=None, padding=0, dilation=1, *_, **__
) -> Step:
    """Maximum over windows: their places are taken to be correlated alike."""
    shape = call.law(input).shape
    first = len(shape) - int(call.name.removesuffix("_with_indices")[-2])
    inputs, outputs = shape[first:], call.shapes[0][first:]
    if "adaptive" in call.name:
        kernel_size = [max(round(n / o), 1) for n, o in zip(inputs, outputs, strict=True)]
        stride, padding, dilation = None, 0, 1
    stride = kernel_size if stride is None or stride == [] else stride
    windows = windows_of(inputs, outputs, kernel_size, stride, padding, dilation)
    return of_windows(call, input, first, windows)


def of_windows(call: Call, value, first: int, windows: Sequence[Windows]) -> Step:
    """The maximum over windows of the dimensions from ``first`` on."""
    law, shape, chain = call.law(value), call.shapes[0], Chain(call.law(value).dims)
    k = chain.place(first)
    chain.merge(*range(first, len(law.dims)))
    rho = chain(law.rho)
    inside = math.prod(axis.pairs / (axis.outputs * axis.taps) for axis in windows)
    size = math.prod(min(axis.taps, axis.inputs) for axis in windows)
    count = max(math.prod(axis.taps for axis in windows) * inside, 1.0)
    # What the places of a window have in common, at every distance along the other axes.
    window, same = rho, rho
    for axis in windows:
        if axis.inputs > 1:
            window, same = _in_window(window, k, axis), at(same, k)
    steps, least = np.diff(law.values), 1e-9 * math.sqrt(law.variance or 1.0)
    monotone = (steps >= -least).all() or (steps <= least).all()
    if not monotone or _uneven(rho, k, windows):
        call.notes.append("the places of a window are taken to be correlated alike")
    common = (size * window - same) / max(size - 1, 1)
    c = min(max(at_zero(common), 0.0), 1.0)
    made, chances = fields.largest(count, c)
    spread = float(WEIGHTS @ (made - WEIGHTS @ made) ** 2)
    own = (spread - c) / max(1.0 - c, 1e-12)
    # Maxima of normals that are correlated one by one, to the second order.
    r = np.clip((same - common) / max(1.0 - c, 1e-12), -1.0, 1.0)
    for d, axis in enumerate(windows, start=first):
        there = partial(axis.through, k=chain.place(d))
        chain.then(partial(there, up=False), partial(there, up=True))
        chain.dims[d] = fields.sized(chain.dims[d], shape[d])
    array = np.array(chain(law.rho))
    array[(..., *fields.middle(array.shape[k:]))] = common + (1.0 - c) * (
        r / count + (own - 1.0 / count) * r * np.abs(r)
    )
    increasing = np.sort(law.values) if law.is_normal else fields.quantiles(law.values, WEIGHTS)
    values, dims = np.interp(made, GRID, increasing), tuple(chain.dims)
    result = law.with_covariance(values, array * 0.0 + 1.0, dims=dims)
    result = replace(result, rho=np.clip(array / at_zero(array), -1.0, 1.0))
    # An element gets what arrives where it is the largest.
    order = np.argsort(law.values, kind="stable")
    ranks = np.empty(len(GRID))
    ranks[order] = np.cumsum(WEIGHTS[order])
    share = math.prod(shape[first:]) / math.prod(law.shape[first:])
    amplitude = np.sqrt(np.interp(ranks, np.cumsum(WEIGHTS), chances) * share)

    def back(gradients):
        arriving = fields.gradient_of(chain.back(total(gradients[0], result)))
        yield value, fields.times(arriving, amplitude)

    return Step([result, *map(Field.tokens, call.shapes[1:])], back)


def _uneven(rho: Array, first: int, windows: Sequence[Windows]) -> bool:
    """Whether the correlations in a window differ enough to matter."""
    for _ in range(first):
        rho = at(rho, 0)
    for k, axis in enumerate(a for a in windows if a.inputs > 1):
        if rho.shape[k] > 2:
            reach, last = axis.dilation * (min(axis.taps, axis.inputs) - 1), axis.inputs - 1
            near = np.arange(max(last - reach, 0), min(last + reach, 2 * last) + 1)
            rho = rho.take(near, axis=k)
    others = np.delete(rho.ravel(), int(np.argmin(np.abs(rho.ravel() - at_zero(rho)))))
    return others.size > 1 and bool(np.ptp(others) > _EVEN)


def _in_window(array: Array, k: int, axis: Windows) -> Array:
    """Over all pairs of places of a window, without that axis."""
    taps = min(axis.taps, axis.inputs)
    if array.shape[k] > 2:
        places = axis.dilation * np.arange(1 - taps, taps)
        places = np.clip(places, 1 - axis.inputs, axis.inputs - 1) + axis.inputs - 1
        array = array.take(places, axis=k)
    return fields.average(array, k, taps)
