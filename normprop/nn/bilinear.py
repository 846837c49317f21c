"""Normalised bilinear maps."""

import torch
from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.bilinear import check_bilinear, factors, on_ball
from normprop.functional.scale import Scaling
from normprop.functional.weight import Method, Per
from normprop.nn.parametric import Parametric


class Bilinear(Parametric, nn.Bilinear):
    """Bilinear map with weights on the unit ball: see :func:`normprop.functional.bilinear`.

    Args:
        in1_features: as in torch.
        in2_features: as in torch.
        out_features: as in torch.
        bias: as in torch.
        device: as in torch.
        dtype: as in torch.
        scaling: which ball the weights are on in which pass.
        per: ``"layer"`` for one factor, ``"neuron"`` for one norm an output, which the backward
            ball does not have.
        method: ``"normalize"`` in each forward pass, or ``"project"`` by ``project_()``
            after each step of the optimiser.
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device=None,
        dtype=None,
        *,
        scaling: Scaling = "backward",
        per: Per = "layer",
        method: Method = "normalize",
    ) -> None:
        super().__init__(in1_features, in2_features, out_features, bias, device, dtype)
        check_bilinear(scaling, per, method)
        self._declare(scaling, per, method)

    def _on_ball(self, weight: Tensor, ball: str) -> Tensor:
        return on_ball(weight, self.scaling, self.per)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """Apply the map."""
        self._check_place()
        return functional.bilinear(
            input1,
            input2,
            self.weight,
            self.bias,
            scaling=self.scaling,
            per=self.per,
            method=self.method,
        )


def _moments(layer: Bilinear, law) -> rules.Moments:
    weight, bias = rules.weights_of(layer)
    if layer.method == "normalize":
        weight = layer._on_ball(torch.from_numpy(weight), layer._ball()).numpy()
    backward = factors(layer.weight) if layer.scaling == "separate" else (1.0, 1.0)
    return rules.bilinear(weight, bias, law, backward)


rules.register(Bilinear, _moments, note=rules.entry_of_type(nn.Bilinear).note)
