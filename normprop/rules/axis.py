r"""Linear maps whose weights are fixed: a grid of one-dimensional maps, one an axis.

For :math:`y_i = \sum_j W_{ij} x_j` of independent x of mean m and standard deviation s, over all
outputs and inputs together,

.. math::
    \mu = m\,\overline{\textstyle\sum_j W_{ij}}, \qquad
    \sigma_f^2 = s^2\,\overline{\textstyle\sum_j W_{ij}^2}
        + m^2\,\mathrm{Var}_i \textstyle\sum_j W_{ij}, \qquad
    \sigma_b^2 = \overline{\textstyle\sum_j W_{ij}^2}\cdot\frac{\text{outputs}}{\text{inputs}},

a bar for the average over the outputs i: both passes count the same squares.  Each of the three
averages of a grid is the product of those of its axes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from normprop.gaussian import Law, maximum
from normprop.gaussian.law import std_error
from normprop.gaussian.normal import EPS
from normprop.rules.registry import CLOSED, Moments

__all__ = ["copied"]


class Axis(NamedTuple):
    """A linear map along one axis, or one period of it."""

    total: float  # mean over the outputs of the sum of their weights
    total_square: float  # mean of that sum's square
    squares: float  # mean over the outputs of the sum of their squared weights
    growth: float  # outputs for each input


def copies(outputs: int, inputs: int) -> Axis:
    """Every output is one input: copied, left out, or in another place."""
    return Axis(1.0, 1.0, 1.0, outputs / inputs)


def places(outputs: int, inputs: int, filled: int) -> Axis:
    """So many of the outputs are one input each, the others are 0."""
    part = filled / outputs
    return Axis(part, part, part, outputs / inputs)


def averages(lengths: Sequence[int], inputs: int) -> Axis:
    """Averages over windows of these lengths."""
    return Axis(1.0, 1.0, math.fsum(1.0 / k for k in lengths) / len(lengths), len(lengths) / inputs)


def sums(counts: Sequence[int], inputs: int) -> Axis:
    """Sums of so many inputs each."""
    outputs = len(counts)
    mean = sum(counts) / outputs
    return Axis(mean, sum(c * c for c in counts) / outputs, mean, outputs / inputs)


def grid(axes: Sequence[Axis], law: Law) -> Moments:
    """Moments of the product of maps along axes."""
    m, s, error, method = maximum(1, law)
    total, total_square, squares, growth = (
        math.prod(entries) for entries in zip(*(axes or [copies(1, 1)]), strict=True)
    )
    uneven = max(total_square - total * total, 0.0)
    variance = s * s * squares + m * m * uneven
    slope = math.sqrt(squares * growth)
    ulps = 8.0 * EPS * (len(axes) + 1)
    # The difference of squares above is off by an ulp of what is subtracted.
    off = ulps * (s * s * squares + m * m * total_square)
    off += 2.0 * error * (s * squares + abs(m) * uneven + error)
    mean = m * total
    bound = max(
        error * abs(total) + ulps * abs(mean),
        std_error(variance, off),
        ulps * slope,
    )
    return Moments(mean, math.sqrt(variance), slope, bound, method)


def copied(law: Law) -> Moments:
    """Moments of what only moves its elements to other places."""
    m, s, error, method = maximum(1, law)
    return Moments(m, s, 1.0, error, method if error else CLOSED)
