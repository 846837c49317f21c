"""Normalised softmax and its relatives, whose constants follow from the size of a dimension."""

from typing import Unpack

import torch
from torch import Tensor, nn

from normprop.functional.constants import constants_of
from normprop.functional.keywords import Law, takes
from normprop.functional.scale import Constants, normalized

__all__ = ["log_softmax", "softmax", "softmin"]


@takes(Law)
def softmax(input: Tensor, dim: int, **law: Unpack[Law]) -> Tensor:
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


@takes(Law)
def softmin(input: Tensor, dim: int, **law: Unpack[Law]) -> Tensor:
    r"""Normalised softmin, softmax of -x: its constants, return and errors.

    Args:
        std: standard deviation of the input, greater than 0 and at most 20.
    """
    return normalized(lambda x: torch.softmax(-x, dim), input, over(nn.Softmin, input, dim, law))


@takes(Law)
def log_softmax(input: Tensor, dim: int, **law: Unpack[Law]) -> Tensor:
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


def over(layer_type: type[nn.Module], input: Tensor, dim: int, law: Law) -> Constants:
    """Constants over the elements of a dimension, which here may be that of the batch too."""
    size = int(input.shape[dim]) if input.ndim else 1
    # Over the channels of an image the figures are those of any dimension.
    plain = nn.Softmax if layer_type is nn.Softmax2d else layer_type
    return constants_of(plain, law, (size,), dim=-1)
