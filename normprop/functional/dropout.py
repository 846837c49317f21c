"""Normalised dropout."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.fused import Backend, is_transformed, wants_triton
from normprop.functional.scale import (
    Constants,
    Scaling,
    check_real,
    constant_when_compiled,
    literal,
    normalized,
    refuse_separate,
    upcast,
)

Keeps = Literal["variance", "mean"]


class DropoutConstants(NamedTuple):
    """What dropout does in training, and the factor of x - shift in evaluation."""

    training: Constants
    evaluation: float


class AlphaDropoutConstants(NamedTuple):
    """What alpha dropout does in training; the shift and the factor of x in evaluation."""

    training: Constants
    center: float
    evaluation: float


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    eval: Keeps = "variance",
    constants: DropoutConstants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised dropout, p the probability of dropping, q = 1 - p that of keeping.

    .. math:: y = \frac{x \cdot \mathrm{mask}/q - m}{\sigma}, \qquad
        \sigma_f^2 = \frac{s^2 + p m^2}{q}, \qquad \sigma_b = q^{-1/2}

    for x of mean m and standard deviation s.  At mean 0 and std 1 both σ are q^(-1/2), and
    y = x·mask/√q whatever the scaling: unit variance in both passes.

    In evaluation nothing is dropped, and one of two things can be kept.  With
    ``eval="variance"`` y has the variance that it has in training: at mean 0 and std 1 this
    is the identity.  With ``eval="mean"`` y is the mean over the masks, √q·x there.  They
    differ because E y = √q·x while Var y = Var x in training.

    Args:
        input: any shape.
        p: probability of dropping, 0 ≤ p < 1.
        training: whether to drop.
        scaling: which standard deviation divides in which pass; in evaluation the gradient
            is the true one.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        eval: what evaluation keeps of training.
        constants: the constants, where they are at hand; then scaling, mean, std and eval
            have no say.
        backend: ``"eager"`` for PyTorch's operations, ``"triton"`` for one kernel each way that
            stores no mask, ``"auto"`` for the second wherever it can run.  The two draw
            different masks from the same seed of torch's generator.

    Returns:
        Tensor of the shape and type of ``input``.

    Raises:
        ValueError: an argument is out of its range; p = 1 is, because nothing can give a
            variance to what is dropped for certain; or ``"triton"`` was asked for elsewhere than
            on a GPU, or for channels of an input without batch and channels.
        RuntimeError: ``"triton"`` was asked for in compiled code or under a transform.
    """
    constants = constants or _constants(p, scaling, mean, std, eval)
    return _dropout(torch_functional.dropout, 0, input, p, training, constants, backend)


def dropout1d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    eval: Keeps = "variance",
    constants: DropoutConstants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Normalised dropout of whole channels of an input of shape (N, C, L) or (C, L).

    Everything else is as in :func:`dropout`: the figures of one element do not depend on
    what is dropped with it.
    """
    constants = constants or _constants(p, scaling, mean, std, eval)
    return _dropout(torch_functional.dropout1d, 1, input, p, training, constants, backend)


def dropout2d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    eval: Keeps = "variance",
    constants: DropoutConstants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Normalised dropout of whole channels of an input of shape (N, C, H, W).

    Everything else is as in :func:`dropout1d`.
    """
    constants = constants or _constants(p, scaling, mean, std, eval)
    return _dropout(torch_functional.dropout2d, 2, input, p, training, constants, backend)


def dropout3d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    eval: Keeps = "variance",
    constants: DropoutConstants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Normalised dropout of whole channels of an input of shape (N, C, D, H, W).

    Everything else is as in :func:`dropout1d`.
    """
    constants = constants or _constants(p, scaling, mean, std, eval)
    return _dropout(torch_functional.dropout3d, 3, input, p, training, constants, backend)


def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    eval: Keeps = "variance",
    constants: AlphaDropoutConstants | None = None,
) -> Tensor:
    r"""Normalised alpha dropout, p the probability of dropping, q = 1 - p that of keeping.

    torch's, with α = 1.758…, SELU's least value made positive, and a = (q(1 + pα²))^(-1/2), is
    a(x·mask - α(1 - mask)) + aαp; here

    .. math:: y = \frac{a(x \cdot \mathrm{mask} - α(1 - \mathrm{mask})) + aαp - aqm}{\sigma},
        \qquad \sigma_f^2 = a^2 q\,(s^2 + p(m + α)^2), \qquad \sigma_b = a\sqrt q

    for x of mean m and standard deviation s.  At mean 0 and std 1 σ_f = 1, which is what α
    dropout is for, but σ_b = (1 + pα²)^(-1/2).

    In evaluation y = (x - m)·c, with ``eval="variance"`` of the variance that it has in training,
    with ``eval="mean"`` the mean over the masks, c = aq/σ.

    Args:
        input: any shape.
        p: probability of dropping, 0 ≤ p < 1.
        training: whether to drop.
        scaling: which standard deviation divides in which pass; in evaluation the gradient
            is the true one.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        eval: what evaluation keeps of training.
        constants: the constants, where they are at hand; then scaling, mean, std and eval
            have no say.

    Returns:
        Tensor of the shape and type of ``input``.

    Raises:
        ValueError: an argument is out of its range; p = 1 is.
    """
    return _alpha_dropout(
        torch_functional.alpha_dropout, input, p, training, scaling, mean, std, eval, constants
    )


def feature_alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    eval: Keeps = "variance",
    constants: AlphaDropoutConstants | None = None,
) -> Tensor:
    """Normalised alpha dropout of whole channels of an input of shape (N, C, …).

    Everything else is as in :func:`alpha_dropout`.
    """
    return _alpha_dropout(
        torch_functional.feature_alpha_dropout,
        input,
        p,
        training,
        scaling,
        mean,
        std,
        eval,
        constants,
    )


def _alpha_dropout(function, input, p, training, scaling, mean, std, eval, constants):
    if constants is None:
        constants = alpha_dropout_constants(literal(p), scaling, literal(mean), literal(std), eval)
    if training:
        return normalized(lambda x: function(x, p, training=True), input, constants.training)
    check_real(input)
    return ((upcast(input) - constants.center) * constants.evaluation).to(input.dtype)


def _constants(p, scaling, mean, std, eval) -> DropoutConstants:
    return dropout_constants(literal(p), scaling, literal(mean), literal(std), eval)


def _dropout(function, dims, input, p, training, constants, backend):
    check_real(input)
    transformed = is_transformed(input)
    triton = wants_triton(input, backend, transformed)
    if not training:
        return ((upcast(input) - constants.training.shift) * constants.evaluation).to(input.dtype)
    leading = _leading(dims, input)
    if triton and leading is None and backend == "triton":
        raise ValueError(
            f"the kernel drops channels of an input of {dims + 2} dimensions, batch and channels "
            f"first; it had {input.ndim}"
        )
    if triton and leading is not None:
        return _Dropped.apply(input, p, constants.training, leading)
    return normalized(lambda x: function(x, p, training=True), input, constants.training)


def _leading(dims: int, input: Tensor) -> int | None:
    """How many dimensions tell apart what is dropped together; None where torch decides."""
    if dims == 0:
        return 0
    return 2 if input.ndim == dims + 2 else None


class _Dropped(torch.autograd.Function):
    """Dropout by the kernel, which keeps a seed where PyTorch keeps a mask."""

    @staticmethod
    def forward(ctx, input, p, constants, leading):
        from normprop.kernels import dropout as kernel

        shift, forward, backward = constants
        output, seed = kernel.forward(input, p, shift, forward, leading=leading)
        ctx.call = p, backward, output.stride(), leading
        ctx.gradient_factors = (forward / backward,)
        ctx.save_for_backward(seed)
        ctx.save_for_forward(seed)
        return output

    @staticmethod
    def backward(ctx, grad):
        return _DroppedAgain.apply(grad, *ctx.saved_tensors, *ctx.call), None, None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        refuse_separate(ctx)
        return _DroppedAgain.apply(tangent, *ctx.saved_tensors, *ctx.call)


class _DroppedAgain(torch.autograd.Function):
    """The gradient through the same mask: linear, and its own transpose."""

    gradient_factors = (1.0,)

    @staticmethod
    def forward(ctx, grad, seed, *call):
        from normprop.kernels import dropout as kernel

        p, backward, stride, leading = ctx.call = call
        ctx.save_for_backward(seed)
        return kernel.backward(grad, seed, p, backward, stride, leading=leading)

    @staticmethod
    def backward(ctx, grad):
        return _DroppedAgain.apply(grad, *ctx.saved_tensors, *ctx.call), *[None] * 5


@constant_when_compiled
def dropout_constants(
    p: float, scaling: Scaling, mean: float, std: float, eval: Keeps
) -> DropoutConstants:
    """Constants of dropout at this input law."""
    law = rules.check_law(mean, std)
    _check(p, eval)
    moments = rules.dropout(p, law)
    training = Constants.of(moments, scaling)
    spread = moments.fwd_std / law.std if eval == "variance" else 1.0
    return DropoutConstants(training, spread / training.forward)


@constant_when_compiled
def alpha_dropout_constants(
    p: float, scaling: Scaling, mean: float, std: float, eval: Keeps
) -> AlphaDropoutConstants:
    """Constants of alpha dropout at this input law."""
    law = rules.check_law(mean, std)
    _check(p, eval)
    moments = rules.alpha_dropout(p, law)
    training = Constants.of(moments, scaling)
    spread = moments.fwd_std / law.std if eval == "variance" else rules.alpha_gain(p) * (1.0 - p)
    return AlphaDropoutConstants(training, law.mean, spread / training.forward)


def _check(p: float, eval: str) -> None:
    rules.check_probability(p)
    if p == 1.0:
        raise ValueError("p must be less than 1 for a normalised dropout; it was 1")
    if eval not in ("variance", "mean"):
        raise ValueError(f"eval must be 'variance' or 'mean'; it was {eval!r}")
