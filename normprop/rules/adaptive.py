r"""Pooling whose windows follow from the sizes of its input and output.

Output i of o, of n inputs, is taken over the elements from ⌊i n/o⌋ to ⌈(i + 1) n/o⌉ - 1.  Where o
divides n these are plain windows side by side; else they are of two lengths and may overlap.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

from torch import nn

from normprop.gaussian import Law, maximum
from normprop.gaussian.law import std_error
from normprop.gaussian.normal import EPS
from normprop.rules.arguments import check_number, count, need_shape, window_of
from normprop.rules.axis import averages, grid
from normprop.rules.registry import Moments, register

__all__ = ["adaptive_max_pool", "adaptive_sizes", "fractional_growth"]


Sizes = tuple[int, ...]


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


def spatial(layer: nn.Module, shape: tuple[int, ...], dims: int) -> Sizes:
    """The sizes behind the channels of a sample."""
    if len(shape) != dims + 1:
        sizes = ("L",), ("H", "W"), ("D", "H", "W")
        raise ValueError(
            f"shape must be (C, {', '.join(sizes[dims - 1])}) for {type(layer).__name__}; "
            f"it was {shape}"
        )
    return shape[1:]


_WHAT = "how large its input is"


def _adaptive(figures, dims: int):
    def rule(layer: nn.Module, law: Law, shape: tuple[int, ...] | None = None) -> Moments:
        sizes = spatial(layer, need_shape(layer, shape, _WHAT), dims)
        return figures(sizes, adaptive_sizes(layer.output_size, sizes), law)

    return rule


def _fractional(dims: int):
    def rule(layer: nn.Module, law: Law, shape: tuple[int, ...] | None = None) -> Moments:
        if layer.output_ratio is None:
            shape = need_shape(layer, shape, _WHAT)
        sizes = None if shape is None else spatial(layer, shape, dims)
        window = window_of(layer.kernel_size, dims, "kernel_size")
        growth = fractional_growth(window, layer.output_size, layer.output_ratio, sizes)
        return fractional_max_pool(window, growth, law)

    return rule


for _dims in (1, 2, 3):
    for _name, _figures in (("Avg", adaptive_avg_pool), ("Max", adaptive_max_pool)):
        register(
            getattr(nn, f"Adaptive{_name}Pool{_dims}d"),
            _adaptive(_figures, _dims),
            shaped=True,
            family="pool",
            algebra="commuting",
            note="averaged over all outputs and inputs of the given size",
        )
for _dims in (2, 3):
    register(
        getattr(nn, f"FractionalMaxPool{_dims}d"),
        _fractional(_dims),
        shaped=True,
        family="pool",
        draws=lambda layer: layer._random_samples is None,
        note="wherever the windows fall; a ratio without a size counts as it is",
    )
