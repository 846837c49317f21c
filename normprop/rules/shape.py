"""What moves elements, copies them or adds copies up: shuffles, windows laid out side by side."""

import math

from torch import nn

from normprop.gaussian import Law
from normprop.rules.arguments import Shape, window_of
from normprop.rules.axis import Axis, copied, copies, grid, places, sums
from normprop.rules.registry import Moments, register

Window = tuple[int, int, int, int]
"""Window, dilation, padding and stride along one axis."""


def _unfolded(window: Window, size: int | None) -> Axis:
    """Windows laid out side by side, of an axis of this size or of its interior."""
    kernel, _, _, stride = window
    if size is None:
        return copies(kernel, stride)
    return places(_blocks(window, size) * kernel, size, sum(_counts(window, size)))


def _folded(window: Window, size: int | None) -> Axis:
    """Windows added up where they overlap, to an axis of this size or to its interior."""
    kernel, dilation, _, stride = window
    if size is not None:
        return sums(_counts(window, size), _blocks(window, size) * kernel)
    counts = [0] * stride
    for tap in range(kernel):
        counts[dilation * tap % stride] += 1
    return sums(counts, kernel)


def _counts(window: Window, size: int) -> list[int]:
    """In how many windows each element of an axis is."""
    kernel, dilation, padding, stride = window
    counts = [0] * size
    for block in range(_blocks(window, size)):
        for tap in range(kernel):
            place = block * stride - padding + dilation * tap
            if 0 <= place < size:
                counts[place] += 1
    return counts


def _blocks(window: Window, size: int) -> int:
    kernel, dilation, padding, stride = window
    blocks = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if blocks < 1:
        raise ValueError(
            f"the window must fit into the padded size; it reaches over "
            f"{dilation * (kernel - 1) + 1} elements of {size + 2 * padding}"
        )
    return blocks


def _windows(layer: nn.Fold | nn.Unfold) -> tuple[Window, Window]:
    """The two windows of ``fold`` and ``unfold``."""
    pads = layer.padding if isinstance(layer.padding, tuple | list) else (layer.padding,)
    sides = (
        window_of(layer.kernel_size, 2, "kernel_size"),
        window_of(layer.dilation, 2, "dilation"),
        tuple(pads) * (2 // len(pads)),
        window_of(layer.stride, 2, "stride"),
    )
    return tuple(zip(*sides, strict=True))


def _unfold(layer: nn.Unfold, law: Law, shape: Shape) -> Moments:
    if shape is not None and len(shape) != 3:
        raise ValueError(f"shape must be (C, H, W) for Unfold; it was {shape}")
    sizes = (None, None) if shape is None else shape[-2:]
    return grid(list(map(_unfolded, _windows(layer), sizes)), law)


def _fold(layer: nn.Fold, law: Law, shape: Shape) -> Moments:
    windows, sizes = _windows(layer), (None, None)
    if shape is not None:
        sizes = window_of(layer.output_size, 2, "output_size")
        taps = windows[0][0] * windows[1][0]
        blocks = math.prod(map(_blocks, windows, sizes))
        if len(shape) != 2 or shape[0] % taps or shape[1] != blocks:
            raise ValueError(
                f"shape must be (C·{taps}, {blocks}) for Fold to {sizes}, C channels of windows "
                f"of {taps} elements; it was {shape}"
            )
    return grid(list(map(_folded, windows, sizes)), law)


for _type in (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Flatten, nn.Unflatten):
    register(_type, lambda _, law: copied(law), family="moving", algebra="commuting")
for _type, _rule, _over in (
    (nn.Unfold, _unfold, "all windows"),
    (nn.Fold, _fold, "the whole image"),
):
    register(
        _type,
        _rule,
        shaped=True,
        note=f"of the interior; with a shape, over {_over}",
        family="resizing",
    )
