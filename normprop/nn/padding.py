"""Normalised padding: the constants are those of the interior, where it is the identity."""

from torch import Tensor, nn

from normprop import functional
from normprop.nn.interior import Interior


class _Pad(Interior):
    """Padding; a subclass adds the twin, and the mode where it is not that of a constant."""

    _mode = "constant"

    def forward(self, input: Tensor) -> Tensor:
        """Pad and normalise."""
        value = getattr(self, "value", None)
        return functional.pad(input, self.padding, self._mode, value, constants=self.constants)


class ZeroPad1d(_Pad, nn.ZeroPad1d):
    """Normalised padding with zeros: see :func:`normprop.functional.pad`.

    Args:
        padding: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class ZeroPad2d(_Pad, nn.ZeroPad2d):
    """Normalised padding with zeros in two dimensions; as :class:`ZeroPad1d`."""


class ZeroPad3d(_Pad, nn.ZeroPad3d):
    """Normalised padding with zeros in three dimensions; as :class:`ZeroPad1d`."""


class ConstantPad1d(_Pad, nn.ConstantPad1d):
    """Normalised padding with a constant: see :func:`normprop.functional.pad`.

    Args:
        padding: as in torch.
        value: of the constant.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class ConstantPad2d(_Pad, nn.ConstantPad2d):
    """Normalised padding with a constant in two dimensions; as :class:`ConstantPad1d`."""


class ConstantPad3d(_Pad, nn.ConstantPad3d):
    """Normalised padding with a constant in three dimensions; as :class:`ConstantPad1d`."""


class ReflectionPad1d(_Pad, nn.ReflectionPad1d):
    """Normalised padding by reflection: see :func:`normprop.functional.pad`.

    Args:
        padding: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    _mode = "reflect"


class ReflectionPad2d(_Pad, nn.ReflectionPad2d):
    """Normalised padding by reflection in two dimensions; as :class:`ReflectionPad1d`."""

    _mode = "reflect"


class ReflectionPad3d(_Pad, nn.ReflectionPad3d):
    """Normalised padding by reflection in three dimensions; as :class:`ReflectionPad1d`."""

    _mode = "reflect"


class ReplicationPad1d(_Pad, nn.ReplicationPad1d):
    """Normalised padding with the outermost elements: see :func:`normprop.functional.pad`.

    Args:
        padding: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    _mode = "replicate"


class ReplicationPad2d(_Pad, nn.ReplicationPad2d):
    """Normalised padding with the end elements, (N, C, H, W); as :class:`ReplicationPad1d`."""

    _mode = "replicate"


class ReplicationPad3d(_Pad, nn.ReplicationPad3d):
    """Normalised padding with the end elements, (N, C, D, H, W); as :class:`ReplicationPad1d`."""

    _mode = "replicate"


class CircularPad1d(_Pad, nn.CircularPad1d):
    """Normalised padding from the other end: see :func:`normprop.functional.pad`.

    Args:
        padding: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    _mode = "circular"


class CircularPad2d(_Pad, nn.CircularPad2d):
    """Normalised padding from the other end in two dimensions; as :class:`CircularPad1d`."""

    _mode = "circular"


class CircularPad3d(_Pad, nn.CircularPad3d):
    """Normalised padding from the other end in three dimensions; as :class:`CircularPad1d`."""

    _mode = "circular"
