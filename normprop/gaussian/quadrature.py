"""Adaptive Gauss-Legendre integration of several integrands on one mesh.

A panel is accepted when it agrees with its two halves; the halves are then what is used, so
the reported difference bounds the error of a coarser rule than the one in the result.  What
lies between the nodes of a panel and leaves no trace at any of them is not seen: panels have to
end near where an integrand is narrow.  A kink that lies between the end of a panel and the node
next to it leaves none.  Where kinks have to be searched for, the integrands are therefore sampled
at the ends, too, and have to be there what the polynomial through the nodes says.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from normprop.gaussian.normal import EPS

_ORDER = 20
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(_ORDER)
# Weights of the polynomial through the nodes, in its barycentric form.
_BARYCENTRIC = np.array(
    [1.0 / np.prod(2.0 * (a - np.delete(_NODES, i))) for i, a in enumerate(_NODES)]
)
_GAP = 1.0 + _NODES[0]
# An end is looked at from so many ulp inside: at a kink itself values belong to either side.
_INSIDE = 16.0 * EPS
# A panel that holds all of an integral cannot agree with its halves better than to the
# rounding of a sum of _ORDER terms.
_AGREEMENT = 8.0 * EPS
TINY = float(np.finfo(np.float64).tiny)
# Squares of this size have lost their digits on the way to nothing.
_UNDERFLOW = 1e-290
_MAX_LEVELS = 80
# Enough for sin(10 000 x) under N(0, 1), three waves to a panel: as long as all panels are halved.
# Later, where only some have not settled, they are those of kinks.
_MAX_WAVES, _WAVE_LEVELS = 1 << 17, 16
_MAX_PANELS = 4096
# Where so many panels have not settled, it is no matter of a few kinks.
_MAX_SEARCHED = 24

Breaks = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]


def ended(grid: np.ndarray, marks: list[float]) -> np.ndarray:
    """Ends of the first panels: a grid, and the marks that fall in it."""
    inside = [v for v in marks if grid[0] < v < grid[-1]]
    return np.unique(np.concatenate([grid, inside]))


@dataclass(frozen=True)
class Mesh:
    """Nodes and weights on which all integrands of one problem have converged."""

    nodes: np.ndarray  # shape (n,)
    weights: np.ndarray  # shape (n,)
    values: np.ndarray  # the integrands at the nodes, shape (integrands, n)
    truncation: np.ndarray  # bound on the truncation error of each integral, shape (integrands,)

    def integrals(self) -> np.ndarray:
        """The integrals, shape (integrands,)."""
        return self.values @ self.weights


def converged_mesh(
    integrand: Callable[[np.ndarray], np.ndarray],
    breaks: np.ndarray,
    *,
    tested: int | None = None,
    noise: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    search: Breaks | None = None,
    shift: float = 0.0,
) -> Mesh:
    """Refine the panels between ``breaks`` until every integrand has converged.

    Args:
        integrand: maps nodes of shape (n,) to values of shape (integrands, n).
        breaks: strictly increasing ends of the first panels, shape (panels + 1,).
        tested: how many of the integrands have to converge, the first ones; the rest is carried
            along.  All of them by default.
        noise: from nodes of shape (panels, 20) and all values there to bounds on the errors of
            the tested ones; panels need not agree better than to these.
        search: from the left and right ends of panels that have not settled to further breaks
            for each of them, strictly inside and increasing; where it finds none, the panel is
            halved.  With it, panels are tested at their ends, too.
        shift: size of what is added to a node before the integrand is computed; its rounding
            blurs the nodes.
    """
    left, right = breaks[:-1], breaks[1:]
    # Panels whose own sum is not known yet.
    fresh = np.ones(len(left), dtype=bool)
    coarse = None
    accepted: list[tuple[np.ndarray, ...]] = []
    truncation = settled_size = 0.0
    for level in range(_MAX_LEVELS):
        middle = 0.5 * (left + right)
        starts, ends = np.stack([left, middle], 1).ravel(), np.stack([middle, right], 1).ravel()
        most = _MAX_WAVES if level < _WAVE_LEVELS else _MAX_PANELS
        if len(starts) > most:
            break
        whole = int(fresh.sum())
        nodes, weights, values, off = _sample(
            integrand,
            np.concatenate([left[fresh], starts]),
            np.concatenate([right[fresh], ends]),
            None if search is None else (tested, shift),
        )
        known = values[:tested] * weights
        sums = known.sum(-1)
        if coarse is None:
            coarse = sums[:, :whole]
        elif whole:
            coarse[:, fresh] = sums[:, :whole]
        nodes, weights, values = nodes[whole:], weights[whole:], values[:, whole:]
        sums, sizes = sums[:, whole:], np.abs(known[:, whole:]).sum(-1)
        difference = np.abs(coarse - sums[:, ::2] - sums[:, 1::2])
        size = settled_size + sizes.sum(-1)
        allowed = _AGREEMENT * size[:, None] + _UNDERFLOW
        if noise is not None:
            rough = (noise(nodes, values) * weights).sum(-1)
            allowed = allowed + rough[:, ::2] + rough[:, 1::2]
        settled = (difference <= allowed).all(0)
        if search is not None:
            off = off[:, whole:]
            settled &= (off[:, ::2] + off[:, 1::2] <= allowed).all(0)
        keep = np.repeat(settled, 2)
        truncation = truncation + difference[:, settled].sum(-1)
        accepted.append((nodes[keep], weights[keep], values[:, keep]))
        if settled.all():
            return Mesh(
                np.concatenate([a[0] for a in accepted]).ravel(),
                np.concatenate([a[1] for a in accepted]).ravel(),
                np.concatenate([a[2] for a in accepted], 1).reshape(len(values), -1),
                truncation,
            )
        settled_size = settled_size + sizes[:, keep].sum(-1)
        left, right = left[~settled], right[~settled]
        halves = starts[~keep], ends[~keep], sums[:, ~keep]
        found = []
        if search is not None and len(left) <= _MAX_SEARCHED:
            found = search(left, right)
        left, right, coarse, fresh = _split(left, right, halves, found)
    raise ArithmeticError(
        "the integrals must converge on panels of Gauss-Legendre nodes; "
        f"they had not after {level + 1} bisections, into {len(starts)} panels"
    )


def _split(left, right, halves, found):
    """The next panels: the halves, whose sums are known, or the parts between found breaks."""
    starts, ends, sums = halves
    if not any(map(len, found)):
        return starts, ends, sums, np.zeros(len(starts), dtype=bool)
    plain = np.repeat([len(breaks) == 0 for breaks in found], 2)
    cut = [
        _cut(a, b, breaks) for a, b, breaks in zip(left, right, found, strict=True) if len(breaks)
    ]
    starts = np.concatenate([starts[plain], *(c[:-1] for c in cut)])
    ends = np.concatenate([ends[plain], *(c[1:] for c in cut)])
    fresh = np.arange(len(starts)) >= plain.sum()
    coarse = np.zeros((len(sums), len(starts)))
    coarse[:, ~fresh] = sums[:, plain]
    return starts, ends, coarse, fresh


def _cut(left: float, right: float, breaks: np.ndarray) -> np.ndarray:
    """Ends of the parts of a panel, none of which is longer than half of it."""
    ends = np.concatenate([[left], breaks, [right]])
    long = int(np.argmax(np.diff(ends)))
    if ends[long + 1] - ends[long] > 0.5 * (right - left):
        ends = np.insert(ends, long + 1, 0.5 * (ends[long] + ends[long + 1]))
    return ends


def _sample(integrand, left, right, ends=None):
    """Nodes, weights and values, and what the integrals would lose between nodes and ends."""
    half = 0.5 * (right - left)
    nodes = (0.5 * (left + right))[:, None] + half[:, None] * _NODES
    weights = half[:, None] * _WEIGHTS
    if ends is None:
        values, off = integrand(nodes.ravel()).reshape(-1, *nodes.shape), None
    else:
        tested, shift = ends
        bounds = np.stack([left, right], 1)
        blur = _INSIDE * (np.abs(bounds) + shift) + 1e-30 * half[:, None]
        blur = np.minimum(blur, 0.5 * _GAP * half[:, None])
        inside = bounds + blur * (1.0, -1.0)
        values = integrand(np.concatenate([nodes, inside], 1).ravel())
        values = values.reshape(-1, len(nodes), _ORDER + 2)
        values, there = values[..., :_ORDER], values[:tested, :, _ORDER:]
        # Where the ends lie between -1 and 1; half is 0 for a panel between neighbours.
        at = np.array([-1.0, 1.0]) + blur / np.maximum(half, TINY)[:, None] * (1.0, -1.0)
        carry = _BARYCENTRIC / (at[..., None] - _NODES)
        carry /= carry.sum(-1, keepdims=True)
        said = np.einsum("ipk,pek->ipe", values[:tested], carry)
        off = _GAP * half * np.abs(there - said).sum(-1)
    if not np.isfinite(values).all():
        raise ArithmeticError("the integrand must be finite at every node; it is not")
    return nodes, weights, values, off
