r"""Maxima, averages and norms over windows, of a fixed size or adaptive, and max unpooling.

Output i of o of an adaptive pooling, of n inputs, is taken over the elements from ⌊i n/o⌋ to
⌈(i + 1) n/o⌉ - 1.  Where o divides n these are plain windows side by side; else they are of two
lengths and may overlap.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product

from torch import nn

from normprop.gaussian import Law, Normal, maximum
from normprop.gaussian.law import std_error
from normprop.gaussian.lengths import extreme_size, length
from normprop.gaussian.normal import EPS
from normprop.rules.arguments import Shape, check_number, count, need_shape, window_of
from normprop.rules.axis import averages, grid, places
from normprop.rules.registry import Moments, register_each

__all__ = ["adaptive_max_pool", "adaptive_sizes", "fractional_growth", "lp_pool"]

Sizes = tuple[int, ...]


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


def pool_geometry(layer: nn.Module, dims: int) -> tuple[Sizes, Sizes]:
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


def lengths(size: int, outputs: int) -> list[int]:
    """How many elements each output of adaptive pooling is taken over, along one axis."""
    return [-(-(i + 1) * size // outputs) - i * size // outputs for i in range(outputs)]


def adaptive_sizes(output_size, sizes: Sizes) -> Sizes:
    """The sizes of the output, ``None`` for those of the input."""
    dims = len(sizes)
    wanted = output_size if isinstance(output_size, Sequence) else (output_size,) * dims
    wanted = tuple(wanted) * (dims if len(wanted) == 1 else 1)
    if len(wanted) != dims:
        raise ValueError(f"output_size must have 1 or {dims} entries; it was {output_size}")
    filled = tuple(n if k is None else k for k, n in zip(wanted, sizes, strict=True))
    return window_of(filled, dims, "output_size")


@lru_cache(maxsize=1024)
def adaptive_avg_pool(sizes: Sizes, outputs: Sizes, law: Law) -> Moments:
    """Moments of adaptive average pooling, every argument with one entry a dimension."""
    return grid([averages(lengths(n, o), n) for n, o in zip(sizes, outputs, strict=True)], law)


@lru_cache(maxsize=1024)
def adaptive_max_pool(sizes: Sizes, outputs: Sizes, law: Law) -> Moments:
    r"""Moments of adaptive max pooling: a mixture of maxima over windows of a few sizes.

    .. math:: \sigma_b = \sqrt{\text{outputs}/\text{inputs}},

    since every gradient goes to one input.
    """
    axes = [Counter(lengths(n, o)) for n, o in zip(sizes, outputs, strict=True)]
    windows: Counter[int] = Counter()
    for entries in product(*(axis.items() for axis in axes)):
        windows[math.prod(k for k, _ in entries)] += math.prod(c for _, c in entries)
    slope = math.sqrt(math.prod(outputs) / math.prod(sizes))
    return _mixture(windows, law, slope)


def _mixture(windows: dict[int, int], law: Law, slope: float) -> Moments:
    """Moments of maxima over windows of these sizes, as often as they occur."""
    number = sum(windows.values())
    parts = [(c / number, *maximum(k, law)) for k, c in windows.items()]
    if len(parts) == 1:
        _, mean, std, error, method = parts[0]
        return Moments(mean, std, slope, error + 2.0 * EPS * slope, method)
    mean = math.fsum(w * m for w, m, *_ in parts)
    variance = math.fsum(w * (s * s + (m - mean) ** 2) for w, m, s, *_ in parts)
    # Each part is off by its own bound, in its mean and in its spread.
    error = max(e for *_, e, _ in parts)
    far = max(abs(m) for _, m, *_ in parts)
    ulps = 4.0 * EPS * (far + math.sqrt(variance))
    off = math.fsum(w * 2.0 * (s * e + 2.0 * abs(m - mean) * error) for w, m, s, e, _ in parts)
    off += 4.0 * error * error + 2.0 * ulps * math.sqrt(variance)
    bound = max(error + ulps, std_error(variance, off), 2.0 * EPS * slope)
    exact = all(method == "closed form" for *_, method in parts)
    return Moments(
        mean, math.sqrt(variance), slope, bound, "closed form" if exact else "quadrature"
    )


def fractional_max_pool(window: Sizes, growth: float, law: Law) -> Moments:
    r"""Moments of fractional max pooling, ``growth`` outputs for each input.

    Wherever the windows fall, an output is the largest of ∏window elements, and
    :math:`\sigma_b = \sqrt{\text{growth}}`.
    """
    mean, std, error, method = maximum(count("kernel_size", window), law)
    slope = math.sqrt(growth)
    return Moments(mean, std, slope, error + 2.0 * EPS * slope, method)


def fractional_growth(window: Sizes, output_size, output_ratio, sizes: Sizes | None) -> float:
    """Outputs for each input of fractional pooling.

    Of a ratio without sizes it is the ratio, which large inputs come to, or those that it
    divides into whole numbers.

    Raises:
        ValueError: the sizes are needed and not given, or the windows do not fit.
    """
    dims = len(window)
    if output_ratio is not None:
        ratios = output_ratio if isinstance(output_ratio, Sequence) else (output_ratio,) * dims
        for ratio in ratios:
            check_number("output_ratio", ratio)
        if len(ratios) != dims or not all(0 < ratio < 1 for ratio in ratios):
            raise ValueError(
                f"output_ratio must have {dims} entries between 0 and 1; it was {output_ratio}"
            )
        if sizes is None:
            return math.prod(ratios)
        outputs = tuple(int(n * ratio) for n, ratio in zip(sizes, ratios, strict=True))
    else:
        if output_size is None:
            raise ValueError("output_size or output_ratio must be given; both were None")
        if sizes is None:
            raise ValueError("the size of the input must be known where output_size is given")
        outputs = window_of(output_size, dims, "output_size")
    for n, k, o in zip(sizes, window, outputs, strict=True):
        if o < 1 or o + k - 1 > n:
            raise ValueError(
                f"windows of {window} must fit into inputs of {sizes} for outputs of {outputs}"
            )
    return math.prod(outputs) / math.prod(sizes)


def spatial(layer: nn.Module, shape: Sizes, dims: int) -> Sizes:
    """The sizes behind the channels of a sample."""
    if len(shape) != dims + 1:
        sizes = ("L",), ("H", "W"), ("D", "H", "W")
        raise ValueError(
            f"shape must be (C, {', '.join(sizes[dims - 1])}) for {type(layer).__name__}; "
            f"it was {shape}"
        )
    return shape[1:]


def _adaptive(figures: Callable[[Sizes, Sizes, Law], Moments]):
    def rule(dims: int, layer: nn.Module, law: Law, shape: Shape = None) -> Moments:
        sizes = spatial(layer, need_shape(layer, shape, "how large its input is"), dims)
        return figures(sizes, adaptive_sizes(layer.output_size, sizes), law)

    return rule


def _fractional(dims: int, layer: nn.Module, law: Law, shape: Shape = None) -> Moments:
    if layer.output_ratio is None:
        shape = need_shape(layer, shape, "how large its input is")
    sizes = None if shape is None else spatial(layer, shape, dims)
    window = window_of(layer.kernel_size, dims, "kernel_size")
    growth = fractional_growth(window, layer.output_size, layer.output_ratio, sizes)
    return fractional_max_pool(window, growth, law)


def max_unpool(
    window: Sizes,
    stride: Sizes,
    padding: Sizes,
    law: Law,
    sizes: Sizes | None = None,
    output_size: Sizes | None = None,
) -> Moments:
    r"""Moments of max unpooling to places that all differ.

    .. math:: \mu = r m, \qquad \sigma_f^2 = r s^2 + r(1-r) m^2, \qquad \sigma_b = 1,

    r the inputs for each output: 1/∏stride without sizes.

    Raises:
        ValueError: the output is smaller than the input.
    """
    if sizes is None:
        return grid([places(t, 1, 1) for t in stride], law)
    if output_size is None:
        output_size = tuple(
            (n - 1) * t - 2 * p + k
            for n, k, t, p in zip(sizes, window, stride, padding, strict=True)
        )
    if any(o < n for o, n in zip(output_size, sizes, strict=True)):
        raise ValueError(
            f"the output must have a place for every input; it was {output_size} for {sizes}"
        )
    axes = [places(o, n, n) for o, n in zip(output_size, sizes, strict=True)]
    return grid(axes, law)


def unpool_geometry(layer: nn.Module, dims: int) -> tuple[Sizes, ...]:
    """Window, stride and padding of an unpooling module, one entry a dimension."""
    padding = layer.padding if isinstance(layer.padding, tuple) else (layer.padding,) * dims
    return (
        window_of(layer.kernel_size, dims, "kernel_size"),
        window_of(layer.stride, dims, "stride"),
        padding * (dims if len(padding) == 1 else 1),
    )


def _unpool(dims: int, layer: nn.Module, law: Law, shape: Shape = None) -> Moments:
    sizes = None if shape is None else spatial(layer, shape, dims)
    return max_unpool(*unpool_geometry(layer, dims), law, sizes)


_pool = {"family": "pool", "algebra": "commuting"}
register_each("MaxPool", lambda d, layer, law: max_pool(*pool_geometry(layer, d), law), **_pool)
register_each(
    "AvgPool",
    lambda d, layer, law: avg_pool(
        *pool_geometry(layer, d), law, getattr(layer, "divisor_override", None)
    ),
    needs_zero=_moves_constants,
    **_pool,
)
register_each(
    "LPPool",
    lambda d, layer, law: lp_pool(layer.norm_type, *pool_geometry(layer, d), law),
    note="for norm_type 1, 2 and infinite ones",
    family="pool",
)
for _name, _figures in (("Avg", adaptive_avg_pool), ("Max", adaptive_max_pool)):
    register_each(
        f"Adaptive{_name}Pool",
        _adaptive(_figures),
        shaped=True,
        note="averaged over all outputs and inputs of the given size",
        **_pool,
    )
register_each(
    "FractionalMaxPool",
    _fractional,
    (2, 3),
    shaped=True,
    family="pool",
    draws=lambda layer: layer._random_samples is None,
    note="wherever the windows fall; a ratio without a size counts as it is",
)
register_each(
    "MaxUnpool",
    _unpool,
    shaped=True,
    family="resizing",
    note="for indices that all differ; of the interior, or with a shape over the whole output",
)
