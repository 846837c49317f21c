"""Linear maps and convolutions."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from normprop.gaussian import Law, maximum
from normprop.gaussian.normal import EPS
from normprop.rules.arguments import array, window_of
from normprop.rules.registry import Moments, register

__all__ = ["parametric", "weights_of"]


def parametric(
    forward_weight: np.ndarray,
    bias: np.ndarray | None,
    law: Law,
    *,
    stride: Sequence[int] = (),
    groups: int = 1,
    backward_weight: np.ndarray | None = None,
) -> Moments:
    """Moments of a linear map or convolution with these weights.

    Args:
        forward_weight: shape (out, in/groups, k…), used forward.
        bias: shape (out,) or ``None``.
        law: law of an input element.
        stride: one entry, or one for each dimension of the window.
        groups: number of groups of channels.
        backward_weight: weights of the backward pass where they differ.
    """
    mean, std, error, method = maximum(1, law)
    rows = forward_weight.reshape(len(forward_weight), math.prod(forward_weight.shape[1:]))
    rows = np.ascontiguousarray(rows)
    norms = root(rows, lambda squares: squares.sum(-1))
    sums = rows.sum(-1)
    offset = np.zeros(len(rows)) if bias is None else bias
    fwd_mean = mean * sums + offset
    fwd_std = std * norms

    back = forward_weight if backward_weight is None else backward_weight
    outs, ins, taps = len(back) // groups, back.shape[1], math.prod(back.shape[2:])
    columns = back.reshape(groups, outs, ins, taps).transpose(0, 2, 1, 3)
    columns = np.ascontiguousarray(columns).reshape(groups * ins, outs * taps)
    steps = window_of(tuple(stride), back.ndim - 2, "stride") if len(stride) else ()
    bwd_std = root(columns, lambda squares: squares.sum(-1) / math.prod(steps))

    # NumPy adds contiguous rows pairwise, in blocks of at most 128 terms.
    ulps = 24.0 + math.log2(max(rows.shape[1], columns.shape[1], 2))
    size = np.abs(rows).sum(-1)
    bound = np.concatenate(
        [
            error * size + ulps * EPS * (abs(mean) * size + np.abs(offset)),
            error * norms + ulps * EPS * fwd_std,
            ulps * EPS * bwd_std,
        ]
    )
    return Moments(fwd_mean, fwd_std, bwd_std, float(bound.max(initial=0.0)), method)


# Outside of these, squares may leave the range of float64.
_LEAST, _MOST = 1e-100, 1e100


def root(values: np.ndarray, total: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The root of a total of the squares of values, whatever their size.

    A power of two is taken out, which is exact; what it leaves too small counts for nothing
    beside the largest.
    """
    largest = float(np.abs(values).max(initial=0.0))
    exponent = 0 if largest == 0 or _LEAST <= largest <= _MOST else math.frexp(largest)[1]
    near = np.ldexp(values, -exponent) if exponent else values
    return np.ldexp(np.sqrt(total(near * near)), exponent)


def weights_of(module: nn.Module) -> tuple[np.ndarray, np.ndarray | None]:
    """Weight and bias of a module as float64 arrays."""
    return array(module.weight, "weight"), (
        None if module.bias is None else array(module.bias, "bias")
    )


def border_holds_zeros(layer: nn.Module) -> bool:
    """Whether a convolution pads with zeros, which are not moved with its input."""
    padding = layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        return layer.padding_mode == "zeros" and padding != "valid"
    return any((padding,) if isinstance(padding, int) else padding)


register(
    nn.Linear,
    lambda layer, law: parametric(*weights_of(layer), law),
    family="map",
    algebra="map",
)
for _type in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
    register(
        _type,
        lambda layer, law: parametric(
            *weights_of(layer), law, stride=layer.stride, groups=layer.groups
        ),
        family="map",
        algebra="map",
        needs_zero=border_holds_zeros,
    )
