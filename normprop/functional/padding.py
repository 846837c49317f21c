"""Normalised padding."""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop.functional.keywords import Law, takes
from normprop.functional.shape import in_place_of, moved

__all__ = ["pad"]


@takes(Law)
def pad(
    input: Tensor,
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
    **law: Unpack[Law],
) -> Tensor:
    r"""Normalised padding: y = (x - mean)/σ inside, and the padding shifted and scaled with it.

    σ_f = std and σ_b = 1 are those of the interior; at mean 0 and std 1 the whole is torch's own
    padding.  At the border a constant v becomes (v - mean)/σ, 0 for ``value=mean``, and what is
    copied (``"reflect"``, ``"replicate"``, ``"circular"``) has the forward figures of the interior,
    while an input gets the gradients of all its copies.  The scalings choose σ as in :func:`relu`.

    Args:
        input: as in torch.
        pad: two sizes an axis, the last axis first.
        value: of the constant, 0 by default.

    Returns:
        Tensor of the shape that torch's padding gives.
    """
    return moved(lambda x: torch_functional.pad(x, pad, mode, value), input, in_place_of(law))
