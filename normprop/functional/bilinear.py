"""Normalised bilinear maps."""

import math
from typing import Unpack

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop.functional.keywords import Ball, takes
from normprop.functional.parametric import check_method
from normprop.functional.scale import Scaling, check_scaling, scale_gradient
from normprop.functional.weight import Per, checked_gain, on_sphere, sphere

__all__ = ["bilinear"]


@takes(Ball, per="layer")
def bilinear(
    input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None, **ball: Unpack[Ball]
) -> Tensor:
    r"""Bilinear map whose weights are on the unit ℓ2 ball.

    .. math:: y_o = x_1^\top \hat W_o x_2 + b_o

    Under ``"forward"`` every output has Σ Ŵ² = 1 (per neuron), or all of them on average (per
    layer): two independent inputs N(0, 1) give unit variance.  Backward, no factor of a neuron
    serves both inputs: an entry of the first has the variance Σ Ŵ² over outputs and second
    input.  Under ``"backward"`` one factor, :math:`\sqrt{(in_1 + in_2)/2}/\|W\|_F`, gives the
    gradients of all entries of both inputs unit mean square.  Under ``"separate"`` the weight is
    the forward one, and the gradients are the true ones times √(in1/out) for the first input
    and √(in2/out) for the second, whose mean squares are 1 then; those of weight and bias are the
    true ones for the dy that arrives.

    Args:
        input1: shape (…, in1).
        input2: shape (…, in2).
        weight: shape (out, in1, in2).
        per: ``"layer"`` for one factor, which alone the backward ball has, so that it is the
            default; ``"neuron"`` for one norm an output.

    Returns:
        Tensor of shape (…, out).

    Raises:
        ValueError: an option is unknown, or ``per="neuron"`` is asked of the backward ball.
    """
    scaling, per, method = ball["scaling"], ball["per"], ball["method"]
    check_bilinear(scaling, per, method)
    first, second = factors(weight) if scaling == "separate" else (1.0, 1.0)
    gain = checked_gain(ball["gain"])
    if method == "normalize":
        weight = on_sphere(weight, *sphere_of(weight, scaling, per, gain))
    if scaling == "separate":
        input1, input2 = scale_gradient(input1, first), scale_gradient(input2, second)
    return torch_functional.bilinear(input1, input2, weight, bias)


def check_bilinear(scaling: str, per: str, method: str) -> None:
    """Refuse an option that does not exist, or not for two inputs."""
    check_scaling(scaling)
    check_method(method, per)
    if scaling == "backward" and per == "neuron":
        raise ValueError(
            "per must be 'layer' for scaling='backward': no factor of a neuron serves both inputs "
            "of a bilinear map; it was 'neuron'"
        )


def sphere_of(weight: Tensor, scaling: Scaling, per: Per, gain: float) -> tuple[str, float]:
    """What the norm of the weight goes over under this scaling, and what it has to be."""
    outputs, first, second = weight.shape
    share = math.sqrt((first + second) / (2.0 * outputs)) if scaling == "backward" else 1.0
    return sphere(weight, "forward", per, gain=gain * share)


def factors(weight: Tensor) -> tuple[float, float]:
    """What ``"separate"`` multiplies the gradients of the two inputs by."""
    outputs, first, second = weight.shape
    return math.sqrt(first / outputs), math.sqrt(second / outputs)
