"""What moves elements, copies them or adds copies up: shuffles, windows laid out side by side."""

from torch import nn

from normprop.gaussian import Law
from normprop.rules.arguments import Shape, window_of
from normprop.rules.axis import Axis, copied, copies, grid, places, sums
from normprop.rules.registry import Moments, register

Window = tuple[int, int, int, int]
"""Window, dilation, padding and stride along one axis."""


def unfold_axis(window: Window, size: int | None = None) -> Axis:
    """Windows laid out side by side, of an axis of this size or of its interior."""
    kernel, dilation, padding, stride = window
    if size is None:
        return copies(kernel, stride)
    blocks = _blocks(window, size)
    filled = sum(
        0 <= block * stride - padding + dilation * tap < size
        for block in range(blocks)
        for tap in range(kernel)
    )
    return places(blocks * kernel, size, filled)


def fold_axis(window: Window, size: int | None = None) -> Axis:
    """Windows added up where they overlap, to an axis of this size or to its interior."""
    kernel, dilation, padding, stride = window
    if size is None:
        counts = [0] * stride
        for tap in range(kernel):
            counts[dilation * tap % stride] += 1
        return sums(counts, kernel)
    blocks = _blocks(window, size)
    counts = [0] * size
    for block in range(blocks):
        for tap in range(kernel):
            place = block * stride - padding + dilation * tap
            if 0 <= place < size:
                counts[place] += 1
    return sums(counts, blocks * kernel)


def _blocks(window: Window, size: int) -> int:
    kernel, dilation, padding, stride = window
    blocks = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if blocks < 1:
        raise ValueError(
            f"the window must fit into the padded size; it reaches over "
            f"{dilation * (kernel - 1) + 1} elements of {size + 2 * padding}"
        )
    return blocks


def _arguments(layer: nn.Fold | nn.Unfold) -> tuple[Window, Window]:
    """The two windows of ``fold`` and ``unfold``."""
    pads = layer.padding if isinstance(layer.padding, tuple | list) else (layer.padding,)
    sides = (
        window_of(layer.kernel_size, 2, "kernel_size"),
        window_of(layer.dilation, 2, "dilation"),
        tuple(pads) * (2 // len(pads)),
        window_of(layer.stride, 2, "stride"),
    )
    return tuple(zip(*sides, strict=True))


def unfold_rule(layer: nn.Unfold, law: Law, shape: Shape = None) -> Moments:
    """Moments of ``nn.Unfold``."""
    if shape is not None and len(shape) != 3:
        raise ValueError(f"shape must be (C, H, W) for Unfold; it was {shape}")
    sizes = (None, None) if shape is None else shape[-2:]
    return grid([unfold_axis(w, n) for w, n in zip(_arguments(layer), sizes, strict=True)], law)


def fold_rule(layer: nn.Fold, law: Law, shape: Shape = None) -> Moments:
    """Moments of ``nn.Fold``."""
    windows = _arguments(layer)
    if shape is None:
        return grid([fold_axis(window) for window in windows], law)
    sizes = window_of(layer.output_size, 2, "output_size")
    taps = windows[0][0] * windows[1][0]
    blocks = _blocks(windows[0], sizes[0]) * _blocks(windows[1], sizes[1])
    if len(shape) != 2 or shape[0] % taps or shape[1] != blocks:
        raise ValueError(
            f"shape must be (C·{taps}, {blocks}) for Fold to {sizes}, C channels of windows of "
            f"{taps} elements; it was {shape}"
        )
    return grid([fold_axis(w, n) for w, n in zip(windows, sizes, strict=True)], law)


for _type in (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Flatten, nn.Unflatten):
    register(_type, lambda _, law: copied(law), family="moving", algebra="commuting")
for _type, _rule, _over in (
    (nn.Unfold, unfold_rule, "all windows"),
    (nn.Fold, fold_rule, "the whole image"),
):
    register(
        _type,
        _rule,
        shaped=True,
        note=f"of the interior; with a shape, over {_over}",
        family="resizing",
    )
