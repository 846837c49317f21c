"""Layers with weights: linear maps, convolutions, bilinear maps, rows that tokens look up."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import nn
from torch.nn import modules

from normprop.gaussian import Law, Normal, maximum
from normprop.gaussian.law import std_error
from normprop.gaussian.normal import EPS
from normprop.rules.arguments import Shape, array, need_shape, window_of
from normprop.rules.registry import CLOSED, Moments, register, register_each

__all__ = [
    "bilinear", "check_no_law", "embedding", "parametric", "rows_of", "weights_of",
]  # fmt: skip

PerChannel = (
    nn.Linear
    | modules.conv._ConvNd
    | nn.Bilinear
    | nn.Embedding
    | nn.EmbeddingBag
    | nn.MultiheadAttention
)
"""The layers whose figures are arrays for certain; those of norms are where they have weights."""


def parametric(layer: nn.Module, law: Law, weights: Sequence | None = None) -> Moments:
    r"""Moments of a linear map or a convolution, of an input with this law, away from the border.

    A transposed convolution is the backward pass of a convolution, run forward.
    The stride spreads the input out, so that an output sees the taps of one phase of the stride: of
    those t with t·dilation in one class modulo the stride.  Its figures are those of an output of
    which the phase is not known, every phase being as likely.  With T = ∏stride and S_φ the sum of
    the weights of phase φ,

    .. math::
        \mu = \frac{m}{T} \sum W + b, \qquad
        \sigma_f^2 = \frac{s^2}{T} \sum W^2 + m^2\, \mathrm{Var}_\varphi S_\varphi, \qquad
        \sigma_b^2 = \sum W^2,

    forward over the inputs and taps of an output channel, backward over the outputs and taps of an
    input channel.  The weights are the layer's, or these: weight, bias, weight of the backward
    pass.
    """
    forward, bias, *others = weights or weights_of(layer)
    back = others[0] if others else forward
    window, groups = forward.shape[2:], getattr(layer, "groups", 1)
    steps = window_of(tuple(layer.stride), len(window), "stride") if window else ()
    period = math.prod(steps)
    if getattr(layer, "transposed", False):
        gaps = window_of(tuple(layer.dilation), len(window), "dilation")
        phases = _phases(window, steps, gaps)
        return _linear(_turned(forward, groups), _flat(back), bias, law, 1, phases, period)
    return _linear(_flat(forward), _turned(back, groups), bias, law, period)


def _flat(weight: np.ndarray) -> np.ndarray:
    """A weight with all taps of its window along one axis."""
    return weight.reshape(*weight.shape[:2], math.prod(weight.shape[2:]))


def _turned(weight: np.ndarray, groups: int) -> np.ndarray:
    """The same with inputs and outputs exchanged, which are of one group each."""
    length, width, taps = _flat(weight).shape
    turned = weight.reshape(groups, length // groups, width, taps).transpose(0, 2, 1, 3)
    return turned.reshape(groups * width, length // groups, taps)


def _linear(rows, columns, bias, law, back_period, phases=None, period=1) -> Moments:
    """Moments by rows of the shape (outputs, inputs, taps), columns of (inputs, outputs, taps).

    A backward pass meets one in ``back_period`` of a column's weights, a forward pass those of one
    of ``period`` phases, of which there may be more than taps belong to.
    """
    mean, std, error, method = maximum(1, law)
    norms = root(rows, lambda squares: _sum(squares) / period)
    kinds = [slice(None)] if phases is None else [phases == phase for phase in np.unique(phases)]
    sums = np.stack([_sum(rows[:, :, kind]) for kind in kinds], 1)
    average = sums.sum(1) / period
    # Phases without a tap have the sum 0.
    empty = period - sums.shape[1]
    spread = root(
        np.column_stack([sums - average[:, None], average]),
        lambda squares: (squares[:, :-1].sum(1) + empty * squares[:, -1]) / period,
    )
    offset = np.zeros(len(rows)) if bias is None else bias
    fwd_std = np.hypot(std * norms, mean * spread)
    bwd_std = root(columns, lambda squares: _sum(squares) / back_period)

    # NumPy adds contiguous rows pairwise, in blocks of at most 128 terms.
    ulps = (24.0 if phases is None else 32.0) + math.log2(
        max(math.prod(rows.shape[1:]), math.prod(columns.shape[1:]), 2)
    )
    size = _sum(np.abs(rows))
    # Of the root mean square over the phases, and more than the spread of their sums.
    whole = 0.0 if phases is None else size / math.sqrt(period)
    bounds = (
        error * size / period + ulps * EPS * (abs(mean) * size / period + np.abs(offset)),
        error * (norms + spread) + ulps * EPS * (std * norms + abs(mean) * whole),
        ulps * EPS * bwd_std,
    )
    bound = float(np.concatenate(bounds).max(initial=0.0))
    return Moments(mean * average + offset, fwd_std, bwd_std, bound, method)


def _phases(window, steps, gaps) -> np.ndarray:
    """The phase of the stride that each tap belongs to, taps in the order of the weight."""
    classes = [(np.arange(k) * d) % t for k, d, t in zip(window, gaps, steps, strict=True)]
    return np.ravel_multi_index(np.meshgrid(*classes, indexing="ij"), steps).ravel()


def _sum(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(len(rows), math.prod(rows.shape[1:]))).sum(-1)


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
register(nn.Linear, parametric, **_map)
for _name, _needs_zero in (
    ("Conv", border_holds_zeros),
    # The phases of the stride would make different numbers of a shift.
    ("ConvTranspose", lambda _: True),
):
    register_each(
        _name, lambda _, layer, law: parametric(layer, law), needs_zero=_needs_zero, **_map
    )


def bilinear(
    weight: np.ndarray,
    bias: np.ndarray | None,
    law: Law,
    backward: tuple[float, float] = (1.0, 1.0),
) -> Moments:
    r"""Moments of a bilinear map of two inputs of one law N(m, s²), independent of each other.

    With :math:`y_o = x_1^\top W_o x_2 + b_o`, r the sums of the rows of :math:`W_o` and c those of
    its columns,

    .. math::
        \mu = m^2 \sum W_o + b_o, \qquad
        \sigma_f^2 = s^2 m^2 (\|r\|^2 + \|c\|^2) + s^4 \|W_o\|^2,

        \sigma_{b,i}^2 = \sum_o E (W_o x_2)_i^2
                       = \sum_o \bigl(s^2 \|W_{oi\cdot}\|^2 + m^2 r_{oi}^2\bigr)

    for input i of :math:`x_1`; for those of :math:`x_2` columns stand for rows.  The weights have
    the shape (out, in1, in2); ``bwd_std`` has the in1 entries before the in2, and gradients of the
    two are multiplied by ``backward``.
    """
    mean, std, error, method = maximum(1, law)
    # Bounds of the sums below are in terms of these.
    largest = abs(mean) + error
    rows, columns = _along(weight, 2), _along(weight, 1)
    offset = np.zeros(len(weight)) if bias is None else bias
    lines = np.hypot(_norm(rows, 1), _norm(columns, 1))
    norms = root(weight, lambda squares: _along(_along(squares, 2), 1))
    fwd_mean = mean * mean * _along(rows, 1) + offset
    fwd_std = std * np.hypot(mean * lines, std * norms)

    found, bounds = [], []
    size = np.abs(weight)
    # No sum is longer than that; NumPy adds contiguous rows pairwise.
    ulps = 48.0 + 2.0 * math.log2(max(weight.size, 2))
    for axis, sums, factor in ((2, rows, backward[0]), (1, columns, backward[1])):
        spread = root(weight, lambda squares, over=axis: _along(_along(squares, over), 0))
        shift = _norm(sums, 0)
        found.append(abs(factor) * np.hypot(std * spread, mean * shift))
        # A sum's rounding is relative to that of its terms without their signs.
        whole = _norm(_along(size, axis), 0)
        bound = error * (spread + shift) + ulps * EPS * (std * spread + largest * whole)
        bounds.append(abs(factor) * bound)
    bwd_std = np.concatenate(found)

    total = _along(_along(size, 2), 1)
    whole = np.hypot(_norm(_along(size, 2), 1), _norm(_along(size, 1), 1))
    bounds += [
        error * 2.0 * largest * total + ulps * EPS * (largest**2 * total + np.abs(offset)),
        error * (largest + std + error) * (lines + 2.0 * norms)
        + ulps * EPS * std * (largest * whole + std * norms),
    ]
    bound = float(max(b.max(initial=0.0) for b in bounds))
    return Moments(fwd_mean, fwd_std, bwd_std, bound, method)


def _along(values: np.ndarray, axis: int) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(values, axis, -1)).sum(-1)


def _norm(values: np.ndarray, axis: int) -> np.ndarray:
    return root(values, lambda squares: _along(squares, axis))


register(
    nn.Bilinear,
    lambda layer, law: bilinear(*weights_of(layer), law),
    note="two independent inputs of one law; backward the entries of the first input, then "
    "those of the second",
    family="map",
    algebra="remade",
)


def embedding(rows: np.ndarray, bag: int = 1, mode: str = "mean") -> Moments:
    """Moments of what ``bag`` independent tokens look up, each any of the rows alike.

    Rows have the shape (tokens, dim), figures an entry for each of dim, and none backward, as no
    gradient reaches a token; mode is what becomes of the rows: ``"sum"``, ``"mean"`` or ``"max"``.
    """
    count = len(rows)
    if count == 0:
        raise ValueError("there must be a row to look up; the weight has none")
    if mode == "max":
        return _largest(np.sort(rows, axis=0), bag)
    scale = float(bag) if mode == "sum" else 1.0
    spread = scale / math.sqrt(bag)
    mean = rows.sum(0) / count
    std = np.sqrt(((rows - mean) ** 2).sum(0) / count)
    error = _rounding(rows, std)
    return Moments(mean * scale, std * spread, np.zeros(0), error * max(scale, spread), CLOSED)


def _largest(rows: np.ndarray, bag: int) -> Moments:
    """Moments of the largest of ``bag`` draws, with replacement, from sorted columns."""
    count = len(rows)
    # The rank is k or less for (k/count)^bag of the bags.
    ranks = ((np.arange(count + 1) / count) ** bag)[:, None]
    chances = np.diff(ranks, axis=0)
    mean = (chances * rows).sum(0)
    squares = (rows - mean) ** 2
    variance = (chances * squares).sum(0)
    std = np.sqrt(variance)
    # A rank is off by that share of itself; by partial summation it counts once for each step of
    # what is summed.
    share = (bag + 4.0) * EPS
    steps, bends = ((ranks[1:-1] * np.abs(np.diff(v, axis=0))).sum(0) for v in (rows, squares))
    of_std = map(std_error, variance.tolist(), (share * bends).tolist())
    error = _rounding(rows, std) + max(float(share * steps.max(initial=0.0)), *of_std, 0.0)
    return Moments(mean, std, np.zeros(0), error, CLOSED)


def _rounding(rows: np.ndarray, std: np.ndarray) -> float:
    """What adding up rows in their order does to their mean and standard deviation."""
    largest = np.abs(rows).max(initial=0.0) + std.max(initial=0.0)
    return float((len(rows) + 16.0) * EPS * largest)


def rows_of(layer: nn.Embedding | nn.EmbeddingBag) -> np.ndarray:
    """The rows as they are looked up, without that of ``padding_idx``, which stands for nothing."""
    rows = array(layer.weight, "weight")
    if layer.max_norm is not None:
        norms = np.linalg.norm(rows, ord=float(layer.norm_type), axis=1, keepdims=True)
        # As torch adds to a norm before it divides by it.
        factor = layer.max_norm / (norms + 1e-7)
        rows = np.where(norms > layer.max_norm, rows * factor, rows)
    return rows if layer.padding_idx is None else np.delete(rows, layer.padding_idx, axis=0)


def check_no_law(layer: nn.Module, law: Law) -> None:
    """Refuse a law for an input that has none."""
    if law != Normal(0.0, 1.0):
        raise ValueError(
            f"mean and std must be left at 0 and 1, and after at None, for {type(layer).__name__}: "
            f"its input is a token, which is uniform; it was {law}"
        )


def _embedding(layer: nn.Embedding, law: Law) -> Moments:
    check_no_law(layer, law)
    return embedding(rows_of(layer))


def _embedding_bag(layer: nn.EmbeddingBag, law: Law, shape: Shape) -> Moments:
    """Moments of bags, all of ``shape[0]`` tokens, none of them padding."""
    check_no_law(layer, law)
    shape = need_shape(layer, shape, "how many tokens a bag has")
    if len(shape) != 1:
        raise ValueError(f"shape must be (tokens in a bag,) for EmbeddingBag; it was {shape}")
    return embedding(rows_of(layer), shape[0], layer.mode)


register(
    nn.Embedding,
    _embedding,
    note="over uniform tokens, one entry a dimension; no gradient reaches a token",
    family="map",
    algebra="remade",
)
register(
    nn.EmbeddingBag,
    _embedding_bag,
    note="over bags of one size, of uniform tokens; no gradient reaches a token, and there is no "
    "twin, as its scale would depend on the size of each bag",
    shaped=True,
)
