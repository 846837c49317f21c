"""Normalised linear maps."""

from torch import Tensor, nn

from normprop import functional
from normprop.nn.parametric import MapFromWeight

__all__ = ["Linear"]


class Linear(MapFromWeight, nn.Linear):
    """Linear map with weights on the unit ball: see :func:`normprop.functional.linear`.

    Args:
        in_features: as in torch.
        out_features: as in torch.
        bias: as in torch.
        device: as in torch.
        dtype: as in torch.
        scaling: which ball the weights are on in which pass.
        per: ``"neuron"`` for one norm a neuron, ``"layer"`` for one factor.
        gain: radius of the ball in the place of 1, greater than 0.
        method: ``"normalize"`` in each forward pass, or ``"project"`` by :meth:`project_`
            after each step of the optimiser.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map."""
        self._check_place()
        made = self._at_hand()
        if made is not None:
            return nn.functional.linear(input, *made)
        return functional.linear(input, self.weight, self.bias, **self._options())
