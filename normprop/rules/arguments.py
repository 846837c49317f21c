"""Arguments, checked once at the public edge."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from normprop.checks import finite, is_whole, number, positive
from normprop.gaussian import Image, Law, Normal

__all__ = ["NeedsShapeError", "check_law", "check_probability", "window_of"]


Shape = tuple[int, ...] | None
"""Of a sample, where it was given."""


def check_probability(p: float) -> None:
    """Refuse a drop probability outside [0, 1]."""
    number("p", p)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p, the probability of dropping, must lie in [0, 1]; it was {p}")


def check_law(mean: float, std: float) -> Normal:
    """The normal law with this mean and standard deviation, which must be finite and > 0."""
    return Normal(finite("mean", mean), positive("std", std))


def window_of(
    kernel_size: int | Sequence[int],
    dims: int,
    name: str,
    least: int = 1,
    usual: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """``kernel_size`` or its like with one entry a dimension, the ``usual`` one for ``None``."""
    sizes = kernel_size if isinstance(kernel_size, Sequence) else (kernel_size,) * dims
    if len(sizes) == 1:
        sizes = tuple(sizes) * dims
    if len(sizes) != dims:
        raise ValueError(f"{name} must have 1 or {dims} entries; it was {kernel_size}")
    if usual is not None:
        sizes = [other if size is None else size for size, other in zip(sizes, usual, strict=True)]
    if not all(is_whole(size, least) for size in sizes):
        raise ValueError(
            f"{name} must be made of integers of at least {least}; it was {kernel_size}"
        )
    return tuple(int(size) for size in sizes)


def shape_of(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a sample, whose sizes must be at least 1."""
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise TypeError(f"shape must be a sequence of integers; it was {shape!r}")
    return window_of(shape, len(shape), "shape") if len(shape) else ()


class NeedsShapeError(ValueError):
    """The figures of a layer depend on the shape of its input, which was not given."""


def need_shape(layer: nn.Module, shape: Shape, what: str) -> tuple[int, ...]:
    """The shape, which must have been given; ``what`` says what depends on it."""
    if shape is None:
        raise NeedsShapeError(
            f"shape must be given for {type(layer).__name__}: its figures depend on {what}"
        )
    return shape


def need_normal(layer: nn.Module, law: Law) -> Normal:
    """The law, which must be normal: ``after`` is not for every layer."""
    if isinstance(law, Image):
        raise ValueError(
            "after= takes a pooling, dropout or parametric layer behind it; "
            f"layer was {type(layer).__name__}"
        )
    return law


def array(tensor: torch.Tensor, name: str) -> np.ndarray:
    """A parameter's values in float64."""
    if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
        raise ValueError(f"{name} must have values; the lazy module has not seen an input yet")
    if tensor.is_meta or not tensor.is_floating_point():
        raise ValueError(f"{name} must hold real numbers; it was {tensor.dtype} on {tensor.device}")
    array = tensor.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; it holds NaN or infinities")
    return array
