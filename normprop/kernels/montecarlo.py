r"""An activation simulated without traffic to memory: drawn, mapped and summed in registers.

A sample is x = m + s·z, y = f(x), dx = g·f'(x) with z, g ~ N(0, 1) independent.  What leaves a
program is four sums, Σ(y - c), Σ(y - c)², Σdx and Σdx², in float64; c = f(m) lies within the
spread of y, so that no digits cancel however large the mean.

The numbers are Philox4x32-10 at (seed; sample, replicate), so a replicate does not depend on who
computes it or in how many parts.  Box and Muller's transform makes four normals of four 32-bit
numbers, in float32: they reach to ±6.76, in steps that are 2⁻³² of probability in the tails, and
their moments are right to some 10⁻⁷, a few roundings of float32.  The standard error of a second
moment is as small at 10¹³ samples; below, nobody can see it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from normprop.kernels import activation, check_usable
from normprop.kernels.launch import launch
from normprop.kernels.scalar import bits, kernel, number

_BLOCK = 512
# Counters of a program at least, and programs of a replicate at most.
_SPAN = 1 << 15
_PARTS = 1 << 11


def figures(
    name: str,
    params: tuple[float, ...],
    mean: float,
    std: float,
    seed: int,
    replicates: range,
    samples: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Count, mean and sum of squared deviations of y and of dx, for each replicate.

    x, f and f' are computed in ``dtype``, float32 or float64, on CUDA; seeds have 64 bits, and
    ``samples`` are those of a replicate.

    Returns:
        Tensor of shape (replicates, 2, 3), float64, on the CPU.
    """
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"a Triton simulation runs in float32 or float64; dtype was {dtype}")
    point = torch.tensor([mean], dtype=dtype, device=device)
    check_usable(point)
    function, slots = activation.resolve(name, params)
    center = activation.forward(name, params, point, 0.0, 1.0).item()
    counters = triton.cdiv(samples, 2)
    span = max(_SPAN, _BLOCK * triton.cdiv(triton.cdiv(counters, _PARTS), _BLOCK))
    parts = triton.cdiv(counters, span)
    sums = torch.empty(len(replicates), parts, 4, dtype=torch.float64, device=device)
    if len(replicates):
        # Of the dimensions of a grid only the first reaches beyond 65,535.
        launch(
            _simulate_kernel,
            (len(replicates), parts),
            (
                sums, seed, replicates.start, replicates.step, samples, span,
                *map(bits, (mean, std, center, *slots)),
            ),
            {"F": function.both, "DOUBLE": dtype == torch.float64, "BLOCK": _BLOCK},
            sums.device,
        )  # fmt: skip
    sums = sums.cpu().sum(1)
    result = torch.empty(len(replicates), 2, 3, dtype=torch.float64, device="cpu")
    first, second = sums[:, 0::2], sums[:, 1::2]
    result[:, :, 0] = samples
    result[:, :, 1] = first / samples
    result[:, 0, 1] += center
    result[:, :, 2] = (second - first * first / samples).clamp(min=0)
    return result


@triton.jit
def normals(a, b):
    """Two independent normals from two blocks of 32 bits."""
    # A number between 0 and 1, the middle of one of 2³² steps, before it is rounded.
    u = a.to(tl.uint32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10
    u = u + 1.1641532182693481e-10
    turn = b.to(tl.uint32, bitcast=True).to(tl.float32) * 1.4629180792671596e-09
    radius = tl.sqrt(tl.maximum(tl.log(u) * -2.0, 0.0))
    return radius * tl.cos(turn), radius * tl.sin(turn)


@kernel
def _simulate_kernel(
    sums_ptr, seed: tl.int64, start: tl.int64, step: tl.int64, samples: tl.int64, span,
    mean: tl.int64, std: tl.int64, center: tl.int64, a: tl.int64, b: tl.int64, F: tl.constexpr,
    DOUBLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replicate = tl.program_id(0) * step + start
    COMPUTE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    m, s = number(mean, COMPUTE), number(std, COMPUTE)
    A, B = number(a, COMPUTE), number(b, COMPUTE)
    c = number(center, tl.float64)
    first = tl.program_id(1).to(tl.int64) * span
    last = tl.minimum(first + span, (samples.to(tl.int64) + 1) // 2)
    y1 = tl.zeros((BLOCK,), dtype=tl.float64)
    y2 = tl.zeros((BLOCK,), dtype=tl.float64)
    d1 = tl.zeros((BLOCK,), dtype=tl.float64)
    d2 = tl.zeros((BLOCK,), dtype=tl.float64)
    for at in range(first, last, BLOCK):
        counter = at + tl.arange(0, BLOCK).to(tl.int64)
        low = counter.to(tl.uint32)
        high = (counter >> 32).to(tl.uint32)
        row = low * 0 + replicate.to(tl.uint32)
        i0, i1, i2, i3 = tl.philox(seed, low, high, row, low * 0)
        z0, z1 = normals(i0, i1)
        g0, g1 = normals(i2, i3)
        for k in tl.static_range(2):
            z = z0 if k == 0 else z1
            g = g0 if k == 0 else g1
            x = z.to(COMPUTE) * s + m
            grad = g.to(COMPUTE)
            inside = (counter < last) & (counter * 2 + k < samples)
            f, slope = F(x, A, B)
            y = tl.where(inside, f.to(tl.float64) - c, 0.0)
            dx = tl.where(inside, (grad * slope).to(tl.float64), 0.0)
            y1 += y
            y2 += y * y
            d1 += dx
            d2 += dx * dx
    place = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    base = sums_ptr + place * 4
    tl.store(base, tl.sum(y1, axis=0))
    tl.store(base + 1, tl.sum(y2, axis=0))
    tl.store(base + 2, tl.sum(d1, axis=0))
    tl.store(base + 3, tl.sum(d2, axis=0))
