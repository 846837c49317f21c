r"""Weights on the unit ℓ2 ball, and their projected gradient.

.. math:: V = \frac{size}{n} W, \qquad
    dW = \frac{size}{n}\left(G - \frac{\langle W, G\rangle}{n^2} W\right)

with n = ‖W‖ over what belongs to one neuron, and G the gradient that arrives at V.  Where n is
0 it counts as 1: a neuron of zeros stays zero, and its gradient passes.

What belongs together, ``over``, for a weight of shape (out, in/groups, k…):

``"fan-in"``
    A row.  One program holds it in registers, up to 16 384 elements, and reads and writes
    once; a longer row is read twice, the second time from the cache.
``"fan-out"``
    The taps of one input channel in all the rows of its group.  Columns are summed in parts
    by many programs, and then scaled: two reads, the second from the L2 cache as long as the
    weight fits into it (50 MB on an H100).
``"all"``
    Everything, in parts likewise.

Sums are taken in float32, or float64 for float64, in a fixed order: no atomics, so the same
weight gives the same bits.  The norms are kept, not recomputed, for the backward pass: two numbers
a neuron, a power of two p and 1/‖pW‖.

Squares leave the range of float32 for norms below 1e-19 or above 1e19.  So three sums are taken at
once, of the squares of W and of two multiples of it, as Blue (1978) does, and p is 1 or the factor
of the multiple whose sum is in range.  An entry of dW too large for the weight's type is the
largest number of the type.
"""

import math
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from normprop.kernels import check_usable, scalar
from normprop.kernels.launch import on_device
from normprop.kernels.layout import as_dense, like
from normprop.kernels.scalar import full, number

Over = Literal["fan-in", "fan-out", "all"]

_ROW = 1 << 14
_TILE = 1 << 12
# Parts of a sum: enough to fill a GPU, few enough for every program to add up again.
_PARTS = 64


def forward(weight: Tensor, over: Over, groups: int, size: float) -> tuple[Tensor, Tensor]:
    """Scale every neuron to the norm ``size``.

    Args:
        weight: shape (out, in/groups, k…), on CUDA.
        over: what has one norm.
        groups: of the convolution.
        size: the norm that comes out.

    Returns:
        V, of the weight's shape, type and memory format, and 1/‖pW‖ and p, each one float32 or
        float64 a neuron in the order of the weight: (2, out), (2, in) or (2, 1).

    Raises:
        ValueError: an argument is out of its range, or the tensor is not on CUDA.
        TypeError: the tensor's type is not served.
    """
    return _run(weight, None, None, over, groups, size)


def backward(
    weight: Tensor, inverse: Tensor, grad: Tensor, over: Over, groups: int, size: float
) -> Tensor:
    """Project the gradient of V onto the tangent of the ball.

    Args:
        weight: as it was in :func:`forward`.
        inverse: the second result of :func:`forward`.
        grad: G, of the weight's shape.
        over: as in :func:`forward`.
        groups: as in :func:`forward`.
        size: as in :func:`forward`.

    Returns:
        dW, of the weight's shape, type and memory format.
    """
    if grad.shape != weight.shape:
        raise ValueError(
            f"grad must have the shape of the weight, {tuple(weight.shape)}; it has "
            f"{tuple(grad.shape)}"
        )
    return _run(weight, grad, inverse, over, groups, size)[0]


def _run(weight, grad, inverse, over, groups, size):
    check_usable(weight)
    outputs, inputs, taps = _shape(weight, over, groups)
    w = weight.contiguous()
    g = None if grad is None else grad.contiguous()
    result = torch.empty_like(w)
    neurons = {"fan-in": outputs, "fan-out": groups * inputs, "all": 1}[over]
    if inverse is None:
        # Only a weight without elements leaves them as they are.
        compute = torch.float64 if w.dtype == torch.float64 else torch.float32
        inverse = torch.ones(2, neurons, dtype=compute, device=w.device)
    elif inverse.shape != (2, neurons):
        raise ValueError(
            f"inverse must have the shape (2, {neurons}) that the forward pass gave; it has "
            f"{tuple(inverse.shape)}"
        )
    if w.numel():
        tensors, bits = (w, g, result, inverse), scalar.bits(size)
        with on_device(w.device):
            if over == "fan-in":
                _rows(tensors, bits, outputs, inputs * taps)
            elif over == "fan-out":
                _columns(tensors, bits, groups, outputs // groups, inputs, taps)
            else:
                _all(tensors, bits, w.numel())
    return like(result, as_dense(weight)), inverse


def _rows(tensors, bits, rows, length):
    block = min(triton.next_power_of_2(length), _ROW)
    _row_kernel[(rows,)](
        *tensors,
        bits,
        length,
        LARGEST=torch.finfo(tensors[0].dtype).max,
        BACKWARD=tensors[1] is not None,
        ONE=length <= block,
        BLOCK=block,
        num_warps=4 if block <= 4096 else 8,
    )


def _columns(tensors, bits, groups, rows, inputs, taps):
    width = triton.next_power_of_2(taps)
    channels = min(triton.next_power_of_2(inputs), max(1, 64 // width))
    tile = max(1, min(_TILE // (channels * width), triton.next_power_of_2(rows)))
    # A part is a whole number of tiles of rows.
    part = tile * triton.cdiv(triton.cdiv(rows, tile), _PARTS)
    parts = triton.cdiv(rows, part)
    # Of the dimensions of a grid only the first reaches beyond 65,535.
    grid = (triton.cdiv(inputs, channels) * groups, parts)
    w, g, _, inverse = tensors
    sums = torch.empty(3, parts, groups * inputs, dtype=inverse.dtype, device=w.device)
    shape = {"CHANNELS": channels, "WIDTH": width, "TILE": tile, "BACKWARD": g is not None}
    numbers = (rows, inputs, taps, groups, part)
    _column_sums_kernel[grid](w, g, inverse, sums, *numbers, **shape)
    shape["LARGEST"] = torch.finfo(w.dtype).max
    _column_scale_kernel[grid](*tensors, sums, bits, parts, *numbers, **shape)


def _all(tensors, bits, numel):
    part = _TILE * triton.cdiv(triton.cdiv(numel, _TILE), 4 * _PARTS)
    parts = triton.cdiv(numel, part)
    w, g, _, inverse = tensors
    sums = torch.empty(3, parts, dtype=inverse.dtype, device=w.device)
    shape = {"BLOCK": _TILE, "BACKWARD": g is not None}
    _all_sums_kernel[(parts,)](w, g, inverse, sums, numel, part, **shape)
    shape["PARTS"], shape["LARGEST"] = triton.next_power_of_2(parts), torch.finfo(w.dtype).max
    _all_scale_kernel[(parts,)](*tensors, sums, bits, numel, part, parts, **shape)


@triton.jit
def _load(ptr, offsets, mask):
    x = tl.load(ptr + offsets, mask=mask, other=0.0)
    if x.dtype != tl.float64:
        x = x.to(tl.float32)
    return x


# A factor for norms below the first limit, a limit for what it is applied to, and one for what
# squares are taken of as it is; the powers of two for large norms are the inverses.
_UP_SINGLE, _UP_DOUBLE = tl.constexpr(2.0**86), tl.constexpr(2.0**700)
_LOW_SINGLE, _LOW_DOUBLE = tl.constexpr(2.0**-40), tl.constexpr(2.0**-400)
_CAP_SINGLE, _CAP_DOUBLE = tl.constexpr(2.0**50), tl.constexpr(2.0**450)


@triton.jit
def _squares(w):
    """Squares of small, middle and large entries, of which no sum overflows in its range."""
    up: tl.constexpr = _UP_DOUBLE if w.dtype == tl.float64 else _UP_SINGLE
    low: tl.constexpr = _LOW_DOUBLE if w.dtype == tl.float64 else _LOW_SINGLE
    cap: tl.constexpr = _CAP_DOUBLE if w.dtype == tl.float64 else _CAP_SINGLE
    size = tl.abs(w)
    small = tl.minimum(size, full(w, low)) * full(w, up)
    middle = tl.minimum(size, full(w, cap))
    large = w * full(w, 1.0 / up)
    return small * small, middle * middle, large * large


@triton.jit
def _norm(small, middle, large):
    """1/‖pW‖ and p from the sums of the three squares, both 1 where there is nothing."""
    up: tl.constexpr = _UP_DOUBLE if middle.dtype == tl.float64 else _UP_SINGLE
    low: tl.constexpr = _LOW_DOUBLE if middle.dtype == tl.float64 else _LOW_SINGLE
    one = full(middle, 1.0)
    below = middle < full(middle, low * low)
    above = middle > full(middle, 1.0 / (low * low))
    power = tl.where(below, full(middle, up), tl.where(above, full(middle, 1.0 / up), one))
    squares = tl.where(below, small, tl.where(above, large, middle))
    empty = small == 0
    return 1.0 / tl.sqrt(tl.where(empty, one, squares)), tl.where(empty, one, power)


@triton.jit(do_not_specialize=["bits"])
def _row_kernel(
    w_ptr,
    g_ptr,
    out_ptr,
    inverse_ptr,
    bits: tl.int64,
    length,
    LARGEST: tl.constexpr,
    BACKWARD: tl.constexpr,
    ONE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, rows = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    start = row * length
    columns = tl.arange(0, BLOCK)
    mask = columns < length
    w = _load(w_ptr + start, columns, mask)
    g = w
    if BACKWARD:
        g = _load(g_ptr + start, columns, mask)
        inverse, power = tl.load(inverse_ptr + row), tl.load(inverse_ptr + rows + row)
        along = tl.sum(w * power * inverse * g, axis=0)
        if not ONE:
            for at in range(BLOCK, length, BLOCK):
                inside = columns + at < length
                part = _load(w_ptr + start, columns + at, inside) * power * inverse
                along += tl.sum(part * _load(g_ptr + start, columns + at, inside), axis=0)
    else:
        small, middle, large = _squares(w)
        if not ONE:
            for at in range(BLOCK, length, BLOCK):
                more = _squares(_load(w_ptr + start, columns + at, columns + at < length))
                small, middle, large = small + more[0], middle + more[1], large + more[2]
        small, middle, large = tl.sum(small, axis=0), tl.sum(middle, axis=0), tl.sum(large, axis=0)
        inverse, power = _norm(small, middle, large)
        tl.store(inverse_ptr + row, inverse)
        tl.store(inverse_ptr + rows + row, power)
        along = inverse
    factor = inverse * number(bits, w.dtype)
    lines = (inverse, power, factor, along)
    _store_scaled(out_ptr + start, columns, mask, w, g, lines, LARGEST, BACKWARD)
    if not ONE:
        for at in range(BLOCK, length, BLOCK):
            inside = columns + at < length
            w = _load(w_ptr + start, columns + at, inside)
            if BACKWARD:
                g = _load(g_ptr + start, columns + at, inside)
            _store_scaled(out_ptr + start, columns + at, inside, w, g, lines, LARGEST, BACKWARD)


@triton.jit
def _store_scaled(ptr, offsets, mask, w, g, lines, LARGEST: tl.constexpr, BACKWARD: tl.constexpr):
    """V, or dW, whose power of two comes last, as it may overflow."""
    inverse, power, factor, along = lines
    if BACKWARD:
        w = (g - along * (w * power * inverse)) * factor * power
        w = tl.where(w > full(w, LARGEST), full(w, LARGEST), w)
        w = tl.where(w < full(w, -LARGEST), full(w, -LARGEST), w)
    else:
        w = w * power * factor
    tl.store(ptr + offsets, w.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _tile(rows, inputs, taps, part, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """This program's group, its first channel in it, the columns of the taps, and its rows."""
    tiles = tl.cdiv(inputs, CHANNELS)
    start = tl.program_id(0) % tiles * CHANNELS
    lane = tl.arange(0, CHANNELS * WIDTH)
    channel, tap = start + lane // WIDTH, lane % WIDTH
    inside = (channel < inputs) & (tap < taps)
    first = tl.program_id(1) * part
    columns = channel * taps + tap
    return tl.program_id(0) // tiles, start, columns, inside, first, tl.minimum(first + part, rows)


@triton.jit
def _column_sums_kernel(
    w_ptr,
    g_ptr,
    inverse_ptr,
    sums_ptr,
    rows,
    inputs,
    taps,
    groups,
    part,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    group, channel, columns, inside, first, last = _tile(rows, inputs, taps, part, CHANNELS, WIDTH)
    start = group.to(tl.int64) * rows * inputs * taps
    own = group * inputs + channel
    small = tl.zeros((CHANNELS * WIDTH,), dtype=sums_ptr.dtype.element_ty)
    middle, large, inverse, power = small, small, small, small
    if BACKWARD:
        lane = tl.arange(0, CHANNELS * WIDTH)
        inverse, power = _kept(inverse_ptr, own + lane // WIDTH, groups * inputs, inside)
    for at in range(first, last, TILE):
        row = at + tl.arange(0, TILE)
        mask = (row < last)[:, None] & inside[None, :]
        offsets = row.to(tl.int64)[:, None] * (inputs * taps) + columns[None, :]
        w = _load(w_ptr + start, offsets, mask)
        if BACKWARD:
            unit = w * power[None, :] * inverse[None, :]
            middle += tl.sum(unit * _load(g_ptr + start, offsets, mask), axis=0)
        else:
            more = _squares(w)
            small += tl.sum(more[0], axis=0)
            middle += tl.sum(more[1], axis=0)
            large += tl.sum(more[2], axis=0)
    lane = tl.arange(0, CHANNELS)
    neurons, parts = groups * inputs, tl.num_programs(1)
    place, inside = tl.program_id(1) * neurons + own + lane, channel + lane < inputs
    middle = tl.sum(tl.reshape(middle, (CHANNELS, WIDTH)), axis=1)
    tl.store(sums_ptr + place, middle, mask=inside)
    if not BACKWARD:
        small = tl.sum(tl.reshape(small, (CHANNELS, WIDTH)), axis=1)
        large = tl.sum(tl.reshape(large, (CHANNELS, WIDTH)), axis=1)
        tl.store(sums_ptr + parts * neurons + place, small, mask=inside)
        tl.store(sums_ptr + 2 * parts * neurons + place, large, mask=inside)


@triton.jit
def _kept(inverse_ptr, neuron, neurons, inside):
    """What the forward pass found of these neurons."""
    inverse = tl.load(inverse_ptr + neuron, mask=inside, other=1.0)
    return inverse, tl.load(inverse_ptr + neurons + neuron, mask=inside, other=1.0)


@triton.jit(do_not_specialize=["bits"])
def _column_scale_kernel(
    w_ptr,
    g_ptr,
    out_ptr,
    inverse_ptr,
    sums_ptr,
    bits: tl.int64,
    parts,
    rows,
    inputs,
    taps,
    groups,
    part,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    BACKWARD: tl.constexpr,
    LARGEST: tl.constexpr,
):
    group, channel, columns, inside, first, last = _tile(rows, inputs, taps, part, CHANNELS, WIDTH)
    start = group.to(tl.int64) * rows * inputs * taps
    own = group * inputs + channel
    # The sums of the parts, once for every tap of a channel: the same order everywhere.
    lane = tl.arange(0, CHANNELS * WIDTH)
    neuron, neurons = own + lane // WIDTH, groups * inputs
    middle = _added_up(sums_ptr, neuron, neurons, parts, inside)
    if BACKWARD:
        inverse, power = _kept(inverse_ptr, neuron, neurons, inside)
    else:
        small = _added_up(sums_ptr + parts * neurons, neuron, neurons, parts, inside)
        large = _added_up(sums_ptr + 2 * parts * neurons, neuron, neurons, parts, inside)
        inverse, power = _norm(small, middle, large)
        once = inside & (lane % WIDTH == 0) & (tl.program_id(1) == 0)
        tl.store(inverse_ptr + neuron, inverse, mask=once)
        tl.store(inverse_ptr + neurons + neuron, power, mask=once)
    factor = inverse * number(bits, inverse.dtype)
    lines = (inverse[None, :], power[None, :], factor[None, :], middle[None, :])
    for at in range(first, last, TILE):
        row = at + tl.arange(0, TILE)
        mask = (row < last)[:, None] & inside[None, :]
        offsets = row.to(tl.int64)[:, None] * (inputs * taps) + columns[None, :]
        w = _load(w_ptr + start, offsets, mask)
        g = w
        if BACKWARD:
            g = _load(g_ptr + start, offsets, mask)
        _store_scaled(out_ptr + start, offsets, mask, w, g, lines, LARGEST, BACKWARD)


@triton.jit
def _added_up(sums_ptr, neuron, neurons, parts, inside):
    total = tl.load(sums_ptr + neuron, mask=inside, other=0.0)
    for k in range(1, parts):
        total += tl.load(sums_ptr + k * neurons + neuron, mask=inside, other=0.0)
    return total


@triton.jit
def _all_sums_kernel(
    w_ptr, g_ptr, inverse_ptr, sums_ptr, numel, part, BLOCK: tl.constexpr, BACKWARD: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64) * part
    last = tl.minimum(first + part, numel)
    small = tl.zeros((BLOCK,), dtype=sums_ptr.dtype.element_ty)
    middle, large = small, small
    for at in range(first, last, BLOCK):
        offsets = at + tl.arange(0, BLOCK)
        w = _load(w_ptr, offsets, offsets < last)
        if BACKWARD:
            unit = w * tl.load(inverse_ptr + 1) * tl.load(inverse_ptr)
            middle += unit * _load(g_ptr, offsets, offsets < last)
        else:
            more = _squares(w)
            small, middle, large = small + more[0], middle + more[1], large + more[2]
    at, parts = tl.program_id(0), tl.num_programs(0)
    tl.store(sums_ptr + at, tl.sum(middle, axis=0))
    if not BACKWARD:
        tl.store(sums_ptr + parts + at, tl.sum(small, axis=0))
        tl.store(sums_ptr + 2 * parts + at, tl.sum(large, axis=0))


@triton.jit(do_not_specialize=["bits"])
def _all_scale_kernel(
    w_ptr,
    g_ptr,
    out_ptr,
    inverse_ptr,
    sums_ptr,
    bits: tl.int64,
    numel,
    part,
    parts,
    BLOCK: tl.constexpr,
    BACKWARD: tl.constexpr,
    PARTS: tl.constexpr,
    LARGEST: tl.constexpr,
):
    lane = tl.arange(0, PARTS)
    middle = tl.sum(tl.load(sums_ptr + lane, mask=lane < parts, other=0.0), axis=0)
    if BACKWARD:
        inverse, power = tl.load(inverse_ptr), tl.load(inverse_ptr + 1)
    else:
        small = tl.sum(tl.load(sums_ptr + parts + lane, mask=lane < parts, other=0.0), axis=0)
        large = tl.sum(tl.load(sums_ptr + 2 * parts + lane, mask=lane < parts, other=0.0), axis=0)
        inverse, power = _norm(small, middle, large)
        if tl.program_id(0) == 0:
            tl.store(inverse_ptr, inverse)
            tl.store(inverse_ptr + 1, power)
    lines = (inverse, power, inverse * number(bits, inverse.dtype), middle)
    first = tl.program_id(0).to(tl.int64) * part
    last = tl.minimum(first + part, numel)
    for at in range(first, last, BLOCK):
        offsets = at + tl.arange(0, BLOCK)
        mask = offsets < last
        w = _load(w_ptr, offsets, mask)
        g = w
        if BACKWARD:
            g = _load(g_ptr, offsets, mask)
        _store_scaled(out_ptr, offsets, mask, w, g, lines, LARGEST, BACKWARD)


def _shape(weight: Tensor, over: str, groups: int) -> tuple[int, int, int]:
    if over not in ("fan-in", "fan-out", "all"):
        raise ValueError(f"over must be 'fan-in', 'fan-out' or 'all'; it was {over!r}")
    if weight.ndim < 2 or groups < 1 or weight.shape[0] % groups:
        raise ValueError(
            "the weight must have the shape (out, in/groups, k…), out a multiple of groups; it has "
            f"{tuple(weight.shape)} with groups = {groups}"
        )
    return weight.shape[0], weight.shape[1], math.prod(weight.shape[2:])
