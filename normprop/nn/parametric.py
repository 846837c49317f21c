"""What the twins with weights share: the ball, and how they stay on it."""

import torch
from torch import nn

from normprop import rules
from normprop.functional.parametric import Absorbed, check_method
from normprop.functional.scale import Scaling, check_scaling
from normprop.functional.weight import (
    Method,
    Per,
    normalize_weight,
    normalize_weight_,
    separate_factor,
)


class Parametric:
    """Options, projection, printing and moments of a layer with weights.

    Attributes:
        absorbed: what its neighbours left to it, see :func:`normprop.fuse`.
    """

    absorbed: Absorbed | None = None

    def _declare(self, scaling: Scaling, per: Per, method: Method) -> None:
        check_scaling(scaling)
        check_method(method, per)
        self.scaling, self.per, self.method = scaling, per, method
        if method == "project":
            self.project_()

    @torch.no_grad()
    def project_(self) -> None:
        """Put the weight on its ball, in place: the forward one under ``"separate"``.

        With ``method="project"`` call this after each step of the optimiser, and after a
        plain checkpoint has been loaded.
        """
        self.weight.copy_(self._on_ball(self.weight, self._ball()))

    def _ball(self) -> str:
        return "backward" if self.scaling == "backward" else "forward"

    def _on_ball(self, weight: torch.Tensor, ball: str) -> torch.Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The arguments."""
        own = f"scaling={self.scaling!r}, per={self.per!r}, method={self.method!r}"
        if self.absorbed is not None:
            own += f", absorbed={self.absorbed}"
        return f"{super().extra_repr()}, {own}"


class MapFromWeight(Parametric):
    """Where the weight is a matrix of inputs and outputs, with taps or without."""

    @torch.no_grad()
    def project_(self) -> None:
        """As there, without a copy of the weight."""
        normalize_weight_(self.weight, self._ball(), self.per, **self._geometry())

    def _on_ball(self, weight: torch.Tensor, ball: str) -> torch.Tensor:
        return normalize_weight(weight, ball, self.per, **self._geometry())

    def _geometry(self) -> dict:
        return {
            "stride": getattr(self, "stride", 1),
            "groups": getattr(self, "groups", 1),
            "transposed": getattr(self, "transposed", False),
        }


def project_(module: nn.Module) -> int:
    """Put the weights of every layer of ``module`` with ``method="project"`` on their ball.

    Returns:
        How many layers there were.
    """
    layers = [m for m in module.modules() if isinstance(m, Parametric) and m.method == "project"]
    for layer in layers:
        layer.project_()
    return len(layers)


def weights_that_run(layer: nn.Module):
    """Forward weight, bias and backward weight of a twin, as it is, as float64 arrays."""
    weight, bias = rules.weights_of(layer)
    plain = torch.from_numpy(weight)
    forward = plain
    if layer.method == "normalize":
        forward = layer._on_ball(plain, layer._ball())
    backward = forward
    if layer.scaling == "separate" and layer.per == "layer":
        # What runs is a multiple of the forward weight, on its ball or not.
        backward = forward * separate_factor(plain, **layer._geometry())
    elif layer.scaling == "separate":
        backward = layer._on_ball(plain, "backward")
    return forward.numpy(), bias, backward.numpy()


def parametric_moments(layer: nn.Module, law) -> rules.Moments:
    """Moments of a twin of a linear map or a convolution, as it is."""
    forward, bias, backward = weights_that_run(layer)
    return rules.parametric(
        forward,
        bias,
        law,
        stride=getattr(layer, "stride", ()),
        groups=getattr(layer, "groups", 1),
        backward_weight=backward,
    )
