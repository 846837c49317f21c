"""Normalised softmax and its relatives."""

from torch import Tensor, nn

from normprop import functional
from normprop.nn.shaped import Shaped


class Softmax(Shaped, nn.Softmax):
    """Normalised softmax over the elements of a dimension: see :func:`normprop.functional.softmax`.

    Args:
        dim: the dimension, which must be named.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0 and at most 20.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply softmax and normalise."""
        return functional.softmax(input, named(self), **self._law())


class Softmin(Shaped, nn.Softmin):
    """Normalised softmin: see :func:`normprop.functional.softmin`; as :class:`Softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply softmin and normalise."""
        return functional.softmin(input, named(self), **self._law())


class LogSoftmax(Shaped, nn.LogSoftmax):
    """Normalised logarithm of softmax: see :func:`normprop.functional.log_softmax`.

    Arguments as in :class:`Softmax`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the logarithm of softmax and normalise."""
        return functional.log_softmax(input, named(self), **self._law())


class Softmax2d(Shaped, nn.Softmax2d):
    """Normalised softmax over channels, (N, C, H, W); scaling, mean and std as :class:`Softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply softmax over the channels and normalise."""
        if input.ndim not in (3, 4):
            raise ValueError(
                f"input must have shape (N, C, H, W) or (C, H, W); it was {tuple(input.shape)}"
            )
        return functional.softmax(input, -3, **self._law())


def named(layer: nn.Module) -> int:
    """The dimension, which must not be ``None``."""
    if layer.dim is None:
        raise ValueError("dim must be given: torch's implicit choice depends on the batch")
    return layer.dim
