r"""Normalised dropout in one pass each way, without a stored mask.

.. math:: y = \frac{x \cdot \mathrm{mask}/q - \mu}{\sigma_{fwd}}, \qquad
    dx = \frac{dy \cdot \mathrm{mask}/q}{\sigma_{bwd}}

An element is kept where a 32-bit number of Philox4x32-10 lies below q·2³², so the rate is right
to 2⁻³².  The number is a function of the seed and of the element's place in memory; the
backward pass draws it again.

The seed is a 64-bit number in the device's memory, drawn by torch's own generator: so
``torch.manual_seed`` governs it, it costs no wait, and a captured CUDA graph draws a new one at
each replay.  The numbers are Triton's, not those of ``torch.nn.functional.dropout``.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from normprop.kernels.activation import offsets_of
from normprop.kernels.launch import over_elements
from normprop.kernels.layout import as_dense
from normprop.kernels.scalar import bits, kernel, load, number

# One call of Philox gives four numbers, for four elements this far apart.  Part of what a seed
# means, so it is the same for both passes and wherever the kernel runs.
_QUARTER = 1024


def forward(
    input: Tensor, p: float, shift: float, forward: float, *, leading: int = 0
) -> tuple[Tensor, Tensor]:
    """Drop, shift and scale: y, in the input's type, and the seed, which :func:`backward` wants.

    Dropped are elements with ``leading=0``, and whole channels of (N, C, …) with 2: as many
    dimensions as tell channels apart.
    """
    seed, x = draw_seed(input.device), as_dense(input)
    y = torch.empty_like(x)
    _run(x, y, seed, p, leading, float(shift), 1.0 / forward)
    return y, seed


def backward(
    grad: Tensor,
    seed: Tensor,
    p: float,
    backward: float,
    stride: tuple[int, ...],
    *,
    leading: int = 0,
) -> Tensor:
    """Drop and scale the gradient where the forward pass dropped.

    The strides are those of the forward pass's result, in whose order its numbers were drawn, and
    become those of dx.
    """
    if grad.stride() != tuple(stride):
        grad = grad.new_empty_strided(grad.shape, stride).copy_(grad)
    dx = torch.empty_like(grad)
    _run(grad, dx, seed, p, leading, 0.0, 1.0 / backward)
    return dx


def _run(x, y, seed, p, leading, shift, scale):
    if not x.numel():
        return
    # Numbers from here on are dropped.
    limit, keep = round((1.0 - p) * 2**32), bits(1.0 / (1.0 - p))
    line = bits(shift), bits(scale)
    if not leading:
        arguments = (x, y, seed, x.numel(), limit, keep, *line)
        over_elements(_element_kernel, x, arguments, {}, 4 * _QUARTER)
        return
    batch, channels = x.shape[:2]
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    factors = torch.empty(batch * channels, dtype=compute, device=x.device)
    over_elements(_factor_kernel, factors, (factors, seed, factors.numel(), limit, keep), {}, 1024)
    shape = (batch, channels, *x.stride()[:2])
    over_elements(_channel_kernel, x, (x, y, factors, x.numel(), *shape, *line), {})


@triton.jit
def _kept(numbers, limit):
    return numbers.to(tl.uint32, bitcast=True).to(tl.int64) < limit


@triton.jit
def _element(x_ptr, y_ptr, offsets, numel, numbers, limit, keep, shift, scale):
    mask = offsets < numel
    x = load(x_ptr + offsets, mask)
    x = tl.where(_kept(numbers, limit), x * number(keep, x.dtype), 0.0)
    y = (x - number(shift, x.dtype)) * number(scale, x.dtype)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@kernel
def _element_kernel(
    x_ptr, y_ptr, seed_ptr, numel, limit: tl.int64, keep: tl.int64, shift: tl.int64,
    scale: tl.int64, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    QUARTER: tl.constexpr = BLOCK // 4
    seed = tl.load(seed_ptr)
    counter = offsets_of(QUARTER, WIDE)
    a, b, c, d = tl.randint4x(seed, counter)
    # Where this program's elements begin: a quarter of them has a counter each.
    first = counter + tl.program_id(0).to(counter.dtype) * (BLOCK - QUARTER)
    _element(x_ptr, y_ptr, first, numel, a, limit, keep, shift, scale)
    _element(x_ptr, y_ptr, first + QUARTER, numel, b, limit, keep, shift, scale)
    _element(x_ptr, y_ptr, first + 2 * QUARTER, numel, c, limit, keep, shift, scale)
    _element(x_ptr, y_ptr, first + 3 * QUARTER, numel, d, limit, keep, shift, scale)


@kernel
def _factor_kernel(
    factors_ptr, seed_ptr, count, limit: tl.int64, keep: tl.int64, WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A factor for each channel: 1/q or 0."""
    offsets = offsets_of(BLOCK, WIDE)
    kept = _kept(tl.randint(tl.load(seed_ptr), offsets), limit)
    factor = tl.where(kept, number(keep, factors_ptr.dtype.element_ty), 0.0)
    tl.store(factors_ptr + offsets, factor, mask=offsets < count)


@kernel
def _channel_kernel(
    x_ptr, y_ptr, factors_ptr, numel, batch, channels, batch_stride, channel_stride,
    shift: tl.int64, scale: tl.int64, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offsets = offsets_of(BLOCK, WIDE)
    mask = offsets < numel
    # In a dense layout an index is a number whose digits are the coordinates.
    channel = (offsets // batch_stride) % batch * channels + (offsets // channel_stride) % channels
    factor = tl.load(factors_ptr + channel, mask=mask, other=0.0)
    x = load(x_ptr + offsets, mask)
    x = tl.where(factor == 0.0, 0.0, x * factor)
    y = (x - number(shift, x.dtype)) * number(scale, x.dtype)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


def draw_seed(device: torch.device) -> Tensor:
    """A seed from torch's generator of the device, in the device's memory."""
    return torch.randint(0, 2**63 - 1, (1,), dtype=torch.int64, device=device)
