r"""Normalised rectifiers whose slope is learnt or drawn.

.. math:: f(x) = \max(x, 0) + a \min(x, 0)

The gradient of a learnt slope needs min(x, 0), so PReLU keeps its input, as torch does.  A drawn
slope is all that its layer's gradient needs: kept is the factor of each element, in the type that
it is computed in, where torch keeps the input beside it.
"""

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop.functional.constants import constants_of
from normprop.functional.fused import (
    Backend,
    affine_,
    check_backend,
    fused,
    is_transformed,
    line_of,
    wants_triton,
)
from normprop.functional.keywords import LawOnBackend, takes
from normprop.functional.scale import (
    Constants,
    check_real,
    literal,
    normalized,
    refuse_inplace,
    refuse_separate,
    scale_gradient,
    upcast,
)

__all__ = ["prelu", "rrelu"]

_aten = torch.ops.aten


@takes(LawOnBackend)
def prelu(
    input: Tensor, weight: Tensor, *, init: float = 0.25, **law: Unpack[LawOnBackend]
) -> Tensor:
    r"""Normalised PReLU, :math:`y = (\max(x, 0) + a\min(x, 0) - \mu)/\sigma`.

    The slope is learnt, and the constants are those of the slope ``init`` that it starts from:
    to follow it would take a transfer from the device at every call.

    Under ``"separate"`` dx is the true one times σ_f/σ_b, and the slope has the true gradient of
    the forward-normalised function for the dy that arrives.

    Args:
        input: any shape; with more than one slope, (N, C, …).
        weight: the slopes a, one, or one for each of the C channels.
        init: the slope whose constants are used.
        backend: as in :func:`relu`; a kernel takes one slope.

    Raises:
        ValueError: the slopes are neither one nor one for each channel, or an argument is out of
            its range.
    """
    backend = law.pop("backend")
    constants = constants_of(nn.LeakyReLU, law, negative_slope=init)
    return with_slopes(input, weight, constants, backend)


def with_slopes(
    input: Tensor, weight: Tensor, constants: Constants, backend: Backend = "auto"
) -> Tensor:
    """PReLU with these constants."""
    check_real(input)
    channels = input.shape[1] if input.dim() > 1 else 1
    if weight.dim() > 1 or weight.numel() not in (1, channels):
        raise ValueError(
            f"weight must hold one slope, or one for each of the {channels} channels; "
            f"it had the shape {tuple(weight.shape)}"
        )
    device = input.device.type
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if cast and input.dtype != torch.float64:
        # As torch's own, which autocast runs in half precision.
        dtype = torch.get_autocast_dtype(device)
        input, weight = input.to(dtype), weight.to(dtype)
    transformed = is_transformed(input) or is_transformed(weight)
    triton = wants_triton(input, backend, transformed)
    if triton and weight.numel() != 1:
        if backend == "triton":
            raise ValueError(f"backend='triton' takes one slope; there were {weight.numel()}")
        triton = False
    if transformed or torch.compiler.is_compiling():
        shift, forward, backward = constants
        if forward != backward:
            input = scale_gradient(input, forward / backward)
        plain = Constants(shift, forward, forward)
        return normalized(lambda x: _aten._prelu_kernel(x, _aligned(weight, x)), input, plain)
    return _PReLU.apply(input, weight, constants, triton)


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight, constants, triton):
        ctx.constants, ctx.triton = constants, triton
        # The slope has its true gradient.
        ctx.gradient_factors = (constants.forward / constants.backward,)
        ctx.save_for_backward(input, weight)
        ctx.save_for_forward(input, weight)
        if triton:
            from normprop.kernels import activation as kernel

            return kernel.forward("prelu", weight, input, constants.shift, constants.forward)
        line = line_of("prelu", (), *constants, input.dtype)
        x = upcast(input)
        # torch.prelu under autocast would round here.
        f = _aten._prelu_kernel(x, _aligned(weight, x))
        return affine_(f, line.scale, line.shift).to(input.dtype)

    @staticmethod
    def backward(ctx, grad):
        input, weight = ctx.saved_tensors
        shift, forward, backward = ctx.constants
        if ctx.triton and not (torch.is_grad_enabled() or is_transformed(grad)):
            from normprop.kernels import activation as kernel

            dx, slope = kernel.backward_prelu(weight, input, grad, shift, forward, backward)
            # The kernel divides both by the same number.
            return dx, slope * (backward / forward), None, None
        x, dy = upcast(input), upcast(grad)
        slopes = _aligned(weight, x)
        dx, each = _aten._prelu_kernel_backward(dy, x, slopes)
        slope = each.sum_to_size(slopes.shape).reshape(weight.shape) / forward
        return dx.mul_(1.0 / backward).to(input.dtype), slope.to(weight.dtype), None, None

    @staticmethod
    def jvp(ctx, tangent, slope_tangent, *_):
        input, weight = ctx.saved_tensors
        refuse_separate(ctx)
        x = upcast(input)
        total = torch.zeros_like(x)
        if tangent is not None:
            slopes = _aligned(weight, x)
            total = total + _aten._prelu_kernel_backward(upcast(tangent), x, slopes)[0]
        if slope_tangent is not None:
            total = total + x.clamp(max=0.0) * _aligned(slope_tangent, x)
        return (total / ctx.constants.forward).to(input.dtype)


def _aligned(weight: Tensor, x: Tensor) -> Tensor:
    """Slopes that broadcast over (N, C, …)."""
    shape = (1, -1, *[1] * (x.dim() - 2)) if x.dim() > 1 else (-1,) * x.dim()
    return weight.to(x.dtype).reshape(shape)


@takes(LawOnBackend)
def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8.0,
    upper: float = 1.0 / 3.0,
    training: bool = False,
    inplace: bool = False,
    **law: Unpack[LawOnBackend],
) -> Tensor:
    r"""Normalised randomised leaky ReLU, :math:`y = (\max(x, 0) + A\min(x, 0) - \mu)/\sigma`.

    In training A is drawn for each element, uniform on its bounds; in evaluation it is their
    mean.  Each has the constants of its own: μ is the same, and σ is larger in training by what
    the drawing adds.

    Args:
        lower: least slope.
        upper: greatest slope, not less than lower.
        training: whether to draw.
        backend: as in :func:`relu`; no kernel draws slopes: ``"triton"`` raises in training.
    """
    refuse_inplace(inplace)
    backend = law.pop("backend")
    constants = constants_of(nn.RReLU, {**law, "training": training}, lower=lower, upper=upper)
    return with_draws(input, lower, upper, training, constants, backend)


def with_draws(
    input: Tensor,
    lower: float,
    upper: float,
    training: bool,
    constants: Constants,
    backend: Backend = "auto",
) -> Tensor:
    """Randomised leaky ReLU with these constants."""
    check_real(input)
    lower, upper = literal(lower), literal(upper)
    check_backend(backend)
    if not training:
        return fused("leaky_relu", input, ((lower + upper) / 2.0,), constants, backend)
    if backend == "triton":
        raise ValueError("backend='triton' must come with training=False: no kernel draws slopes")
    if is_transformed(input) or torch.compiler.is_compiling():
        return normalized(
            lambda x: torch_functional.rrelu(x, lower, upper, training=True), input, constants
        )
    return _RReLU.apply(input, lower, upper, constants)


class _RReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, lower, upper, constants):
        line = line_of("rrelu", (), *constants, input.dtype)
        x = upcast(input)
        # ATen counts through it as through a contiguous tensor.
        factors = torch.empty_like(x, memory_format=torch.contiguous_format)
        f = _aten.rrelu_with_noise(x, factors, lower, upper, True)
        ctx.line = line
        ctx.gradient_factors = (constants.forward / constants.backward,)
        ctx.save_for_backward(factors)
        ctx.save_for_forward(factors)
        return affine_(f, line.scale, line.shift).to(input.dtype)

    @staticmethod
    def backward(ctx, grad):
        (factors,) = ctx.saved_tensors
        dx = (upcast(grad) * factors).mul_(ctx.line.slope)
        return dx.to(grad.dtype), None, None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        refuse_separate(ctx)
        (factors,) = ctx.saved_tensors
        return (upcast(tangent) * factors * ctx.line.slope).to(tangent.dtype)
