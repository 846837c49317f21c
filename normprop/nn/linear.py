"""Normalised linear maps."""

from torch import Tensor, nn

from normprop.nn.parametric import MapFromWeight

__all__ = ["Linear"]


class Linear(MapFromWeight, nn.Linear):
    """Linear map with weights on the unit ball: see :func:`normprop.functional.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map."""
        return self._run("linear", input)
