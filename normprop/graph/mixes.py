"""Maxima over windows, and layers that measure what they normalise."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from normprop.graph.calls import Call, Step, custom, inside, rule
from normprop.graph.fields import (
    GRID,
    WEIGHTS,
    Array,
    Chain,
    Field,
    at,
    at_zero,
    average,
    gradient_of,
    largest,
    middle,
    plus,
    quantiles,
    sized,
    times,
    total,
)
from normprop.graph.maps import Windows, entries_of, windows_of
from normprop.graph.trace import Value

# By how much correlations in a window may differ.
_EVEN = 0.1
_POOLS = [f"{kind}max_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)]


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
    made, chances = largest(count, c)
    spread = float(WEIGHTS @ (made - WEIGHTS @ made) ** 2)
    own = (spread - c) / max(1.0 - c, 1e-12)
    # Maxima of normals that are correlated one by one, to the second order.
    r = np.clip((same - common) / max(1.0 - c, 1e-12), -1.0, 1.0)
    for d, axis in enumerate(windows, start=first):
        there = partial(axis.through, k=chain.place(d))
        chain.then(partial(there, up=False), partial(there, up=True))
        chain.dims[d] = sized(chain.dims[d], shape[d])
    array = np.array(chain(law.rho))
    array[(..., *middle(array.shape[k:]))] = common + (1.0 - c) * (
        r / count + (own - 1.0 / count) * r * np.abs(r)
    )
    increasing = np.sort(law.values) if law.is_normal else quantiles(law.values, WEIGHTS)
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
        yield value, times(gradient_of(chain.back(total(gradients[0], result))), amplitude)

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
    return average(array, k, taps)


# Layers that measure what they normalise.


def normalised(call, value, over, eps, weight=None, bias=None, centred=True, apart=False) -> Step:
    """Subtract the mean over axes, or not, and divide by the deviation over them.

    With ``apart`` each channel has a variance of its own.
    """
    law = call.law(value)
    size = max(math.prod(law.axes[k].size for k in over), 2)

    def apart_from_mean(array: Array) -> Array:
        return array - _mean_over(law, array, over) if centred else array

    array = apart_from_mean(law.covariance)
    mean = 0.0 if centred else law.mean
    square = max(at_zero(array), 0.0) + mean**2
    w, b = call.numbers(weight), call.numbers(bias)
    if (w is None and isinstance(weight, Value)) or (b is None and isinstance(bias, Value)):
        call.notes.append("its weights are made of what the model is given; taken for 1 and 0")
    w, b = torch.ones(1) if w is None else w, torch.zeros(1) if b is None else b
    if not square > 0:
        call.notes.append("its input does not vary within what it normalises")
    # Of channels that are normalised one by one, each has its own variance.
    each, share = np.ones((2, 1)) if law.uneven is None or not apart else law.uneven
    below = np.maximum(square * each + eps, 1e-300)
    inverse, steep = float((each / below).mean()), math.sqrt(float((share / below).mean()))
    centre, gain = mean / math.sqrt(square + eps), float((w * w).mean())
    spread = float(b.var(correction=0)) + centre**2 * float(w.var(correction=0))
    array = plus(array * (gain * inverse), spread)
    made = law.rescaled(centre * float(w.mean()) + float(b.mean()), array)
    slope, left = math.sqrt(gain) * steep, 1.0 - 1.0 / size
    return Step.curve(value, made, slope, lambda noise: apart_from_mean(noise) * left)


def _mean_over(law: Field, array: Array, over: Sequence[int]) -> Array:
    """What all places along some axes have in common."""
    for k in over:
        array = np.expand_dims(average(array, k, law.axes[k].size), k)
    return array


def _but(law: Field, *dims: int) -> list[int]:
    """Places of the axes of all other dimensions."""
    return law.along(*(d for d in range(len(law.dims)) if d not in dims))


@rule("batch_norm", "instance_norm")
def _batch_norm(
    call: Call, input, running_mean=None, running_var=None, weight=None, bias=None,
    training=None, momentum=0.1, eps=1e-5, use_input_stats=True,
):  # fmt: skip
    law, one_by_one = call.law(input), call.name == "instance_norm"
    if training is None:
        training = one_by_one and use_input_stats
    mean = call.numbers(running_mean)
    if training or mean is None:
        over = _but(law, *((0, 1) if one_by_one else (1,)))
        return normalised(call, input, over, eps, weight, bias, apart=not one_by_one)
    variance, w, b = map(call.numbers, (running_var, weight, bias))
    gain = torch.rsqrt(variance + eps) * (1.0 if w is None else w)
    squares = float((gain**2).mean())
    array, offsets = law.covariance, torch.zeros_like(gain) if b is None else b
    if bool((mean == 0).all()):
        offsets = offsets + gain * law.mean
    else:
        call.notes.append("the running means are taken for those of the channels that arrive")
        array = array - _mean_over(law, array, _but(law, 1))
    array = plus(array * squares, float(offsets.var(correction=0)))
    return Step.curve(input, law.rescaled(float(offsets.mean()), array), math.sqrt(squares))


@rule(torch.batch_norm, torch.instance_norm)
def _affine_first(call: Call, input, weight, bias, mean, variance, training, momentum, eps, *_):
    return _batch_norm(call, input, mean, variance, weight, bias, training, momentum, eps)


@rule("layer_norm")
def _layer_norm(call: Call, input, normalized_shape, weight=None, bias=None, eps=1e-5, *_) -> Step:
    centred = call.name == "layer_norm"
    law, count = call.law(input), len(entries_of(normalized_shape, 1))
    over = law.along(*range(len(law.dims) - count, len(law.dims)))
    return normalised(call, input, over, eps, weight, bias, centred)


@rule("rms_norm")
def _rms_norm(call: Call, input, normalized_shape, weight=None, eps=None) -> Step:
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return _layer_norm(call, input, normalized_shape, weight, None, eps)


@rule("group_norm")
def _group_norm(call: Call, input, num_groups, weight=None, bias=None, eps=1e-5, *_) -> Step:
    def normal(inner: Call, parts, *rest) -> Step:
        return normalised(inner, parts, _but(inner.law(parts), 0, 1), eps, *rest)

    def apply(x, *rest):
        return custom(normal)(x.unflatten(1, (num_groups, -1)), *rest).flatten(1, 2)

    return inside(call, apply, input, weight, bias)
