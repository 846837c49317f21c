"""Normalised layers that move elements, copy them, or add copies up."""

from typing import ClassVar

from torch import Tensor, nn

from normprop.functional.shape import any_batch, moved
from normprop.nn.twin import Twin

__all__ = [
    "ChannelShuffle", "Flatten", "Fold", "PixelShuffle", "PixelUnshuffle", "Unflatten", "Unfold",
]  # fmt: skip


class Moving(Twin):
    """A layer that moves elements or copies them: where it has nothing to scale, torch's alone."""

    _run: ClassVar = staticmethod(moved)


class _Shuffle(Moving):
    def _compute(self, input: Tensor) -> Tensor:
        return any_batch(super()._compute)(input)


class PixelShuffle(_Shuffle, nn.PixelShuffle):
    """Normalised pixel shuffle: see :func:`normprop.functional.pixel_shuffle`."""


class PixelUnshuffle(_Shuffle, nn.PixelUnshuffle):
    """Normalised inverse of a pixel shuffle: see :func:`normprop.functional.pixel_unshuffle`."""


class ChannelShuffle(Moving, nn.ChannelShuffle):
    """Normalised shuffle of channels: see :func:`normprop.functional.channel_shuffle`."""


class Flatten(Moving, nn.Flatten):
    """Normalised flattening: y = (x - mean)/σ in another shape, σ_f = std and σ_b = 1."""


class Unflatten(Moving, nn.Unflatten):
    """Normalised inverse of flattening; figures as of :class:`Flatten`."""


class Unfold(Moving, nn.Unfold):
    """Normalised windows side by side: see :func:`normprop.functional.unfold`."""


class Fold(Twin, nn.Fold):
    """Normalised sum of windows: see :func:`normprop.functional.fold`."""
