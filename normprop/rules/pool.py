"""Maxima, averages and norms over windows."""

import math
from collections.abc import Sequence

from torch import nn

from normprop.gaussian import Law, Normal, maximum
from normprop.gaussian.lengths import extreme_size, length
from normprop.gaussian.normal import EPS
from normprop.rules.arguments import check_number, count, window_of
from normprop.rules.registry import Moments, register

__all__ = ["lp_pool"]


def max_pool(window: Sequence[int], stride: Sequence[int], law: Law) -> Moments:
    """Moments of a maximum over windows, every argument with one entry a dimension."""
    mean, std, error, method = maximum(count("kernel_size", window), law)
    slope = 1.0 / math.sqrt(count("stride", stride))
    return Moments(mean, std, slope, error + 2.0 * EPS * slope, method)


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
    error = error * size * scale + 4.0 * EPS * max(map(abs, figures))
    return Moments(*figures, error, method)


def lp_pool(norm_type: float, window: Sequence[int], stride: Sequence[int], law: Law) -> Moments:
    r"""Moments of :math:`(\sum x^p)^{1/p}` over windows of K elements, p = 1, 2, ∞ or -∞.

    For p = 2 and x ~ N(m, s²) the length of a normal vector, whose square over s² is noncentral
    χ² with K degrees of freedom, and since :math:`E x_i^2/\sum x^2 = 1/K`,
    :math:`\sigma_b = (\prod\mathrm{stride})^{-1/2}`, as for a maximum.  For p = 1 torch adds up,
    without absolute values; for p = ±∞ it takes the largest or smallest absolute value.

    Raises:
        ValueError: p is another number, or not 1 where the law is not normal.
    """
    size, period = count("kernel_size", window), count("stride", stride)
    check_number("norm_type", norm_type)
    if norm_type == 1:
        return avg_pool(window, stride, law, 1)
    if norm_type not in (2, math.inf, -math.inf):
        raise ValueError(
            "norm_type must be 1, 2 or infinite: torch raises to the power without absolute "
            "values, and the sum of other powers of normal variables has no law of its own; "
            f"it was {norm_type}"
        )
    if not isinstance(law, Normal):
        raise ValueError(
            "after= goes with norm_type 1 alone: where an activation puts out a window of zeros, "
            f"other norms have no slope; it was {norm_type}"
        )
    offset = law.mean / law.std
    if norm_type == 2:
        mean, std, error = length(size, offset)
    else:
        mean, std, error = extreme_size(size, offset, largest=norm_type > 0)
    slope = 1.0 / math.sqrt(period)
    error = law.std * error + 4.0 * EPS * slope
    return Moments(law.std * mean, law.std * std, slope, error, "quadrature")


def pool_geometry(layer: nn.Module, dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Window and stride of a pooling module, one entry a dimension."""
    window = window_of(layer.kernel_size, dims, "kernel_size")
    stride = layer.kernel_size if layer.stride is None else layer.stride
    return window, window_of(stride, dims, "stride")


def _moves_constants(layer: nn.Module) -> bool:
    """Whether some window's average of a constant is not the constant."""
    if getattr(layer, "divisor_override", None) is not None:
        return True
    padding = layer.padding if isinstance(layer.padding, tuple | list) else (layer.padding,)
    return layer.count_include_pad and any(padding)


for _dims, (_max, _average) in {
    1: (nn.MaxPool1d, nn.AvgPool1d),
    2: (nn.MaxPool2d, nn.AvgPool2d),
    3: (nn.MaxPool3d, nn.AvgPool3d),
}.items():
    register(
        _max,
        lambda layer, law, d=_dims: max_pool(*pool_geometry(layer, d), law),
        family="pool",
        algebra="commuting",
    )
    register(
        _average,
        lambda layer, law, d=_dims: avg_pool(
            *pool_geometry(layer, d), law, getattr(layer, "divisor_override", None)
        ),
        family="pool",
        algebra="commuting",
        needs_zero=_moves_constants,
    )
    register(
        getattr(nn, f"LPPool{_dims}d"),
        lambda layer, law, d=_dims: lp_pool(layer.norm_type, *pool_geometry(layer, d), law),
        note="for norm_type 1, 2 and infinite ones",
        family="pool",
    )
