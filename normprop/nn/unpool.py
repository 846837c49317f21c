"""Normalised max unpooling."""

from torch import nn

from normprop.nn.twin import Twin

__all__ = ["MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d"]


class MaxUnpool1d(Twin, nn.MaxUnpool1d):
    """Normalised max unpooling: see :func:`normprop.functional.max_unpool1d`.

    Args:
        kernel_size: the window.
        stride: step of the window, by default its size.
        padding: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class MaxUnpool2d(Twin, nn.MaxUnpool2d):
    """Normalised max unpooling in two dimensions; arguments as in :class:`MaxUnpool1d`."""


class MaxUnpool3d(Twin, nn.MaxUnpool3d):
    """Normalised max unpooling in three dimensions; arguments as in :class:`MaxUnpool1d`."""
