"""What moves elements, copies them or adds copies up: shuffles, windows laid out side by side."""

import math
from functools import partial

from torch import nn

from normprop.gaussian import Figures, Law, maximum
from normprop.gaussian.law import mixture
from normprop.gaussian.normal import EPS
from normprop.rules.arguments import Shape, window_of
from normprop.rules.axis import Axis, copied, copies, grid, places, sums
from normprop.rules.registry import CLOSED, Moments, register, register_each

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
    sides = (
        window_of(layer.kernel_size, 2, "kernel_size"),
        window_of(layer.dilation, 2, "dilation"),
        window_of(layer.padding, 2, "padding", least=0),
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


def _pad(copying: bool, dims: int, layer: nn.Module, law: Law, shape: Shape) -> Moments:
    r"""Moments of padding: those of the identity in the interior.

    Over a whole sample a mode that copies has :math:`\sigma_b^2` = outputs/inputs, as an input
    gets the gradients of all its copies; a constant v on a part 1 - r of the outputs gives

    .. math:: \mu = r m + (1-r) v, \qquad \sigma_f^2 = r s^2 + r(1-r)(m - v)^2,

    and :math:`\sigma_b^2` is the part of the inputs that is not cut off, 1 where no pad is
    negative.
    """
    # Two an axis, the last axis first.
    pads = tuple(layer.padding)
    if shape is not None and len(shape) < dims:
        raise ValueError(
            f"shape must have at least {dims} sizes for {type(layer).__name__}; it was {shape}"
        )
    if len(pads) % 2:
        raise ValueError(f"pad must have two entries an axis; it was {pads}")
    if shape is None:
        return copied(law)
    sizes = shape[len(shape) - dims :]
    before, after = pads[0::2][::-1], pads[1::2][::-1]
    outputs = [n + a + b for n, a, b in zip(sizes, before, after, strict=True)]
    kept = [n + min(a, 0) + min(b, 0) for n, a, b in zip(sizes, before, after, strict=True)]
    if min(kept) < 1:
        raise ValueError(f"the padding must leave something of the sizes {sizes}; it was {pads}")
    if copying:
        return grid([copies(o, n) for o, n in zip(outputs, sizes, strict=True)], law)
    value = float(getattr(layer, "value", 0.0))
    m, s, error, method = maximum(1, law)
    inside, whole = math.prod(kept), math.prod(outputs)
    parts = Figures(m, s, 0.0, error, method), Figures(value, 0.0, 0.0, 0.0, CLOSED)
    found = mixture(parts, (inside / whole, (whole - inside) / whole))
    slope = math.sqrt(inside / math.prod(sizes))
    return Moments(found.mean, found.std, slope, max(found.error, 4.0 * EPS), method)


_BORDER = "at the border an input gets more than one gradient"
_CONSTANT = "the border is a constant that the law does not know"
# What a constant is after a map depends on it, but that 0 stays where nothing is shifted.
for _name, _note, _facts in (
    ("Zero", _CONSTANT, {"algebra": "commuting", "needs_zero": lambda _: True}),
    ("Constant", _CONSTANT, {}),
    ("Reflection", _BORDER, {"algebra": "commuting"}),
    ("Replication", _BORDER, {"algebra": "commuting"}),
    ("Circular", f"forward everywhere; {_BORDER}", {"algebra": "commuting"}),
):
    register_each(
        f"{_name}Pad",
        partial(_pad, _note != _CONSTANT),
        shaped=True,
        note=f"of the interior; with a shape, over all positions: {_note}",
        family="padding",
        **_facts,
    )
