"""Shift, forward scale and backward scale: what every normalised layer has in common."""

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from normprop.rules import Moments

__all__ = ["Constants", "scale_gradient"]

Scaling = Literal["forward", "backward", "separate"]
SCALINGS = ("forward", "backward", "separate")
OPTIONS = {
    "ball": ("forward", "backward"),
    "eval": ("variance", "mean"),
    "method": ("normalize", "project"),
    "per": ("neuron", "layer"),
    "vary": ("both", "std", "mean"),
}
Made = TypeVar("Made", bound=Callable)


class Constants(NamedTuple):
    """y = (f(x) - shift)/forward, and the gradient of f is divided by ``backward``.

    The two divisors differ only under ``scaling="separate"``.  Compiled code asks for them by name:
    before torch 2.13, Dynamo cannot iterate over a named tuple that it has not seen made.
    """

    shift: float
    forward: float
    backward: float

    @classmethod
    def of(cls, moments: Moments, scaling: Scaling) -> "Constants":
        """Choose the divisors of a layer with these moments.

        Raises:
            ValueError: the scaling is unknown, or a divisor is 0.
        """
        check_scaling(scaling)
        forward = moments.bwd_std if scaling == "backward" else moments.fwd_std
        backward = moments.fwd_std if scaling == "forward" else moments.bwd_std
        if not (forward > 0 and backward > 0):
            raise ValueError(
                "the layer must let the signal and the gradient through at this input law; "
                f"it has fwd_std = {moments.fwd_std} and bwd_std = {moments.bwd_std}"
            )
        return cls(moments.fwd_mean, forward, backward)


def check_scaling(scaling: str) -> None:
    """Refuse a scaling that does not exist."""
    if scaling not in SCALINGS:
        raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}; it was {scaling!r}")


def check_option(name: str, value: str) -> None:
    """Refuse what an option cannot be."""
    if value not in OPTIONS[name]:
        *rest, last = map(repr, OPTIONS[name])
        raise ValueError(f"{name} must be {', '.join(rest)} or {last}; it was {value!r}")


def constant_when_compiled(function: Callable) -> Callable:
    """Mark a function of constants for ``torch.compile`` to run, not trace, while compiling.

    ``torch.compiler.assume_constant_result`` does this and no more, but imports the whole of
    Dynamo, a second that ``import normprop`` would pay; a test holds the two to the same
    effect.
    """
    function._dynamo_marked_constant = True
    return function


def remembered(function: Made) -> Made:
    """The same, with results that are kept."""
    kept = functools.lru_cache(maxsize=1024, typed=True)(function)
    # Dynamo looks through a cache, not through a function that is marked.
    return constant_when_compiled(functools.wraps(function)(lambda *call: kept(*call)))


@constant_when_compiled
def transforms_active() -> bool:
    """Whether a transform of ``torch.func`` is at work, forward mode, or who records operators.

    Compiled code asks while it is traced: there Dynamo would drop the backward pass of a custom
    function without a word (pytorch issue 193279).
    """
    active = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return active or _operators_recorded()


def _operators_recorded() -> bool:
    """Whether tensors may stand for numbers, of ``make_fx``, ``torch.jit.trace`` or none at all."""
    if torch._C._get_tracing_state() is not None:
        return True
    if not torch._C._len_torch_dispatch_stack():
        return False
    keys = torch._C._TorchDispatchModeKey
    return any(torch._C._get_dispatch_mode(key) is not None for key in (keys.FAKE, keys.PROXY))


def saving() -> object:
    """What tensors that are saved for a backward pass go through; a checkpoint has its own.

    A torch that cannot tell says ``None``.
    """
    ask = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return None if ask is None else ask(False)


def is_differentiated(tensor: Tensor) -> bool:
    """Whether a backward pass may ask for the gradient of this tensor."""
    return torch.is_grad_enabled() and tensor.requires_grad


def literal(value: float) -> float:
    """The same float, as a constant under ``torch.compile``.

    Dynamo turns a float argument into a graph input once it has seen two values of it.  A
    law must stay a constant: the figures that follow from it are not traced, but computed.
    """
    # Dynamo has no symbol for these two, in any version, and computes them.
    return math.ldexp(*math.frexp(value)) if torch.compiler.is_compiling() else value


def normalized(function: Callable, input: Tensor, constants: Constants):
    """(f(x) - shift)/forward with the gradient divided by ``backward`` instead.

    What a function returns besides, such as indices, stays as it is.  float16 and bfloat16 are
    computed in float32 and rounded once.
    """
    check_real(input)
    shift, forward, backward = constants.shift, constants.forward, constants.backward
    found = function(upcast(input))
    output, *more = found if isinstance(found, tuple) else (found,)
    # Autocast may have given half precision back.
    output = upcast(output)
    if forward != backward:
        # Before the line, which makes a tensor of its own: nobody may write into a view that a
        # custom function returns.
        output = scale_gradient(output, forward / backward)
    if torch.compiler.is_compiling():
        output = (output - shift) / forward
    else:
        # One pass instead of two; the number stays on the CPU whatever the device.
        number = torch.scalar_tensor(-shift / forward, dtype=output.dtype, device="cpu")
        output = torch.add(number, output, alpha=1.0 / forward)
    output = output.to(input.dtype)
    return (output, *more) if more else output


def refuse_inplace(inplace: bool) -> None:
    """Refuse what would overwrite a tensor that the backward pass needs."""
    if inplace:
        raise ValueError("inplace must be False: a normalised layer keeps its input; it was True")


def check_real(input: Tensor) -> None:
    """Refuse integers, which could not hold the output, and complex numbers."""
    if not input.is_floating_point():
        raise TypeError(f"input must hold floating-point numbers; it was {input.dtype}")


def upcast(tensor: Tensor) -> Tensor:
    """The tensor in the type that it is computed in."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def scale_gradient(input: Tensor, factor: float) -> Tensor:
    r"""The identity, whose backward pass multiplies the gradient by ``factor``.

    .. math:: y = x, \qquad dx = \mathrm{factor} \cdot dy

    Where ``factor`` is not 1, what comes back is not the derivative; forward-mode
    differentiation, which has no backward pass, raises.

    Args:
        input: any shape.
        factor: a finite float.

    Returns:
        A tensor equal to ``input``.
    """
    if torch.compiler.is_compiling():
        # Dynamo drops a custom backward where torch.compile meets torch.func.grad
        # (pytorch issue 193279), so compiled code says the same in plain operations, which
        # the compiler fuses away.  The difference is zero for finite values.
        return input + (factor - 1.0) * (input - input.detach())
    return _ScaleGradient.apply(input, factor)


class _ScaleGradient(torch.autograd.Function):
    # Like every Function of this package it states by what it multiplies the gradients of its
    # tensors, the first ones first, beyond what the derivative does: ``gradient_factors``, on the
    # node or, where it is the same for all, on the class.  A gradient that is no multiple of the
    # derivative has NaN; tensors without an entry have 1.
    generate_vmap_rule = True

    @staticmethod
    def forward(input, factor):
        return input.view_as(input)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.gradient_factors = (inputs[1],)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.gradient_factors[0], None

    @staticmethod
    def jvp(ctx, tangent, _):
        if ctx.gradient_factors != (1.0,):
            raise RuntimeError(
                "scaling='separate' has no derivative in forward mode: its gradient is none"
            )
        return tangent.view_as(tangent)
