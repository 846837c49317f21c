r"""Constants for a whole network: those of the laws that arrive, call by call.

The calls of a trace are gone through in order, with the law of every value as it will be: each
layer gets the constants of the law that comes to it, so that what it gives has mean 0 and standard
deviation 1, or the size that its place in a sum asks for.

* A map takes a radius, its ``gain``.  What it gives has standard deviation 1; at the end of a
  branch :math:`g`, in front of an output that of a logit.  A branch that ends in an activation has
  :math:`g` by that.
* An activation runs where it is calibrated for as many activations as the longest way through the
  network has, at the law that arrives.
* Behind an activation the k-th sum of a stage adds a branch of :math:`g^2 = 1/k`, as large beside
  the trunk as in a network whose sums are left to grow; the activation takes the sum back to 1.
  Where nothing does, K sums in a row have :math:`g^2 = 1/K` each, and end at √2.  Where both
  parts of a sum can be scaled, its standard deviation is 1.
* Gates and outputs keep their range.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from normprop import nn as twins
from normprop import rules
from normprop.functional.scale import Constants
from normprop.functional.weight import normalize_weight_
from normprop.graph.anatomy import paths_of
from normprop.graph.fields import Field
from normprop.graph.kinds import constants_at, mixed_in
from normprop.graph.passing import ADD, JOIN, SUB
from normprop.graph.roles import Roles, Sum, family_of, has_radius, is_attention, is_curve, mixes
from normprop.graph.scales import Row, Scales
from normprop.graph.trace import Node, Trace
from normprop.nn.parametric import MapFromWeight

NEAR = 1.5
"""By what factor a standard deviation on the trunk may differ from 1."""
_ROUNDS = 3
_SAME = 0.01
_ALIKE = 0.1


@dataclass
class Composition:
    """A plan.

    Args:
        roads: traces of the model, the first of which counts where they disagree.
        made: by path, the twins; they are changed, and exchanged.
        plain: by path, the layers that they stand for.
        growth: of the squared gradient over all activations of the longest way.
        logits: standard deviation of what heads give.
        flow: for a trace, an object with ``step(node, module)`` and ``law(value)``.

    Attributes:
        kept: by path, why a layer stays plain after all.
        notes: by path, what there is to say.
    """

    roads: tuple[Trace, ...]
    made: dict[str, nn.Module]
    plain: dict[str, nn.Module]
    growth: float
    logits: float
    flow: Callable[[Trace], object]
    kept: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.roles = [Roles(trace, self.made) for trace in self.roads]
        for roles in self.roles:
            for path, end in roles.gates.items():
                if path in self.made:
                    self.kept[path] = f"keeps its range, as it reaches {end}"
                    del self.made[path]
        curves = {path for path, layer in self.made.items() if is_curve(layer)}
        # Activations on the longest way.
        self.depth = max(roles.longest(curves) for roles in self.roles)
        for layer in filter(mixes, self.made.values()):
            # Until it is known what averaging leaves.
            layer.constants = Constants(0.0, 1.0, 1.0)
        self.targets, self.branches = self._targets()
        self._share = dict.fromkeys(self.targets, 1.0)
        self.shared, self.in_front = self._shared()
        for _ in range(_ROUNDS):
            # By path of an activation that is called several times, the std that it is made for.
            self.declared: dict[str, float] = {}
            self.done: set[str] = set()
            self.flows: list = []
            corrections = {}
            for roles in self.roles:
                corrections |= self._walk(roles)
            for path, correction in corrections.items():
                self._share[path] *= correction
            if all(abs(c - 1.0) <= _SAME for c in corrections.values()):
                break

    def said(self) -> tuple[str, ...]:
        """What the constants were chosen for."""
        curves = [layer for layer in self.made.values() if is_curve(layer)]
        calibrated = sum(isinstance(layer, twins.Calibrated) for layer in curves)
        heads = sorted({path for roles in self.roles for path in roles.heads})
        lines = [
            f"{self.depth} activations on the longest way, growth {self.growth:.3g}: "
            f"{calibrated} layers calibrated for it, {len(curves) - calibrated} that grow less"
        ]
        if heads:
            lines.append(f"logits of std {self.logits:g} from {', '.join(heads)}")
        sums = [s for roles in self.roles for s in roles.sums]
        if sums:
            scaled = sum(any(s.sources) for s in sums)
            lines.append(f"{scaled} of {len(sums)} sums have branches of a size of their own")
        return tuple(lines)

    # Before any law

    def _targets(self) -> tuple[dict[str, float], dict[str, str]]:
        targets, branches = {}, {}
        for roles in self.roles:
            targets |= dict.fromkeys(roles.heads, self.logits)
            for found in roles.sums:
                sizes = _sizes(found)
                targets |= sizes
                branches |= dict.fromkeys(sizes, found.node.name)
        return targets, branches

    def _shared(self) -> tuple[dict[str, list[tuple[Roles, int]]], dict[str, str]]:
        """Activations that are called several times, and maps in front of them.

        By path of an activation, its inputs that nothing scales to what it is made for; by path of
        a map, the activation to which it gives what it is made for.
        """
        calls: dict[str, list[tuple[Roles, int]]] = {}
        for roles in self.roles:
            for node in roles.trace.nodes:
                if is_curve(roles.twin(node)):
                    calls.setdefault(node.name, []).append((roles, node.inputs[0]))
        shared, in_front = {}, {}
        for path, inputs in calls.items():
            if len(inputs) < 2:
                continue
            shared[path] = []
            for roles, value in inputs:
                sources = roles.sources(value)
                if sources and not any(source in self.targets for source in sources):
                    in_front |= dict.fromkeys(sources, path)
                else:
                    shared[path].append((roles, value))
            on_trunk = [(roles, value) for roles, value in shared[path] if value in roles.trunk]
            shared[path] = on_trunk or shared[path]
        return shared, in_front

    # One walk over a road

    def _walk(self, roles: Roles) -> dict[str, float]:
        """Choose what was not chosen yet; by path, what a layer's radius was too small by."""
        flow = self.flow(roles.trace)
        self.flows.append(flow)
        # By path, where the size of what a layer gives shows, and who else has a part in it.
        ends = {}
        for found in roles.sums:
            for value, sources in zip(found.node.inputs, found.sources, strict=True):
                ends |= dict.fromkeys(sources, (value, sources))
        ends |= {path: (value, (path,)) for path, value in roles.heads.items()}
        for node in roles.trace.nodes[1:]:
            made = roles.twin(node)
            if made is None:
                flow.step(node, None)
                continue
            law = flow.law(mixed_in(node)[2] if mixes(made) else node.inputs[0])
            # A state that begins at 0 says nothing of what comes later.
            chosen = node.name in self.done or (law is not None and law.std == 0.0)
            if not chosen:
                self.done.add(node.name)
                self._choose(node, made, law, roles, flow)
                continue
            flow.step(node, made)
            if node.name in self.done:
                self._compare(node, made, law, flow)
        corrections = {}
        for path, (value, sources) in ends.items():
            made = flow.law(value)
            if made is not None and made.std:
                corrections[path] = math.hypot(*(self.targets[p] for p in sources)) / made.std
        return corrections

    def _compare(self, node: Node, layer: nn.Module, law: Field | None, flow) -> None:
        """Say where a call brings another law than the one that constants are made for."""
        own = None
        if is_curve(layer):
            own, said = layer.std, "is made for an input of std {:.3g}; in another call it is"
        elif mixes(layer):
            law, own = flow.law(node.outputs[0]), self._wanted(node)
            said = "gives a std of {:.3g} in its first call; in another it is"
        if own and law is not None and law.std and not 1 / NEAR <= law.std / own <= NEAR:
            self.notes[node.name] = f"{said.format(own)} {law.std:.3g}"

    def _choose(self, node: Node, layer: nn.Module, law: Field | None, roles: Roles, flow) -> None:
        known = law is not None
        if has_radius(layer):
            if known and hasattr(layer, "std"):
                layer.std = law.std
            self._radius(node, layer, flow)
            return
        if known and is_curve(layer):
            mean, std = _tidy(law)
            if node.name in self.shared:
                std = self._declared(node.name, flow)
            layer, note = calibrated(
                layer, self.plain[node.name], mean, std, self.depth, self.growth
            )
            self.made[node.name] = layer
            if note:
                self.notes[node.name] = note
            if node.name in self.targets:
                size = self._wanted(node)
                shift, forward, backward = layer.constants
                layer.constants = Constants(shift, forward / size, backward / size)
                share = f"gives a standard deviation of {size:.3g}, its share of a sum"
                self.notes[node.name] = share
        elif mixes(layer):
            self._fix(node, layer, _SAME, flow)
            return
        elif known and family_of(layer) != "dropout" and hasattr(layer, "mean"):
            self._pooling(node, layer, law, roles, flow)
            return
        flow.step(node, layer)

    def _wanted(self, node: Node) -> float:
        """The standard deviation of what a layer is to give."""
        if node.name in self.targets:
            return self.targets[node.name] * self._share[node.name]
        return 1.0

    def _radius(self, node: Node, layer: nn.Module, flow) -> None:
        layer.gain, wanted = 1.0, self._wanted(node)
        flow.step(node, layer)
        law = flow.law(node.outputs[0])
        if node.name in self.in_front and node.name not in self.targets:
            wanted = self._declared(self.in_front[node.name], flow)
        if law is None or not law.std:
            return
        # What is 1 but for a hundredth is taken for it.
        gain = wanted if abs(law.std - 1.0) <= _SAME else wanted / law.std
        if gain != 1.0:
            layer.gain = gain
            flow.step(node, layer)

    def _declared(self, path: str, flow) -> float:
        """The std that an activation is made for that is called several times."""
        if path not in self.declared:
            sizes = [self._expected(roles, value, flow) for roles, value in self.shared[path]]
            mean = sum(map(math.log, sizes)) / max(len(sizes), 1)
            self.declared[path] = math.exp(mean)
        return self.declared[path]

    def _expected(self, roles: Roles, value: int, flow) -> float:
        """The std that a value has, or will have."""
        law = flow.law(value)
        if law is not None and law.std > 0:
            return law.std
        node = roles.trace.producer.get(value)
        if node is None or not node.inputs:
            return 1.0
        found = next((s for s in roles.sums if s.node is node), None)
        if found is not None:
            squares = 0.0
            for own, sources in zip(node.inputs, found.sources, strict=True):
                squares += sum(self.targets[p] ** 2 for p in sources)
                squares += 0.0 if sources else self._expected(roles, own, flow) ** 2
            return math.sqrt(squares)
        if roles.carries(node):
            return self._expected(roles, node.inputs[0], flow)
        return self.targets.get(node.name, 1.0)

    def _pooling(self, node: Node, layer: nn.Module, law: Field, roles: Roles, flow) -> None:
        """Take the constants of what stands in front, or else those of the law that arrives."""
        origin = roles.origin(node.inputs[0])
        front = None if origin is None else roles.twin(origin)
        behind = is_curve(front) and getattr(layer, "after", None) is not None
        if behind:
            with contextlib.suppress(TypeError, ValueError):
                layer.after, layer.mean, layer.std = front, front.mean, front.std
                layer.constants = constants_at(layer, node)
                flow.step(node, layer)
                made = flow.law(node.outputs[0])
                if made is None or not made.std or abs(made.std - 1.0) <= _ALIKE:
                    return
        if hasattr(layer, "after"):
            layer.after = None
        layer.mean, layer.std = _tidy(law)
        layer.constants = constants_at(layer, node)
        self._fix(node, layer, 0.0 if behind else _SAME, flow)

    def _fix(self, node: Node, layer: nn.Module, near: float, flow) -> None:
        """Have a layer give mean 0 and the size that is wanted, whatever is correlated."""
        flow.step(node, layer)
        law, wanted = flow.law(node.outputs[0]), self._wanted(node)
        if law is None or not law.std or (wanted == 1.0 and abs(law.std - 1.0) <= near):
            return
        shift, forward, backward = layer.constants
        # Values of mean 0 but for a hundredth are not shifted.
        mean = _tidy(law)[0] if mixes(layer) else law.mean
        size = law.std / wanted
        layer.constants = Constants(shift + mean * forward, forward * size, backward * size)
        flow.step(node, layer)


def calibrated(
    layer: nn.Module, plain: nn.Module, mean: float, std: float, depth: int, growth: float
) -> tuple[nn.Module, str]:
    """A twin at a law, calibrated where so many activations ask for it, and why it cannot be."""
    if not isinstance(layer, twins.Calibrated):
        layer.mean, layer.std = mean, std
        figures = rules.moments(plain, mean, std)
        chi = (std * figures.bwd_std / figures.fwd_std) ** 2
        if depth * math.log(chi) <= math.log(growth):
            return layer, ""
    options = {"depth": depth, "growth": growth, "scaling": layer.scaling}
    try:
        return twins.Calibrated(plain, mean=mean, std=std, **options), ""
    except (TypeError, ValueError) as problem:
        return layer, f"is not calibrated for the depth: {problem}"


def _tidy(law: Field) -> tuple[float, float]:
    """Mean and standard deviation, 0 and 1 where they are nearly so."""
    mean = 0.0 if abs(law.mean) <= _SAME * law.std else law.mean
    return mean, 1.0 if abs(law.std - 1.0) <= _SAME else law.std


def _sizes(found: Sum) -> dict[str, float]:
    """By path, the standard deviation that a layer's part of a sum is to have."""
    both = [sources for sources in found.sources if sources]
    if len(both) == 2:
        paths = [*both[0], *both[1]]
        return dict.fromkeys(paths, math.sqrt(1.0 / len(paths)))
    if not both:
        return {}
    size = math.sqrt(1.0 / max(found.place, len(found.row)) / len(both[0]))
    return dict.fromkeys(both[0], size)


# What the network is predicted to be, beside what was asked for


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
    try:
        sample = layer._shape_for(shape)
        plain = layer._plain(layer._law(), *() if sample is None else (sample,))
    except (TypeError, ValueError, rules.NeedsShapeError):
        return 0.0
    thinned = math.prod(shape) / math.prod(node.made[0][0])
    return math.log(thinned) + 2.0 * math.log(layer.std * plain.bwd_std / plain.fwd_std)


# What its learning rates mean


@torch.no_grad()
def lengthen_(network: nn.Module, paths: Iterable[str], scales: Scales) -> float | None:
    r"""Store the weights of these maps of a network at the norm r, in place.

    A map that divides its weight W by ‖W‖ = r computes the same at every r, and a step of rate η
    on W moves what runs as a step of rate :math:`\eta/r^2` would.  The steps of all maps add up in
    the output, to first order in proportion to

    .. math:: c_l = E\|y_l\|^2 \, E\|dy_l\|^2

    with :math:`y_l` what map l gives and :math:`dy_l` its gradient: on a chain, each moves the
    output as much as any other, so that a rate which suits one alone is too large for all of them
    together by their number.  With

    .. math:: r^2 = \sum_l c_l / \max_l c_l

    a step of the whole network moves an output as much as one of the map that moves it most would
    alone: r² is the number of maps that count, and a rate means the same whatever the depth.

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
