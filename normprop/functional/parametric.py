"""What linear maps and convolutions share: which weight serves which pass, and what they absorb."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from normprop.functional.scale import check_option, check_scaling, scale_gradient, transforms_active
from normprop.functional.weight import Method, Per, checked_gain, on_sphere, separate_factor, sphere


class Meaning(NamedTuple):
    """What a tensor stands for: scale·tensor + shift, with ``scale`` greater than 0.

    ``gradient`` is the factor by which the gradient that arrives at the tensor is to exceed
    the derivative: the ratio of the two scales of a layer with ``scaling="separate"``.
    """

    scale: float = 1.0
    shift: float = 0.0
    gradient: float = 1.0


class Absorbed(NamedTuple):
    """What the input stands for, and what the output is to stand for.

    ``factors`` multiply the gradients of weight and bias: what separate scales are on a chain.
    """

    before: Meaning = Meaning()
    after: Meaning = Meaning()
    factors: tuple[float, float] = (1.0, 1.0)


def apply(
    function: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scaling: str,
    per: Per,
    gain: float,
    method: Method,
    stride: int | tuple[int, ...] = 1,
    groups: int = 1,
    absorbed: Absorbed | None = None,
    transposed: bool = False,
) -> Tensor:
    """Run ``function(input, weight, bias)``, bilinear but for the bias, with scaled weights.

    What is absorbed goes into weight and bias, at no pass over input or output.  A shift of
    the input needs a ``function`` that adds up a whole row of the weight for every output.
    """
    check_scaling(scaling)
    check_method(method, per)
    gain = checked_gain(gain)
    before, after, factors = absorbed or Absorbed()
    weight, bias = _multiplied(weight, factors[0]), _multiplied(bias, factors[1])
    moved, factor = before.scale / after.scale, before.gradient / after.gradient
    ball = "backward" if scaling == "backward" else "forward"
    geometry = (stride, groups, transposed)
    if method == "normalize":
        used = on_sphere(weight, *sphere(weight, ball, per, *geometry, moved * gain), groups)
    else:
        used = weight if moved == 1.0 else weight * moved
    bias = absorbing_bias(bias, used, before, after, _outputs(function, weight))
    if after.gradient != 1.0:
        used, bias = _multiplied(used, 1 / after.gradient), _multiplied(bias, 1 / after.gradient)
    if scaling == "separate" and per == "layer":
        factor *= separate_factor(weight, *geometry)
    elif scaling == "separate":
        apart = weight.detach()
        back = on_sphere(apart, *sphere(apart, "backward", per, *geometry, gain), groups)
        if moved * factor != 1.0:
            back = back * (moved * factor)
        return _with_backward_weight(function, input, used, back, bias)
    if factor == 1.0:
        return function(input, used, bias)
    if torch.compiler.is_compiling() and transforms_active():
        return function(scale_gradient(input, factor), used, bias)
    return _TwoWeights.apply(input, used, bias, used.detach(), factor, function)


def check_method(method: str, per: str) -> None:
    """Refuse a method or a grain that does not exist."""
    check_option("method", method)
    check_option("per", per)


def absorbing_bias(bias, used, before, after, outputs):
    """(bias + before.shift·ΣW - after.shift)/after.scale; ``used`` has its scales already."""
    slope = before.shift / before.scale
    return bias_beside(used, bias, slope, after.shift, after.scale, outputs)


def bias_beside(used, bias, slope, shift, scale, outputs):
    """(bias - shift)/scale + slope·ΣV, V the weight that is used; ``None`` for nothing."""
    if bias is not None and (scale != 1.0 or shift):
        bias = (bias - shift) / scale
    elif shift:
        bias = used.new_full((outputs,), -shift / scale)
    if slope:
        rows = used.flatten(1).sum(1)
        bias = rows * slope if bias is None else torch.add(bias, rows, alpha=slope)
    return bias


def _multiplied(tensor, factor):
    return tensor if tensor is None or factor == 1.0 else scale_gradient(tensor, factor)


def _with_backward_weight(function, input, weight, back, bias):
    """``function(input, weight, bias)`` whose input gradient is that of ``back``."""
    if torch.compiler.is_compiling() and transforms_active():
        # The same in plain operations, at the price of a second product forward: Dynamo would
        # drop a custom backward here without a word (pytorch issue 193279).
        output = function(input.detach(), weight, bias)
        road = function(input, back, None)
        return output + (road - road.detach())
    return _TwoWeights.apply(input, weight, bias, back, None, function)


class _TwoWeights(torch.autograd.Function):
    """A bilinear map that takes the gradient to ``input`` through the weight ``back``.

    With a ``factor``, ``back`` is the weight of the forward pass, and the factor multiplies
    it where it is small, in the backward pass.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(input, weight, bias, back, factor, function):
        # A single sample comes out as a view, into which nobody could write.
        return function(input, weight, bias).detach()

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, weight, bias, back, ctx.factor, ctx.function = inputs
        # Without a factor the backward weight is a weight of its own.
        ctx.gradient_factors = (math.nan if ctx.factor is None else ctx.factor,)
        ctx.save_for_backward(input, back)
        ctx.weight_type, ctx.has_bias = weight.dtype, bias is not None
        ctx.bias_type = bias.dtype if ctx.has_bias else None

    @staticmethod
    def backward(ctx, gradient):
        input, back = ctx.saved_tensors
        back = back.detach().to(gradient.dtype)
        if ctx.factor is not None:
            back = back * ctx.factor
        wanted = (*ctx.needs_input_grad[:2], ctx.has_bias and ctx.needs_input_grad[2])
        found = _transposed(ctx.function, gradient, input.to(gradient.dtype), back, wanted)
        types = (input.dtype, ctx.weight_type, ctx.bias_type)
        cast = (None if g is None else g.to(t) for g, t in zip(found, types, strict=True))
        return *cast, None, None, None


def _transposed(function, gradient, input, weight, wanted):
    """Gradients of input, weight and bias of a bilinear map, of those that are wanted."""
    if function is torch_functional.linear:
        return _linear_backward(gradient, input, weight, wanted)
    options = _convolution_of(function, weight)
    if options is None:
        return _any_backward(function, gradient, input, weight, wanted)
    batched = input.ndim == weight.ndim
    if not batched:
        gradient, input = gradient.unsqueeze(0), input.unsqueeze(0)
    stride, padding, dilation, transposed, output_padding, groups = options
    found = torch.ops.aten.convolution_backward(
        gradient, input, weight, [gradient.shape[1]],
        stride, padding, dilation, transposed, output_padding, groups, wanted,
    )  # fmt: skip
    found = [g if want else None for g, want in zip(found, wanted, strict=True)]
    if not batched and wanted[0]:
        found[0] = found[0].squeeze(0)
    return found


def _linear_backward(gradient, input, weight, wanted):
    rows, points = gradient.reshape(-1, gradient.shape[-1]), input.reshape(-1, input.shape[-1])
    return (
        gradient @ weight if wanted[0] else None,
        rows.T @ points if wanted[1] else None,
        rows.sum(0) if wanted[2] else None,
    )


# Whether it is transposed, of each of torch's convolutions.
CONVOLUTIONS = {
    getattr(torch_functional, f"conv{kind}{dims}d"): bool(kind)
    for kind in ("", "_transpose")
    for dims in (1, 2, 3)
}


def _convolution_of(function, weight):
    """What ATen calls the arguments of a partial convolution; None where it has no words."""
    if not isinstance(function, partial) or function.args or function.func not in CONVOLUTIONS:
        return None
    transposed = CONVOLUTIONS[function.func]
    window = weight.shape[2:]
    given = function.keywords
    stride, dilation, output_padding = (
        _each(given.get(name, default), window)
        for name, default in (("stride", 1), ("dilation", 1), ("output_padding", 0))
    )
    padding = given.get("padding", 0)
    if padding == "same":
        spans = [d * (k - 1) for d, k in zip(dilation, window, strict=True)]
        if any(span % 2 for span in spans):
            return None
        padding = [span // 2 for span in spans]
    padding = _each(0 if padding == "valid" else padding, window)
    return stride, padding, dilation, transposed, output_padding, given.get("groups", 1)


def _outputs(function, weight) -> int:
    """Number of output channels."""
    if isinstance(function, partial) and CONVOLUTIONS.get(function.func, False):
        return weight.shape[1] * function.keywords.get("groups", 1)
    return weight.shape[0]


def _each(value, window) -> list[int]:
    entries = [value] if isinstance(value, int) else list(value)
    return entries * len(window) if len(entries) == 1 else entries


def _any_backward(function, gradient, input, weight, wanted):
    """By transposing the map twice, which runs it twice."""
    # It is linear in the input and in the weight, so that any point serves to transpose it.
    bias = gradient.new_zeros(_outputs(function, weight))
    _, to_input = torch.func.vjp(lambda x: function(x, weight, None), torch.zeros_like(input))
    _, to_rest = torch.func.vjp(lambda w, b: function(input, w, b), torch.zeros_like(weight), bias)
    found = (*to_input(gradient), *to_rest(gradient))
    return [g if want else None for g, want in zip(found, wanted, strict=True)]
