"""Normalised linear maps."""

from torch import Tensor, nn

from normprop import functional
from normprop.nn.parametric import MapFromWeight

__all__ = ["Linear"]


class Linear(MapFromWeight, nn.Linear):
    """Linear map with weights on the unit ball: see :func:`normprop.functional.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map."""
        self._check_place()
        made = self._at_hand()
        if made is not None:
            return nn.functional.linear(input, *made)
        return functional.linear(input, self.weight, self.bias, **self._options())
