"""Normalised linear maps."""

from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.scale import Scaling
from normprop.functional.weight import Method, Per
from normprop.nn.parametric import MapFromWeight, parametric_moments


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
        method: ``"normalize"`` in each forward pass, or ``"project"`` by :meth:`project_`
            after each step of the optimiser.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device=None,
        dtype=None,
        *,
        scaling: Scaling = "backward",
        per: Per = "neuron",
        method: Method = "normalize",
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self._declare(scaling, per, method)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map."""
        self._check_place()
        return functional.linear(
            input,
            self.weight,
            self.bias,
            scaling=self.scaling,
            per=self.per,
            method=self.method,
            absorbed=self.absorbed,
        )


rules.register(Linear, parametric_moments)
