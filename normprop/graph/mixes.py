"""Maxima over windows, and layers that measure what they normalise."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from normprop.graph.calls import Call, Step, custom, inside, rule
from normprop.graph.laws import (
    GRID,
    WEIGHTS,
    Array,
    Law,
    at,
    at_zero,
    average,
    gradient_of,
    largest,
    merged,
    middle,
    plus,
    quantiles,
    times,
    total,
)
from normprop.graph.maps import Steps, entries_of, sized, steps_of
from normprop.graph.trace import Value


@rule(
    *(
        f"{kind}max_pool{d}d{more}"
        for kind in ("", "adaptive_")
        for d in (1, 2, 3)
        for more in ("", "_with_indices")
    )
)
def _max_pooled(call: Call) -> Step:
    """Maximum over windows: their places are taken to be correlated alike."""
    value = call.input
    law, shape = call.law(value), call.shapes[0]
    count = int(call.name.replace("_with_indices", "")[-2])
    first = len(law.dims) - count
    inputs, outputs = law.shape[first:], shape[first:]
    if "adaptive" in call.name:
        window = [max(round(n / o), 1) for n, o in zip(inputs, outputs, strict=True)]
        stride, padding, dilation = window, 0, 1
    else:
        names = ("kernel_size", None), ("stride", None), ("padding", 0), ("dilation", 1)
        window, stride, padding, dilation = (
            call.get(i, *own) for i, own in enumerate(names, start=1)
        )
        stride = window if stride is None or stride == [] else stride
    steps = steps_of(inputs, outputs, window, stride, padding, dilation)
    return of_windows(call, value, first, steps)


def of_windows(call: Call, value, first: int, steps: Sequence[Steps]) -> Step:
    """The maximum over windows of the dimensions from ``first`` on."""
    law, shape = call.law(value), call.shapes[0]
    k = sum(map(len, law.dims[:first]))
    chain = merged(law.dims, first)
    rho = chain(law.rho)
    inside = math.prod(axis.pairs / (axis.outputs * axis.taps) for axis in steps)
    size = math.prod(min(axis.taps, axis.inputs) for axis in steps)
    count = max(math.prod(axis.taps for axis in steps) * inside, 1.0)
    # What the places of a window have in common, at every distance along the other axes.
    window, same = rho, rho
    for axis in steps:
        if axis.inputs > 1:
            window, same = _in_window(window, k, axis), at(same, k)
    uneven = _uneven(rho, k, steps)
    if uneven or not _monotone(law):
        call.notes.append("the places of a window are taken to be correlated alike")
    common = (size * window - same) / max(size - 1, 1)
    c = min(max(at_zero(common), 0.0), 1.0)
    made, chances = largest(count, c)
    spread = float(WEIGHTS @ (made - WEIGHTS @ made) ** 2)
    own = (spread - c) / max(1.0 - c, 1e-12)
    # Maxima of normals that are correlated one by one, to the second order.
    r = np.clip((same - common) / max(1.0 - c, 1e-12), -1.0, 1.0)
    place = k
    for axis in steps:
        chain.then(partial(axis.down, k=place), partial(axis.up, k=place))
        place += axis.outputs > 1
    array = np.array(chain(law.rho))
    array[(..., *middle(array.shape[k:]))] = common + (1.0 - c) * (
        r / count + (own - 1.0 / count) * r * np.abs(r)
    )
    dims = (*law.dims[:first], *map(sized, law.dims[first:], shape[first:]))
    values = np.interp(made, GRID, quantiles(law.values, WEIGHTS))
    if law.is_normal:
        values = np.interp(made, GRID, np.sort(law.values))
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

    return Step([result, *map(Law.tokens, call.shapes[1:])], back)


def _monotone(law: Law) -> bool:
    steps, least = np.diff(law.values), 1e-9 * math.sqrt(law.variance or 1.0)
    return bool((steps >= -least).all() or (steps <= least).all())


def _uneven(rho: Array, first: int, steps: Sequence[Steps]) -> bool:
    """Whether the correlations in a window differ enough to matter."""
    for _ in range(first):
        rho = at(rho, 0)
    for k, axis in enumerate(a for a in steps if a.inputs > 1):
        if rho.shape[k] > 2:
            reach = axis.dilation * (min(axis.taps, axis.inputs) - 1)
            middle = axis.inputs - 1
            near = np.arange(max(middle - reach, 0), min(middle + reach, 2 * middle) + 1)
            rho = rho.take(near, axis=k)
    same = at_zero(rho)
    others = np.delete(rho.ravel(), int(np.argmin(np.abs(rho.ravel() - same))))
    return others.size > 1 and bool(np.ptp(others) > _EVEN)


_EVEN = 0.1


def _in_window(array: Array, k: int, axis: Steps) -> Array:
    """Over all pairs of places of a window, without that axis."""
    taps = min(axis.taps, axis.inputs)
    if array.shape[k] <= 2:
        return average(array, k, taps)
    places = axis.dilation * np.arange(1 - taps, taps)
    places = np.clip(places, 1 - axis.inputs, axis.inputs - 1) + axis.inputs - 1
    return average(array.take(places, axis=k), k, taps)


# Layers that measure what they normalise.


def normalised(call, value, over, eps, weight=None, bias=None, centred=True, apart=False) -> Step:
    """Subtract the mean over axes, or not, and divide by the deviation over them.

    With ``apart`` each channel has a variance of its own.
    """
    law = call.law(value)
    size = max(math.prod(law.axes[k].size for k in over), 2)

    def apart_from_mean(array: Array) -> Array:
        return array - mean_over(law, array, over) if centred else array

    array = apart_from_mean(law.covariance)
    mean = 0.0 if centred else law.mean
    square = max(at_zero(array), 0.0) + mean**2
    gain, spread, offset, lift = _gain_and_shift(call, weight, bias)
    if not square > 0:
        call.notes.append("its input does not vary within what it normalises")
    # Of channels that are normalised one by one, each has its own variance.
    each, share = np.ones((2, 1)) if law.uneven is None or not apart else law.uneven
    below = np.maximum(square * each + eps, 1e-300)
    inverse, steep = float((each / below).mean()), math.sqrt(float((share / below).mean()))
    centre = mean / math.sqrt(square + eps)
    array = plus(array * (gain * inverse), lift + centre**2 * spread)
    made = law.rescaled(centre * offset[0] + offset[1], array)
    left = 1.0 - 1.0 / size
    slope = math.sqrt(gain) * steep
    return Step.curve(value, made, slope, lambda noise: apart_from_mean(noise) * left)


def mean_over(law: Law, array: Array, over: Sequence[int]) -> Array:
    """What all places along some axes have in common."""
    for k in over:
        array = np.expand_dims(average(array, k, law.axes[k].size), k)
    return array


def _gain_and_shift(call: Call, weight, bias):
    """Mean square of weights, their variance, the means of weights and biases, these' variance."""
    w, b = (call.tensor(t) for t in (weight, bias))
    if (w is None and isinstance(weight, Value)) or (b is None and isinstance(bias, Value)):
        call.notes.append("its weights are made of what the model is given; taken for 1 and 0")
    w = torch.ones(1) if w is None else w.detach().double().cpu()
    b = torch.zeros(1) if b is None else b.detach().double().cpu()
    moments = float((w * w).mean()), float(w.var(correction=0))
    return *moments, (float(w.mean()), float(b.mean())), float(b.var(correction=0))


def _but(law: Law, *dims: int) -> list[int]:
    """Places of the axes of all other dimensions."""
    kept = {k for d in dims for k in law.along(d)}
    return [k for k in range(len(law.axes)) if k not in kept]


@rule("batch_norm", "instance_norm")
def _batch_norm(call: Call) -> Step:
    one_by_one = call.name == "instance_norm"
    mean, _, weight, bias = _parameters(call)
    own = call.get(5, "use_input_stats" if one_by_one else "training", one_by_one)
    if not own and call.tensor(mean) is not None:
        return _by_statistics(call)
    over = _but(call.law(call.input), *((0, 1) if one_by_one else (1,)))
    eps = call.get(7, "eps", 1e-5)
    return normalised(call, call.input, over, eps, weight, bias, apart=not one_by_one)


def _parameters(call: Call) -> tuple:
    """Running mean and variance, weight and bias."""
    names = "running_mean", "running_var", "weight", "bias"
    return tuple(call.get(place, name) for place, name in enumerate(names, start=1))


def _by_statistics(call: Call) -> Step:
    """Normalise by statistics that are at hand."""
    value = call.input
    law = call.law(value)
    m, v, w, b = (
        None if call.tensor(t) is None else call.tensor(t).detach().double().cpu()
        for t in _parameters(call)
    )
    gain = torch.rsqrt(v + call.get(7, "eps", 1e-5)) * (1.0 if w is None else w)
    squares = float((gain**2).mean())
    array, offsets = law.covariance, torch.zeros_like(gain) if b is None else b
    if bool((m == 0).all()):
        offsets = offsets + gain * law.mean
    else:
        call.notes.append("the running means are taken for those of the channels that arrive")
        array = array - mean_over(law, array, _but(law, 1))
    array = plus(array * squares, float(offsets.var(correction=0)))
    return Step.curve(value, law.rescaled(float(offsets.mean()), array), math.sqrt(squares))


@rule("layer_norm", "rms_norm")
def _layer_norm(call: Call) -> Step:
    value = call.input
    law = call.law(value)
    count = len(entries_of(call.get(1, "normalized_shape"), 1))
    over = [k for d in range(len(law.dims) - count, len(law.dims)) for k in law.along(d)]
    centred = call.name == "layer_norm"
    bias = call.get(3, "bias") if centred else None
    eps = call.get(4 if centred else 3, "eps", 1e-5)
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return normalised(call, value, over, eps, call.get(2, "weight"), bias, centred)


@rule("group_norm")
def _group_norm(call: Call) -> Step:
    groups, eps = call.get(1, "num_groups"), call.get(4, "eps", 1e-5)

    def normal(inner: Call) -> Step:
        parts, *rest = inner.args
        return normalised(inner, parts, _but(inner.law(parts), 0, 1), eps, *rest)

    def apply(x, *rest):
        return custom(normal)(x.unflatten(1, (groups, -1)), *rest).flatten(1, 2)

    return inside(call, apply, call.input, call.get(2, "weight"), call.get(3, "bias"))
