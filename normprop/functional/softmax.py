"""Normalised softmax and its relatives, whose constants follow from the size of a dimension."""

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

_FIGURES = {"softmax": rules.softmax, "log_softmax": rules.log_softmax}


def softmax(
    input: Tensor,
    dim: int,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    *,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised softmax over the C elements of a dimension.

    .. math:: y = \frac{p - 1/C}{\sigma}, \qquad p_i = \frac{e^{x_i}}{\sum_j e^{x_j}}

    For independent x ~ N(mean, std²), :math:`\sigma_f^2 = E p_i^2 - 1/C^2` and
    :math:`\sigma_b^2 = E p_i^2(1 - 2p_i + \sum_j p_j^2)`; the mean of the input has no effect.
    For std = 1 and many classes σ_f → √(e - 1)/C and σ_b → √e/C.  The scalings choose σ as in
    :func:`relu`.  What is normalised no longer adds up to 1: it adds up to 0.

    Args:
        input: any shape.
        dim: the dimension; its size is C.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0 and at most 20.
        constants: the constants, where they are at hand; then scaling, mean and std have no
            say.

    Returns:
        Tensor of the shape and type of ``input``.

    Raises:
        ValueError: an argument is out of its range, or the dimension has a single element,
            which is certain.
        IndexError: there is no such dimension.
    """
    constants = constants or _constants("softmax", input, dim, scaling, mean, std)
    return normalized(lambda x: torch.softmax(x, dim), input, constants)


def softmin(
    input: Tensor,
    dim: int,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    *,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised softmin, softmax of -x: its constants, arguments, return and errors."""
    constants = constants or _constants("softmax", input, dim, scaling, mean, std)
    return normalized(lambda x: torch.softmax(-x, dim), input, constants)


def log_softmax(
    input: Tensor,
    dim: int,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    *,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised logarithm of softmax over the C elements of a dimension.

    .. math:: y = \frac{x_i - \log\sum_j e^{x_j} - \mu}{\sigma}

    with :math:`\mu = E\,x_i - E\log S`,
    :math:`\sigma_f^2 = \mathrm{std}^2(1 - 2/C) + \mathrm{Var}\log S` and
    :math:`\sigma_b^2 = 1 - 2/C + C\,E p_i^2`.  Arguments, return and errors are those of
    :func:`softmax`.
    """
    constants = constants or _constants("log_softmax", input, dim, scaling, mean, std)
    return normalized(lambda x: torch.log_softmax(x, dim), input, constants)


def _constants(kind, input, dim, scaling, mean, std) -> Constants:
    size = int(input.shape[dim]) if input.ndim else 1
    return softmax_constants(kind, size, scaling, literal(mean), literal(std))


@constant_when_compiled
def softmax_constants(
    kind: str, classes: int, scaling: Scaling, mean: float, std: float
) -> Constants:
    """Constants of ``"softmax"`` or ``"log_softmax"`` over so many classes at this input law."""
    return _cached(kind, classes, scaling, mean, std)


@lru_cache(maxsize=1024, typed=True)
def _cached(kind: str, classes: int, scaling: Scaling, mean: float, std: float) -> Constants:
    return Constants.of(_FIGURES[kind](classes, rules.check_law(mean, std)), scaling)
