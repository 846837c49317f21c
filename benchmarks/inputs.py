"""Inputs that the implementations of a case share, so that they lie in memory once."""

from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.case import Context


@lru_cache(maxsize=2)
def normals(shape: tuple[int, ...], context: Context) -> tuple[Tensor, Tensor]:
    """An input that wants a gradient, and the gradient that arrives at an output like it."""
    generator = torch.Generator(context.device).manual_seed(context.seed)
    x, dy = (
        torch.randn(shape, generator=generator, device=context.device, dtype=torch.float32)
        for _ in range(2)
    )
    return x.requires_grad_(), dy


def forget() -> None:
    """Let go of them: the next case has others."""
    normals.cache_clear()
