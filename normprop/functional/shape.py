"""Normalised layers that move elements, copy them, pad them, or add copies up."""

from collections.abc import Callable, Sequence
from typing import Unpack

from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop.functional.constants import constants_of
from normprop.functional.keywords import Law, takes
from normprop.functional.scale import Constants, check_real, normalized

__all__ = ["channel_shuffle", "fold", "pad", "pixel_shuffle", "pixel_unshuffle", "unfold"]

Pair = int | tuple[int, int]
_WINDOW = ("kernel_size", "dilation", "padding", "stride")


@takes(Law)
def pixel_shuffle(input: Tensor, upscale_factor: int, **law: Unpack[Law]) -> Tensor:
    r"""Normalised pixel shuffle: y = (x - mean)/σ in other places.

    σ_f = std and σ_b = 1, since nothing but the places change; at mean 0 and std 1 it is torch's
    own.  The scalings choose σ as in :func:`relu`.

    Args:
        input: shape (…, C·r², H, W).
        upscale_factor: r.

    Returns:
        Tensor of shape (…, C, H·r, W·r).
    """
    run = any_batch(torch_functional.pixel_shuffle, upscale_factor)
    return moved(run, input, in_place_of(law))


@takes(Law)
def pixel_unshuffle(input: Tensor, downscale_factor: int, **law: Unpack[Law]) -> Tensor:
    """Normalised inverse of :func:`pixel_shuffle`, from (…, C, H·r, W·r) to (…, C·r², H, W).

    ``downscale_factor`` is r; everything else is as there.
    """
    return moved(
        any_batch(torch_functional.pixel_unshuffle, downscale_factor), input, in_place_of(law)
    )


@takes(Law)
def channel_shuffle(input: Tensor, groups: int, **law: Unpack[Law]) -> Tensor:
    """Normalised shuffle of channels, (N, C, …), between groups of them.

    Everything else is as in :func:`pixel_shuffle`.
    """
    return moved(lambda x: torch_functional.channel_shuffle(x, groups), input, in_place_of(law))


@takes(Law)
def unfold(
    input: Tensor,
    kernel_size: Pair,
    dilation: Pair = 1,
    padding: Pair = 0,
    stride: Pair = 1,
    **law: Unpack[Law],
) -> Tensor:
    r"""Normalised windows of K = ∏kernel_size elements, laid out side by side.

    .. math:: y = \frac{x - \mathrm{mean}}{\sigma}, \qquad \sigma_f = \mathrm{std}, \qquad
        \sigma_b = \sqrt{K/\textstyle\prod\mathrm{stride}},

    since an input is copied into that many windows, and gets their gradients.  The constants are
    those of the interior: padding adds zeros, and at the border there are fewer windows over an
    element.  The scalings choose σ as in :func:`relu`.

    Args:
        input: shape (N, C, H, W) or (C, H, W).
        stride: step of the window, which is 1 by default.

    Returns:
        Tensor of shape (N, C·K, L), L the number of windows.
    """
    own = kernel_size, dilation, padding, stride
    constants = constants_of(nn.Unfold, law, **dict(zip(_WINDOW, own, strict=True)))
    return moved(lambda x: torch_functional.unfold(x, *own), input, constants)


@takes(Law)
def fold(
    input: Tensor,
    output_size: Pair,
    kernel_size: Pair,
    dilation: Pair = 1,
    padding: Pair = 0,
    stride: Pair = 1,
    **law: Unpack[Law],
) -> Tensor:
    r"""Normalised sum of windows of K = ∏kernel_size elements where they overlap.

    .. math:: \mu = c\,\mathrm{mean}, \qquad
        \sigma_f^2 = c\,\mathrm{std}^2 + \mathrm{Var}(c_i)\,\mathrm{mean}^2, \qquad \sigma_b = 1,

    with c = K/∏stride windows over an element on average and c_i over element i of a period of the
    stride.  The constants are those of the interior.  The scalings choose σ as in :func:`relu`.

    Args:
        input: shape (N, C·K, L) or (C·K, L), L the number of windows.
        stride: step of the window, which is 1 by default.

    Returns:
        Tensor of shape (N, C, …), the last dimensions those of ``output_size``.
    """
    own = kernel_size, dilation, padding, stride
    arguments = dict(zip(_WINDOW, own, strict=True))
    constants = constants_of(nn.Fold, law, output_size=output_size, **arguments)
    return normalized(lambda x: torch_functional.fold(x, output_size, *own), input, constants)


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


def moved(function: Callable[[Tensor], Tensor], input: Tensor, constants: Constants) -> Tensor:
    """As ``normalized``, of a function that moves elements, and alone where nothing else is to do.

    Raises:
        TypeError: the input does not hold real numbers.
    """
    check_real(input)
    if constants == (0.0, 1.0, 1.0):
        return function(input)
    return normalized(function, input, constants)


def any_batch(function: Callable, *arguments) -> Callable[[Tensor], Tensor]:
    """A function that moves elements, for batches of nothing too."""

    def shuffle(x):
        if x.numel():
            return function(x, *arguments)
        # torch's backward pass of a batch of nothing fails; nothing has no order.
        return x.reshape(function(x.detach(), *arguments).shape)

    return shuffle


def in_place_of(law: Law) -> Constants:
    """Constants of what only moves elements, at this input law."""
    return constants_of(nn.Flatten, law)
