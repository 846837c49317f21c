"""Normalised pooling whose windows follow from the sizes of its input and output."""

from collections.abc import Callable, Sequence
from typing import Unpack

from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop.functional.constants import constants_of, sample_of
from normprop.functional.keywords import LawBehind, takes
from normprop.functional.pool import in_dimensions
from normprop.functional.scale import normalized

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "fractional_max_pool2d",
    "fractional_max_pool3d",
]  # fmt: skip

OutputSize = int | None | Sequence[int | None]
Ratio = float | Sequence[float]

_AVERAGE = r"""Normalised adaptive average pooling.

    .. math:: y_i = \frac{1}{\sigma}\Bigl(\frac{1}{k_i}\sum x - \mathrm{mean}\Bigr), \qquad
        \sigma_f^2 = \mathrm{std}^2\;\overline{1/k}, \qquad
        \sigma_b^2 = \overline{1/k}\cdot\frac{\text{outputs}}{\text{inputs}},

    over windows of k_i elements that follow from both sizes, a bar for the average over all
    outputs, of which none is a border here.  The constants follow from the shape of the input,
    when it is seen.  The scalings choose σ as in :func:`relu`.

    Args:
        input: shape SHAPES.
        output_size: as in torch; ``None`` keeps a size.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input, or of the input of ``after``.
        std: standard deviation of the input, or of the input of ``after``.
        after: the activation that stands before the pooling, as in :func:`max_pool1d`.

    Returns:
        Tensor of the shape that torch's pooling gives.

    Raises:
        ValueError: an argument is out of its range.
    """
_MAX = r"""Normalised adaptive max pooling.

    .. math:: y_i = \frac{\max x - \mu}{\sigma}, \qquad
        \sigma_b = \sqrt{\text{outputs}/\text{inputs}},

    over windows that follow from both sizes; μ and σ_f are those of the mixture of their
    maxima.  Arguments and errors are those of :func:`adaptive_avg_pool1d`, for an input of shape
    SHAPES, and ``return_indices`` also returns where the maxima are.
    """
_FRACTIONAL = r"""Normalised max pooling over windows of K = ∏kernel_size elements at random places.

    .. math:: y = \frac{\max(x_1, \dots, x_K) - \mu}{\sigma}, \qquad
        \sigma_b = \sqrt{\text{outputs}/\text{inputs}},

    wherever the windows fall; μ and σ_f are those of the largest of K.  Where ``output_ratio`` is
    given, outputs/inputs is its product, as it is for sizes that it takes to whole numbers.

    Args:
        input: shape SHAPES.
        kernel_size: the window.
        output_size: size of the output; either it or the ratio.
        output_ratio: size of the output over that of the input, between 0 and 1.
        return_indices: also return where the maxima are.
        _random_samples: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input, or of the input of ``after``.
        std: standard deviation of the input, or of the input of ``after``.
        after: the activation that stands before the pooling, as in :func:`max_pool1d`.

    Returns:
        Tensor of the shape that torch's pooling gives; with its indices if they were asked
        for.

    Raises:
        ValueError: an argument is out of its range.
    """


def _adaptive_avg_pool(dims: int) -> Callable:
    run = getattr(torch_functional, f"adaptive_avg_pool{dims}d")
    layer_type = getattr(nn, f"AdaptiveAvgPool{dims}d")

    @takes(LawBehind)
    def pool(input: Tensor, output_size: OutputSize, **law: Unpack[LawBehind]) -> Tensor:
        sample = sample_of(input, dims)
        constants = constants_of(layer_type, law, sample, output_size=output_size)
        return normalized(lambda x: run(x, output_size), input, constants)

    return pool


def _adaptive_max_pool(dims: int) -> Callable:
    run = getattr(torch_functional, f"adaptive_max_pool{dims}d")
    layer_type = getattr(nn, f"AdaptiveMaxPool{dims}d")

    @takes(LawBehind)
    def pool(
        input: Tensor,
        output_size: OutputSize,
        return_indices: bool = False,
        **law: Unpack[LawBehind],
    ) -> Tensor | tuple[Tensor, Tensor]:
        sample = sample_of(input, dims)
        constants = constants_of(layer_type, law, sample, output_size=output_size)
        return normalized(lambda x: run(x, output_size, return_indices), input, constants)

    return pool


def _fractional_max_pool(dims: int) -> Callable:
    run = getattr(torch_functional, f"fractional_max_pool{dims}d")
    layer_type = getattr(nn, f"FractionalMaxPool{dims}d")

    @takes(LawBehind)
    def pool(
        input: Tensor,
        kernel_size: int | tuple[int, ...],
        output_size: int | tuple[int, ...] | None = None,
        output_ratio: Ratio | None = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
        **law: Unpack[LawBehind],
    ) -> Tensor | tuple[Tensor, Tensor]:
        # torch's function wants a ratio for each axis, its layer does not.
        single = isinstance(output_ratio, float | int)
        ratios = (output_ratio,) * dims if single else output_ratio
        own = {"kernel_size": kernel_size, "output_size": output_size, "output_ratio": ratios}
        constants = constants_of(layer_type, law, sample_of(input, dims), **own)

        def fractional(x):
            return run(x, **own, return_indices=return_indices, _random_samples=_random_samples)

        return normalized(fractional, input, constants)

    return pool


adaptive_avg_pool1d = in_dimensions(_adaptive_avg_pool, 1, "adaptive_avg_pool", _AVERAGE)
adaptive_avg_pool2d = in_dimensions(_adaptive_avg_pool, 2, "adaptive_avg_pool", _AVERAGE)
adaptive_avg_pool3d = in_dimensions(_adaptive_avg_pool, 3, "adaptive_avg_pool", _AVERAGE)
adaptive_max_pool1d = in_dimensions(_adaptive_max_pool, 1, "adaptive_max_pool", _MAX)
adaptive_max_pool2d = in_dimensions(_adaptive_max_pool, 2, "adaptive_max_pool", _MAX)
adaptive_max_pool3d = in_dimensions(_adaptive_max_pool, 3, "adaptive_max_pool", _MAX)
fractional_max_pool2d = in_dimensions(_fractional_max_pool, 2, "fractional_max_pool", _FRACTIONAL)
fractional_max_pool3d = in_dimensions(_fractional_max_pool, 3, "fractional_max_pool", _FRACTIONAL)
