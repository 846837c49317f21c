"""Normalised layers that move elements, copy them, or add copies up."""

from torch import Tensor, nn

from normprop import functional
from normprop.functional.shape import moved
from normprop.nn.interior import Interior
from normprop.nn.twin import Twin


class PixelShuffle(Twin, nn.PixelShuffle):
    """Normalised pixel shuffle: see :func:`normprop.functional.pixel_shuffle`.

    Args:
        upscale_factor: r.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Shuffle and normalise."""
        return functional.pixel_shuffle(input, self.upscale_factor, constants=self.constants)


class PixelUnshuffle(Twin, nn.PixelUnshuffle):
    """Normalised inverse of a pixel shuffle: see :func:`normprop.functional.pixel_unshuffle`.

    Args:
        downscale_factor: r.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Shuffle and normalise."""
        return functional.pixel_unshuffle(input, self.downscale_factor, constants=self.constants)


class ChannelShuffle(Twin, nn.ChannelShuffle):
    """Normalised shuffle of channels: see :func:`normprop.functional.channel_shuffle`.

    Args:
        groups: of channels, between which they are shuffled.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Shuffle and normalise."""
        return functional.channel_shuffle(input, self.groups, constants=self.constants)


class _Reshaped(Twin):
    """A layer whose output holds its input's elements in another shape, in order."""

    def forward(self, input: Tensor) -> Tensor:
        """Reshape and normalise."""
        return moved(super(Twin, self).forward, input, self.constants)


class Flatten(_Reshaped, nn.Flatten):
    """Normalised flattening: y = (x - mean)/σ in another shape, σ_f = std and σ_b = 1.

    Args:
        start_dim: as in torch.
        end_dim: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class Unflatten(_Reshaped, nn.Unflatten):
    """Normalised inverse of flattening; figures as of :class:`Flatten`.

    Args:
        dim: as in torch.
        unflattened_size: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class Unfold(Interior, nn.Unfold):
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

    def forward(self, input: Tensor) -> Tensor:
        """Lay out the windows and normalise."""
        return functional.unfold(
            input,
            self.kernel_size,
            self.dilation,
            self.padding,
            self.stride,
            constants=self.constants,
        )


class Fold(Interior, nn.Fold):
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

    def forward(self, input: Tensor) -> Tensor:
        """Add up the windows and normalise."""
        return functional.fold(
            input,
            self.output_size,
            self.kernel_size,
            self.dilation,
            self.padding,
            self.stride,
            constants=self.constants,
        )
