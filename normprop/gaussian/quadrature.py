"""Adaptive Gauss-Legendre integration of several integrands on one mesh.

A panel is accepted when it agrees with its two halves; the halves are then what is used, so
the reported difference bounds the error of a coarser rule than the one in the result.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from normprop.gaussian.normal import EPS

_ORDER = 20
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(_ORDER)
# A panel that holds all of an integral cannot agree with its halves better than to the
# rounding of a sum of _ORDER terms.
_AGREEMENT = 8.0 * EPS
_MAX_LEVELS = 80
_MAX_PANELS = 4096


@dataclass(frozen=True)
class Mesh:
    """Nodes and weights on which all integrands of one problem have converged.

    Attributes:
        nodes: shape (n,).
        weights: shape (n,).
        values: the integrands at the nodes, shape (integrands, n).
        truncation: bound on the truncation error of each integral, shape (integrands,).
    """

    nodes: np.ndarray
    weights: np.ndarray
    values: np.ndarray
    truncation: np.ndarray

    def integrals(self) -> np.ndarray:
        """The integrals, shape (integrands,)."""
        return self.values @ self.weights


def converged_mesh(integrand: Callable[[np.ndarray], np.ndarray], breaks: np.ndarray) -> Mesh:
    """Refine the panels between ``breaks`` until every integrand has converged.

    Args:
        integrand: maps nodes of shape (n,) to values of shape (integrands, n).
        breaks: strictly increasing ends of the first panels, shape (panels + 1,).

    Raises:
        ArithmeticError: the integrals do not converge, or a value is not finite.
    """
    left, right = breaks[:-1], breaks[1:]
    nodes, weights, values = _sample(integrand, left, right)
    accepted, truncation = [], 0.0
    settled_size = 0.0
    for _ in range(_MAX_LEVELS):
        coarse = (values * weights).sum(-1)
        middle = 0.5 * (left + right)
        left, right = np.stack([left, middle], 1).ravel(), np.stack([middle, right], 1).ravel()
        if len(left) > _MAX_PANELS:
            break
        nodes, weights, values = _sample(integrand, left, right)
        contributions = (values * weights).sum(-1)
        sizes = np.abs(values * weights).sum(-1)
        difference = np.abs(coarse - contributions.reshape(len(coarse), -1, 2).sum(-1))
        size = settled_size + sizes.sum(-1)
        settled = (difference <= _AGREEMENT * size[:, None]).all(0)
        truncation = truncation + difference[:, settled].sum(-1)
        keep = np.repeat(settled, 2)
        settled_size = settled_size + sizes[:, keep].sum(-1)
        accepted.append((nodes[keep].ravel(), weights[keep].ravel(), values[:, keep]))
        if settled.all():
            return Mesh(
                np.concatenate([a[0] for a in accepted]),
                np.concatenate([a[1] for a in accepted]),
                np.concatenate([a[2].reshape(len(coarse), -1) for a in accepted], axis=1),
                truncation,
            )
        left, right = left[~keep], right[~keep]
        nodes, weights, values = nodes[~keep], weights[~keep], values[:, ~keep]
    raise ArithmeticError(
        "the integrals must converge on panels of Gauss-Legendre nodes; "
        f"they had not after {_MAX_LEVELS} bisections or {_MAX_PANELS} panels"
    )


def _sample(integrand, left, right):
    half = 0.5 * (right - left)
    nodes = (0.5 * (left + right))[:, None] + half[:, None] * _NODES
    weights = half[:, None] * _WEIGHTS
    values = integrand(nodes.ravel()).reshape(-1, *nodes.shape)
    if not np.isfinite(values).all():
        raise ArithmeticError("the integrand must be finite at every node; it is not")
    return nodes, weights, values
