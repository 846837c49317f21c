"""Normalised bilinear maps."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.bilinear import check_bilinear, factors, sphere_of
from normprop.gaussian import Law
from normprop.nn.parametric import Parametric

__all__ = ["Bilinear"]


class Bilinear(Parametric, nn.Bilinear):
    """Bilinear map with weights on the unit ball: see :func:`normprop.functional.bilinear`."""

    _defaults: ClassVar = {"per": "layer"}

    def _forget(self) -> None:
        if "method" in self.__dict__:
            check_bilinear(self.scaling, self.per, self.method)
        super()._forget()

    def sphere(self, ball: str | None = None) -> tuple[str, float, int]:
        """As of every layer with weights; it has one ball."""
        return *sphere_of(self.weight, self.scaling, self.per, self.gain), 1

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """Apply the map."""
        self._check_place()
        return functional.bilinear(input1, input2, self.weight, self.bias, **self._chosen())

    def _moments(self, law: Law) -> rules.Moments:
        weight, bias = rules.weights_of(self)
        if self.method == "normalize":
            weight = self._on_ball(torch.from_numpy(weight), self._ball()).numpy()
        backward = factors(self.weight) if self.scaling == "separate" else (1.0, 1.0)
        return rules.bilinear(weight, bias, law, backward)
