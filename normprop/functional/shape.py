"""Normalised layers that move elements, copy them, or add copies up."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.scale import (
    Constants,
    Scaling,
    check_real,
    constant_when_compiled,
    literal,
    normalized,
)

Pair = int | tuple[int, int]


def pixel_shuffle(
    input: Tensor,
    upscale_factor: int,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised pixel shuffle: y = (x - mean)/σ in other places.

    σ_f = std and σ_b = 1, since nothing but the places change; at mean 0 and std 1 it is torch's
    own.  The scalings choose σ as in :func:`relu`.

    Args:
        input: shape (…, C·r², H, W).
        upscale_factor: r.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        constants: the constants, where they are at hand; then scaling, mean and std have no
            say.

    Returns:
        Tensor of shape (…, C, H·r, W·r).
    """
    constants = constants or _moved(scaling, mean, std)
    return moved(_shuffle(torch_functional.pixel_shuffle, upscale_factor), input, constants)


def pixel_unshuffle(
    input: Tensor,
    downscale_factor: int,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    """Normalised inverse of :func:`pixel_shuffle`, from (…, C, H·r, W·r) to (…, C·r², H, W).

    ``downscale_factor`` is r; everything else is as there.
    """
    constants = constants or _moved(scaling, mean, std)
    return moved(_shuffle(torch_functional.pixel_unshuffle, downscale_factor), input, constants)


def channel_shuffle(
    input: Tensor,
    groups: int,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    """Normalised shuffle of channels, (N, C, …), between groups of them.

    Everything else is as in :func:`pixel_shuffle`.
    """
    constants = constants or _moved(scaling, mean, std)
    return moved(lambda x: torch_functional.channel_shuffle(x, groups), input, constants)


def unfold(
    input: Tensor,
    kernel_size: Pair,
    dilation: Pair = 1,
    padding: Pair = 0,
    stride: Pair = 1,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised windows of K = ∏kernel_size elements, laid out side by side.

    .. math:: y = \frac{x - \mathrm{mean}}{\sigma}, \qquad \sigma_f = \mathrm{std}, \qquad
        \sigma_b = \sqrt{K/\textstyle\prod\mathrm{stride}},

    since an input is copied into that many windows, and gets their gradients.  The constants are
    those of the interior: padding adds zeros, and at the border there are fewer windows over an
    element.  The scalings choose σ as in :func:`relu`.

    Args:
        input: shape (N, C, H, W) or (C, H, W).
        kernel_size: the window.
        dilation: as in torch; likewise padding.
        padding: as in torch.
        stride: step of the window, which is 1 by default.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        constants: the constants, where they are at hand; then scaling, mean and std have no
            say.

    Returns:
        Tensor of shape (N, C·K, L), L the number of windows.

    Raises:
        ValueError: an argument is out of its range.
    """
    constants = constants or _windows(
        "unfold", kernel_size, dilation, padding, stride, scaling, mean, std
    )

    def run(x):
        return torch_functional.unfold(x, kernel_size, dilation, padding, stride)

    return moved(run, input, constants)


def fold(
    input: Tensor,
    output_size: Pair,
    kernel_size: Pair,
    dilation: Pair = 1,
    padding: Pair = 0,
    stride: Pair = 1,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised sum of windows of K = ∏kernel_size elements where they overlap.

    .. math:: \mu = c\,\mathrm{mean}, \qquad
        \sigma_f^2 = c\,\mathrm{std}^2 + \mathrm{Var}(c_i)\,\mathrm{mean}^2, \qquad \sigma_b = 1,

    with c = K/∏stride windows over an element on average and c_i over element i of a period of the
    stride.  The constants are those of the interior.  The scalings choose σ as in :func:`relu`.

    Args:
        input: shape (N, C·K, L) or (C·K, L), L the number of windows.
        output_size: as in torch.
        kernel_size: the window.
        dilation: as in torch; likewise padding.
        padding: as in torch.
        stride: step of the window, which is 1 by default.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        constants: the constants, where they are at hand; then scaling, mean and std have no
            say.

    Returns:
        Tensor of shape (N, C, …), the last dimensions those of ``output_size``.

    Raises:
        ValueError: an argument is out of its range.
    """
    constants = constants or _windows(
        "fold", kernel_size, dilation, padding, stride, scaling, mean, std
    )

    def run(x):
        return torch_functional.fold(x, output_size, kernel_size, dilation, padding, stride)

    return normalized(run, input, constants)


def moved(function: Callable[[Tensor], Tensor], input: Tensor, constants: Constants) -> Tensor:
    """As ``normalized``, of a function that moves elements, and alone where nothing else is to do.

    Raises:
        TypeError: the input does not hold real numbers.
    """
    check_real(input)
    if constants == (0.0, 1.0, 1.0):
        return function(input)
    return normalized(function, input, constants)


def _shuffle(function: Callable, factor: int) -> Callable[[Tensor], Tensor]:
    def shuffle(x):
        if x.numel():
            return function(x, factor)
        # torch's backward pass of a batch of nothing fails; nothing has no order.
        return x.reshape(function(x.detach(), factor).shape)

    return shuffle


def _moved(scaling, mean, std) -> Constants:
    return moved_constants(scaling, literal(mean), literal(std))


@constant_when_compiled
def moved_constants(scaling: Scaling, mean: float, std: float) -> Constants:
    """Constants of what only moves elements, at this input law."""
    return Constants.of(rules.copied(rules.check_law(mean, std)), scaling)


_FIGURES = {"fold": rules.fold, "unfold": rules.unfold}


def _windows(kind, kernel_size, dilation, padding, stride, scaling, mean, std) -> Constants:
    return window_constants(
        kind, kernel_size, dilation, padding, stride, scaling, literal(mean), literal(std)
    )


@constant_when_compiled
def window_constants(
    kind: str,
    kernel_size: Pair,
    dilation: Pair,
    padding: Pair,
    stride: Pair,
    scaling: Scaling,
    mean: float,
    std: float,
) -> Constants:
    """Constants of ``"fold"`` or ``"unfold"`` at this input law."""
    windows = rules.windows_of(kernel_size, dilation, padding, stride)
    return Constants.of(_FIGURES[kind](windows, rules.check_law(mean, std)), scaling)
