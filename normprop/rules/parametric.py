"""Linear maps, convolutions and transposed convolutions."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from normprop.gaussian import Law, maximum
from normprop.gaussian.normal import EPS
from normprop.rules.arguments import array, window_of
from normprop.rules.registry import Moments, register, register_each

__all__ = ["conv_transpose", "parametric", "weights_of"]


def parametric(
    forward_weight: np.ndarray,
    bias: np.ndarray | None,
    law: Law,
    *,
    stride: Sequence[int] = (),
    groups: int = 1,
    backward_weight: np.ndarray | None = None,
) -> Moments:
    """Moments of a linear map or convolution, of an input with this law.

    The weights have the shape (out, in/groups, k…), those of the backward pass may be others; the
    bias has the shape (out,), the stride one entry, or one for each dimension of the window.
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
    bounds = (
        error * size + ulps * EPS * (abs(mean) * size + np.abs(offset)),
        error * norms + ulps * EPS * fwd_std,
        ulps * EPS * bwd_std,
    )
    return Moments(fwd_mean, fwd_std, bwd_std, largest(bounds), method)


def largest(bounds: Sequence[np.ndarray]) -> float:
    """The bound of all figures."""
    return float(np.concatenate(bounds).max(initial=0.0))


def conv_transpose(
    forward_weight: np.ndarray,
    bias: np.ndarray | None,
    law: Law,
    *,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    backward_weight: np.ndarray | None = None,
) -> Moments:
    r"""Moments of a transposed convolution with these weights, away from the border.

    It is the backward pass of a convolution, run forward.
    The stride spreads the input out, so that an output sees the taps of one phase of the stride: of
    those t with t·dilation in one class modulo the stride.  Its figures are those of an output of
    which the phase is not known, every phase being as likely.  With T = ∏stride and S_φ the sum of
    the weights of phase φ,

    .. math::
        \mu = \frac{m}{T} \sum W + b, \qquad
        \sigma_f^2 = \frac{s^2}{T} \sum W^2 + m^2\, \mathrm{Var}_\varphi S_\varphi, \qquad
        \sigma_b^2 = \sum W^2,

    forward over the inputs and taps of an output channel, backward over the outputs and taps of an
    input channel.

    The weights have the shape (in, out/groups, k…), the other arguments are those of
    :func:`parametric`.
    """
    mean, std, error, method = maximum(1, law)
    window = forward_weight.shape[2:]
    steps = window_of(tuple(stride), len(window), "stride")
    gaps = window_of(tuple(dilation), len(window), "dilation")
    period = math.prod(steps)

    ins, width, taps = len(forward_weight) // groups, forward_weight.shape[1], math.prod(window)
    rows = forward_weight.reshape(groups, ins, width, taps).transpose(0, 2, 1, 3)
    rows = np.ascontiguousarray(rows).reshape(groups * width, ins, taps)
    phases = _phases(window, steps, gaps)
    sums = np.stack([_sum(rows[:, :, phases == phase]) for phase in np.unique(phases)], 1)
    norms = root(rows, lambda squares: _sum(squares) / period)
    average = sums.sum(1) / period
    # Phases without a tap have the sum 0.
    empty = period - sums.shape[1]
    spread = root(
        np.column_stack([sums - average[:, None], average]),
        lambda squares: (squares[:, :-1].sum(1) + empty * squares[:, -1]) / period,
    )
    offset = np.zeros(len(rows)) if bias is None else bias
    fwd_mean = mean * average + offset
    fwd_std = np.hypot(std * norms, mean * spread)

    back = forward_weight if backward_weight is None else backward_weight
    columns = np.ascontiguousarray(back.reshape(len(back), -1))
    bwd_std = root(columns, _sum)

    ulps = 32.0 + math.log2(max(ins * taps, columns.shape[1], 2))
    size = _sum(np.abs(rows))
    # Of the root mean square over the phases, and more than the spread of their sums.
    whole = size / math.sqrt(period)
    bounds = (
        error * size / period + ulps * EPS * (abs(mean) * size / period + np.abs(offset)),
        error * (norms + spread) + ulps * EPS * (std * norms + abs(mean) * whole),
        ulps * EPS * bwd_std,
    )
    return Moments(fwd_mean, fwd_std, bwd_std, largest(bounds), method)


def _phases(window, steps, gaps) -> np.ndarray:
    """The phase of the stride that each tap belongs to, taps in the order of the weight."""
    classes = [(np.arange(k) * d) % t for k, d, t in zip(window, gaps, steps, strict=True)]
    return np.ravel_multi_index(np.meshgrid(*classes, indexing="ij"), steps).ravel()


def _sum(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(len(rows), -1)).sum(-1)


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
    weight = array(module.weight, "weight")
    return weight, None if module.bias is None else array(module.bias, "bias")


def border_holds_zeros(layer: nn.Module) -> bool:
    """Whether a convolution pads with zeros, which are not moved with its input."""
    padding = layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        return layer.padding_mode == "zeros" and padding != "valid"
    return any((padding,) if isinstance(padding, int) else padding)


_map = {"family": "map", "algebra": "map"}
register(nn.Linear, lambda layer, law: parametric(*weights_of(layer), law), **_map)
register_each(
    "Conv",
    lambda _, layer, law: parametric(
        *weights_of(layer), law, stride=layer.stride, groups=layer.groups
    ),
    needs_zero=border_holds_zeros,
    **_map,
)
register_each(
    "ConvTranspose",
    lambda _, layer, law: conv_transpose(
        *weights_of(layer),
        law,
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
    ),
    # The phases of the stride would make different numbers of a shift.
    needs_zero=lambda _: True,
    **_map,
)
