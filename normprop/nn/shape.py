"""Normalised layers that move elements, copy them, pad them, or add copies up.

The constants of padding are those of the interior, where it is the identity.
"""

from typing import ClassVar

from torch import Tensor, nn

from normprop.functional.shape import any_batch, moved
from normprop.nn.twin import Twin

__all__ = [
    "ChannelShuffle", "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d",
    "ConstantPad2d", "ConstantPad3d", "Flatten", "Fold", "PixelShuffle", "PixelUnshuffle",
    "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d",
    "ReplicationPad2d", "ReplicationPad3d", "Unflatten", "Unfold", "ZeroPad1d", "ZeroPad2d",
    "ZeroPad3d",
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


class ZeroPad1d(Moving, nn.ZeroPad1d):
    """Normalised zero padding: see :func:`normprop.functional.pad`."""


class ZeroPad2d(Moving, nn.ZeroPad2d):
    """Normalised zero padding in two dimensions: see :func:`normprop.functional.pad`."""


class ZeroPad3d(Moving, nn.ZeroPad3d):
    """Normalised zero padding in three dimensions: see :func:`normprop.functional.pad`."""


class ConstantPad1d(Moving, nn.ConstantPad1d):
    """Normalised constant padding: see :func:`normprop.functional.pad`."""


class ConstantPad2d(Moving, nn.ConstantPad2d):
    """Normalised constant padding in two dimensions: see :func:`normprop.functional.pad`."""


class ConstantPad3d(Moving, nn.ConstantPad3d):
    """Normalised constant padding in three dimensions: see :func:`normprop.functional.pad`."""


class ReflectionPad1d(Moving, nn.ReflectionPad1d):
    """Normalised reflection padding: see :func:`normprop.functional.pad`."""


class ReflectionPad2d(Moving, nn.ReflectionPad2d):
    """Normalised reflection padding in two dimensions: see :func:`normprop.functional.pad`."""


class ReflectionPad3d(Moving, nn.ReflectionPad3d):
    """Normalised reflection padding in three dimensions: see :func:`normprop.functional.pad`."""


class ReplicationPad1d(Moving, nn.ReplicationPad1d):
    """Normalised replication padding: see :func:`normprop.functional.pad`."""


class ReplicationPad2d(Moving, nn.ReplicationPad2d):
    """Normalised replication padding in two dimensions: see :func:`normprop.functional.pad`."""


class ReplicationPad3d(Moving, nn.ReplicationPad3d):
    """Normalised replication padding in three dimensions: see :func:`normprop.functional.pad`."""


class CircularPad1d(Moving, nn.CircularPad1d):
    """Normalised circular padding: see :func:`normprop.functional.pad`."""


class CircularPad2d(Moving, nn.CircularPad2d):
    """Normalised circular padding in two dimensions: see :func:`normprop.functional.pad`."""


class CircularPad3d(Moving, nn.CircularPad3d):
    """Normalised circular padding in three dimensions: see :func:`normprop.functional.pad`."""
