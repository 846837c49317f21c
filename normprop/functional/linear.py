"""Normalised linear maps."""

from typing import Unpack

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop.functional.keywords import Ball, takes
from normprop.functional.parametric import Absorbed, apply

__all__ = ["linear"]


@takes(Ball)
def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    absorbed: Absorbed | None = None,
    **ball: Unpack[Ball],
) -> Tensor:
    r"""Linear map whose weights are on the unit ℓ2 ball.

    .. math:: y = \hat W x + b, \qquad dx = \hat W^\top dy

    Under ``"forward"`` each row of Ŵ has norm 1, over fan-in: unit input variance gives unit
    output variance.  Under ``"backward"`` each column has norm 1, over fan-out: unit
    gradient variance stays.  Under ``"separate"`` y comes from the first and dx from the
    second; the gradients of weight and bias are those of the forward weight for the dy that
    arrives.  Per layer, one factor stands in for all norms, and dx is then the true one times
    √(in/out); per neuron it is no multiple of the true one.

    Args:
        input: shape (…, in).
        weight: shape (out, in).
        absorbed: what the input stands for and what the output is to stand for; it goes into
            weight and bias.

    Returns:
        Tensor of shape (…, out).

    Raises:
        ValueError: an option is unknown.
    """
    return apply(torch_functional.linear, input, weight, bias, **ball, absorbed=absorbed)
