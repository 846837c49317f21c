"""Normalised interpolation."""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop.functional.constants import constants_of, sizes_of
from normprop.functional.keywords import Law, takes
from normprop.functional.scale import normalized

__all__ = ["interpolate"]


@takes(Law)
def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
    **law: Unpack[Law],
) -> Tensor:
    r"""Normalised interpolation, every output a mean of inputs with weights w.

    .. math:: y = \frac{\sum_j w_j x_j - \mathrm{mean}}{\sigma}, \qquad
        \sigma_f^2 = \mathrm{std}^2\;\overline{\textstyle\sum_j w_j^2}, \qquad
        \sigma_b^2 = \overline{\textstyle\sum_j w_j^2}\cdot\frac{\text{outputs}}{\text{inputs}},

    a bar for the average over the outputs.  The sum of squares is 1 for ``"nearest"``, and 5/8 an
    axis for twice the size by linear interpolation.  Where ``scale_factor`` is a ratio of small
    integers and ``align_corners`` is not set, the constants are those of the interior; else they
    follow from the shape of the input, when it is seen.  The scalings choose σ as in :func:`relu`.

    Args:
        input: shape (N, C, L), (N, C, H, W) or (N, C, D, H, W).
        mode: as in torch, without ``"lanczos"``.

    Returns:
        Tensor of the shape that torch's interpolation gives.
    """
    if input.ndim not in (3, 4, 5):
        raise ValueError(
            "input must have shape (N, C, L), (N, C, H, W) or (N, C, D, H, W); "
            f"it was {tuple(input.shape)}"
        )
    own = {
        "size": size,
        "scale_factor": scale_factor,
        "mode": mode,
        "align_corners": align_corners,
        "recompute_scale_factor": recompute_scale_factor,
    }
    smooth = {"antialias": antialias}
    constants = constants_of(nn.Upsample, {**law, **smooth}, sizes_of(input)[1:], **own)
    return normalized(lambda x: torch_functional.interpolate(x, **own, **smooth), input, constants)
