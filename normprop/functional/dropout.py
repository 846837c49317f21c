"""Normalised dropout."""

from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.scale import (
    Constants,
    Scaling,
    check_real,
    constant_when_compiled,
    literal,
    normalized,
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

    Returns:
        Tensor of the shape and type of ``input``.

    Raises:
        ValueError: an argument is out of its range; p = 1 is, because nothing can give a
            variance to what is dropped for certain.
    """
    return _dropout(
        torch_functional.dropout, input, p, training, scaling, mean, std, eval, constants
    )


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
) -> Tensor:
    """Normalised dropout of whole channels of an input of shape (N, C, L) or (C, L).

    Everything else is as in :func:`dropout`: the figures of one element do not depend on
    what is dropped with it.
    """
    return _dropout(
        torch_functional.dropout1d, input, p, training, scaling, mean, std, eval, constants
    )


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
) -> Tensor:
    """Normalised dropout of whole channels of an input of shape (N, C, H, W).

    Everything else is as in :func:`dropout1d`.
    """
    return _dropout(
        torch_functional.dropout2d, input, p, training, scaling, mean, std, eval, constants
    )


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
) -> Tensor:
    """Normalised dropout of whole channels of an input of shape (N, C, D, H, W).

    Everything else is as in :func:`dropout1d`.
    """
    return _dropout(
        torch_functional.dropout3d, input, p, training, scaling, mean, std, eval, constants
    )


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


def _dropout(function, input, p, training, scaling, mean, std, eval, constants):
    if constants is None:
        constants = dropout_constants(literal(p), scaling, literal(mean), literal(std), eval)
    if training:
        return normalized(lambda x: function(x, p, training=True), input, constants.training)
    check_real(input)
    return ((upcast(input) - constants.training.shift) * constants.evaluation).to(input.dtype)


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
