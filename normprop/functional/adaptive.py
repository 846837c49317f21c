"""Normalised pooling whose windows follow from the sizes of its input and output."""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.factory import named
from normprop.functional.pool import After, law_of
from normprop.functional.scale import (
    Constants,
    Scaling,
    constant_when_compiled,
    literal,
    normalized,
)

OutputSize = int | None | Sequence[int | None]
Ratio = float | Sequence[float]

_SHAPES = {
    1: "(N, C, L) or (C, L)",
    2: "(N, C, H, W) or (C, H, W)",
    3: "(N, C, D, H, W) or (C, D, H, W)",
}
_FIGURES = {"average": rules.adaptive_avg_pool, "max": rules.adaptive_max_pool}


def _adaptive_avg_pool(dims: int) -> Callable:
    run = getattr(torch_functional, f"adaptive_avg_pool{dims}d")

    def pool(
        input: Tensor,
        output_size: OutputSize,
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
        after: After = None,
        constants: Constants | None = None,
    ) -> Tensor:
        constants = constants or _adaptive(
            "average", dims, input, output_size, scaling, mean, std, after
        )
        return normalized(lambda x: run(x, output_size), input, constants)

    return pool


def _adaptive_max_pool(dims: int) -> Callable:
    run = getattr(torch_functional, f"adaptive_max_pool{dims}d")

    def pool(
        input: Tensor,
        output_size: OutputSize,
        return_indices: bool = False,
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
        after: After = None,
        constants: Constants | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        constants = constants or _adaptive(
            "max", dims, input, output_size, scaling, mean, std, after
        )
        return with_indices(
            lambda x: run(x, output_size, return_indices), input, constants, return_indices
        )

    return pool


def _fractional_max_pool(dims: int) -> Callable:
    run = getattr(torch_functional, f"fractional_max_pool{dims}d")

    def pool(
        input: Tensor,
        kernel_size: int | tuple[int, ...],
        output_size: int | tuple[int, ...] | None = None,
        output_ratio: Ratio | None = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
        after: After = None,
        constants: Constants | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if constants is None:
            sizes = sizes_of(input, dims)
            constants = fractional_constants(
                dims,
                kernel_size,
                output_size,
                output_ratio,
                sizes,
                scaling,
                literal(mean),
                literal(std),
                after,
            )

        # torch's function wants a ratio for each axis, its layer does not.
        single = isinstance(output_ratio, float | int)
        ratios = (output_ratio,) * dims if single else output_ratio

        def fractional(x):
            return run(x, kernel_size, output_size, ratios, return_indices, _random_samples)

        return with_indices(fractional, input, constants, return_indices)

    return pool


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
        constants: the constants, where they are at hand; then scaling, mean, std and after
            have no say.

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
        constants: the constants, where they are at hand; then scaling, mean, std and after
            have no say.

    Returns:
        Tensor of the shape that torch's pooling gives; with its indices if they were asked
        for.

    Raises:
        ValueError: an argument is out of its range.
    """


def _function(make: Callable, dims: int, name: str, doc: str) -> Callable:
    return named(make(dims), f"{name}{dims}d", doc.replace("SHAPES", _SHAPES[dims]))


adaptive_avg_pool1d = _function(_adaptive_avg_pool, 1, "adaptive_avg_pool", _AVERAGE)
adaptive_avg_pool2d = _function(_adaptive_avg_pool, 2, "adaptive_avg_pool", _AVERAGE)
adaptive_avg_pool3d = _function(_adaptive_avg_pool, 3, "adaptive_avg_pool", _AVERAGE)
adaptive_max_pool1d = _function(_adaptive_max_pool, 1, "adaptive_max_pool", _MAX)
adaptive_max_pool2d = _function(_adaptive_max_pool, 2, "adaptive_max_pool", _MAX)
adaptive_max_pool3d = _function(_adaptive_max_pool, 3, "adaptive_max_pool", _MAX)
fractional_max_pool2d = _function(_fractional_max_pool, 2, "fractional_max_pool", _FRACTIONAL)
fractional_max_pool3d = _function(_fractional_max_pool, 3, "fractional_max_pool", _FRACTIONAL)


def with_indices(function, input, constants, return_indices):
    """The first of what a function returns, normalised, with the second where there is one."""
    indices = None

    def values(x):
        nonlocal indices
        if not return_indices:
            return function(x)
        result, indices = function(x)
        return result

    output = normalized(values, input, constants)
    return (output, indices) if return_indices else output


def sizes_of(input: Tensor, dims: int) -> tuple[int, ...]:
    """The sizes behind the channels."""
    if input.ndim not in (dims + 1, dims + 2):
        raise ValueError(f"input must have shape {_SHAPES[dims]}; it was {tuple(input.shape)}")
    return tuple(int(n) for n in input.shape[-dims:])


def _adaptive(kind, dims, input, output_size, scaling, mean, std, after) -> Constants:
    sizes = sizes_of(input, dims)
    return adaptive_constants(kind, sizes, output_size, scaling, literal(mean), literal(std), after)


@constant_when_compiled
def adaptive_constants(
    kind: str,
    sizes: tuple[int, ...],
    output_size: OutputSize,
    scaling: Scaling,
    mean: float,
    std: float,
    after: After,
) -> Constants:
    """Constants of ``"max"`` or ``"average"`` pooling of these sizes at this input law."""
    outputs = rules.adaptive_sizes(output_size, sizes)
    return Constants.of(_FIGURES[kind](sizes, outputs, law_of(mean, std, after)), scaling)


@constant_when_compiled
def fractional_constants(
    dims: int,
    kernel_size: int | tuple[int, ...],
    output_size: int | tuple[int, ...] | None,
    output_ratio: Ratio | None,
    sizes: tuple[int, ...] | None,
    scaling: Scaling,
    mean: float,
    std: float,
    after: After,
) -> Constants:
    """Constants of fractional max pooling at this input law."""
    window = rules.window_of(kernel_size, dims, "kernel_size")
    if output_ratio is not None:
        sizes = None
    growth = rules.fractional_growth(window, output_size, output_ratio, sizes)
    return Constants.of(
        rules.fractional_max_pool(window, growth, law_of(mean, std, after)), scaling
    )
