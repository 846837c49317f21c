"""Normalised bilinear maps."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.bilinear import check_bilinear, factors, on_ball
from normprop.nn.parametric import Parametric

__all__ = ["Bilinear"]


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
        per: ``"layer"`` for one factor, which alone the backward ball has, so that it is the
            default; ``"neuron"`` for one norm an output.
        gain: radius of the ball in the place of 1, greater than 0.
        method: ``"normalize"`` in each forward pass, or ``"project"`` by ``project_()``
            after each step of the optimiser.
    """

    _defaults: ClassVar = {"per": "layer"}

    def _forget(self) -> None:
        if "method" in self.__dict__:
            check_bilinear(self.scaling, self.per, self.method)
        super()._forget()

    def _on_ball(self, weight: Tensor, ball: str) -> Tensor:
        return on_ball(weight, self.scaling, self.per, self.gain)

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
            gain=self.gain,
            method=self.method,
        )


def _moments(layer: Bilinear, law) -> rules.Moments:
    weight, bias = rules.weights_of(layer)
    if layer.method == "normalize":
        weight = layer._on_ball(torch.from_numpy(weight), layer._ball()).numpy()
    backward = factors(layer.weight) if layer.scaling == "separate" else (1.0, 1.0)
    return rules.bilinear(weight, bias, law, backward)


rules.inherit(Bilinear, nn.Bilinear, _moments)
