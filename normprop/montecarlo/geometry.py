"""Samples of a size at which a layer has an interior, and which of their places belong to it."""

import math

from torch import nn

_POOLS = {getattr(nn, f"{name}Pool{dims}d"): dims for name in ("Max", "Avg") for dims in (1, 2, 3)}
_FEATURE_DROPOUT = {
    nn.Dropout1d: 1,
    nn.Dropout2d: 2,
    nn.Dropout3d: 3,
    nn.FeatureAlphaDropout: 1,
}
# How many windows a side of a sample has beyond those that an overlap spoils.
_WINDOWS_A_SIDE = {1: 64, 2: 12, 3: 6}


def geometry_of(function, shape):
    """Sample shape, interior of input and output, and whether figures are one a channel."""
    if shape is not None:
        return tuple(shape), (), (), False
    if isinstance(function, nn.Linear):
        return (function.in_features,), (), (), True
    convolves = isinstance(function, nn.modules.conv._ConvNd)
    dims = next((d for pool, d in _POOLS.items() if isinstance(function, pool)), None)
    if convolves or dims is not None:
        dims = len(function.kernel_size) if convolves else dims
        side = _transposed_side if getattr(function, "transposed", False) else _side
        sides = [side(function, axis, dims) for axis in range(dims)]
        lengths, inside_x, inside_y = zip(*sides, strict=True)
        channels = function.in_channels if convolves else 1
        return (channels, *lengths), inside_x, inside_y, convolves
    for module_type, dims in _FEATURE_DROPOUT.items():
        if isinstance(function, module_type):
            return (8,) + (4,) * dims, (), (), False
    return (), (), (), False


def _side(layer, axis: int, dims: int) -> tuple[int, slice, slice]:
    """Length of an input side, and the slices of its interior in the input and the output.

    Windows start at positions congruent to -padding modulo the stride.  An output is interior
    if its window lies inside the input; an input is interior if every window that would
    contain it does.
    """

    def entry(name, default):
        value = getattr(layer, name, default)
        value = default if value is None else value
        if not isinstance(value, tuple | list):
            return int(value)
        return int(value[axis] if len(value) > 1 else value[0])

    kernel = entry("kernel_size", 1)
    stride = entry("stride", kernel)
    extent = entry("dilation", 1) * (kernel - 1) + 1
    words = {"same": (extent - 1) // 2, "valid": 0}
    padding = getattr(layer, "padding", 0)
    padding = words[padding] if isinstance(padding, str) else entry("padding", 0)

    windows = _WINDOWS_A_SIDE[dims] + math.ceil(extent / stride)
    start = -padding % stride
    length = start + (windows - 1) * stride + extent
    lowest = max(0, start - stride + extent)
    highest = min(length, start + windows * stride)
    periods = (highest - lowest) // stride
    first = (start + padding) // stride
    return length, slice(lowest, lowest + periods * stride), slice(first, first + windows)


def _transposed_side(layer, axis: int, dims: int) -> tuple[int, slice, slice]:
    """As :func:`_side`, for a transposed convolution: input and output change places.

    Input i reaches the ``extent`` places from i·stride - padding on.  An output is interior if
    every input that would reach it exists, whole periods of them; an input is interior if all
    that it reaches does.
    """
    stride, padding, more, gap, kernel = (
        getattr(layer, name)[axis]
        for name in ("stride", "padding", "output_padding", "dilation", "kernel_size")
    )
    extent = gap * (kernel - 1) + 1
    length = _WINDOWS_A_SIDE[dims] + math.ceil((extent + 2 * padding) / stride)
    output = (length - 1) * stride - 2 * padding + extent + more
    lowest = max(0, extent - stride - padding)
    highest = min(output, length * stride - padding)
    periods = (highest - lowest) // stride
    first, last = -(-padding // stride), (output + padding - extent) // stride
    return length, slice(first, last + 1), slice(lowest, lowest + periods * stride)
