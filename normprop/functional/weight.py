r"""Weights on the unit ℓ2 ball.

For a weight of shape (out, in/groups, k…) with T = ∏stride, the forward ball has
:math:`\sum W_{i\cdot}^2 = 1` for every output neuron i, over its fan-in; the backward ball
has :math:`\sum W_{\cdot j}^2 = T` for every input channel j, over the group's outputs and
taps, because a stride lets only one position in T pass a gradient.

A transposed convolution stores (in, out/groups, k…) and swaps the roles: the forward ball has
Σ W² = T for every output channel, over the group's inputs and taps, because only one position
in T of what the stride spreads out holds a value; the backward ball has Σ W² = 1 for every
input channel.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from normprop.functional.fused import Backend, is_transformed, wants_triton
from normprop.functional.scale import transforms_active, upcast

_aten = torch.ops.aten

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
    transposed: bool = False,
    backend: Backend = "auto",
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
        transposed: whether the weight is that of a transposed convolution, of the shape
            (in, out/groups, k…), of which the two passes change places.
        backend: ``"eager"`` for PyTorch's operations, ``"triton"`` for one kernel each way,
            ``"auto"`` for the second wherever it can run.

    Returns:
        Tensor of the shape and type of ``weight``; norms are taken in float32 at least.

    Raises:
        ValueError: ``ball``, ``per`` or ``backend`` is unknown, ``groups`` does not divide, or
            ``"triton"`` was asked for elsewhere than on a GPU.
        RuntimeError: ``"triton"`` was asked for in compiled code or under a transform.
    """
    return scaled_weight(weight, ball, per, stride, groups, transposed=transposed, backend=backend)


def scaled_weight(
    weight: Tensor,
    ball: Ball,
    per: Per,
    stride: int | tuple[int, ...],
    groups: int,
    gain: float = 1.0,
    transposed: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """``gain`` times :func:`normalize_weight`, without another pass over the weight."""
    over, radius = _sphere(weight, ball, per, stride, groups, transposed)
    size = gain * radius
    transformed = is_transformed(weight)
    if wants_triton(weight, backend, transformed):
        return _Scaled.apply(weight, over, groups, size, True)
    wide = upcast(weight)
    if torch.compiler.is_compiling() or not wide.is_contiguous() or transformed:
        # A compiler fuses the passes by itself, and must not meet a custom backward where
        # torch.func may differentiate it (pytorch issue 193279).
        scaled = wide * (size * _inverse_norm(wide, over, groups))
    else:
        scaled = _Scaled.apply(wide, over, groups, size, False)
    return scaled.to(weight.dtype)


@torch.no_grad()
def normalize_weight_(
    weight: Tensor, ball: Ball = "backward", per: Per = "neuron", *, groups: int = 1, **geometry
) -> Tensor:
    """:func:`normalize_weight` in place, without a gradient: the weight is read twice at most.

    Args:
        weight: as there; it is overwritten.
        ball: as there.
        per: as there.
        groups: as there.
        geometry: stride and transposed, as there.

    Returns:
        ``weight``.

    Raises:
        ValueError: as there.
    """
    over, radius = _sphere(weight, ball, per, groups=groups, **geometry)
    if weight.device.type == "cpu" and upcast(weight) is weight and weight.is_contiguous():
        factor = radius * _inverse_norm(weight, over, groups)
        weight.flatten(1).mul_(_row(factor, weight))
        return weight
    return weight.copy_(normalize_weight(weight, ball, per, groups=groups, **geometry))


def _sphere(weight, ball, per, stride=1, groups=1, transposed=False) -> tuple[str, float]:
    """What the norm of a weight goes over, and what it has to be."""
    check_ball(ball, per)
    if weight.shape[0] % groups:
        channels = f"{weight.shape[0]} {'inputs' if transposed else 'outputs'}"
        raise ValueError(f"groups must divide {channels}; it was {groups}")
    if transposed:
        # The transposed map is the convolution's own backward pass.
        ball = "backward" if ball == "forward" else "forward"
    period = stride_period(stride, weight.ndim - 2)
    if per == "layer":
        rows = weight.shape[0] if ball == "forward" else weight.shape[1] * groups * period
        return "all", math.sqrt(rows)
    return ("fan-in", 1.0) if ball == "forward" else ("fan-out", math.sqrt(period))


class _Scaled(torch.autograd.Function):
    r"""size·W/n with n = ‖W‖ per neuron or in all, in as few passes as there are.

    .. math:: dW = \frac{size}{n}\left(G - \frac{\langle W, G\rangle}{n^2} W\right)

    for the gradient G that arrives.  The Jacobian is symmetric, so forward mode is the same.
    Where n is 0 it counts as 1.
    """

    gradient_factors = (1.0,)

    @staticmethod
    def forward(ctx, weight, over, groups, size, triton):
        if triton:
            from normprop.kernels import weight as kernel

            scaled, inverse = kernel.forward(weight, over, groups, size)
        elif _has_kernel(weight, over, groups):
            scaled, inverse = _in_one_pass(weight, over, size)
        else:
            inverse = _inverse_norm(weight, over, groups)
            scaled = _times(weight, size * inverse)
        ctx.arguments = over, groups, size, triton
        ctx.save_for_backward(weight, inverse)
        ctx.save_for_forward(weight)
        return scaled

    @staticmethod
    def backward(ctx, gradient):
        weight, inverse = ctx.saved_tensors
        over, groups, size, triton = ctx.arguments
        if torch.is_grad_enabled() or (triton and is_transformed(gradient)):
            # Somebody differentiates this backward pass, of which the norm is a part, or wants
            # many of them at once, which a kernel does not do.
            wide = upcast(weight)
            inverse = _inverse_norm(wide, over, groups)
            result = _tangent(wide, inverse, upcast(gradient), over, groups, size)
            result = result.to(weight.dtype)
        elif triton:
            from normprop.kernels import weight as kernel

            result = kernel.backward(weight, inverse, gradient, over, groups, size)
        elif _has_kernel(gradient, over, groups):
            result = _tangent_in_one_pass(weight, inverse, gradient, over, size)
        else:
            result = _tangent(weight, inverse, gradient, over, groups, size)
        return result, None, None, None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        (weight,) = ctx.saved_tensors
        over, groups, size, _ = ctx.arguments
        wide = upcast(weight)
        inverse = _inverse_norm(wide, over, groups)
        result = _tangent(wide, inverse, upcast(tangent), over, groups, size)
        return result.to(weight.dtype)


def _tangent(weight, inverse, gradient, over, groups, size):
    factor = size * inverse
    along = factor * inverse.square() * _sums(weight, gradient, over, groups)
    if torch.is_grad_enabled() or transforms_active():
        return _times(gradient, factor) - _times(weight, along)
    rows, factor, along = weight.flatten(1), _row(factor, weight), _row(along, weight)
    return torch.mul(gradient.flatten(1), factor).addcmul_(rows, along, value=-1).view_as(weight)


def _has_kernel(tensor: Tensor, over: str, groups: int) -> bool:
    """Whether torch's own kernels of weight normalisation, those of the CPU, have this norm."""
    fits = over == "fan-in" or (over == "fan-out" and groups == 1)
    # They end the process where there is nothing to norm.
    fits = fits and tensor.numel() > 0
    return fits and tensor.device.type == "cpu" and not is_transformed(tensor)


def _in_one_pass(weight: Tensor, over: str, size: float) -> tuple[Tensor, Tensor]:
    """size·W/n and 1/n."""
    rows, dim, shape, taps = _for_kernel(weight, over)
    scaled, norms = _aten._weight_norm_interface(rows, rows.new_full(shape, size), dim)
    # Its columns are single taps: from their norms to those of the channels.
    channels = norms.view(-1, taps).square().sum(1).sqrt_() if taps > 1 else norms.flatten()
    # The kernel has divided by what may be zeros.
    whole = norms.all()
    if not whole:
        channels = channels.where(channels != 0, 1.0)
    inverse = channels.reciprocal()
    if taps > 1:
        scaled.mul_(norms * _each_tap(inverse, taps))
    ends = [1] * (weight.ndim - 2)
    inverse = inverse.view(-1, 1, *ends) if over == "fan-in" else inverse.view(1, -1, *ends)
    if not whole:
        scaled = torch.where(norms == 0, rows * _row(size * inverse, weight), scaled)
    return scaled.view_as(weight), inverse


def _tangent_in_one_pass(weight, inverse, gradient, over, size):
    """What :func:`_tangent` gives."""
    rows, dim, shape, taps = _for_kernel(weight, over)
    inverse = _each_tap(inverse.flatten(), taps)
    norms = inverse.reciprocal().view(shape)
    factors = rows.new_full(shape, size)
    result, along = _aten._weight_norm_interface_backward(
        gradient.flatten(1), rows, factors, norms, dim
    )
    if taps > 1:
        # Each column has lost its own share ⟨W, G⟩/n of the channel's; now the others' shares.
        along = along.view(-1, taps)
        others = (along.sum(1, keepdim=True) - along).flatten()
        result.addcmul_(rows, others * inverse.square(), value=-size)
    return result.view_as(weight)


def _for_kernel(weight: Tensor, over: str) -> tuple[Tensor, int, tuple[int, int], int]:
    """A matrix, the dimension that the kernel keeps, the shape of norms, columns to a channel."""
    rows = weight.flatten(1)
    if over == "fan-in":
        return rows, 0, (rows.shape[0], 1), 1
    return rows, 1, (1, rows.shape[1]), _taps(weight)


def _taps(weight: Tensor) -> int:
    return math.prod(weight.shape[2:])


def _inverse_norm(weight: Tensor, over: str, groups: int) -> Tensor:
    squares = _sums(weight, weight, over, groups)
    return torch.where(squares == 0, 1.0, squares).rsqrt()


def _sums(left: Tensor, right: Tensor, over: str, groups: int) -> Tensor:
    """Sums of left·right, of the weight's shape, in a shape that broadcasts against it."""
    ones = [1] * (left.ndim - 2)
    outputs, inputs, taps = left.shape[0] // groups, left.shape[1], _taps(left)
    if over == "fan-out" and groups > 1:
        rows = (left * right).unflatten(0, (groups, outputs)).sum(1)
        sums = rows.reshape(groups, inputs, taps).sum(2).reshape(groups, inputs, *ones)
        return sums.repeat_interleave(outputs, 0)
    left, right = left.flatten(1), right.flatten(1)
    # Products that stay in the cache: in memory they would cost more than all the rest.
    blocks = [(left, right)]
    if left.numel() > _BLOCK and left.device.type == "cpu" and not torch.compiler.is_compiling():
        step = max(1, _BLOCK // left.shape[1])
        blocks = zip(left.split(step), right.split(step), strict=True)
    if over == "fan-out":
        # Whole rows first: they are long, and the taps of one input are few.
        rows = sum((a * b).sum(0) for a, b in blocks)
        return rows.reshape(1, inputs, taps).sum(2).reshape(1, inputs, *ones)
    sums = torch.cat([(a * b).sum(1) for a, b in blocks])
    return sums.sum().reshape(1, 1, *ones) if over == "all" else sums.reshape(-1, 1, *ones)


_BLOCK = 2**20


def _row(factor: Tensor, weight: Tensor) -> Tensor:
    """What :func:`_sums` gives, in a shape that broadcasts against rows of the weight."""
    taps = _taps(weight)
    factor = factor.flatten(1)
    return factor if factor.shape[1] == 1 else _each_tap(factor, taps)


def _each_tap(channels: Tensor, taps: int) -> Tensor:
    """Every number of the last dimension as often as there are taps, in their order."""
    if taps == 1:
        return channels
    return channels.unsqueeze(-1).expand(*channels.shape, taps).flatten(-2)


def _times(weight: Tensor, factor: Tensor) -> Tensor:
    """The product with what :func:`_sums` gives, in long rows where memory has them."""
    if weight.ndim == 2 or factor.shape[1] == 1 or not weight.is_contiguous():
        return weight * factor
    return (weight.flatten(1) * _row(factor, weight)).view_as(weight)


def stride_period(stride: int | tuple[int, ...], dims: int) -> int:
    """Number of input positions to one output position, ∏stride."""
    steps = (stride,) if isinstance(stride, int) else stride
    return steps[0] ** dims if len(steps) == 1 else math.prod(steps)


def separate_factor(
    weight: Tensor, stride: int | tuple[int, ...], groups: int, transposed: bool = False
) -> float:
    r"""Backward weight over forward weight, per layer: :math:`\sqrt{in \cdot T/out}`.

    Transposed: :math:`\sqrt{in/(out \cdot T)}`.
    """
    period = stride_period(stride, weight.ndim - 2)
    ratio = weight.shape[1] * groups * period / weight.shape[0]
    return math.sqrt(1.0 / ratio if transposed else ratio)


def check_ball(ball: str, per: str) -> None:
    """Refuse a ball or a grain that does not exist."""
    if ball not in ("forward", "backward"):
        raise ValueError(f"ball must be 'forward' or 'backward'; it was {ball!r}")
    if per not in ("neuron", "layer"):
        raise ValueError(f"per must be 'neuron' or 'layer'; it was {per!r}")
