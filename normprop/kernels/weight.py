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
weight gives the same bits.  The norms are kept, not recomputed, for the backward pass: a number
a neuron.
"""

import math
import struct
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from normprop.kernels import check_usable
from normprop.kernels.activation import on_device
from normprop.kernels.layout import as_dense, like

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
        V, of the weight's shape, type and memory format, and 1/n, one float32 or float64 a
        neuron in the order of the weight: (out,), (in,) or (1,).

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
        inverse: 1/n, the second result of :func:`forward`.
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
        inverse = torch.ones(neurons, dtype=compute, device=w.device)
    elif inverse.shape != (neurons,):
        raise ValueError(
            f"inverse must have the shape ({neurons},) that the forward pass gave; it has "
            f"{tuple(inverse.shape)}"
        )
    if w.numel():
        tensors, bits = (w, g, result, inverse), _bits(size)
        with on_device(w):
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
    grid = (triton.cdiv(inputs, channels), parts, groups)
    w, g, _, inverse = tensors
    sums = torch.empty(parts, groups * inputs, dtype=inverse.dtype, device=w.device)
    shape = {"CHANNELS": channels, "WIDTH": width, "TILE": tile, "BACKWARD": g is not None}
    numbers = (rows, inputs, taps, groups, part)
    _column_sums_kernel[grid](w, g, sums, *numbers, **shape)
    _column_scale_kernel[grid](*tensors, sums, bits, parts, *numbers, **shape)


def _all(tensors, bits, numel):
    part = _TILE * triton.cdiv(triton.cdiv(numel, _TILE), 4 * _PARTS)
    parts = triton.cdiv(numel, part)
    w, g, _, inverse = tensors
    sums = torch.empty(parts, dtype=inverse.dtype, device=w.device)
    shape = {"BLOCK": _TILE, "BACKWARD": g is not None}
    _all_sums_kernel[(parts,)](w, g, sums, numel, part, **shape)
    shape["PARTS"] = triton.next_power_of_2(parts)
    _all_scale_kernel[(parts,)](*tensors, sums, bits, numel, part, parts, **shape)


@triton.jit
def _load(ptr, offsets, mask):
    x = tl.load(ptr + offsets, mask=mask, other=0.0)
    if x.dtype != tl.float64:
        x = x.to(tl.float32)
    return x


@triton.jit
def _inverse(squares):
    """1/√squares, and 1 where there is nothing."""
    return 1.0 / tl.sqrt(tl.where(squares == 0, 1.0, squares))


@triton.jit
def _size(bits, dtype: tl.constexpr):
    """The number whose bits came, since a float argument would come as a float32."""
    return tl.cast(bits, tl.int64).to(tl.float64, bitcast=True).to(dtype)


@triton.jit(do_not_specialize=["bits"])
def _row_kernel(
    w_ptr,
    g_ptr,
    out_ptr,
    inverse_ptr,
    bits,
    length,
    BACKWARD: tl.constexpr,
    ONE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = row * length
    columns = tl.arange(0, BLOCK)
    mask = columns < length
    w = _load(w_ptr + start, columns, mask)
    g = w
    if BACKWARD:
        g = _load(g_ptr + start, columns, mask)
    total = tl.sum(w * g, axis=0)
    if not ONE:
        for at in range(BLOCK, length, BLOCK):
            inside = columns + at < length
            part = _load(w_ptr + start, columns + at, inside)
            if BACKWARD:
                total += tl.sum(part * _load(g_ptr + start, columns + at, inside), axis=0)
            else:
                total += tl.sum(part * part, axis=0)
    if BACKWARD:
        inverse = tl.load(inverse_ptr + row)
    else:
        inverse = _inverse(total)
        tl.store(inverse_ptr + row, inverse)
    factor = inverse * _size(bits, w.dtype)
    along = inverse * inverse * total
    _store_scaled(out_ptr + start, columns, mask, w, g, factor, along, BACKWARD)
    if not ONE:
        for at in range(BLOCK, length, BLOCK):
            inside = columns + at < length
            w = _load(w_ptr + start, columns + at, inside)
            if BACKWARD:
                g = _load(g_ptr + start, columns + at, inside)
            _store_scaled(out_ptr + start, columns + at, inside, w, g, factor, along, BACKWARD)


@triton.jit
def _store_scaled(ptr, offsets, mask, w, g, factor, along, BACKWARD: tl.constexpr):
    if BACKWARD:
        w = g - along * w
    tl.store(ptr + offsets, (factor * w).to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _tile(rows, inputs, taps, part, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """Channels of this program, the columns that are their taps, and its first and last row."""
    lane = tl.arange(0, CHANNELS * WIDTH)
    channel = tl.program_id(0) * CHANNELS + lane // WIDTH
    tap = lane % WIDTH
    inside = (channel < inputs) & (tap < taps)
    first = tl.program_id(1) * part
    return channel * taps + tap, inside, first, tl.minimum(first + part, rows)


@triton.jit
def _column_sums_kernel(
    w_ptr,
    g_ptr,
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
    columns, inside, first, last = _tile(rows, inputs, taps, part, CHANNELS, WIDTH)
    group = tl.program_id(2).to(tl.int64)
    start = group * rows * inputs * taps
    total = tl.zeros((CHANNELS * WIDTH,), dtype=sums_ptr.dtype.element_ty)
    for at in range(first, last, TILE):
        row = at + tl.arange(0, TILE)
        mask = (row < last)[:, None] & inside[None, :]
        offsets = row.to(tl.int64)[:, None] * (inputs * taps) + columns[None, :]
        w = _load(w_ptr + start, offsets, mask)
        if BACKWARD:
            total += tl.sum(w * _load(g_ptr + start, offsets, mask), axis=0)
        else:
            total += tl.sum(w * w, axis=0)
    total = tl.sum(tl.reshape(total, (CHANNELS, WIDTH)), axis=1)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    at = tl.program_id(1) * groups * inputs + tl.program_id(2) * inputs + channel
    tl.store(sums_ptr + at, total, mask=channel < inputs)


@triton.jit(do_not_specialize=["bits"])
def _column_scale_kernel(
    w_ptr,
    g_ptr,
    out_ptr,
    inverse_ptr,
    sums_ptr,
    bits,
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
):
    columns, inside, first, last = _tile(rows, inputs, taps, part, CHANNELS, WIDTH)
    group = tl.program_id(2).to(tl.int64)
    start = group * rows * inputs * taps
    # The sums of the parts, once for every tap of a channel: the same order everywhere.
    lane = tl.arange(0, CHANNELS * WIDTH)
    channel = tl.program_id(0) * CHANNELS + lane // WIDTH
    neuron = tl.program_id(2) * inputs + channel
    total = tl.zeros((CHANNELS * WIDTH,), dtype=sums_ptr.dtype.element_ty)
    for k in range(parts):
        total += tl.load(sums_ptr + k * groups * inputs + neuron, mask=inside, other=0.0)
    if BACKWARD:
        inverse = tl.load(inverse_ptr + neuron, mask=inside, other=1.0)
    else:
        inverse = _inverse(total)
        once = inside & (lane % WIDTH == 0) & (tl.program_id(1) == 0)
        tl.store(inverse_ptr + neuron, inverse, mask=once)
    factor = (inverse * _size(bits, inverse.dtype))[None, :]
    along = (inverse * inverse * total)[None, :]
    for at in range(first, last, TILE):
        row = at + tl.arange(0, TILE)
        mask = (row < last)[:, None] & inside[None, :]
        offsets = row.to(tl.int64)[:, None] * (inputs * taps) + columns[None, :]
        w = _load(w_ptr + start, offsets, mask)
        g = w
        if BACKWARD:
            g = _load(g_ptr + start, offsets, mask)
        _store_scaled(out_ptr + start, offsets, mask, w, g, factor, along, BACKWARD)


@triton.jit
def _all_sums_kernel(
    w_ptr, g_ptr, sums_ptr, numel, part, BLOCK: tl.constexpr, BACKWARD: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64) * part
    last = tl.minimum(first + part, numel)
    total = tl.zeros((BLOCK,), dtype=sums_ptr.dtype.element_ty)
    for at in range(first, last, BLOCK):
        offsets = at + tl.arange(0, BLOCK)
        w = _load(w_ptr, offsets, offsets < last)
        if BACKWARD:
            total += w * _load(g_ptr, offsets, offsets < last)
        else:
            total += w * w
    tl.store(sums_ptr + tl.program_id(0), tl.sum(total, axis=0))


@triton.jit(do_not_specialize=["bits"])
def _all_scale_kernel(
    w_ptr,
    g_ptr,
    out_ptr,
    inverse_ptr,
    sums_ptr,
    bits,
    numel,
    part,
    parts,
    BLOCK: tl.constexpr,
    BACKWARD: tl.constexpr,
    PARTS: tl.constexpr,
):
    lane = tl.arange(0, PARTS)
    total = tl.sum(tl.load(sums_ptr + lane, mask=lane < parts, other=0.0), axis=0)
    if BACKWARD:
        inverse = tl.load(inverse_ptr)
    else:
        inverse = _inverse(total)
        if tl.program_id(0) == 0:
            tl.store(inverse_ptr, inverse)
    factor = inverse * _size(bits, inverse.dtype)
    along = inverse * inverse * total
    first = tl.program_id(0).to(tl.int64) * part
    last = tl.minimum(first + part, numel)
    for at in range(first, last, BLOCK):
        offsets = at + tl.arange(0, BLOCK)
        mask = offsets < last
        w = _load(w_ptr, offsets, mask)
        g = w
        if BACKWARD:
            g = _load(g_ptr, offsets, mask)
        _store_scaled(out_ptr, offsets, mask, w, g, factor, along, BACKWARD)


def _shape(weight: Tensor, over: str, groups: int) -> tuple[int, int, int]:
    if over not in ("fan-in", "fan-out", "all"):
        raise ValueError(f"over must be 'fan-in', 'fan-out' or 'all'; it was {over!r}")
    if weight.ndim < 2 or groups < 1 or weight.shape[0] % groups:
        raise ValueError(
            "the weight must have the shape (out, in/groups, k…), out a multiple of groups; it has "
            f"{tuple(weight.shape)} with groups = {groups}"
        )
    return weight.shape[0], weight.shape[1], math.prod(weight.shape[2:])


def _bits(value: float) -> int:
    """A float64 as an int64, which a kernel takes unrounded and without compiling anew."""
    return struct.unpack("<q", struct.pack("<d", value))[0]
