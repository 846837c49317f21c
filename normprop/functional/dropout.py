"""Normalised dropout."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.fused import Backend, is_transformed, wants_triton
from normprop.functional.keywords import (
    Keeps,
    LawKept,
    LawKeptOnBackend,
    by_place,
    class_of,
    tabled,
)
from normprop.functional.scale import (
    Constants,
    Scaling,
    check_option,
    check_real,
    constant_when_compiled,
    literal,
    normalized,
    refuse_inplace,
    upcast,
)

__all__ = [
    "alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout",
]  # fmt: skip


class DropoutConstants(NamedTuple):
    """What dropout does in training; the factor of x - center in evaluation."""

    training: Constants
    evaluation: float
    center: float = 0.0


_DROPOUT = r"""Normalised dropout, p the probability of dropping, q = 1 - p that of keeping.

    .. math:: y = \frac{x \cdot \mathrm{mask}/q - m}{\sigma}, \qquad
        \sigma_f^2 = \frac{s^2 + p m^2}{q}, \qquad \sigma_b = q^{-1/2}

    for x of mean m and standard deviation s.  At mean 0 and std 1 both σ are q^(-1/2), and
    y = x·mask/√q whatever the scaling: unit variance in both passes.

    In evaluation nothing is dropped, and one of two things can be kept.  With
    ``eval="variance"`` y has the variance that it has in training: at mean 0 and std 1 this
    is the identity.  With ``eval="mean"`` y is the mean over the masks, √q·x there.  They
    differ because E y = √q·x while Var y = Var x in training.

    Args:
        backend: ``"eager"`` for PyTorch's operations, ``"triton"`` for one kernel each way that
            stores no mask, ``"auto"`` for the second wherever it can run.  The two draw
            different masks from the same seed of torch's generator.

    Raises:
        ValueError: an argument is out of its range; p = 1 is, because nothing can give a
            variance to what is dropped for certain; or ``"triton"`` was asked for elsewhere than
            on a GPU, or for channels of an input without batch and channels.
        RuntimeError: ``"triton"`` was asked for in compiled code or under a transform.
    """
_ALPHA = r"""Normalised alpha dropout, p the probability of dropping, q = 1 - p that of keeping.

    torch's, with α = 1.758…, SELU's least value made positive, and a = (q(1 + pα²))^(-1/2), is
    a(x·mask - α(1 - mask)) + aαp; here

    .. math:: y = \frac{a(x \cdot \mathrm{mask} - α(1 - \mathrm{mask})) + aαp - aqm}{\sigma},
        \qquad \sigma_f^2 = a^2 q\,(s^2 + p(m + α)^2), \qquad \sigma_b = a\sqrt q

    for x of mean m and standard deviation s.  At mean 0 and std 1 σ_f = 1, which is what α
    dropout is for, but σ_b = (1 + pα²)^(-1/2).

    In evaluation y = (x - m)·c, with ``eval="variance"`` of the variance that it has in training,
    with ``eval="mean"`` the mean over the masks, c = aq/σ.

    Raises:
        ValueError: an argument is out of its range; p = 1 is.
    """
_MEANINGS = {
    "p": "probability of dropping, 0 ≤ p < 1.",
    "training": "whether to drop.",
    "scaling": "which standard deviation divides in which pass; in evaluation the gradient is the "
    "true one.",
}


KINDS: dict[type[nn.Module], tuple[Callable, int, bool]] = {}
"""Of a class of torch its function; of what it drops together, the dimensions behind the channels;
whether it is alpha dropout."""


def _dropout(name: str, shapes: str, doc: str, keywords: type) -> Callable[..., Tensor]:
    """Dropout by the function of that name of torch."""
    run = getattr(torch_functional, name)
    dims = int(name[-2]) if name.endswith("d") else 0
    alpha = "alpha" in name
    KINDS[class_of(name)] = run, dims, alpha
    if shapes.startswith("shape"):
        doc = doc.replace(" dropout,", " dropout of channels,", 1)

    def body(arguments, law):
        refuse_inplace(arguments["inplace"])
        input, p, training = arguments["input"], arguments["p"], arguments["training"]
        base = literal(p), law["scaling"], literal(law["mean"]), literal(law["std"])
        constants = dropout_constants(*base, law["eval"], alpha)
        return with_mask(run, dims, input, p, training, constants, law.get("backend", "eager"))

    meanings = {"input": f"{shapes}.", **_MEANINGS}
    return tabled(name, by_place(run), keywords, body, doc, **meanings)


_CHANNELS = "shape %s, of which whole channels are dropped"

dropout = _dropout("dropout", "any shape", _DROPOUT, LawKeptOnBackend)
dropout1d = _dropout("dropout1d", _CHANNELS % "(N, C, L) or (C, L)", _DROPOUT, LawKeptOnBackend)
dropout2d = _dropout("dropout2d", _CHANNELS % "(N, C, H, W)", _DROPOUT, LawKeptOnBackend)
dropout3d = _dropout("dropout3d", _CHANNELS % "(N, C, D, H, W)", _DROPOUT, LawKeptOnBackend)
alpha_dropout = _dropout("alpha_dropout", "any shape", _ALPHA, LawKept)
feature_alpha_dropout = _dropout("feature_alpha_dropout", _CHANNELS % "(N, C, …)", _ALPHA, LawKept)


def with_mask(
    function: Callable,
    dims: int,
    input: Tensor,
    p: float,
    training: bool,
    constants: DropoutConstants,
    backend: Backend = "auto",
) -> Tensor:
    """Dropout by a function of torch, of so many dimensions behind the channels."""
    check_real(input)
    transformed = is_transformed(input)
    triton = wants_triton(input, backend, transformed)
    if not training:
        return ((upcast(input) - constants.center) * constants.evaluation).to(input.dtype)
    leading = _leading(dims, input)
    if triton and leading is None and backend == "triton":
        raise ValueError(
            f"the kernel drops channels of an input of {dims + 2} dimensions, batch and channels "
            f"first; it had {input.ndim}"
        )
    if triton and leading is not None:
        return _Dropped.apply(input, None, p, constants.training, leading, None)
    return normalized(lambda x: function(x, p, training=True), input, constants.training)


def _leading(dims: int, input: Tensor) -> int | None:
    """How many dimensions tell apart what is dropped together; None where torch decides."""
    if dims == 0:
        return 0
    return 2 if input.ndim == dims + 2 else None


class _Dropped(torch.autograd.Function):
    """Dropout by the kernel, which keeps a seed where PyTorch keeps a mask.

    The gradient is divided by ``backward``, and goes the same way again: ``made`` is then the shape
    and the strides of what the first pass made, in whose order numbers were drawn.
    """

    @staticmethod
    def forward(ctx, input, seed, p, constants, leading, made):
        from normprop.kernels import dropout as kernel

        shift, forward, backward = constants
        if made is None:
            output, seed = kernel.forward(input, p, shift, forward, leading=leading)
            made = output.shape, output.stride()
        else:
            output = kernel.backward(input, seed, p, forward, made[1], leading=leading)
        ctx.call = p, Constants(0.0, backward, backward), leading, made
        ctx.gradient_factors = (forward / backward,)
        ctx.save_for_backward(seed)
        return output

    @staticmethod
    def backward(ctx, grad):
        return _dropped_again(grad, *ctx.saved_tensors, *ctx.call), *[None] * 5


def _dropped_again(grad, seed, p, constants, leading, made):
    """The gradient through the same mask."""
    if not is_transformed(grad):
        return _Dropped.apply(grad, seed, p, constants, leading, made)
    from normprop.kernels import dropout as kernel

    # Many gradients at once are no memory that a kernel could read; the mask is the same for all.
    wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
    ones = torch.ones(made[0], dtype=wide, device=seed.device)
    factor = kernel.backward(ones, seed, p, constants.backward, made[1], leading=leading)
    return (upcast(grad) * factor).to(grad.dtype)


@constant_when_compiled
def dropout_constants(
    p: float, scaling: Scaling, mean: float, std: float, eval: Keeps, alpha: bool = False
) -> DropoutConstants:
    """Constants of dropout, or of alpha dropout, at this input law."""
    law = rules.check_law(mean, std)
    rules.check_probability(p)
    if p == 1.0:
        raise ValueError("p must be less than 1 for a normalised dropout; it was 1")
    check_option("eval", eval)
    moments = rules.alpha_dropout(p, law) if alpha else rules.dropout(p, law)
    training = Constants.of(moments, scaling)
    over_masks = rules.alpha_gain(p) * (1.0 - p) if alpha else 1.0
    spread = moments.fwd_std / law.std if eval == "variance" else over_masks
    center = law.mean if alpha else training.shift
    return DropoutConstants(training, spread / training.forward, center)
