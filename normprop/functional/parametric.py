"""What linear maps and convolutions share: which weight serves which pass."""

from collections.abc import Callable

import torch
from torch import Tensor

from normprop.functional.scale import Scaling, check_scaling, scale_gradient
from normprop.functional.weight import Method, Per, normalize_weight, separate_factor


def apply(
    function: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scaling: Scaling,
    per: Per,
    method: Method,
    stride: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    """Run ``function(input, weight, bias)``, bilinear but for the bias, with scaled weights."""
    check_scaling(scaling)
    check_method(method, per)
    ball = "backward" if scaling == "backward" else "forward"
    used = weight
    if method == "normalize":
        used = normalize_weight(weight, ball, per, stride=stride, groups=groups)
    if scaling != "separate":
        return function(input, used, bias)
    if per == "layer":
        factor = separate_factor(weight, stride, groups)
        return function(scale_gradient(input, factor), used, bias)
    back = normalize_weight(weight.detach(), "backward", stride=stride, groups=groups)
    return _with_backward_weight(function, input, used, back, bias)


def check_method(method: str, per: str) -> None:
    """Refuse a method or a grain that does not exist."""
    if method not in ("normalize", "project"):
        raise ValueError(f"method must be 'normalize' or 'project'; it was {method!r}")
    if per not in ("neuron", "layer"):
        raise ValueError(f"per must be 'neuron' or 'layer'; it was {per!r}")


def _with_backward_weight(function, input, weight, back, bias):
    """``function(input, weight, bias)`` whose input gradient is that of ``back``."""
    output = function(input.detach(), weight, bias)
    if torch.compiler.is_compiling():
        # The same in plain operations, at the price of a second product forward: compiled
        # code must not hold a custom backward (pytorch issue 193279).
        road = function(input, back, None)
        return output + (road - road.detach())
    return _InputGradient.apply(output, input, back, function)


class _InputGradient(torch.autograd.Function):
    """Passes ``output`` on, and its gradient to ``input`` through the weight ``back``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(output, input, back, function):
        return output.view_as(output)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, input, back, ctx.function = inputs
        ctx.save_for_backward(back)
        ctx.shape, ctx.dtype = input.shape, input.dtype

    @staticmethod
    def backward(ctx, grad_output):
        (back,) = ctx.saved_tensors
        back = back.to(grad_output.dtype)

        # The map is linear in its input, so any point serves to transpose it.
        point = grad_output.new_zeros(ctx.shape)
        _, transpose = torch.func.vjp(lambda x: ctx.function(x, back, None), point)
        (grad_input,) = transpose(grad_output)
        return grad_output, grad_input.to(ctx.dtype), None, None
