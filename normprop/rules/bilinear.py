r"""The bilinear map of two inputs, independent of each other and of one law N(m, s²).

With :math:`y_o = x_1^\top W_o x_2 + b_o`, r the sums of the rows of :math:`W_o` and c those of its
columns,

.. math::
    \mu = m^2 \sum W_o + b_o, \qquad
    \sigma_f^2 = s^2 m^2 (\|r\|^2 + \|c\|^2) + s^4 \|W_o\|^2,

    \sigma_{b,i}^2 = \sum_o E (W_o x_2)_i^2
                   = \sum_o \bigl(s^2 \|W_{oi\cdot}\|^2 + m^2 r_{oi}^2\bigr)

for input i of :math:`x_1`; for those of :math:`x_2` columns stand for rows.
"""

import math

import numpy as np
from torch import nn

from normprop.gaussian import Law, maximum
from normprop.gaussian.normal import EPS
from normprop.rules.parametric import root, weights_of
from normprop.rules.registry import Moments, register

__all__ = ["bilinear"]


def bilinear(
    weight: np.ndarray,
    bias: np.ndarray | None,
    law: Law,
    backward: tuple[float, float] = (1.0, 1.0),
) -> Moments:
    """Moments of a bilinear map with these weights, (out, in1, in2), and this bias, (out,).

    ``bwd_std`` has the in1 entries of the first input before the in2 of the second, whose gradients
    are multiplied by ``backward``.
    """
    mean, std, error, method = maximum(1, law)
    # Bounds of the sums below are in terms of these.
    largest = abs(mean) + error
    rows, columns = _sum(weight, 2), _sum(weight, 1)
    offset = np.zeros(len(weight)) if bias is None else bias
    lines = np.hypot(_norm(rows, 1), _norm(columns, 1))
    norms = root(weight, lambda squares: _sum(_sum(squares, 2), 1))
    fwd_mean = mean * mean * _sum(rows, 1) + offset
    fwd_std = std * np.hypot(mean * lines, std * norms)

    found, bounds = [], []
    size = np.abs(weight)
    # No sum is longer than that; NumPy adds contiguous rows pairwise.
    ulps = 48.0 + 2.0 * math.log2(max(weight.size, 2))
    for axis, sums, factor in ((2, rows, backward[0]), (1, columns, backward[1])):
        spread = root(weight, lambda squares, over=axis: _sum(_sum(squares, over), 0))
        shift = _norm(sums, 0)
        found.append(abs(factor) * np.hypot(std * spread, mean * shift))
        # A sum's rounding is relative to that of its terms without their signs.
        whole = _norm(_sum(size, axis), 0)
        bound = error * (spread + shift) + ulps * EPS * (std * spread + largest * whole)
        bounds.append(abs(factor) * bound)
    bwd_std = np.concatenate(found)

    total = _sum(_sum(size, 2), 1)
    whole = np.hypot(_norm(_sum(size, 2), 1), _norm(_sum(size, 1), 1))
    bounds += [
        error * 2.0 * largest * total + ulps * EPS * (largest**2 * total + np.abs(offset)),
        error * (largest + std + error) * (lines + 2.0 * norms)
        + ulps * EPS * std * (largest * whole + std * norms),
    ]
    bound = float(max(b.max(initial=0.0) for b in bounds))
    return Moments(fwd_mean, fwd_std, bwd_std, bound, method)


def _sum(values: np.ndarray, axis: int) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(values, axis, -1)).sum(-1)


def _norm(values: np.ndarray, axis: int) -> np.ndarray:
    return root(values, lambda squares: _sum(squares, axis))


register(
    nn.Bilinear,
    lambda layer, law: bilinear(*weights_of(layer), law),
    note="two independent inputs of one law; backward the entries of the first input, then "
    "those of the second",
    family="map",
)
