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
    """Normalised pixel shuffle: see :func:`normprop.functional.pixel_shuffle`.

    Args:
        upscale_factor: r.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class PixelUnshuffle(_Shuffle, nn.PixelUnshuffle):
    """Normalised inverse of a pixel shuffle: see :func:`normprop.functional.pixel_unshuffle`.

    Args:
        downscale_factor: r.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class ChannelShuffle(Moving, nn.ChannelShuffle):
    """Normalised shuffle of channels: see :func:`normprop.functional.channel_shuffle`.

    Args:
        groups: of channels, between which they are shuffled.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class Flatten(Moving, nn.Flatten):
    """Normalised flattening: y = (x - mean)/σ in another shape, σ_f = std and σ_b = 1.

    Args:
        start_dim: as in torch.
        end_dim: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class Unflatten(Moving, nn.Unflatten):
    """Normalised inverse of flattening; figures as of :class:`Flatten`.

    Args:
        dim: as in torch.
        unflattened_size: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class Unfold(Moving, nn.Unfold):
    """Normalised windows side by side: see :func:`normprop.functional.unfold`.

    Args:
        kernel_size: the window.
        dilation: as in torch.
        padding: as in torch.
        stride: step of the window, which is 1 by default.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class Fold(Twin, nn.Fold):
    """Normalised sum of windows: see :func:`normprop.functional.fold`.

    Args:
        output_size: as in torch.
        kernel_size: the window.
        dilation: as in torch.
        padding: as in torch.
        stride: step of the window, which is 1 by default.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """
