"""What linear maps and convolutions share: which weight serves which pass, and what they absorb."""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from normprop.functional.keywords import Ball, OfTorch, in_dimensions, takes
from normprop.functional.scale import (
    Scaling,
    check_option,
    check_scaling,
    scale_gradient,
    transforms_active,
)
from normprop.functional.weight import Method, Per, checked_gain, on_sphere, separate_factor, sphere

__all__ = [
    "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "embedding", "linear", "normalize_rows",
]  # fmt: skip


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


_NOTHING_ABSORBED = Absorbed()


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
    before, after, factors = absorbed or _NOTHING_ABSORBED
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


Size = int | tuple[int, ...]


def _conv(
    torch: OfTorch,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    absorbed: Absorbed | None = None,
    **ball: Unpack[Ball],
) -> Tensor:
    r"""Convolution whose weights are on the unit ℓ2 ball.

    Under ``"forward"`` the weights of each output channel have Σ W² = 1, over fan-in and
    taps.  Under ``"backward"`` those of each input channel have Σ W² = ∏stride, over its
    group's outputs and taps: averaged over a period of the stride, a gradient of unit
    variance keeps it, away from the border.  Under ``"separate"`` y comes from the first and
    dx from the second; the gradients of weight and bias are those of the forward weight for
    the dy that arrives.  Per layer, one factor stands in for all norms, and dx is then the
    true one times √(in·∏stride/out); per neuron it is no multiple of the true one.

    Zero padding leaves less variance at the border, in both passes.

    Args:
        input: shape (N, in, …) or (in, …).
        weight: shape (out, in/groups, k…).
        absorbed: as in :func:`linear`; a shift of the input does not go with zero padding.

    Returns:
        Tensor of the shape that torch's convolution gives.

    Raises:
        ValueError: an option is unknown, or a shift is to be absorbed under zero padding.
    """
    _check_shift(absorbed, padding)
    function = partial(torch.run, stride=stride, padding=padding, dilation=dilation, groups=groups)
    geometry = {"stride": stride, "groups": groups}
    return apply(function, input, weight, bias, **ball, **geometry, absorbed=absorbed)


def _check_shift(absorbed: Absorbed | None, padding: Size | str) -> None:
    if absorbed is None or not absorbed.before.shift:
        return
    if padding != "valid" and any((padding,) if isinstance(padding, (int, str)) else padding):
        raise ValueError(
            "padding must be 0 where a shift of the input is absorbed: the border holds zeros, "
            f"not the shift; it was {padding!r} with a shift of {absorbed.before.shift}"
        )


def _conv_transpose(
    torch: OfTorch,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    absorbed: Absorbed | None = None,
    **ball: Unpack[Ball],
) -> Tensor:
    r"""Transposed convolution whose weights are on the unit ℓ2 ball.

    Under ``"forward"`` the weights of each output channel have Σ W² = ∏stride, over its group's
    inputs and taps: averaged over a period of the stride, a signal of unit variance keeps it,
    away from the border.  Under ``"backward"`` those of each input channel have Σ W² = 1, over
    its group's outputs and taps, whatever the stride.  Under ``"separate"`` y comes from the
    first and dx from the second; the gradients of weight and bias are those of the forward
    weight for the dy that arrives.  Per layer, one factor stands in for all norms, and dx is
    then the true one times √(in/(out·∏stride)); per neuron it is no multiple of the true one.

    The outputs of single phases of the stride differ: a 3×3 window at stride 2 gives them four,
    two, two or one of its nine taps.  At the border, and where ``output_padding`` adds to it,
    fewer inputs meet.

    Args:
        input: shape (N, in, …) or (in, …).
        weight: shape (in, out/groups, k…).
        absorbed: as in :func:`linear`, without a shift of the input, of which the phases of the
            stride would make different numbers.

    Returns:
        Tensor of the shape that torch's transposed convolution gives.

    Raises:
        ValueError: an option is unknown, or a shift of the input is to be absorbed.
    """
    if absorbed is not None and absorbed.before.shift:
        raise ValueError(
            "a shift of the input must be 0 for a transposed convolution, whose outputs see "
            f"different taps; it was {absorbed.before.shift}"
        )
    geometry = {"stride": stride, "groups": groups}
    window = {"padding": padding, "output_padding": output_padding, "dilation": dilation}
    function = partial(torch.run, **geometry, **window)
    more = {"absorbed": absorbed, "transposed": True}
    return apply(function, input, weight, bias, **ball, **geometry, **more)


conv1d, conv2d, conv3d = in_dimensions(_conv, Ball)
conv_transpose1d, conv_transpose2d, conv_transpose3d = in_dimensions(_conv_transpose, Ball)


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


class RowsPlaced(TypedDict, total=False):
    """The radius of the rows' ball, over √dim, and when they are put there."""

    gain: Annotated[float, "what is looked up has mean square gain², greater than 0."]
    method: Method


@takes(RowsPlaced)
def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
    **placed: Unpack[RowsPlaced],
) -> Tensor:
    r"""Rows that tokens look up, each on the ball of radius √dim.

    .. math:: y = \sqrt{dim}\, \frac{w}{\|w\|}

    for the row w of a token, so that what is looked up has unit mean square.  Only the rows
    that are looked up are normalised.  A row of zeros, such as that of ``padding_idx``, stays
    zero.  There is no other pass to normalise: no gradient reaches a token.

    Args:
        input: integers, any shape.
        weight: shape (tokens, dim).
        max_norm: must be ``None``: it would change the weight as it is looked up, and the norms
            are given; so that norm_type has no effect.
        method: ``"normalize"`` normalises what is looked up, so that the gradient of a row is
            projected; ``"project"`` takes the weight as it is, put on the ball by
            :func:`normalize_rows` after each step of the optimiser.

    Returns:
        Tensor of the shape of ``input`` with one more dimension, of size dim.

    Raises:
        ValueError: ``method`` is unknown, ``gain`` is not greater than 0, or ``max_norm`` is given.
    """
    method = placed["method"]
    check_method(method, "neuron")
    gain = checked_gain(placed["gain"])
    refuse_max_norm(max_norm)
    rows = torch_functional.embedding(
        input, weight, padding_idx, None, norm_type, scale_grad_by_freq, sparse
    )
    return normalize_rows(rows, gain) if method == "normalize" else rows


def refuse_max_norm(max_norm: float | None) -> None:
    """Refuse a bound of the norms, which are given."""
    if max_norm is not None:
        raise ValueError(
            "max_norm must be None: a normalised embedding gives its rows the norm √dim; "
            f"it was {max_norm}"
        )


def normalize_rows(weight: Tensor, gain: float = 1.0) -> Tensor:
    """Rows, along the last dimension, scaled to the norm gain·√dim; rows of zeros stay."""
    dim = weight.shape[-1]
    rows = on_sphere(weight.reshape(-1, dim), "fan-in", gain * math.sqrt(dim))
    return rows.reshape(weight.shape)
