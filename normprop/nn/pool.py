"""Normalised pooling."""

from torch import nn

from normprop.nn.twin import Twin, TwinBehind

__all__ = [
    "AvgPool1d", "AvgPool2d", "AvgPool3d", "LPPool1d", "LPPool2d", "LPPool3d", "MaxPool1d",
    "MaxPool2d", "MaxPool3d",
]  # fmt: skip


class MaxPool1d(TwinBehind, nn.MaxPool1d):
    """Normalised max pooling: see :func:`normprop.functional.max_pool1d`.

    Args:
        kernel_size: the window.
        stride: step of the window, by default its size.
        padding: as in torch; likewise dilation, return_indices and ceil_mode.
        dilation: as in torch.
        return_indices: as in torch.
        ceil_mode: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input, or of the input of ``after``.
        std: standard deviation of the input, or of the input of ``after``.
        after: the activation that stands before the pooling, a name or a module; a
            ``normprop.nn`` activation counts as it is, normalised.
    """


class MaxPool2d(TwinBehind, nn.MaxPool2d):
    """Normalised max pooling in two dimensions; arguments as in :class:`MaxPool1d`."""


class MaxPool3d(TwinBehind, nn.MaxPool3d):
    """Normalised max pooling in three dimensions; arguments as in :class:`MaxPool1d`."""


class AvgPool1d(TwinBehind, nn.AvgPool1d):
    """Normalised average pooling: see :func:`normprop.functional.avg_pool1d`.

    Args:
        kernel_size: the window.
        stride: step of the window, by default its size.
        padding: as in torch; likewise ceil_mode and count_include_pad.
        ceil_mode: as in torch.
        count_include_pad: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input, or of the input of ``after``.
        std: standard deviation of the input, or of the input of ``after``.
        after: the activation that stands before the pooling, as in :class:`MaxPool1d`.
    """


class AvgPool2d(TwinBehind, nn.AvgPool2d):
    """Normalised average pooling in two dimensions.

    ``divisor_override`` takes the place of the window's size, as in torch; the other
    arguments are those of :class:`AvgPool1d`.
    """


class AvgPool3d(TwinBehind, nn.AvgPool3d):
    """Normalised average pooling in three dimensions; arguments as in :class:`AvgPool2d`."""


class LPPool1d(Twin, nn.LPPool1d):
    """Normalised pooling by a norm: see :func:`normprop.functional.lp_pool1d`.

    Args:
        norm_type: p: 1, 2 or infinite.
        kernel_size: the window.
        stride: step of the window, by default its size.
        ceil_mode: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class LPPool2d(Twin, nn.LPPool2d):
    """Normalised pooling by a norm in two dimensions; arguments as in :class:`LPPool1d`."""


class LPPool3d(Twin, nn.LPPool3d):
    """Normalised pooling by a norm in three dimensions; arguments as in :class:`LPPool1d`."""
