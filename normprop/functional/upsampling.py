"""Normalised interpolation."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.scale import (
    Constants,
    Scaling,
    constant_when_compiled,
    literal,
    normalized,
)


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
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
        size: as in torch; likewise scale_factor, mode, align_corners, recompute_scale_factor and
            antialias.
        scale_factor: as in torch.
        mode: as in torch, without ``"lanczos"``.
        align_corners: as in torch.
        recompute_scale_factor: as in torch.
        antialias: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        constants: the constants, where they are at hand; then scaling, mean and std have no
            say.

    Returns:
        Tensor of the shape that torch's interpolation gives.

    Raises:
        ValueError: an argument is out of its range.
    """
    if constants is None:
        if input.ndim not in (3, 4, 5):
            raise ValueError(
                "input must have shape (N, C, L), (N, C, H, W) or (N, C, D, H, W); "
                f"it was {tuple(input.shape)}"
            )
        constants = interpolate_constants(
            tuple(int(n) for n in input.shape[2:]),
            size,
            scale_factor,
            mode,
            align_corners,
            recompute_scale_factor,
            antialias,
            scaling,
            literal(mean),
            literal(std),
        )

    def run(x):
        return torch_functional.interpolate(
            x, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias
        )

    return normalized(run, input, constants)


@constant_when_compiled
def interpolate_constants(
    sizes: tuple[int, ...],
    size: int | Sequence[int] | None,
    scale_factor: float | Sequence[float] | None,
    mode: str,
    align_corners: bool | None,
    recompute_scale_factor: bool | None,
    antialias: bool,
    scaling: Scaling,
    mean: float,
    std: float,
) -> Constants:
    """Constants of interpolation of these sizes at this input law."""
    dims = len(sizes)
    inner = rules.has_interior(dims, size, scale_factor, mode, align_corners, antialias)
    figures = rules.interpolate(
        dims,
        rules.check_law(mean, std),
        None if inner else sizes,
        size,
        scale_factor,
        mode,
        align_corners,
        recompute_scale_factor,
        antialias,
    )
    return Constants.of(figures, scaling)
