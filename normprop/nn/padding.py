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
