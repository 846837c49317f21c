r"""The norm at which a planned network stores its weights: what its learning rates mean.

A map that divides its weight W by ‖W‖ = r computes the same at every r, and a step of rate η on W
moves what runs as a step of rate :math:`\eta/r^2` would.  The steps of all maps add up in the
output, to first order in proportion to

.. math:: c_l = E\|y_l\|^2 \, E\|dy_l\|^2

with :math:`y_l` what map l gives and :math:`dy_l` its gradient: on a chain, each moves the
output as much as any other, so that a rate which suits one alone is too large for all of them
together by their number.  With

.. math:: r^2 = \sum_l c_l / \max_l c_l

a step of the whole network moves an output as much as one of the map that moves it most would
alone: r² is the number of maps that count, and a rate means the same whatever the depth.
"""

import math
from collections.abc import Iterable

import torch
from torch import nn

from normprop.functional.weight import normalize_weight_
from normprop.graph.anatomy import paths_of
from normprop.graph.scales import Row, Scales
from normprop.nn.parametric import MapFromWeight

__all__ = ["lengthen_"]


@torch.no_grad()
def lengthen_(network: nn.Module, paths: Iterable[str], scales: Scales) -> float | None:
    """Store the weights of these maps of a network at the norm r, in place.

    A weight that is not divided by its norm, or that another module holds too, stays.  Returns r,
    or ``None`` where no gradient reaches a map.
    """
    modules = dict(paths_of(network))
    maps = {p: modules[p] for p in paths if isinstance(modules.get(p), MapFromWeight)}
    moves = [_moves(row) for row in scales.rows if row.path in maps]
    if not any(moves):
        return None
    length = math.sqrt(sum(moves) / max(moves))
    holders = [p for module in network.modules() for p in module._parameters.values()]
    for layer in {id(layer): layer for layer in maps.values()}.values():
        if layer.method == "normalize" and sum(layer.weight is p for p in holders) == 1:
            geometry = layer._geometry() | {"gain": length}
            normalize_weight_(layer.weight, layer._ball(), layer.per, **geometry)
    return length


def _moves(row: Row) -> float:
    """What a step of a map moves, c; 0 where it is not known."""
    if row.fwd_std is None or row.bwd_std is None:
        return 0.0
    found = (row.fwd_std * row.bwd_std) ** 2 * math.prod(row.shape[1:])
    return found if math.isfinite(found) else 0.0
