"""The kernels with their gradients: for autograd, ``torch.func`` and ``torch.compile``.

======================================  ==================================================
:func:`activation`                      y = (f(x) - shift)/forward, dx = dy f'(x)/backward
:func:`prelu`                           the same for a slope that has a gradient
:func:`dropout`                         its seed is an argument
:func:`weight`                          a weight on its ball, and 1/n
======================================  ==================================================

Each works in eager code under autograd, ``torch.func.grad``, ``vjp`` and ``vmap``, and under
``torch.compile`` without a graph break: there it is one opaque operator, whose gradient the
dispatcher knows.  That the gradient is not 1/forward·f' but what the kernels say is the point
of them, so it must never be lost: where ``torch.compile`` meets ``torch.func.grad`` a custom
backward would be (pytorch issue 193279), and the operator refuses instead.  Forward mode and
second derivatives raise.

Importing this module loads no triton; the first call does.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from normprop.kernels.layout import as_dense

__all__ = ["activation", "draw_seed", "dropout", "prelu", "weight"]


class _Operator:
    """A function on tensors: called as it is, or as an operator where tensors are no memory.

    Transforms, tracing and fake tensors need the operator; it costs some microseconds more.
    """

    def __init__(
        self, name: str, function: Callable, fake: Callable, vmap: Callable | None = None
    ) -> None:
        self.function = function
        self.operator = torch.library.custom_op(f"normprop::{name}", function, mutates_args=())
        self.operator.register_fake(fake)
        if vmap is not None:
            self.operator.register_vmap(vmap)

        self.once = type(
            f"{name.title()}Once",
            (torch.autograd.Function,),
            {
                "generate_vmap_rule": True,
                # There is no gradient: it raises.
                "gradient_factors": (math.nan,),
                "forward": staticmethod(self.run),
                "setup_context": staticmethod(lambda ctx, inputs, output: None),
                "backward": staticmethod(_refuse),
            },
        )

    def run(self, *arguments):
        """The function itself on tensors that are memory, else the operator."""
        return (self.function if _plain(arguments) else self.operator)(*arguments)

    def __call__(self, *arguments):
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            # An operator has no gradient of its own that the transforms would accept.
            return self.once.apply(*arguments)
        return self.run(*arguments)


def _refuse(ctx, *grads):
    raise NotImplementedError("a Triton kernel has no second derivative; the eager function has")


class _Differentiable:
    """An operator with a gradient, the same one in eager and in compiled code."""

    def __init__(
        self,
        name: str,
        forward: Callable,
        fake: Callable,
        setup_context: Callable,
        gradient: Callable,
        vmap: Callable | None = None,
    ) -> None:
        raw = _Operator(f"{name}_forward", forward, fake, vmap)
        self.compiled = _Operator(name, forward, fake, vmap).operator
        self.compiled.register_autograd(gradient, setup_context=setup_context)
        self.eager = type(
            name.title(),
            (torch.autograd.Function,),
            {
                "generate_vmap_rule": True,
                "forward": staticmethod(raw.run),
                "setup_context": staticmethod(setup_context),
                "backward": staticmethod(gradient),
            },
        )

    def __call__(self, *arguments):
        if torch.compiler.is_compiling():
            return self.compiled(*arguments)
        return self.eager.apply(*arguments)


def _plain(arguments: tuple) -> bool:
    if torch._C._are_functorch_transforms_active():
        return False
    tensors = (a for a in arguments if isinstance(a, Tensor))
    return all(type(t) in (Tensor, torch.nn.Parameter) for t in tensors)


# Activations


def _activation_forward(
    input: Tensor,
    name: str,
    params: list[float],
    shift: float,
    forward: float,
    backward: float,
    from_output: bool,
) -> Tensor:
    from normprop.kernels import activation as kernel

    return kernel.forward(name, tuple(params), input, shift, forward, save_output=from_output)


def _activation_backward(
    saved: Tensor,
    grad: Tensor,
    name: str,
    params: list[float],
    shift: float,
    forward: float,
    backward: float,
    from_output: bool,
) -> Tensor:
    from normprop.kernels import activation as kernel

    return kernel.backward(
        name, tuple(params), saved, grad, shift, forward, backward, from_output=from_output
    )


def _save_activation(ctx, inputs, output):
    input, *ctx.arguments, ctx.from_output = inputs
    *_, forward, backward = ctx.arguments
    ctx.gradient_factors = (forward / backward,)
    ctx.save_for_backward(output if ctx.from_output else input)


def _activation_gradient(ctx, grad):
    (saved,) = ctx.saved_tensors
    dx = _backward_of_activation(saved, grad, *ctx.arguments, ctx.from_output)
    return dx, None, None, None, None, None, None


def _batched_activation(info, in_dims, input, *arguments):
    return torch.ops.normprop.activation_forward(input, *arguments), in_dims[0]


def _batched_activation_backward(info, in_dims, saved, grad, *arguments):
    at, other = in_dims[:2]
    # One of the two may be the same for the whole batch.
    if at is None:
        at, saved = other, saved.unsqueeze(other).expand_as(grad)
    elif other is None:
        grad = grad.unsqueeze(at).expand_as(saved)
    else:
        grad = grad.movedim(other, at)
    return torch.ops.normprop.activation_backward(saved, grad, *arguments), at


_backward_of_activation = _Operator(
    "activation_backward",
    _activation_backward,
    lambda saved, *_: torch.empty_like(as_dense(saved)),
    _batched_activation_backward,
)
_activation = _Differentiable(
    "activation",
    _activation_forward,
    lambda input, *_: torch.empty_like(as_dense(input)),
    _save_activation,
    _activation_gradient,
    _batched_activation,
)


def activation(
    input: Tensor,
    name: str,
    params: tuple[float, ...],
    shift: float,
    forward: float,
    backward: float,
    *,
    from_output: bool = False,
) -> Tensor:
    """A normalised activation and its gradient: see :mod:`normprop.kernels.activation`.

    Args:
        input: any shape, on CUDA.
        name: the activation.
        params: its parameters, none for torch's defaults.
        shift: what is subtracted.
        forward: what divides in the forward pass.
        backward: what divides the gradient.
        from_output: keep the output for the backward pass instead of the input.

    Returns:
        Tensor of the shape and type of ``input``.
    """
    return _activation(input, name, list(params), shift, forward, backward, from_output)


# PReLU


def _prelu_forward(
    input: Tensor,
    slope: Tensor,
    shift: float,
    forward: float,
    backward: float,
    from_output: bool,
) -> Tensor:
    from normprop.kernels import activation as kernel

    return kernel.forward("prelu", slope, input, shift, forward, save_output=from_output)


def _prelu_backward(
    slope: Tensor,
    saved: Tensor,
    grad: Tensor,
    shift: float,
    forward: float,
    backward: float,
    from_output: bool,
) -> tuple[Tensor, Tensor]:
    from normprop.kernels import activation as kernel

    return kernel.backward_prelu(
        slope, saved, grad, shift, forward, backward, from_output=from_output
    )


def _save_prelu(ctx, inputs, output):
    input, slope, *ctx.arguments, ctx.from_output = inputs
    _, forward, backward = ctx.arguments
    ctx.gradient_factors = (forward / backward,) * 2
    ctx.save_for_backward(slope, output if ctx.from_output else input)


def _prelu_gradient(ctx, grad):
    dx, dslope = _backward_of_prelu(*ctx.saved_tensors, grad, *ctx.arguments, ctx.from_output)
    return dx, dslope, None, None, None, None


_backward_of_prelu = _Operator(
    "prelu_backward",
    _prelu_backward,
    lambda slope, saved, *_: (torch.empty_like(as_dense(saved)), torch.empty_like(slope)),
)
_prelu = _Differentiable(
    "prelu",
    _prelu_forward,
    lambda input, *_: torch.empty_like(as_dense(input)),
    _save_prelu,
    _prelu_gradient,
)


def prelu(
    input: Tensor,
    slope: Tensor,
    shift: float,
    forward: float,
    backward: float,
    *,
    from_output: bool = False,
) -> Tensor:
    """PReLU of one slope, a tensor of one element that has a gradient; else :func:`activation`.

    The constants do not depend on the slope here: whoever lets them follow it differentiates
    them.
    """
    return _prelu(input, slope, shift, forward, backward, from_output)


# Dropout


def _dropout_forward(
    input: Tensor,
    seed: Tensor,
    p: float,
    shift: float,
    forward: float,
    backward: float,
    leading: int,
) -> Tensor:
    from normprop.kernels import dropout as kernel

    return kernel.forward(input, p, shift, forward, leading=leading, seed=seed)[0]


def _dropout_backward(
    grad: Tensor, seed: Tensor, p: float, backward: float, stride: list[int], leading: int
) -> Tensor:
    from normprop.kernels import dropout as kernel

    return kernel.backward(grad, seed, p, backward, tuple(stride), leading=leading)


def _save_dropout(ctx, inputs, output):
    _, seed, ctx.p, _, forward, ctx.factor, ctx.leading = inputs
    ctx.gradient_factors = (forward / ctx.factor,)
    ctx.stride = list(output.stride())
    ctx.save_for_backward(seed)


def _dropout_gradient(ctx, grad):
    (seed,) = ctx.saved_tensors
    dx = _backward_of_dropout(grad, seed, ctx.p, ctx.factor, ctx.stride, ctx.leading)
    return dx, None, None, None, None, None, None


def _strided_like(grad, seed, p, backward, stride, leading):
    return torch.empty_strided(grad.shape, stride, dtype=grad.dtype, device=grad.device)


_backward_of_dropout = _Operator("dropout_backward", _dropout_backward, _strided_like)
_dropout = _Differentiable(
    "dropout",
    _dropout_forward,
    lambda input, *_: torch.empty_like(as_dense(input)),
    _save_dropout,
    _dropout_gradient,
)


def dropout(
    input: Tensor,
    seed: Tensor,
    p: float,
    shift: float,
    forward: float,
    backward: float,
    *,
    leading: int = 0,
) -> Tensor:
    """Normalised dropout: see :mod:`normprop.kernels.dropout`.

    ``seed`` is one int64 on the input's device, from :func:`draw_seed` as a rule.  With the seed an
    argument, the operator is deterministic: a compiler may run it again instead of keeping
    its result.
    """
    return _dropout(input, seed, p, shift, forward, backward, leading)


def draw_seed(device: torch.device) -> Tensor:
    """A seed from torch's generator of the device, in the device's memory."""
    return torch.randint(0, 2**63 - 1, (1,), dtype=torch.int64, device=device)


# Weights


def _weight_forward(weight: Tensor, over: str, groups: int, size: float) -> tuple[Tensor, Tensor]:
    from normprop.kernels import weight as kernel

    return kernel.forward(weight, over, groups, size)


def _weight_backward(
    weight: Tensor, inverse: Tensor, grad: Tensor, over: str, groups: int, size: float
) -> Tensor:
    from normprop.kernels import weight as kernel

    return kernel.backward(weight, inverse, grad, over, groups, size)


def _save_weight(ctx, inputs, output):
    weight, *ctx.arguments = inputs
    ctx.gradient_factors = (1.0,)
    ctx.save_for_backward(weight, output[1])
    ctx.mark_non_differentiable(output[1])


def _weight_gradient(ctx, grad, _):
    return _backward_of_weight(*ctx.saved_tensors, grad, *ctx.arguments), None, None, None


def _fake_weight(weight, over, groups, size):
    count = {"fan-in": weight.shape[0], "fan-out": groups * weight.shape[1], "all": 1}[over]
    compute = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return torch.empty_like(as_dense(weight)), weight.new_empty(2, count, dtype=compute)


_backward_of_weight = _Operator(
    "weight_backward", _weight_backward, lambda weight, *_: torch.empty_like(as_dense(weight))
)
_weight = _Differentiable("weight", _weight_forward, _fake_weight, _save_weight, _weight_gradient)


def weight(weight: Tensor, over: str, groups: int, size: float) -> tuple[Tensor, Tensor]:
    """A weight on its ball and what is kept of its norms: see :mod:`normprop.kernels.weight`."""
    return _weight(weight, over, groups, size)
