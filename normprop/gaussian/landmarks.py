r"""Where a function that is only known by its values has kinks, steps and bends.

On a row of equidistant points the trapezoidal rule for f' gives the rises of a smooth f, and f'
changes little from one point to the next.  A step or a kink stands out from its neighbours in
one of the three

.. math::
    \Delta f_i - \tfrac h2 (f'_i + f'_{i+1}), \qquad h\,\Delta f'_i, \qquad h\,\Delta^2 f'_i,

the first for a step, the second for a kink, the third for a jump of f''.  The cell where one
does is looked at through another row of points, and so on, until nothing stands out, or until
the cell has no number between its ends.  This only proposes where panels should end; whether
they have converged is for :mod:`normprop.gaussian.quadrature` to tell.
"""

from collections.abc import Callable

import numpy as np

from normprop.gaussian.normal import EPS

Array = np.ndarray

_CELLS = 64
_MAX_ROUNDS = 24
# What stands out is so many times as large as anything near it.
_STANDS_OUT = 8.0
# Neighbours a cell is compared with: the same kink may show in the next ones.
_NEAR, _WINDOW = 2, 8


def located(both: Callable[[Array], tuple[Array, Array]], left: Array, right: Array) -> list[Array]:
    """At most one kink in each interval, as the one or two numbers that enclose it.

    ``both`` gives values and slopes at an array of points; ends have the shape (n,).  What is found
    lies strictly inside and increases; it is empty where nothing stands out.
    """
    low, high = left.copy(), right.copy()
    active = np.arange(len(left))
    for _ in range(_MAX_ROUNDS):
        a, b = low[active], high[active]
        start, end, stands_out = _narrowed(both, a, b)
        active = active[stands_out]
        low[active], high[active] = start[stands_out], end[stands_out]
        # One that did not get narrower is as narrow as numbers are.
        shrinks = (low[active] > a[stands_out]) | (high[active] < b[stands_out])
        active = active[shrinks]
        if not len(active):
            break
    found = []
    for start, end, a, b in zip(low, high, left, right, strict=True):
        moved = start > a or end < b
        found.append(np.unique([v for v in (start, end) if a < v < b]) if moved else np.empty(0))
    return found


def _narrowed(both, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """The cells of the intervals that stand out, and whether one does."""
    x = low[:, None] + (high - low)[:, None] * (np.arange(_CELLS + 1) / _CELLS)
    x[:, -1] = high
    f, slope = (v.reshape(x.shape) for v in both(x.ravel()))
    with np.errstate(invalid="ignore", over="ignore"):
        h = np.diff(x, axis=1)
        rise, turn = np.diff(f, axis=1), np.diff(slope, axis=1)
        step = np.abs(rise - 0.5 * h * (slope[:, :-1] + slope[:, 1:]))
        kink = h * np.abs(turn)
        bend = 0.5 * (h[:, :-1] + h[:, 1:]) * np.abs(np.diff(turn, axis=1))
        steep = np.abs(slope).max(1)
        # Values are off by an ulp of themselves, and by one of x times the slope.
        values = EPS * (np.abs(f).max(1) + np.abs(x).max(1) * steep)
        slopes = EPS * steep * h.max(1)
    chosen = np.zeros(len(x), dtype=bool)
    start, end = low.copy(), high.copy()
    row = np.arange(len(x))
    for score, width, floor in ((kink, 1, slopes), (step, 1, values), (bend, 2, slopes)):
        top, ahead = _peak(score, 64.0 * floor)
        fresh = ahead & ~chosen
        start[fresh], end[fresh] = x[row, top][fresh], x[row, top + width][fresh]
        chosen |= fresh
    return start, end, chosen


def _peak(score: Array, floor: Array) -> tuple[Array, Array]:
    """Where a score is largest in its row, and whether it stands out from what is near."""
    finite = np.isfinite(score).all(1)
    score = np.where(finite[:, None], score, 0.0)
    top = score.argmax(1)
    distance = np.abs(np.arange(score.shape[1]) - top[:, None])
    near = np.where((distance >= _NEAR) & (distance <= _WINDOW), score, 0.0).max(1)
    peak = score.max(1)
    return top, finite & (peak > floor) & (peak > _STANDS_OUT * near)
