r"""Maxima, averages and norms over windows, of a fixed size or adaptive, and max unpooling.

Output i of o of an adaptive pooling, of n inputs, is taken over the elements from ⌊i n/o⌋ to
⌈(i + 1) n/o⌉ - 1.  Where o divides n these are plain windows side by side; else they are of two
lengths and may overlap.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import product

from torch import nn

from normprop.checks import number
from normprop.gaussian import Figures, Law, Normal, maximum
from normprop.gaussian.law import mixture
from normprop.gaussian.lengths import extreme_size, length
from normprop.gaussian.normal import EPS
from normprop.rules.arguments import Shape, need_shape, window_of
from normprop.rules.axis import averages, grid, places
from normprop.rules.registry import Moments, register_each

Sizes = tuple[int, ...]


def _maxima(windows: dict[int, int], law: Law, slope: float) -> Moments:
    """Moments of maxima over windows of these sizes, as often as they occur: a mixture.

    Every gradient goes to one input, so that σ_b² is the number of outputs for each.
    """
    parts = [maximum(k, law) for k in windows]
    if len(parts) == 1:
        mean, std, error, method = parts[0]
        return Moments(mean, std, slope, error + 2.0 * EPS * slope, method)
    number = sum(windows.values())
    figures = [Figures(mean, std, 0.0, error, method) for mean, std, error, method in parts]
    found = mixture(figures, [count / number for count in windows.values()])
    return Moments(found.mean, found.std, slope, found.error + 2.0 * EPS * slope, found.method)


def _geometry(layer: nn.Module, dims: int) -> tuple[Sizes, Sizes]:
    """Window and stride of a module, one entry a dimension."""
    stride = layer.kernel_size if layer.stride is None else layer.stride
    return window_of(layer.kernel_size, dims, "kernel_size"), window_of(stride, dims, "stride")


def _max_pool(dims: int, layer: nn.Module, law: Law) -> Moments:
    window, stride = _geometry(layer, dims)
    return _maxima({math.prod(window): 1}, law, 1.0 / math.sqrt(math.prod(stride)))


def _avg_pool(dims: int, layer: nn.Module, law: Law) -> Moments:
    window, stride = _geometry(layer, dims)
    divisor = getattr(layer, "divisor_override", None)
    return _sums(window, stride, law, math.prod(window) if divisor is None else divisor)


def _sums(window: Sizes, stride: Sizes, law: Law, divisor: int) -> Moments:
    """Moments of the sum over each window, divided."""
    size, period = math.prod(window), math.prod(stride)
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


def _lp_pool(dims: int, layer: nn.Module, law: Law) -> Moments:
    r"""Moments of :math:`(\sum x^p)^{1/p}` over windows of K elements, p = 1, 2, ∞ or -∞.

    For p = 2 and x ~ N(m, s²) the length of a normal vector, whose square over s² is noncentral
    χ² with K degrees of freedom, and since :math:`E x_i^2/\sum x^2 = 1/K`,
    :math:`\sigma_b = (\prod\mathrm{stride})^{-1/2}`, as for a maximum.  For p = 1 torch adds up,
    without absolute values; for p = ±∞ it takes the largest or smallest absolute value.
    """
    window, stride = _geometry(layer, dims)
    norm_type = layer.norm_type
    number("norm_type", norm_type)
    if norm_type == 1:
        return _sums(window, stride, law, 1)
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
    size, offset = math.prod(window), law.mean / law.std
    if norm_type == 2:
        mean, std, error = length(size, offset)
    else:
        mean, std, error = extreme_size(size, offset, largest=norm_type > 0)
    slope = 1.0 / math.sqrt(math.prod(stride))
    error = law.std * error + 4.0 * EPS * slope
    return Moments(law.std * mean, law.std * std, slope, error, "quadrature")


def _moves_constants(layer: nn.Module) -> bool:
    """Whether some window's average of a constant is not the constant."""
    if getattr(layer, "divisor_override", None) is not None:
        return True
    padding = layer.padding if isinstance(layer.padding, tuple | list) else (layer.padding,)
    return layer.count_include_pad and any(padding)


def lengths(size: int, outputs: int) -> list[int]:
    """How many elements each output of adaptive pooling is taken over, along one axis."""
    return [-(-(i + 1) * size // outputs) - i * size // outputs for i in range(outputs)]


def spatial(layer: nn.Module, shape: Sizes, dims: int) -> Sizes:
    """The sizes behind the channels of a sample."""
    if len(shape) != dims + 1:
        sizes = ("L",), ("H", "W"), ("D", "H", "W")
        raise ValueError(
            f"shape must be (C, {', '.join(sizes[dims - 1])}) for {type(layer).__name__}; "
            f"it was {shape}"
        )
    return shape[1:]


def _adaptive_pool(largest: bool, dims: int, layer: nn.Module, law: Law, shape: Shape) -> Moments:
    sizes = spatial(layer, need_shape(layer, shape, "how large its input is"), dims)
    outputs = window_of(layer.output_size, dims, "output_size", usual=sizes)
    windows = [lengths(n, o) for n, o in zip(sizes, outputs, strict=True)]
    if not largest:
        return grid([averages(axis, n) for axis, n in zip(windows, sizes, strict=True)], law)
    counted: Counter[int] = Counter()
    for entries in product(*(Counter(axis).items() for axis in windows)):
        counted[math.prod(k for k, _ in entries)] += math.prod(c for _, c in entries)
    return _maxima(counted, law, math.sqrt(math.prod(outputs) / math.prod(sizes)))


def _fractional_pool(dims: int, layer: nn.Module, law: Law, shape: Shape) -> Moments:
    """Moments of maxima over windows, wherever they fall.

    Of a ratio without a shape the outputs for each input are the ratio, which large inputs come
    to, or those that it divides into whole numbers.
    """
    ratio, outputs = layer.output_ratio, layer.output_size
    if ratio is None:
        shape = need_shape(layer, shape, "how large its input is")
    sizes = None if shape is None else spatial(layer, shape, dims)
    window = window_of(layer.kernel_size, dims, "kernel_size")
    if ratio is not None:
        ratios = ratio if isinstance(ratio, Sequence) else (ratio,) * dims
        for each in ratios:
            number("output_ratio", each)
        if len(ratios) != dims or not all(0 < each < 1 for each in ratios):
            raise ValueError(
                f"output_ratio must have {dims} entries between 0 and 1; it was {ratio}"
            )
        if sizes is None:
            return _maxima({math.prod(window): 1}, law, math.sqrt(math.prod(ratios)))
        outputs = tuple(int(n * each) for n, each in zip(sizes, ratios, strict=True))
    elif outputs is None:
        raise ValueError("output_size or output_ratio must be given; both were None")
    else:
        outputs = window_of(outputs, dims, "output_size")
    if any(o < 1 or o + k - 1 > n for n, k, o in zip(sizes, window, outputs, strict=True)):
        raise ValueError(
            f"windows of {window} must fit into inputs of {sizes} for outputs of {outputs}"
        )
    growth = math.prod(outputs) / math.prod(sizes)
    return _maxima({math.prod(window): 1}, law, math.sqrt(growth))


def _unpool(dims: int, layer: nn.Module, law: Law, shape: Shape) -> Moments:
    r"""Moments of max unpooling to places that all differ.

    .. math:: \mu = r m, \qquad \sigma_f^2 = r s^2 + r(1-r) m^2, \qquad \sigma_b = 1,

    r the inputs for each output: 1/∏stride without a shape.
    """
    sizes = None if shape is None else spatial(layer, shape, dims)
    window, stride = _geometry(layer, dims)
    if sizes is None:
        return grid([places(t, 1, 1) for t in stride], law)
    padding = window_of(layer.padding, dims, "padding", least=0)
    outputs = tuple(
        (n - 1) * t - 2 * p + k for n, k, t, p in zip(sizes, window, stride, padding, strict=True)
    )
    if any(o < n for o, n in zip(outputs, sizes, strict=True)):
        raise ValueError(
            f"the output must have a place for every input; it was {outputs} for {sizes}"
        )
    return grid([places(o, n, n) for o, n in zip(outputs, sizes, strict=True)], law)


_pool = {"family": "pool", "algebra": "commuting"}
register_each("MaxPool", _max_pool, **_pool)
register_each("AvgPool", _avg_pool, needs_zero=_moves_constants, **_pool)
register_each("LPPool", _lp_pool, note="for norm_type 1, 2 and infinite ones", family="pool")
for _name, _largest in (("Avg", False), ("Max", True)):
    register_each(
        f"Adaptive{_name}Pool",
        partial(_adaptive_pool, _largest),
        shaped=True,
        note="averaged over all outputs and inputs of the given size",
        **_pool,
    )
register_each(
    "FractionalMaxPool",
    _fractional_pool,
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
