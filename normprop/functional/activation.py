"""Normalised activations: a row each, and what has a shape, a slope or a gate of its own.

:mod:`normprop.functional.fused` says how they are computed, what they keep for the backward pass
and what is promised of half precision.  The gradient of a learnt slope needs min(x, 0), so PReLU
keeps its input, as torch does.  A drawn slope is all that its layer's gradient needs: kept is the
factor of each element, in the type that it is computed in, where torch keeps the input beside it.
"""

import inspect
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.constants import constants_by, constants_of, sizes_of
from normprop.functional.fused import (
    MAPS,
    Backend,
    affine_,
    check_backend,
    fused,
    is_transformed,
    line_of,
    plain_map,
    wants_triton,
)
from normprop.functional.keywords import Given, LawOnBackend, by_place, tabled, takes
from normprop.functional.scale import (
    Constants,
    check_real,
    constant_when_compiled,
    literal,
    normalized,
    refuse_inplace,
    scale_gradient,
    upcast,
)
from normprop.gaussian import Normal
from normprop.names import CLASSES, NAMED, arguments_of, canonical

__all__ = [
    "celu", "elementwise", "elu", "gated_linear", "gelu", "glu", "hardshrink", "hardsigmoid",
    "hardswish", "hardtanh", "identity", "leaky_relu", "log_softmax", "logsigmoid", "mish", "prelu",
    "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softmax", "softmin", "softplus",
    "softshrink", "softsign", "tanh", "tanhshrink", "threshold",
]  # fmt: skip

_aten = torch.ops.aten

NAMES: dict[type[nn.Module], str] = {}
"""The function in ``torch.nn.functional``, and here, of an activation of ``torch.nn``."""

_RAISES = (
    "ValueError: an argument is out of its range, or the law is so far from where the function\n"
    "        bends that nothing passes."
)
_INPUT = inspect.Parameter("input", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Tensor)


def _activation(
    layer_type: type[nn.Module], doc: str, formula: str = "", **meanings: str
) -> Callable[..., Tensor]:
    """The normalised function of a class of torch, with its arguments.

    With a formula, of f, the docstring begins with what f is called; else it is given whole.
    """
    name = NAMES[layer_type] = CLASSES[layer_type]
    if name not in MAPS:
        MAPS[name] = plain_map(getattr(nn.functional, name))
    taken = (*arguments_of(layer_type), "inplace")
    own = [p for p in by_place(layer_type) if p.name in taken]
    if formula:
        title, _, more = doc.partition("\n")
        doc = f"Normalised {title}, :math:`y = ({formula} - \\mu)/\\sigma`.\n{more}"

    def body(arguments, law):
        input, backend = arguments.pop("input"), law.pop("backend")
        refuse_inplace(arguments.pop("inplace", False))
        params = tuple(v if isinstance(v, str) else literal(v) for v in arguments.values())
        return fused(name, input, params, constants_of(layer_type, law, **arguments), backend)

    return tabled(name, [_INPUT, *own], LawOnBackend, body, doc, Raises=_RAISES, **meanings)


relu = _activation(
    nn.ReLU,
    r"""Normalised ReLU.

    .. math:: y = \frac{\max(x, 0) - \mu}{\sigma}

    with μ = E max(x, 0) for x ~ N(mean, std²); σ = σ_f, the standard deviation of max(x, 0),
    under ``"forward"``, and σ = σ_b, the root mean square of its slope, under
    ``"backward"``; both have the true gradient.  Under ``"separate"`` σ = σ_f, and the
    gradient is the true one times σ_f/σ_b.  At mean 0 and std 1, μ = 1/√(2π),
    σ_f = √(½ - 1/2π) and σ_b = √½.
    """,
)
celu = _activation(
    nn.CELU,
    "CELU",
    r"\max(x, 0) + \min(\alpha(e^{x/\alpha} - 1), 0)",
    alpha="width of the exponential, greater than 0.",
)
elu = _activation(
    nn.ELU, "ELU", r"\max(x, 0) + \min(\alpha(e^x - 1), 0)", alpha="depth of the exponential."
)
gelu = _activation(
    nn.GELU,
    """GELU

    Of the exact function at mean 0 and std 1, μ = 1/(2√π), σ_f = 0.58791497… and σ_b =
    0.67516729….
    """,
    r"x\Phi(x)",
    approximate='``"none"``, or ``"tanh"`` for Φ by a hyperbolic tangent.',
)
hardshrink = _activation(
    nn.Hardshrink, "hard shrinkage", r"x\,[|x| > \lambda]", lambd="λ, not negative."
)
hardsigmoid = _activation(
    nn.Hardsigmoid,
    """hard sigmoid

    Its gradient is exact in float64, where torch's own uses a float32 sixth.
    """,
    r"\min(\max(x/6 + 1/2, 0), 1)",
)
hardswish = _activation(nn.Hardswish, "hard swish", r"x\min(\max(x/6 + 1/2, 0), 1)")
hardtanh = _activation(
    nn.Hardtanh,
    "hard tanh",
    r"\min(\max(x, \mathrm{min}), \mathrm{max})",
    min_val="least value.",
    max_val="greatest value, above min_val.",
)
identity = _activation(
    nn.Identity,
    r"""Normalised identity, :math:`y = (x - m)/s`.

    It takes the law of its input back to mean 0, and under ``"forward"`` to standard deviation 1;
    σ_b is 1.
    """,
)
leaky_relu = _activation(
    nn.LeakyReLU, "leaky ReLU", r"\max(x, 0) + a\min(x, 0)", negative_slope="a."
)
logsigmoid = _activation(nn.LogSigmoid, "logarithm of the sigmoid", r"-\log(1 + e^{-x})")
mish = _activation(nn.Mish, "Mish", r"x\tanh(\log(1 + e^x))")
relu6 = _activation(nn.ReLU6, "ReLU6", r"\min(\max(x, 0), 6)")
selu = _activation(nn.SELU, "SELU", r"\mathrm{selu}(x)")
sigmoid = _activation(
    nn.Sigmoid,
    """sigmoid

    At mean 0 and std 1, μ = ½, σ_f = 0.20827634… and σ_b = 0.21174570….
    """,
    r"1/(1 + e^{-x})",
)
silu = _activation(
    nn.SiLU,
    """SiLU

    At mean 0 and std 1, μ = 0.20662096…, σ_f = 0.55953847… and σ_b = 0.61602139….
    """,
    r"x/(1 + e^{-x})",
)
softplus = _activation(
    nn.Softplus,
    """softplus

    Just below the threshold, where the function has all but become x, its slope in float64 is
    off by no more than e^-threshold.
    """,
    r"\log(1 + e^{\beta x})/\beta",
    beta="β, greater than 0.",
    threshold="βx beyond which the function is x.",
)
softshrink = _activation(
    nn.Softshrink,
    "soft shrinkage",
    r"x - \min(\max(x, -\lambda), \lambda)",
    lambd="λ, not negative.",
)
softsign = _activation(nn.Softsign, "softsign", r"x/(1 + |x|)")
tanh = _activation(
    nn.Tanh,
    """tanh

    At mean 0 and std 1, μ = 0, σ_f = 0.62792873… and σ_b = 0.68147113….
    """,
    r"\tanh x",
)
tanhshrink = _activation(nn.Tanhshrink, "tanh shrinkage", r"x - \tanh x")
threshold = _activation(
    nn.Threshold,
    """threshold

    Here t(x) is x above ``threshold`` and ``value`` elsewhere.
    """,
    "t(x)",
    threshold="where the line begins.",
    value="what stands for x up to it.",
)


@takes(Given)
def softmax(input: Tensor, dim: int, **law: Unpack[Given]) -> Tensor:
    r"""Normalised softmax over the C elements of a dimension.

    .. math:: y = \frac{p - 1/C}{\sigma}, \qquad p_i = \frac{e^{x_i}}{\sum_j e^{x_j}}

    For independent x ~ N(mean, std²), :math:`\sigma_f^2 = E p_i^2 - 1/C^2` and
    :math:`\sigma_b^2 = E p_i^2(1 - 2p_i + \sum_j p_j^2)`; the mean of the input has no effect.
    For std = 1 and many classes σ_f → √(e - 1)/C and σ_b → √e/C.  The scalings choose σ as in
    :func:`relu`.  What is normalised no longer adds up to 1: it adds up to 0.

    Args:
        dim: the dimension; its size is C.
        std: standard deviation of the input, greater than 0 and at most 20.

    Returns:
        Tensor of the shape and type of ``input``.

    Raises:
        ValueError: an argument is out of its range, or the dimension has a single element,
            which is certain.
        IndexError: there is no such dimension.
    """
    return normalized(lambda x: torch.softmax(x, dim), input, over(nn.Softmax, input, dim, law))


@takes(Given)
def softmin(input: Tensor, dim: int, **law: Unpack[Given]) -> Tensor:
    r"""Normalised softmin, softmax of -x: its constants, return and errors.

    Args:
        std: standard deviation of the input, greater than 0 and at most 20.
    """
    return normalized(lambda x: torch.softmax(-x, dim), input, over(nn.Softmin, input, dim, law))


@takes(Given)
def log_softmax(input: Tensor, dim: int, **law: Unpack[Given]) -> Tensor:
    r"""Normalised logarithm of softmax over the C elements of a dimension.

    .. math:: y = \frac{x_i - \log\sum_j e^{x_j} - \mu}{\sigma}

    with :math:`\mu = E\,x_i - E\log S`,
    :math:`\sigma_f^2 = \mathrm{std}^2(1 - 2/C) + \mathrm{Var}\log S` and
    :math:`\sigma_b^2 = 1 - 2/C + C\,E p_i^2`.  Return and errors are those of :func:`softmax`.

    Args:
        std: standard deviation of the input, greater than 0 and at most 20.
    """
    constants = over(nn.LogSoftmax, input, dim, law)
    return normalized(lambda x: torch.log_softmax(x, dim), input, constants)


def over(layer_type: type[nn.Module], input: Tensor, dim: int, law: Given) -> Constants:
    """Constants over the elements of a dimension, which here may be that of the batch too."""
    (size,) = sizes_of([input.shape[dim]] if input.ndim else [1])
    # Over the channels of an image the figures are those of any dimension.
    plain = nn.Softmax if layer_type is nn.Softmax2d else layer_type
    return constants_of(plain, law, (size,), dim=-1)


Gate = str | Callable[[Tensor], Tensor]


@takes(Given)
def glu(input: Tensor, dim: int = -1, **law: Unpack[Given]) -> Tensor:
    r"""Normalised gated linear unit.

    .. math:: y = \frac{a\,\mathrm{sigmoid}(b) - \mu}{\sigma}

    with a and b the halves of the input along ``dim``.  For independent x ~ N(m, s²) and
    g = sigmoid, :math:`\mu = m\,E g`, :math:`\sigma_f^2 = s^2 E g^2 + m^2\,\mathrm{Var}\,g`,
    and :math:`\sigma_b^2 = \tfrac12\bigl(E g^2 + (m^2 + s^2) E g'^2\bigr)`: the gradient's
    mean square over both halves, the first of which has the larger share.  The scalings choose
    σ as in :func:`relu`.

    Args:
        input: any shape whose size along ``dim`` is even.
        dim: where the halves are.

    Returns:
        Tensor of half the size along ``dim``.
    """
    return normalized(lambda x: torch_functional.glu(x, dim), input, constants_of(nn.GLU, law))


@takes(Given)
def gated_linear(input: Tensor, gate: Gate = "silu", dim: int = -1, **law: Unpack[Given]) -> Tensor:
    r"""Normalised unit a·g(b) with a gate of your choice, a and b the halves of the input.

    ``"relu"`` makes it ReGLU, ``"gelu"`` GEGLU, ``"silu"`` SwiGLU.

    Args:
        input: any shape whose size along ``dim`` is even.
        gate: g, the name of an activation or an elementwise function on tensors.
        dim: where the halves are.

    Returns:
        Tensor of half the size along ``dim``.

    Raises:
        TypeError: the gate is no elementwise function.
        ValueError: an argument is out of its range, or the size along ``dim`` is odd.
    """
    constants = constants_by(_of_gate, gate, law)
    return normalized(lambda x: gated(x, gate, dim), input, constants)


def gated(input: Tensor, gate: Gate, dim: int) -> Tensor:
    """a·g(b), as torch has it for a sigmoid alone."""
    if input.shape[dim] % 2:
        raise ValueError(
            f"input must have an even size along dim {dim}; its shape was {tuple(input.shape)}"
        )
    value, gating = input.chunk(2, dim)
    return value * gate_function(gate)(gating)


def gate_function(gate: Gate) -> Callable[[Tensor], Tensor]:
    """What runs a gate: torch's function of that name, or the function itself."""
    if not isinstance(gate, str):
        return gate
    return NAMED[_name(gate)]


@constant_when_compiled
def _name(gate: str) -> str:
    return canonical(gate, "gate")


def _of_gate(gate: Gate, law: Normal) -> rules.Moments:
    return rules.gated_linear(rules.function_of(gate), law)


@takes(Given)
def elementwise(
    input: Tensor, function: Callable[[Tensor], Tensor], **law: Unpack[Given]
) -> Tensor:
    r"""An elementwise function of your own, normalised.

    .. math:: y = \frac{f(x) - \mu}{\sigma}

    with the figures that :func:`normprop.moments` integrates for f at N(mean, std²).  They are
    found anew at each call; :class:`normprop.nn.Elementwise` finds them once.

    Args:
        function: maps a tensor to one of the same shape, each element on its own, the same
            result each time; differentiable by autograd.
        scaling: which standard deviation divides in which pass, as in :func:`relu`.

    Returns:
        Tensor of the shape and type of ``input``.

    Raises:
        TypeError: the function does not take or return one tensor of real numbers.
        ValueError: it is not elementwise, not finite or not differentiable, its integrals do
            not converge, or an argument is out of its range.
    """
    return normalized(function, input, constants_by(_of_function, function, law))


def _of_function(function: Callable[[Tensor], Tensor], law: Normal) -> rules.Moments:
    return rules.moments(function, law.mean, law.std)


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
    cast = _may_autocast(device) and torch.is_autocast_enabled(device)
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
        forward, backward = constants.forward, constants.backward
        if forward != backward:
            input = scale_gradient(input, forward / backward)
        plain = Constants(constants.shift, forward, forward)
        return normalized(lambda x: _aten._prelu_kernel(x, _aligned(weight, x)), input, plain)
    return _PReLU.apply(input, weight, constants, triton)


@constant_when_compiled
def _may_autocast(device: str) -> bool:
    # Of the device alone; Dynamo of torch 2.11 cannot ask.
    return torch.amp.is_autocast_available(device)


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight, constants, triton):
        ctx.constants, ctx.triton = constants, triton
        # The slope has its true gradient.
        ctx.gradient_factors = (constants.forward / constants.backward,)
        ctx.save_for_backward(input, weight)
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
    return normalized(lambda x: x * _drawn(x, lower, upper), input, constants)


@torch.no_grad()
def _drawn(x: Tensor, lower: float, upper: float) -> Tensor:
    """The factor of each element, as torch draws it."""
    # ATen counts through it as through a contiguous tensor.
    factors = torch.empty_like(x, memory_format=torch.contiguous_format)
    _aten.rrelu_with_noise(x, factors, lower, upper, True)
    return factors
