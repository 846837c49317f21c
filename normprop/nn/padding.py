"""Normalised padding: the constants are those of the interior, where it is the identity."""

from torch import nn

from normprop.nn.shape import Moving

__all__ = [
    "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d",
    "ConstantPad3d", "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d",
    "ReplicationPad1d", "ReplicationPad2d", "ReplicationPad3d", "ZeroPad1d", "ZeroPad2d",
    "ZeroPad3d",
]  # fmt: skip


class ZeroPad1d(Moving, nn.ZeroPad1d):
    """Normalised padding with zeros: see :func:`normprop.functional.pad`.

    Args:
        padding: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class ZeroPad2d(Moving, nn.ZeroPad2d):
    """Normalised padding with zeros in two dimensions; as :class:`ZeroPad1d`."""


class ZeroPad3d(Moving, nn.ZeroPad3d):
    """Normalised padding with zeros in three dimensions; as :class:`ZeroPad1d`."""


class ConstantPad1d(Moving, nn.ConstantPad1d):
    """Normalised padding with a constant: see :func:`normprop.functional.pad`.

    Args:
        padding: as in torch.
        value: of the constant.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class ConstantPad2d(Moving, nn.ConstantPad2d):
    """Normalised padding with a constant in two dimensions; as :class:`ConstantPad1d`."""


class ConstantPad3d(Moving, nn.ConstantPad3d):
    """Normalised padding with a constant in three dimensions; as :class:`ConstantPad1d`."""


class ReflectionPad1d(Moving, nn.ReflectionPad1d):
    """Normalised padding by reflection: see :func:`normprop.functional.pad`.

    Args:
        padding: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class ReflectionPad2d(Moving, nn.ReflectionPad2d):
    """Normalised padding by reflection in two dimensions; as :class:`ReflectionPad1d`."""


class ReflectionPad3d(Moving, nn.ReflectionPad3d):
    """Normalised padding by reflection in three dimensions; as :class:`ReflectionPad1d`."""


class ReplicationPad1d(Moving, nn.ReplicationPad1d):
    """Normalised padding with the outermost elements: see :func:`normprop.functional.pad`.

    Args:
        padding: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class ReplicationPad2d(Moving, nn.ReplicationPad2d):
    """Normalised padding with the end elements, (N, C, H, W); as :class:`ReplicationPad1d`."""


class ReplicationPad3d(Moving, nn.ReplicationPad3d):
    """Normalised padding with the end elements, (N, C, D, H, W); as :class:`ReplicationPad1d`."""


class CircularPad1d(Moving, nn.CircularPad1d):
    """Normalised padding from the other end: see :func:`normprop.functional.pad`.

    Args:
        padding: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class CircularPad2d(Moving, nn.CircularPad2d):
    """Normalised padding from the other end in two dimensions; as :class:`CircularPad1d`."""


class CircularPad3d(Moving, nn.CircularPad3d):
    """Normalised padding from the other end in three dimensions; as :class:`CircularPad1d`."""
