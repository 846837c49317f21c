"""Normalised embeddings."""

import math
from typing import Annotated, TypedDict, Unpack

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop.functional.keywords import takes
from normprop.functional.parametric import check_method
from normprop.functional.weight import Method, checked_gain, on_sphere

__all__ = ["embedding", "normalize_rows"]


class Placed(TypedDict, total=False):
    """The radius of the rows' ball, over √dim, and when they are put there."""

    gain: Annotated[float, "what is looked up has mean square gain², greater than 0."]
    method: Method


@takes(Placed)
def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
    **placed: Unpack[Placed],
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
