"""Linear maps: averages, pools and interpolation, layers with weights."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from normprop.graph.calls import Call, Step, inside, rule, unknown
from normprop.graph.laws import (
    GRID,
    Array,
    Axis,
    Chain,
    Law,
    at,
    at_zero,
    average,
    by_kinds,
    dims_of,
    every,
    fresh,
    merged,
    plus,
    two,
    twos,
)


def dimensions(argument, ndim: int) -> list[int]:
    """Dimensions that an argument names; all of them where it names none."""
    if argument is None:
        return list(range(ndim))
    dims = argument if isinstance(argument, Sequence) else [argument]
    return sorted(d % ndim for d in dims) or list(range(ndim))


@rule("mean", "sum")
def _averaged(call: Call) -> Step:
    """Mean, or sum, over dimensions."""
    value = call.input
    law = call.law(value)
    over = dimensions(call.get(1, "dim", call.kwargs.get("axis")), len(law.dims))
    kept = len(call.shapes[0]) == len(law.dims)
    size = math.prod(law.shape[d] for d in over)
    scale = 1.0 if call.name == "sum" else 1.0 / size

    chain = Chain()
    for k in reversed([k for d in over for k in law.along(d)]):
        chain.sum(law.axes[k].size, k)
    dims = tuple(
        () if d in over else dim for d, dim in enumerate(law.dims) if kept or d not in over
    )
    free = math.prod(law.axes[k].size for d in over for k in law.along(d) if law.rho.shape[k] == 1)
    # An average of many places has next to nothing in common with each of them.
    own = replace(law, roots=frozenset()) if free >= _MANY else law
    covariance = chain(law.covariance) * scale**2
    before = law.variance * (scale * size) ** 2
    made = blended(own, law.mean * scale * size, covariance, dims, before)
    return Step.linear(value, made, lambda array: chain.back(array) * scale**2)


def blended(law: Law, mean: float, covariance: Array, dims, before: float) -> Law:
    """A weighted average of several elements: nearly normal, where it is one of many."""
    if at_zero(covariance) < 0.5 * before:
        if mean > 0 and law.values.min() >= 0 and at_zero(covariance) > 0:
            # What is positive stays so.
            spread = math.log1p(at_zero(covariance) / mean**2)
            values = mean * np.exp(math.sqrt(spread) * GRID - 0.5 * spread)
            return law.with_covariance(values, covariance, law.roots, dims)
        return Law.normal(dims, mean, covariance, law.roots)
    return law.rescaled(mean, covariance, dims=dims)


_MANY = 64


class Along:
    """A linear map along one axis, the same for every row of the others.

    Args:
        matrix: shape (outputs, inputs).
    """

    def __init__(self, matrix: Array):
        self.outputs, self.inputs = matrix.shape
        self.sums = float(matrix.sum(1).mean())
        self.squares = float((matrix**2).sum(1).mean())
        rows = matrix.sum(1)
        self.whole = float((rows**2).mean())
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
            same, other = (two(array, k).take(i, axis=k) for i in (0, 1))
            found = self.squares * same + (self.whole - self.squares) * other
            if self.outputs == 1:
                return found
            rest = [self.between * other] if array.shape[k] == 2 else []
            return np.stack([found, *rest], axis=k)
        array = every(array, k, self.inputs)
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


def mapped(call: Call, value, first: int, matrices: Sequence[Array], copies: bool = False) -> Step:
    """Linear maps along the dimensions from ``first`` on."""
    law = call.law(value)
    maps = [Along(m) for m in matrices]
    chain, k = merged(law.dims, first), sum(map(len, law.dims[:first]))
    for there, matrix in zip(maps, matrices, strict=True):
        back = Along(matrix.T)
        chain.then(lambda array, m=there, k=k: m(array, k), lambda array, m=back, k=k: m(array, k))
        k += there.outputs > 1
    ends = (sized(dim, m.outputs) for dim, m in zip(law.dims[first:], maps, strict=True))
    dims = (*law.dims[:first], *ends)
    if copies:
        made = law.moved(dims, chain)
        size = at_zero(made.rho)
        made = replace(made, rho=made.rho / size if size else made.rho)
    else:
        mean = law.mean * math.prod(m.sums for m in maps)
        covariance = plus(chain(law.second), -(mean**2)) if law.mean else chain(law.covariance)
        made = blended(law, mean, covariance, dims, law.variance)
    return Step.linear(value, made, chain.back)


def sized(dim: tuple[Axis, ...], size: int) -> tuple[Axis, ...]:
    """A dimension in the place of another."""
    return (Axis(size, any(axis.samples for axis in dim)),) if size > 1 else ()


def entries_of(argument, count: int) -> tuple:
    """An argument with an entry for each dimension."""
    entries = tuple(argument) if isinstance(argument, Sequence) else (argument,)
    return entries * count if len(entries) == 1 else entries


@rule(*(f"{kind}avg_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)))
@rule("interpolate", "upsample", "upsample_nearest", "upsample_bilinear")
def _pooled(call: Call) -> Step:
    count = int(call.name[-2]) if call.name[-1] == "d" else len(call.law(call.input).dims) - 2
    return _by_unit_vectors(call, count)


@rule("pad")
def _padded(call: Call) -> Step:
    pads, mode = call.get(1, "pad"), call.get(2, "mode", "constant")
    fill = call.get(3, "value")
    if fill:
        # What is left of it there is padded with zeros.
        return inside(call, lambda x: nn.functional.pad(x - fill, pads, mode) + fill, call.input)
    shape = call.law(call.input).shape
    if mode == "constant" and 2 * math.prod(shape) < math.prod(call.shapes[0]):
        call.notes.append("most of its places are padding; all places are taken for alike")
    return _by_unit_vectors(call, len(pads) // 2)


def _by_unit_vectors(call: Call, count: int) -> Step:
    """A linear map along the last dimensions: it is run on unit vectors, one axis at a time."""
    value = call.input
    shape = call.law(value).shape
    first = len(shape) - count
    matrices = [_matrix(call, shape[first:], d, first) for d in range(count)]
    # Each holds what the others do to a constant.
    middle = float(matrices[0][matrices[0].shape[0] // 2].sum())
    matrices[1:] = [m / middle if middle else m for m in matrices[1:]]
    copies = all(((m != 0).sum(1) == 1).all() and (m.sum(1) == 1).all() for m in matrices)
    return mapped(call, value, first, matrices, copies and call.name != "pad")


def _matrix(call: Call, shape: Sequence[int], d: int, first: int) -> Array:
    """What a map does along one dimension, the others being constant."""
    n = shape[d]
    units = torch.eye(n, dtype=torch.float64)
    units = units.reshape(n, *(n if k == d else 1 for k in range(len(shape)))).expand(n, *shape)
    units = units.reshape(n, *[1] * (first - 1), *shape)
    kwargs = {name: given for name, given in call.kwargs.items() if name != "input"}
    out = call.function(units, *call.args[1:], **kwargs)
    out = out[0] if isinstance(out, tuple) else out
    # In the middle of the other dimensions, where no border is.
    for k in range(-len(shape), 0):
        if k != d - len(shape):
            out = out.narrow(k, out.shape[k] // 2, 1)
    return out.reshape(n, -1).T.numpy()


# Layers with weights.


class Weight:
    """What counts of a weight (outputs, inputs, taps), its bias, and that of the backward pass."""

    def __init__(self, weight: Tensor, bias: Tensor | None, groups: int = 1, back=None):
        weight = weight.detach()
        weight = weight.double() if weight.numel() < 2**22 else weight.float()
        self.outputs, width, self.taps = weight.shape
        self.inputs = width * groups
        each = (weight * weight).sum((1, 2))
        self.squares = float(each.mean())
        self.each = each.double().cpu().numpy()
        backward = (
            self.squares if back is None else float((back.double() ** 2).sum()) / self.outputs
        )
        self.backward = backward * self.outputs / self.inputs
        self.sums = weight.sum(1).double().cpu().numpy()
        bias = torch.zeros(self.outputs) if bias is None else bias.detach()
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

    def of_constant(
        self, mean: float, steps: Sequence["Steps"], up: bool
    ) -> tuple[float, Array, Array]:
        """Mean of what a constant input gives, its covariances, and the variance in each channel.

        Covariances are by distances of two kinds an axis.  At a border some taps are outside, so
        that places differ.
        """
        made = self.sums.reshape(self.outputs, *(axis.taps for axis in steps))
        for axis in steps:
            made = np.tensordot(made, axis.hits(up), (1, 1))
        made = mean * made + self.offset.reshape(-1, *[1] * len(steps))
        spread = made.reshape(self.outputs, -1).var(1)
        centre, places = float(made.mean()), [n for n in made.shape[1:] if n > 1]
        made = made.reshape(self.outputs, *places)

        def squares(over: tuple[int, ...]) -> float:
            return (made.mean(tuple(k + 1 for k in over)) ** 2).mean()

        return centre, by_kinds(places, squares) - centre**2, spread


class Steps:
    """The places of a convolution along one axis: strides step over inputs, windows are outputs."""

    def __init__(self, inputs, outputs, taps, stride, padding, dilation):
        self.inputs, self.outputs, self.taps = inputs, outputs, taps
        self.stride, self.dilation = stride, dilation
        places = stride * np.arange(outputs)[:, None] + dilation * np.arange(taps) - padding
        self.inside = (places >= 0) & (places < inputs)
        self.places = places
        self.pairs = float(self.inside.sum())

    def hits(self, up: bool) -> Array:
        """By window and tap whether there is a place; or by place and tap whether a window is."""
        if not up:
            return self.inside.astype(float)
        found = np.zeros((self.inputs, self.taps))
        for tap in range(self.taps):
            found[self.places[self.inside[:, tap], tap], tap] = 1.0
        return found

    def down(self, array: Array, k: int, taps: int = 0) -> Array:
        """From distances of places to distances of windows, for taps that are so far apart."""
        if self.inputs == 1:
            array = np.expand_dims(array, k)
        if array.shape[k] > 2 or (taps and self.inputs > 1):
            array = every(array, k, self.inputs)
            apart = self.stride * np.arange(1 - self.outputs, self.outputs)
            apart = np.clip(apart + self.dilation * taps, 1 - self.inputs, self.inputs - 1)
            array = array.take(apart + self.inputs - 1, axis=k)
        return at(array, k) if self.outputs == 1 else array

    def up(self, array: Array, k: int, taps: int = 0) -> Array:
        """From distances of windows to distances of places."""
        if self.outputs == 1:
            array = np.expand_dims(array, k)
        if array.shape[k] > 2 or (taps and self.outputs > 1):
            array = every(array, k, self.outputs)
            apart = np.arange(1 - self.inputs, self.inputs) - self.dilation * taps
            steps, rest = np.divmod(apart, self.stride)
            hit = (rest == 0) & (np.abs(steps) < self.outputs)
            array = array.take(np.where(hit, steps + self.outputs - 1, 0), axis=k)
            array = array * hit.reshape([-1 if i == k else 1 for i in range(array.ndim)])
        elif array.shape[k] == 2:
            array = np.stack([at(array, k), array.take(1, axis=k) / self.stride], axis=k)
        return at(array, k) if self.inputs == 1 else array


def steps_of(inputs: Sequence[int], outputs: Sequence[int], *geometry) -> list[Steps]:
    """Of all axes; window, stride, padding and dilation may be one number for all of them."""
    entries = (entries_of(numbers, len(inputs)) for numbers in geometry)
    return [Steps(*numbers) for numbers in zip(inputs, outputs, *entries, strict=True)]


def _along(steps: Sequence[Steps], weight: Weight, array: Array, first: int, up: bool) -> Array:
    """An array over places behind the taps of a convolution, up to the sum of their squares."""

    def once(array: Array, taps: Sequence[int]) -> Array:
        k = first
        for axis, distance in zip(steps, taps, strict=True):
            array = axis.up(array, k, distance) if up else axis.down(array, k, distance)
            k += (axis.inputs if up else axis.outputs) > 1
        return array

    if weight.overlaps is None or array[..., None].shape[first:-1] == (1,) * (array.ndim - first):
        return once(array, [0] * len(steps))
    sizes = [axis.taps for axis in steps]
    places = list(product(*map(range, sizes)))
    apart: dict[tuple[int, ...], float] = {}
    for (i, a), (j, b) in product(enumerate(places), repeat=2):
        distance = tuple(x - y for x, y in zip(a, b, strict=True))
        apart[distance] = apart.get(distance, 0.0) + float(weight.overlaps[i, j])
    for k, axis in enumerate(steps):
        size = axis.outputs if up else axis.inputs
        if size > 1:
            array = every(
                array, first + sum((a.outputs if up else a.inputs) > 1 for a in steps[:k]), size
            )
    return sum(share * once(array, distance) for distance, share in apart.items())


def through_weights(call, value, weight, root, channel, steps=(), transposed=False):
    """A map with weights over a dimension of channels and the dimensions of places behind it."""
    law, shape = call.law(value), call.shapes[0]
    k = sum(map(len, law.dims[:channel]))
    ends = (sized(law.dims[channel + d], shape[channel + d]) for d in range(1, len(steps) + 1))
    dims = (*law.dims[:channel], *dims_of([weight.outputs]), *ends)
    outs = math.prod(axis.inputs if transposed else axis.outputs for axis in steps)
    ins = math.prod(axis.outputs if transposed else axis.inputs for axis in steps)
    pairs = math.prod(axis.pairs / axis.taps for axis in steps)
    there, back = weight.squares * pairs / outs, weight.backward * pairs / ins
    chain = Chain()
    for _ in law.dims[channel]:
        chain.one(k)
    chain.maps += merged((*law.dims[:channel], *law.dims[channel + 1 :]), channel).maps
    chain.then(
        lambda array: _along(steps, weight, array, k, transposed) * there,
        lambda array: _along(steps, weight, array, k, not transposed) * back,
    )
    array = chain(law.covariance)
    mean, constant, spread = weight.of_constant(law.mean, steps, transposed)
    within = array
    for axis in reversed([a for d in (*dims[:channel], *dims[channel + 1 :]) for a in d]):
        within = average(within, within.ndim - 1, axis.size)
    share = weight.each / (weight.squares or 1.0)
    uneven = (at_zero(array) - float(within)) * share + spread
    if np.abs(constant).max() > _ROUNDING * (at_zero(array) + mean**2):
        array = _plus_array(array, constant, k)
    if weight.outputs > 1:
        array = np.expand_dims(array, k)
        chain.then(lambda array: np.expand_dims(array, k), lambda array: at(array, k))
    made = Law.normal(dims, mean, array, frozenset({("result", next(fresh)), *root}))
    if uneven.mean() > 0:
        made = replace(made, uneven=np.stack([np.maximum(uneven / uneven.mean(), 0.0), share]))
    return Step.linear(value, made, chain.back)


_ROUNDING = 1e-13
_FEW = 4


def _plus_array(array: Array, last: Array, first: int) -> Array:
    """With what is the same at all distances along the axes in front of the last ones."""
    array = twos(array)
    for k, entries in enumerate(array.shape[first:]):
        if entries > 2:
            last = every(last, k, entries // 2 + 1)
    return array + last


@rule("linear")
def _linear(call: Call) -> Step:
    value, own, bias = (call.get(i, n) for i, n in enumerate(("input", "weight", "bias")))
    weight = call.tensor(own)
    if weight is None or (bias is not None and call.tensor(bias) is None):
        return unknown(call, "its weight is made of what the model is given")
    return linear(call, value, own, weight, call.tensor(bias))


def linear(call: Call, value, own, weight: Tensor, bias: Tensor | None) -> Step:
    """A linear map over the last dimension, by a weight of shape (outputs, inputs)."""
    root, back = call.weight(own)
    back = None if back is None else back.unsqueeze(-1)
    used = Weight(weight.reshape(-1, weight.shape[-1], 1), bias, 1, back)
    return through_weights(call, value, used, root, len(call.law(value).dims) - 1)


@rule(*(f"conv{kind}{d}d" for kind in ("", "_transpose") for d in (1, 2, 3)))
def _convolution(call: Call) -> Step:
    transposed = "transpose" in call.name
    value, own, bias = (call.get(i, n) for i, n in enumerate(("input", "weight", "bias")))
    weight = call.tensor(own)
    if weight is None or (bias is not None and call.tensor(bias) is None):
        return unknown(call, "its weight is made of what the model is given")
    names = ["stride", "padding", "dilation", "groups"]
    if transposed:
        names = ["stride", "padding", "output_padding", "groups", "dilation"]
    given = {n: call.get(3 + i, n, 0 if "padding" in n else 1) for i, n in enumerate(names)}
    count = weight.ndim - 2
    law = call.law(value)
    channel = len(law.dims) - count - 1
    if transposed:
        weight = weight.unflatten(0, (given["groups"], -1)).transpose(1, 2).flatten(0, 1)
    window, padding = weight.shape[2:], given["padding"]
    if isinstance(padding, str):
        apart = zip(window, entries_of(given["dilation"], count), strict=True)
        padding = [d * (k - 1) // 2 if padding == "same" else 0 for k, d in apart]
    ends = law.shape[channel + 1 :], call.shapes[0][channel + 1 :]
    steps = steps_of(
        *(ends[::-1] if transposed else ends), window, given["stride"], padding, given["dilation"]
    )
    seen = weight.shape[1] * math.prod(axis.pairs / axis.outputs for axis in steps)
    if given["groups"] > 1 and not transposed and seen <= _FEW:
        call.notes.append("each of its outputs is made of a few inputs, and taken for normal")
    root, back = call.weight(own)
    used = Weight(weight.flatten(2), call.tensor(bias), given["groups"], back)
    return through_weights(call, value, used, root, channel, steps, transposed)
