"""Normalised layers that move elements, copy them, pad them, or add copies up."""

import math
from collections.abc import Callable, Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.constants import constants_of, sizes_of
from normprop.functional.keywords import Given, LawsOfParts, takes
from normprop.functional.scale import (
    Constants,
    Scaling,
    check_real,
    constant_when_compiled,
    literal,
    normalized,
    upcast,
)

__all__ = [
    "cat", "channel_shuffle", "fold", "interpolate", "pad", "pixel_shuffle", "pixel_unshuffle",
    "residual", "unfold",
]  # fmt: skip

Pair = int | tuple[int, int]
_WINDOW = ("kernel_size", "dilation", "padding", "stride")


@takes(Given)
def pixel_shuffle(input: Tensor, upscale_factor: int, **law: Unpack[Given]) -> Tensor:
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


@takes(Given)
def pixel_unshuffle(input: Tensor, downscale_factor: int, **law: Unpack[Given]) -> Tensor:
    """Normalised inverse of :func:`pixel_shuffle`, from (…, C, H·r, W·r) to (…, C·r², H, W).

    ``downscale_factor`` is r; everything else is as there.
    """
    return moved(
        any_batch(torch_functional.pixel_unshuffle, downscale_factor), input, in_place_of(law)
    )


@takes(Given)
def channel_shuffle(input: Tensor, groups: int, **law: Unpack[Given]) -> Tensor:
    """Normalised shuffle of channels, (N, C, …), between groups of them.

    Everything else is as in :func:`pixel_shuffle`.
    """
    return moved(lambda x: torch_functional.channel_shuffle(x, groups), input, in_place_of(law))


@takes(Given)
def unfold(
    input: Tensor,
    kernel_size: Pair,
    dilation: Pair = 1,
    padding: Pair = 0,
    stride: Pair = 1,
    **law: Unpack[Given],
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


@takes(Given)
def fold(
    input: Tensor,
    output_size: Pair,
    kernel_size: Pair,
    dilation: Pair = 1,
    padding: Pair = 0,
    stride: Pair = 1,
    **law: Unpack[Given],
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


@takes(Given)
def pad(
    input: Tensor,
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
    **law: Unpack[Given],
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
    """As ``normalized``, of a function that moves elements; alone where nothing else is to do."""
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


def in_place_of(law: Given) -> Constants:
    """Constants of what only moves elements, at this input law."""
    return constants_of(nn.Flatten, law)


@takes(Given)
def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
    **law: Unpack[Given],
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
    constants = constants_of(nn.Upsample, {**law, **smooth}, sizes_of(input.shape[1:]), **own)
    return normalized(lambda x: torch_functional.interpolate(x, **own, **smooth), input, constants)


OneOrEach = float | Sequence[float]


def residual(branch: Tensor, skip: Tensor, *, weight: float = math.sqrt(0.5)) -> Tensor:
    r"""A sum that keeps unit scale.

    .. math:: y = \sqrt{1 - w^2}\;\mathrm{skip} + w\;\mathrm{branch}

    Of two uncorrelated inputs of mean 0 and standard deviation 1, y has them too; the gradients
    of the two are the same multiples of dy, so that what they bring back to a common input, again
    uncorrelated, adds up to standard deviation 1.  Nothing here could be scaled for one pass alone:
    at a join both passes must use one weight, or what comes back is no multiple of the gradient.
    :func:`normprop.residual` has the figures of paths of any scale.

    Over L such blocks (1 - w²)^(L/2) of the first input is left: w of the order of 1/√L keeps a
    share of it, whatever the depth.

    float16 and bfloat16 are computed in float32 and rounded once.

    Args:
        branch: any shape.
        skip: the same shape.
        weight: w, between 0 and 1.

    Returns:
        Tensor of that shape.

    Raises:
        TypeError: an input does not hold real numbers.
        ValueError: the shapes differ, or the weight is out of its range.
    """
    check_real(skip)
    check_real(branch)
    if skip.shape != branch.shape:
        raise ValueError(
            "skip and branch must have the same shape; they had "
            f"{tuple(skip.shape)} and {tuple(branch.shape)}"
        )
    rules.check_weight(weight)
    kept = math.sqrt((1.0 - weight) * (1.0 + weight))
    wanted = torch.promote_types(skip.dtype, branch.dtype)
    output = torch.add(upcast(skip) * kept, upcast(branch), alpha=weight)
    return output.to(wanted)


@takes(LawsOfParts)
def cat(tensors: Sequence[Tensor], dim: int = 0, **law: Unpack[LawsOfParts]) -> Tensor:
    r"""Normalised concatenation: one shift and one scale for all parts.

    .. math:: \mu = \sum_k r_k\,\mathrm{mean}_k, \qquad
        \sigma_f^2 = \sum_k r_k\bigl(\mathrm{std}_k^2 + (\mathrm{mean}_k - \mu)^2\bigr), \qquad
        \sigma_b = 1,

    r the share of a part in the whole.  Parts of one law keep it; at mean 0 and std 1 it is torch's
    own concatenation.  The scalings choose σ as in :func:`relu`; under ``"separate"`` the parts'
    gradients are scaled alike, and that of a tensor that also goes elsewhere is no multiple of the
    true one.

    Args:
        tensors: the parts, of shapes that differ in ``dim`` alone.
        dim: the dimension that they are joined in.

    Returns:
        Tensor.

    Raises:
        TypeError: a part does not hold real numbers.
        ValueError: an argument is out of its range, or there is no part.
    """
    tensors = tuple(tensors)
    if not tensors:
        raise ValueError("there must be at least 1 tensor; there was none")
    for tensor in tensors:
        check_real(tensor)
    sizes = sizes_of(t.shape[dim] for t in tensors)
    laws = _literals(law["mean"]), _literals(law["std"])
    constants = constants_of_parts(sizes, law["scaling"], *laws)
    return moved(lambda x: x, torch.cat(tensors, dim), constants)


def _literals(figures: OneOrEach) -> OneOrEach:
    if isinstance(figures, Sequence):
        return tuple(literal(figure) for figure in figures)
    return literal(figures)


@constant_when_compiled
def constants_of_parts(
    sizes: tuple[int, ...], scaling: Scaling, mean: OneOrEach, std: OneOrEach
) -> Constants:
    means, stds = (_each(name, f, len(sizes)) for name, f in (("mean", mean), ("std", std)))
    filled = [(n, m, s) for n, m, s in zip(sizes, means, stds, strict=True) if n]
    laws = [rules.check_law(m, s) for _, m, s in filled] or [rules.check_law(means[0], stds[0])]
    parts = [rules.copied(law) for law in laws]
    figures = rules.concatenation(parts, [n for n, *_ in filled] or [1])
    return Constants.of(figures, scaling)


def _each(name: str, figures: OneOrEach, parts: int) -> Sequence[float]:
    each = figures if isinstance(figures, Sequence) else (figures,) * parts
    if len(each) != parts:
        raise ValueError(f"{name} must have 1 entry or {parts}, one a part; it was {figures}")
    return each
