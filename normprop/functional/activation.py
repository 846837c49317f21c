"""Normalised activations."""

from functools import lru_cache

import torch
from torch import Tensor

from normprop import rules
from normprop.functional.scale import (
    Constants,
    Scaling,
    constant_when_compiled,
    literal,
    normalized,
)


def relu(
    input: Tensor,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    *,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised ReLU.

    .. math:: y = \frac{\max(x, 0) - \mu}{\sigma}

    with μ = E max(x, 0) for x ~ N(mean, std²); σ = σ_f, the standard deviation of max(x, 0),
    under ``"forward"``, and σ = σ_b, the root mean square of its slope, under
    ``"backward"``; both have the true gradient.  Under ``"separate"`` σ = σ_f, and the
    gradient is the true one times σ_f/σ_b.  At mean 0 and std 1, μ = 1/√(2π),
    σ_f = √(½ - 1/2π) and σ_b = √½.

    Args:
        input: any shape.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        constants: the constants, where they are at hand; then scaling, mean and std have no
            say.

    Returns:
        Tensor of the shape and type of ``input``.

    Raises:
        ValueError: the scaling is unknown, std is not greater than 0, or the law is so far
            from the kink that nothing passes.
    """
    return normalized(torch.relu, input, constants or _constants("relu", scaling, mean, std))


def sigmoid(
    input: Tensor,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    *,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised sigmoid, :math:`y = (1/(1 + e^{-x}) - \mu)/\sigma`.

    At mean 0 and std 1, μ = ½, σ_f = 0.20827634… and σ_b = 0.21174570….  Arguments, return
    and errors are those of :func:`relu`.
    """
    return normalized(torch.sigmoid, input, constants or _constants("sigmoid", scaling, mean, std))


def tanh(
    input: Tensor,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    *,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised tanh, :math:`y = (\tanh x - \mu)/\sigma`.

    At mean 0 and std 1, μ = 0, σ_f = 0.62792873… and σ_b = 0.68147113….  Arguments, return
    and errors are those of :func:`relu`.
    """
    return normalized(torch.tanh, input, constants or _constants("tanh", scaling, mean, std))


def gelu(
    input: Tensor,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    *,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised GELU, :math:`y = (x\Phi(x) - \mu)/\sigma`.

    At mean 0 and std 1, μ = 1/(2√π), σ_f = 0.58791497… and σ_b = 0.67516729….  Arguments,
    return and errors are those of :func:`relu`.
    """
    constants = constants or _constants("gelu", scaling, mean, std)
    return normalized(torch.nn.functional.gelu, input, constants)


def silu(
    input: Tensor,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    *,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised SiLU, :math:`y = (x/(1 + e^{-x}) - \mu)/\sigma`.

    At mean 0 and std 1, μ = 0.20662096…, σ_f = 0.55953847… and σ_b = 0.61602139….
    Arguments, return and errors are those of :func:`relu`.
    """
    constants = constants or _constants("silu", scaling, mean, std)
    return normalized(torch.nn.functional.silu, input, constants)


def _constants(name: str, scaling: Scaling, mean: float, std: float) -> Constants:
    return activation_constants(name, scaling, literal(mean), literal(std))


@constant_when_compiled
def activation_constants(name: str, scaling: Scaling, mean: float, std: float) -> Constants:
    """Constants of the activation of that name at this input law."""
    return _cached(name, scaling, mean, std)


@lru_cache(maxsize=1024, typed=True)
def _cached(name: str, scaling: Scaling, mean: float, std: float) -> Constants:
    return Constants.of(rules.moments(name, mean, std), scaling)
