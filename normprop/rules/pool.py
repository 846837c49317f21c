"""Maxima and averages over windows."""

import math
from collections.abc import Sequence

import numpy as np
from torch import nn

from normprop.gaussian import Law, maximum
from normprop.rules.arguments import count, window_of
from normprop.rules.registry import Moments, register

_EPS = float(np.finfo(np.float64).eps)


def max_pool(window: Sequence[int], stride: Sequence[int], law: Law) -> Moments:
    """Moments of a maximum over windows, every argument with one entry a dimension."""
    mean, std, error, method = maximum(count("kernel_size", window), law)
    slope = 1.0 / math.sqrt(count("stride", stride))
    return Moments(mean, std, slope, error + 2.0 * _EPS * slope, method)


def avg_pool(
    window: Sequence[int], stride: Sequence[int], law: Law, divisor: int | None = None
) -> Moments:
    """Moments of an average over windows, or of their sum divided by ``divisor``."""
    size, period = count("kernel_size", window), count("stride", stride)
    divisor = size if divisor is None else divisor
    if divisor == 0:
        raise ValueError("divisor_override must not be 0")
    mean, std, error, method = maximum(1, law)
    scale = 1.0 / abs(divisor)
    figures = (
        mean * (size / divisor),
        std * math.sqrt(size) * scale,
        math.sqrt(size / period) * scale,
    )
    error = error * size * scale + 4.0 * _EPS * max(map(abs, figures))
    return Moments(*figures, error, method)


def pool_geometry(layer: nn.Module, dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Window and stride of a pooling module, one entry a dimension."""
    window = window_of(layer.kernel_size, dims, "kernel_size")
    stride = layer.kernel_size if layer.stride is None else layer.stride
    return window, window_of(stride, dims, "stride")


for _dims, (_max, _average) in {
    1: (nn.MaxPool1d, nn.AvgPool1d),
    2: (nn.MaxPool2d, nn.AvgPool2d),
    3: (nn.MaxPool3d, nn.AvgPool3d),
}.items():
    register(_max, lambda layer, law, d=_dims: max_pool(*pool_geometry(layer, d), law))
    register(
        _average,
        lambda layer, law, d=_dims: avg_pool(
            *pool_geometry(layer, d), law, getattr(layer, "divisor_override", None)
        ),
    )
