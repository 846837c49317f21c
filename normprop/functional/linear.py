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
        bias: shape (out,), not normalised.
        scaling: which ball the weights are on in which pass.
        per: ``"neuron"`` for one norm a neuron, ``"layer"`` for one factor.
        gain: radius of the ball in the place of 1, greater than 0: a unit input variance gives
            gain², and so does, backward, that of a gradient.
        method: ``"normalize"`` puts the weight on the ball here, so that its gradient is
            projected; ``"project"`` takes the weight as it is, put on the ball by
            :func:`normalize_weight` after each step of the optimiser.
        absorbed: what the input stands for and what the output is to stand for; it goes into
            weight and bias.

    Returns:
        Tensor of shape (…, out).

    Raises:
        ValueError: an option is unknown.
    """
    return apply(torch_functional.linear, input, weight, bias, **ball, absorbed=absorbed)
