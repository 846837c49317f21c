r"""Weights on the unit ℓ2 ball.

For a weight of shape (out, in/groups, k…) with T = ∏stride, the forward ball has
:math:`\sum W_{i\cdot}^2 = 1` for every output neuron i, over its fan-in; the backward ball
has :math:`\sum W_{\cdot j}^2 = T` for every input channel j, over the group's outputs and
taps, because a stride lets only one position in T pass a gradient.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from normprop.functional.scale import upcast

Ball = Literal["forward", "backward"]
Per = Literal["neuron", "layer"]
Method = Literal["normalize", "project"]


def normalize_weight(
    weight: Tensor,
    ball: Ball = "backward",
    per: Per = "neuron",
    *,
    stride: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    r"""A weight scaled onto the unit ball of one pass.

    Per neuron, each row (forward) or input channel (backward) has its own factor.  Per
    layer, one factor puts the mean of their squared norms at 1 (forward) or T (backward):
    :math:`\sqrt{\mathrm{out}}/\|W\|_F` or :math:`\sqrt{\mathrm{in}\cdot T}/\|W\|_F`.

    The gradient is the true one, projected onto the tangent of the ball.  A neuron whose
    weights are all zero has no direction: it stays zero, and its gradient passes as if its
    norm were 1, so that an optimiser can move it off zero.

    Args:
        weight: shape (out, in/groups, k…).
        ball: which pass the weight shall normalise.
        per: one factor a neuron, or one for the layer.
        stride: of the convolution, an integer for all dimensions or one entry for each.
        groups: of the convolution.

    Returns:
        Tensor of the shape and type of ``weight``; norms are taken in float32 at least.

    Raises:
        ValueError: ``ball`` or ``per`` is unknown, or ``groups`` does not divide.
    """
    check_ball(ball, per)
    if weight.shape[0] % groups:
        raise ValueError(f"groups must divide {weight.shape[0]} outputs; it was {groups}")
    wide = upcast(weight)
    period = stride_period(stride, weight.ndim - 2)
    if per == "layer":
        neurons = weight.shape[0] if ball == "forward" else weight.shape[1] * groups * period
        scaled = wide * (math.sqrt(neurons) * _inverse_norm(wide, tuple(range(wide.ndim))))
    elif ball == "forward":
        scaled = wide * _inverse_norm(wide, tuple(range(1, wide.ndim)))
    else:
        split = wide.unflatten(0, (groups, weight.shape[0] // groups))
        inverse = _inverse_norm(split, (1, *range(3, split.ndim)))
        scaled = (split * (math.sqrt(period) * inverse)).flatten(0, 1)
    return scaled.to(weight.dtype)


def _inverse_norm(weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    squares = weight.square().sum(dims, keepdim=True)
    return torch.where(squares == 0, 1.0, squares).rsqrt()


def stride_period(stride: int | tuple[int, ...], dims: int) -> int:
    """Number of input positions to one output position, ∏stride."""
    steps = (stride,) if isinstance(stride, int) else stride
    return steps[0] ** dims if len(steps) == 1 else math.prod(steps)


def separate_factor(weight: Tensor, stride: int | tuple[int, ...], groups: int) -> float:
    r"""Backward weight over forward weight, per layer: :math:`\sqrt{in \cdot T/out}`."""
    period = stride_period(stride, weight.ndim - 2)
    return math.sqrt(weight.shape[1] * groups * period / weight.shape[0])


def check_ball(ball: str, per: str) -> None:
    """Refuse a ball or a grain that does not exist."""
    if ball not in ("forward", "backward"):
        raise ValueError(f"ball must be 'forward' or 'backward'; it was {ball!r}")
    if per not in ("neuron", "layer"):
        raise ValueError(f"per must be 'neuron' or 'layer'; it was {per!r}")
