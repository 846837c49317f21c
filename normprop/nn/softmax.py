"""Normalised softmax and its relatives."""

from torch import Tensor, nn

from normprop.functional.softmax import over
from normprop.nn.twin import Twin

__all__ = ["LogSoftmax", "Softmax", "Softmax2d", "Softmin"]


class _Over(Twin):
    """A function of all elements of a dimension, whose size its constants follow from."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply it and normalise."""
        constants = over(self.torch_type, input, self._place(), self._chosen())
        return self._run(self._compute, input, constants)

    def _place(self) -> int:
        """The dimension, which must not be ``None``."""
        if self.dim is None:
            raise ValueError("dim must be given: torch's implicit choice depends on the batch")
        return self.dim


class Softmax(_Over, nn.Softmax):
    """Normalised softmax over a dimension: see :func:`normprop.functional.softmax`."""


class Softmin(_Over, nn.Softmin):
    """Normalised softmin: see :func:`normprop.functional.softmin`."""


class LogSoftmax(_Over, nn.LogSoftmax):
    """Normalised logarithm of softmax: see :func:`normprop.functional.log_softmax`."""


class Softmax2d(_Over, nn.Softmax2d):
    """Normalised softmax over channels, (N, C, H, W): see :func:`normprop.functional.softmax`."""

    def _place(self) -> int:
        return -3
