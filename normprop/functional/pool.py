"""Normalised pooling, in one to three dimensions."""

from collections.abc import Callable
from typing import Unpack

from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop.functional.constants import SHAPES, constants_of
from normprop.functional.keywords import Law, LawBehind, takes, under_name
from normprop.functional.scale import normalized

__all__ = [
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool1d", "lp_pool2d", "lp_pool3d",
    "max_pool1d", "max_pool2d", "max_pool3d",
]  # fmt: skip

Size = int | tuple[int, ...]

_MAX = r"""Normalised max pooling over windows of K = ∏kernel_size elements.

    .. math:: y = \frac{\max(x_1, \dots, x_K) - \mu}{\sigma}

    For x ~ N(mean, std²), independent, μ and σ_f are the mean and the standard deviation of
    the largest of K draws, and σ_b = (∏stride)^(-1/2).  The scalings choose σ as in
    :func:`relu`.  The constants are those of the interior: padding, ``ceil_mode`` and
    borders leave fewer elements in a window, and fewer windows over an element.

    Args:
        input: shape SHAPES; as in torch.
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

    Returns:
        Tensor of the shape that torch's pooling gives; with its indices if they were asked
        for.

    Raises:
        ValueError: an argument is out of its range.
    """
_AVERAGE = r"""Normalised average pooling over windows of K = ∏kernel_size elements.

    .. math:: y = \frac{(x_1 + \dots + x_K)/K - \mu}{\sigma}

    For x ~ N(mean, std²), independent, μ = mean, σ_f = std·K^(-1/2) and
    σ_b = (K ∏stride)^(-1/2).  The scalings choose σ as in :func:`relu`.  The constants are
    those of the interior: padding, ``ceil_mode`` and borders shift them there.

    Args:
        input: shape SHAPES; as in torch.
        kernel_size: the window.
        stride: step of the window, by default its size.
        padding: as in torch.
        ceil_mode: as in torch.
        count_include_pad: as in torch.
        divisor_override: takes the place of K, in two and three dimensions; as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input, or of the input of ``after``.
        std: standard deviation of the input, or of the input of ``after``.
        after: the activation that stands before the pooling, as in :func:`max_pool1d`.

    Returns:
        Tensor of the shape that torch's pooling gives.

    Raises:
        ValueError: an argument is out of its range.
    """
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

    Returns:
        Tensor of the shape that torch's pooling gives.

    Raises:
        ValueError: an argument is out of its range.
    """


def in_dimensions(make: Callable[[int], Callable], dims: int, name: str, doc: str) -> Callable:
    """The function that ``make`` makes for so many dimensions, under its name."""
    return under_name(make(dims), f"{name}{dims}d", doc.replace("SHAPES", SHAPES[dims]))


def _max_pool(dims: int) -> Callable:
    run, layer_type = _both(f"max_pool{dims}d", f"MaxPool{dims}d")

    @takes(LawBehind)
    def pool(
        input: Tensor,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
        **law: Unpack[LawBehind],
    ) -> Tensor | tuple[Tensor, Tensor]:
        constants = constants_of(layer_type, law, kernel_size=kernel_size, stride=stride)

        def maximum(x):
            own = kernel_size, stride, padding, dilation
            return run(x, *own, ceil_mode=ceil_mode, return_indices=return_indices)

        return normalized(maximum, input, constants)

    return pool


def _avg_pool(dims: int) -> Callable:
    run, layer_type = _both(f"avg_pool{dims}d", f"AvgPool{dims}d")

    @takes(LawBehind)
    def pool(
        input: Tensor,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        **law: Unpack[LawBehind],
    ) -> Tensor:
        divisor = {} if divisor_override is None else {"divisor_override": divisor_override}
        own = {"kernel_size": kernel_size, "stride": stride, **divisor}

        def average(x):
            return run(
                x,
                **own,
                padding=padding,
                ceil_mode=ceil_mode,
                count_include_pad=count_include_pad,
            )

        return normalized(average, input, constants_of(layer_type, law, **own))

    @takes(LawBehind)
    def pool1d(
        input: Tensor,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        **law: Unpack[LawBehind],
    ) -> Tensor:
        own = kernel_size, stride, padding, ceil_mode, count_include_pad
        return pool(input, *own, **law)

    return pool1d if dims == 1 else pool


def _lp_pool(dims: int) -> Callable:
    run, layer_type = _both(f"lp_pool{dims}d", f"LPPool{dims}d")

    @takes(Law)
    def pool(
        input: Tensor,
        norm_type: float,
        kernel_size: Size,
        stride: Size | None = None,
        ceil_mode: bool = False,
        **law: Unpack[Law],
    ) -> Tensor:
        own = {"norm_type": norm_type, "kernel_size": kernel_size, "stride": stride}
        constants = constants_of(layer_type, law, **own)
        return normalized(lambda x: run(x, **own, ceil_mode=ceil_mode), input, constants)

    return pool


def _both(function: str, layer: str) -> tuple[Callable, type[nn.Module]]:
    return getattr(torch_functional, function), getattr(nn, layer)


max_pool1d = in_dimensions(_max_pool, 1, "max_pool", _MAX)
max_pool2d = in_dimensions(_max_pool, 2, "max_pool", _MAX)
max_pool3d = in_dimensions(_max_pool, 3, "max_pool", _MAX)
avg_pool1d = in_dimensions(_avg_pool, 1, "avg_pool", _AVERAGE)
avg_pool2d = in_dimensions(_avg_pool, 2, "avg_pool", _AVERAGE)
avg_pool3d = in_dimensions(_avg_pool, 3, "avg_pool", _AVERAGE)
lp_pool1d = in_dimensions(_lp_pool, 1, "lp_pool", _NORM)
lp_pool2d = in_dimensions(_lp_pool, 2, "lp_pool", _NORM)
lp_pool3d = in_dimensions(_lp_pool, 3, "lp_pool", _NORM)
