"""What a planned network is predicted to be, held against what was asked for."""

import math
from collections.abc import Iterator

from torch import nn

from normprop import nn as twins
from normprop import rules
from normprop.graph.composition import NEAR, Composition
from normprop.graph.kinds import mixed_in
from normprop.graph.passing import ADD, JOIN, SUB
from normprop.graph.roles import Roles, family_of, is_attention, mixes
from normprop.graph.scales import Row, Scales
from normprop.graph.trace import Node


def trunk_of(composition: Composition, scales: Scales) -> Iterator[tuple[Node, int, Row]]:
    """Calls whose results are on the trunk, these, and their rows; parts of a sum are not."""
    roles, branches = composition.roles[0], composition.branches
    rows: dict[str, list[Row]] = {}
    for row in scales:
        rows.setdefault(row.path, []).append(row)
    for node in roles.trace.nodes[1:]:
        own = rows.get(node.path, [])
        if node.outputs and len(own) >= len(node.outputs):
            row = own.pop(0)
            del own[: len(node.outputs) - 1]
            trunk = node.outputs[0] in roles.trunk - roles.beyond
            if trunk and row.fwd_std is not None and node.name not in branches:
                yield node, node.outputs[0], row


def outside(composition: Composition, scales: Scales) -> dict[str, str]:
    """By path, what on the trunk is not as a plan wants it, and why."""
    roles = composition.roles[0]
    least, most = (_profile(composition, roles, passes) for passes in (0.0, 1.0))
    whole = _size_of_outputs(roles, scales)
    found: dict[str, list[str]] = {}
    behind, passed, average = 1.0, 1.0, None
    for node, value, row in reversed(list(trunk_of(composition, scales))):
        said = []
        if not _near(row.fwd_std):
            said.append(f"std {row.fwd_std:.3g}{_why(node)}")
        if whole and row.bwd_std is not None:
            size = row.bwd_std * row.fwd_std * math.sqrt(math.prod(row.shape)) / whole
            ratio = _beyond(size / passed, least.get(value, 1.0), most.get(value, 1.0))
            # One pooling may do a part of what several do.
            if average is not None and behind and _lost(ratio, behind):
                passed *= ratio / behind
                found.setdefault(average.path, []).append(
                    f"passes {ratio / behind:.2g} of the norm of its gradient, as what it "
                    "pools is correlated"
                )
                ratio = behind
            behind, average = ratio, node if _averages(node) else None
            if not _near(ratio):
                said.append(f"gradient {ratio:.3g} times what the growth gives")
        if said:
            found.setdefault(node.path, []).append(" and ".join(said))
    return {path: "; ".join(dict.fromkeys(texts)) for path, texts in reversed(found.items())}


def _near(ratio: float) -> bool:
    return 1 / NEAR <= ratio <= NEAR


def _lost(ratio: float, behind: float) -> bool:
    """Whether a value lies outside by what is between it and the next one."""
    return not _near(ratio / behind) or (_near(behind) and not _near(ratio))


def _beyond(size: float, least: float, most: float) -> float:
    """By what factor a size is out of a range; 1 within."""
    return size / most if size > most else min(size / least, 1.0) if least else 1.0


def _profile(composition: Composition, roles: Roles, passes: float) -> dict[int, float]:
    """By value, the norm of its gradient times its signal, over that at the outputs.

    A map keeps it, an activation multiplies its square by χ, and what is added or concatenated has
    of it the share that it has in the result's second moment.  Of what reaches attention, and
    averages inside of branches, the share that ``passes`` goes on.
    """
    flow = composition.flows[0]
    squares: dict[int, float] = dict.fromkeys(roles.ends, 1.0)
    for node in reversed(roles.trace.nodes[1:-1]):
        arriving = sum(squares.get(v, 0.0) for v in node.outputs[:1])
        if not arriving or not node.inputs:
            continue
        layer = roles.twin(node)
        live = [*dict.fromkeys(roles.live_inputs(node))]
        if layer is not None:
            arriving *= math.exp(_length(layer, node))
        if len(live) > 1:
            live, shares = _shares(node, live, roles, flow)
        else:
            shares = [1.0] * len(live)
        if is_attention(node):
            arriving *= passes * _thinned(node, flow, layer)
        elif _averages(node) and node.outputs[0] not in roles.trunk:
            arriving *= passes
        for value, share in zip(live, shares, strict=True):
            squares[value] = squares.get(value, 0.0) + share * arriving
    return {value: math.sqrt(square) for value, square in squares.items()}


def _shares(node: Node, live: list[int], roles: Roles, flow) -> tuple[list[int], list[float]]:
    """Inputs that carry on what arrives at a call, and each one's share of it."""
    if is_attention(node):
        # Queries and keys have none of it but what attention is not in mean field.
        live = [v for v in live if v == mixed_in(node)[2]]
        return live, [1.0] * len(live)
    if node.module is not None:
        return live[-1:], [1.0]
    if node.name not in ADD | SUB | JOIN:
        values = [v for v in live if not roles.is_gate(v)]
        return values[:1], [1.0] * len(values[:1])
    sizes = []
    for value in live:
        law, position = flow.law(value), node.inputs.index(value)
        count = math.prod(node.shapes[position]) if node.name in JOIN else 1.0
        sizes.append(0.0 if law is None else count * (law.std**2 + law.mean**2))
    total = sum(sizes)
    return live, [size / total if total else 1.0 / len(sizes) for size in sizes]


def _thinned(node: Node, flow, layer: nn.Module | None) -> float:
    """By how much attention lets the square of its values' signal fall, at least 1.

    A gradient that all places have in common, as an average over them makes it, does not fall.
    """
    values, mixed = (flow.law(v) for v in (mixed_in(node)[2], node.outputs[0]))
    if values is None or mixed is None or not mixed.std > 0:
        return 1.0
    divisor = layer.constants.forward if mixes(layer) else 1.0
    return max(1.0, (values.std / (divisor * mixed.std)) ** 2)


def _averages(node: Node) -> bool:
    if node.module is not None:
        return family_of(node.module) == "pool"
    return node.name == "mean" or "avg_pool" in node.name


def _why(node: Node) -> str:
    return f", as {node.name} stays" if node.module is None else ""


def span(composition: Composition, scales: Scales) -> tuple[float, float] | None:
    """The smallest and the largest standard deviation on the trunk."""
    sizes = [row.fwd_std for _, _, row in trunk_of(composition, scales)]
    return (min(sizes), max(sizes)) if sizes else None


def _size_of_outputs(roles: Roles, scales: Scales) -> float:
    """Norm of the outputs, over that of a gradient of N(0, 1) at them."""
    nodes = {node.path: node for node in roles.trace.nodes if roles.ends & {*node.outputs}}
    squares = 0.0
    for row in {row.path: row for row in scales}.values():
        if row.path in nodes and row.fwd_std is not None:
            squares += math.prod(row.shape) * row.fwd_std**2
    return math.sqrt(squares)


def _length(layer: nn.Module, node: Node) -> float:
    """The logarithm of what an activation or a pooling multiplies the squared norm by: χ."""
    if isinstance(layer, twins.Calibrated):
        return math.log(layer.calibration.chi.value)
    if family_of(layer) not in ("activation", "pool") or not hasattr(layer, "_plain"):
        return 0.0
    shape = node.shapes[0]
    dims = getattr(layer, "_dims", None)
    places = () if family_of(layer) != "pool" or dims is None else ((1, *shape[-dims:]),)
    try:
        plain = layer._plain(layer._law(), *places)
    except (TypeError, ValueError, rules.NeedsShapeError):
        return 0.0
    thinned = math.prod(shape) / math.prod(node.made[0][0])
    return math.log(thinned) + 2.0 * math.log(layer.std * plain.bwd_std / plain.fwd_std)
