"""``simulate``: how much of its time is not spent on drawing normal numbers."""

import itertools
import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

import normprop
from benchmarks.case import Case, Context, Prepared

BLOCK = 1 << 16
"""Numbers drawn at a time, as many as fit the caches."""
AHEAD = 4
"""Blocks in flight."""
Z = 5.0
"""Standard errors that a simulated figure may be off: by chance in one run of a million."""


LAYERS = ("relu", "tanh", "silu")


def cases(sizes: tuple[int, ...]) -> Iterator[Case]:
    """All cases of this family: so many inputs, and as many arriving gradients."""
    for layer, n in itertools.product(LAYERS, sizes):
        yield Case(
            f"simulate/{layer}/{n}",
            "drawing alone",
            {
                "drawing alone": _drawing(n),
                "drawing, layer": _drawing(n, getattr(torch.nn.functional, layer)),
                "normprop": _package(layer, n),
                "naive loop": _loop(layer, n),
            },
            {"layer": layer, "size": n, "type": "float64"},
        )


def _drawing(n: int, function=None):
    """The 2n normals in float64, by the package's generator and number of threads, thrown away.

    With a function they go through it first, forward and backward, and nothing is counted.
    """

    def use(x, dy) -> None:
        if function is not None:
            x.requires_grad_()
            torch.autograd.grad(function(x), x, dy)

    def prepare(context: Context) -> Prepared:
        drawing = _drawing_cuda if context.device.type == "cuda" else _drawing_cpu
        call, sample = drawing(n, context, use)

        def check() -> str | None:
            numbers = sample()
            count = numbers.size
            mean, square = float(numbers.mean()), float((numbers**2).mean())
            # Var x = 1 and Var x² = 2.
            off = max(abs(mean) * math.sqrt(count), abs(square - 1) * math.sqrt(count / 2))
            return f"the normals are {off:.1f} standard errors off" if not off <= Z else None

        return Prepared(call, check)

    return prepare


def _drawing_cpu(n: int, context: Context, use):
    blocks = [min(BLOCK, n - start) for start in range(0, n, BLOCK)]

    def draw(index: int, size: int):
        generator = np.random.Generator(np.random.SFC64([context.seed, index]))
        return [generator.standard_normal(size) for _ in range(2)]

    def job(index: int, size: int) -> None:
        use(*map(torch.from_numpy, draw(index, size)))

    def call():
        one = {"initializer": torch.set_num_threads, "initargs": (1,)}
        with ThreadPoolExecutor(min(AHEAD, os.cpu_count() or 1), **one) as pool:
            ahead = deque()
            for index, size in enumerate(blocks):
                ahead.append(pool.submit(job, index, size))
                if len(ahead) >= AHEAD:
                    ahead.popleft().result()
            while ahead:
                ahead.popleft().result()

    return call, lambda: np.concatenate(draw(0, BLOCK))


def _drawing_cuda(n: int, context: Context, use):
    generator = torch.Generator(context.device).manual_seed(context.seed)

    def draw(size: int):
        return torch.randn(size, generator=generator, device=context.device, dtype=torch.float64)

    def call():
        for start in range(0, n, 16 * BLOCK):
            size = min(16 * BLOCK, n - start)
            use(draw(size), draw(size))

    return call, lambda: draw(BLOCK).cpu().numpy()


def _package(layer: str, n: int):
    def prepare(context: Context) -> Prepared:
        def run():
            return normprop.simulate(
                layer, n, seed=context.seed, device=context.device, progress=False
            )

        def check() -> str | None:
            scores = run().z(normprop.moments(layer))
            name, worst = max(scores.items(), key=lambda item: abs(item[1]))
            return f"{name} is {worst:.1f} standard errors off" if not abs(worst) <= Z else None

        return Prepared(run, check)

    return prepare


def _loop(layer: str, n: int):
    """What one writes: draw a block with torch, run the layer, add up sums and squares."""

    def prepare(context: Context) -> Prepared:
        function = getattr(torch.nn.functional, layer)

        def run() -> tuple[float, float, float]:
            generator = torch.Generator(context.device).manual_seed(context.seed)
            kind = {"generator": generator, "device": context.device, "dtype": torch.float64}
            sums = torch.zeros(3, device=context.device, dtype=torch.float64)
            for start in range(0, n, BLOCK):
                size = min(BLOCK, n - start)
                x = torch.randn(size, **kind).requires_grad_()
                y = function(x)
                (dx,) = torch.autograd.grad(y, x, torch.randn(size, **kind))
                y = y.detach()
                sums += torch.stack([y.sum(), (y * y).sum(), (dx * dx).sum()])
            mean, square, slope = (sums / n).tolist()
            return mean, math.sqrt(square - mean**2), math.sqrt(slope)

        def check() -> str | None:
            right = normprop.moments(layer)
            # Activations no steeper than 1.1: f(x)² and (dy f'(x))² vary by no more than 9·1.5.
            bound = Z * math.sqrt(13.5 / n) / min(right.fwd_std, right.bwd_std, 1.0)
            figures = zip(run(), (right.fwd_mean, right.fwd_std, right.bwd_std), strict=True)
            off = max(abs(a - b) for a, b in figures)
            return (
                f"a figure is off by {off:.2e}; its bound is {bound:.2e}" if off > bound else None
            )

        return Prepared(run, check)

    return prepare
