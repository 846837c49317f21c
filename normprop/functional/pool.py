"""Normalised pooling, in one to three dimensions."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.factory import named
from normprop.functional.scale import (
    Constants,
    Scaling,
    constant_when_compiled,
    literal,
    normalized,
)
from normprop.gaussian import Law

Size = int | tuple[int, ...]
After = str | nn.Module | Callable | None

_MAX = {
    1: torch_functional.max_pool1d,
    2: torch_functional.max_pool2d,
    3: torch_functional.max_pool3d,
}
_AVERAGE = {
    1: torch_functional.avg_pool1d,
    2: torch_functional.avg_pool2d,
    3: torch_functional.avg_pool3d,
}


def max_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    after: After = None,
    constants: Constants | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Normalised max pooling over windows of K = ∏kernel_size elements.

    .. math:: y = \frac{\max(x_1, \dots, x_K) - \mu}{\sigma}

    For x ~ N(mean, std²), independent, μ and σ_f are the mean and the standard deviation of
    the largest of K draws, and σ_b = (∏stride)^(-1/2).  The scalings choose σ as in
    :func:`relu`.  The constants are those of the interior: padding, ``ceil_mode`` and
    borders leave fewer elements in a window, and fewer windows over an element.

    Args:
        input: shape (N, C, L) or (C, L); as in torch.
        kernel_size: the window.
        stride: step of the window, by default its size.
        padding: as in torch.
        dilation: as in torch.
        ceil_mode: as in torch.
        return_indices: also return where the maxima are.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input, or of the input of ``after``.
        std: standard deviation of the input, or of the input of ``after``.
        after: the activation that stands before the pooling, a name or a module; a
            ``normprop.nn`` activation counts as it is, normalised.  The constants are then
            those of the largest of K activations.
        constants: the constants, where they are at hand; then scaling, mean, std and after
            have no say.

    Returns:
        Tensor of the shape that torch's pooling gives; with its indices if they were asked
        for.

    Raises:
        ValueError: an argument is out of its range.
    """
    constants = constants or _constants(
        "max", 1, kernel_size, stride, None, scaling, mean, std, after
    )
    return _max_pool(
        1, input, constants, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    after: After = None,
    constants: Constants | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Normalised max pooling in two dimensions.

    ``input`` has shape (N, C, H, W) or (C, H, W); everything else is as in
    :func:`max_pool1d`.
    """
    constants = constants or _constants(
        "max", 2, kernel_size, stride, None, scaling, mean, std, after
    )
    return _max_pool(
        2, input, constants, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def max_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    after: After = None,
    constants: Constants | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Normalised max pooling in three dimensions.

    ``input`` has shape (N, C, D, H, W) or (C, D, H, W); everything else is as in
    :func:`max_pool1d`.
    """
    constants = constants or _constants(
        "max", 3, kernel_size, stride, None, scaling, mean, std, after
    )
    return _max_pool(
        3, input, constants, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def avg_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    after: After = None,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised average pooling over windows of K = ∏kernel_size elements.

    .. math:: y = \frac{(x_1 + \dots + x_K)/K - \mu}{\sigma}

    For x ~ N(mean, std²), independent, μ = mean, σ_f = std·K^(-1/2) and
    σ_b = (K ∏stride)^(-1/2).  The scalings choose σ as in :func:`relu`.  The constants are
    those of the interior: padding, ``ceil_mode`` and borders shift them there.

    Args:
        input: shape (N, C, L) or (C, L); as in torch.
        kernel_size: the window.
        stride: step of the window, by default its size.
        padding: as in torch.
        ceil_mode: as in torch.
        count_include_pad: as in torch.
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
    constants = constants or _constants(
        "average", 1, kernel_size, stride, None, scaling, mean, std, after
    )

    def pool(x):
        return _AVERAGE[1](x, kernel_size, stride, padding, ceil_mode, count_include_pad)

    return normalized(pool, input, constants)


def avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    after: After = None,
    constants: Constants | None = None,
) -> Tensor:
    """Normalised average pooling in two dimensions.

    ``input`` has shape (N, C, H, W) or (C, H, W), and ``divisor_override`` takes the
    place of K as in torch; everything else is as in :func:`avg_pool1d`.
    """
    constants = constants or _constants(
        "average", 2, kernel_size, stride, divisor_override, scaling, mean, std, after
    )

    def pool(x):
        return _AVERAGE[2](
            x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )

    return normalized(pool, input, constants)


def avg_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    after: After = None,
    constants: Constants | None = None,
) -> Tensor:
    """Normalised average pooling in three dimensions.

    ``input`` has shape (N, C, D, H, W) or (C, D, H, W), and ``divisor_override`` takes the
    place of K as in torch; everything else is as in :func:`avg_pool1d`.
    """
    constants = constants or _constants(
        "average", 3, kernel_size, stride, divisor_override, scaling, mean, std, after
    )

    def pool(x):
        return _AVERAGE[3](
            x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )

    return normalized(pool, input, constants)


_NORM = r"""Normalised pooling by a norm over windows of K = ∏kernel_size elements.

    .. math:: y = \frac{(x_1^p + \dots + x_K^p)^{1/p} - \mu}{\sigma}, \qquad
        \sigma_b = (\textstyle\prod\mathrm{stride})^{-1/2} \text{ for } p \neq 1.

    For p = 2 and x ~ N(mean, std²), independent, μ and σ_f are those of the length of a normal
    vector, for p = ±∞ those of its largest or smallest element in absolute value; for p = 1 they
    are those of K times the average, as torch takes no absolute values.
    The constants are those of the interior.

    Args:
        input: shape SHAPES.
        norm_type: p: 1, 2 or infinite.
        kernel_size: the window.
        stride: step of the window, by default its size.
        ceil_mode: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        constants: the constants, where they are at hand; then scaling, mean and std have no
            say.

    Returns:
        Tensor of the shape that torch's pooling gives.

    Raises:
        ValueError: an argument is out of its range.
    """


def _lp_pool(dims: int, shapes: str) -> Callable:
    run = getattr(torch_functional, f"lp_pool{dims}d")

    def pool(
        input: Tensor,
        norm_type: float,
        kernel_size: Size,
        stride: Size | None = None,
        ceil_mode: bool = False,
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
        constants: Constants | None = None,
    ) -> Tensor:
        constants = constants or lp_constants(
            dims, norm_type, kernel_size, stride, scaling, literal(mean), literal(std)
        )
        return normalized(
            lambda x: run(x, norm_type, kernel_size, stride, ceil_mode), input, constants
        )

    return named(pool, f"lp_pool{dims}d", _NORM.replace("SHAPES", shapes))


lp_pool1d = _lp_pool(1, "(N, C, L) or (C, L)")
lp_pool2d = _lp_pool(2, "(N, C, H, W) or (C, H, W)")
lp_pool3d = _lp_pool(3, "(N, C, D, H, W) or (C, D, H, W)")


def _max_pool(
    dims, input, constants, kernel_size, stride, padding, dilation, ceil_mode, return_indices
):
    indices = None

    def pool(x):
        nonlocal indices
        result = _MAX[dims](
            x,
            kernel_size,
            stride,
            padding,
            dilation,
            ceil_mode=ceil_mode,
            return_indices=return_indices,
        )
        if return_indices:
            result, indices = result
        return result

    output = normalized(pool, input, constants)
    return (output, indices) if return_indices else output


def _constants(kind, dims, kernel_size, stride, divisor, scaling, mean, std, after) -> Constants:
    return pool_constants(
        kind, dims, kernel_size, stride, divisor, scaling, literal(mean), literal(std), after
    )


@constant_when_compiled
def pool_constants(
    kind: str,
    dims: int,
    kernel_size: Size,
    stride: Size | None,
    divisor: int | None,
    scaling: Scaling,
    mean: float,
    std: float,
    after: After,
) -> Constants:
    """Constants of ``"max"`` or ``"average"`` pooling at this input law."""
    law = law_of(mean, std, after)
    window = rules.window_of(kernel_size, dims, "kernel_size")
    steps = rules.window_of(kernel_size if stride is None else stride, dims, "stride")
    if kind == "max":
        return Constants.of(rules.max_pool(window, steps, law), scaling)
    return Constants.of(rules.avg_pool(window, steps, law, divisor), scaling)


@constant_when_compiled
def lp_constants(
    dims: int,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None,
    scaling: Scaling,
    mean: float,
    std: float,
) -> Constants:
    """Constants of pooling by a norm at this input law."""
    window = rules.window_of(kernel_size, dims, "kernel_size")
    steps = rules.window_of(kernel_size if stride is None else stride, dims, "stride")
    figures = rules.lp_pool(norm_type, window, steps, rules.check_law(mean, std))
    return Constants.of(figures, scaling)


def law_of(mean: float, std: float, after: After) -> Law:
    """The law of the input: normal, or what an activation makes of it."""
    base = rules.check_law(mean, std)
    return base if after is None else rules.image_of(after, base)
