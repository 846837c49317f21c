"""What the calls of a network are to one another: sums and their parts, gates, heads, the trunk."""

import math
from collections import defaultdict
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

from normprop import nn as twins
from normprop import rules
from normprop.graph.passing import ADD, DIVIDE, JOIN, MULTIPLY, SUB, moves
from normprop.graph.trace import Node, Trace
from normprop.nn.activation import Activation

_ONE_SIDED = (nn.Softplus, nn.LogSigmoid)
# Of outputs within the unit interval, or as far from 0 on both sides.
_UNIT_SPAN = 2.0

_MULTIPLY = MULTIPLY | {"matmul", "bmm", "__matmul__", "einsum", "baddbmm"}
_NUMBERS = {"neg", "negative", "__neg__", "rsub", "__rsub__", "clamp", "exp", "log"} | (
    ADD | SUB | _MULTIPLY | DIVIDE
)
_ATTENTION = {"scaled_dot_product_attention", "functional.scaled_dot_product_attention"}
_DROPOUTS = {"dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d"}
_GATES = {"softmax", "log_softmax", "sigmoid", "hardsigmoid", "logsigmoid", "tanh", "softplus"}


def is_ranged(layer: nn.Module | None) -> bool:
    """Whether it is an activation whose range is what a gate or an output has it for."""
    return isinstance(layer, _ONE_SIDED) or _span(layer) <= _UNIT_SPAN


def _span(layer: nn.Module | None) -> float:
    """How far the outputs of an activation lie apart."""
    if layer is None or family_of(layer) != "activation":
        return math.inf
    try:
        return rules.function_of(layer).span
    except (TypeError, ValueError):
        # It is no function of its input alone.
        return math.inf


@dataclass
class Sum:
    """Two values that are added.

    Attributes:
        node: the call.
        sources: of each of the two, paths of the layers that can scale it, or none.
        place: which of its kind on its trunk, from 1 on.
        row: all of them on it, where nothing between them brings it back to its scale.
    """

    node: Node
    sources: tuple[tuple[str, ...], tuple[str, ...]]
    place: int = 1
    row: list["Sum"] = field(default_factory=list)


class Roles:
    """What is found in a trace; ``made`` are by path the twins that layers are exchanged for."""

    def __init__(self, trace: Trace, made: dict[str, nn.Module]):
        self.trace, self.made = trace, made
        self.users: dict[int, list[Node]] = defaultdict(list)
        for node in trace.nodes:
            for value in dict.fromkeys(node.inputs):
                self.users[value].append(node)
        self.ends = set(trace.nodes[-1].inputs)
        # Values that depend on what the model is called with.
        self.live = set(trace.nodes[0].outputs)
        for node in trace.nodes[1:]:
            if self.live.intersection(node.inputs) or isinstance(node.module, nn.Embedding):
                self.live.update(node.outputs)

    def twin(self, node: Node) -> nn.Module | None:
        """What the layer that is called is exchanged for."""
        return None if node.module is None else self.made.get(node.name)

    def origin(self, value: int) -> Node | None:
        """The call that a value has its numbers from."""
        node = self.trace.origin(value, self.carries)
        return node if node is not None and node.inputs and not node.opaque else None

    def live_inputs(self, node: Node) -> list[int]:
        """Those that depend on what the model is called with."""
        return [v for v in node.inputs if v in self.live]

    # Gates and heads

    @cached_property
    def gates(self) -> dict[str, str]:
        """Paths of ranged activations that reach an output or a product, and which."""
        found = {}
        for node in self.trace.nodes:
            if node.outputs and node.module is not None and node.name not in found:
                end = self.end_of_range(node.module, node.outputs[0])
                if end:
                    found[node.name] = end
        return found

    @cached_property
    def heads(self) -> dict[str, int]:
        """Paths of maps that give logits or outputs, and the value that they give as one."""
        found = {}
        for node in self.trace.nodes:
            if node.outputs and has_radius(self.twin(node)):
                for value in self._onwards(node.outputs[0]):
                    if value in self.ends or self._is_logit(value):
                        found.setdefault(node.name, value)
        return found

    def _is_logit(self, value: int) -> bool:
        """Whether a gate makes an output of it."""
        return any(
            self.ends.intersection(self._onwards(node.outputs[0]))
            for node in self.users[value]
            if node.outputs and self.is_gate(node.outputs[0])
        )

    def end_of_range(self, layer: nn.Module, value: int) -> str:
        """An output or a product that an activation, which gives a value, keeps its range for."""
        ranged = is_ranged(layer)
        if not (ranged or math.isfinite(_span(layer))):
            return ""
        for reached in self._onwards(value):
            if reached in self.ends and ranged:
                return "an output"
            if any(self._gates(node, reached, ranged) for node in self.users[reached]):
                return "a product"
        return ""

    def _gates(self, node: Node, value: int, ranged: bool) -> bool:
        """Whether a call multiplies others by a value that has a range."""
        live = self.live_inputs(node)
        product = node.module is None and node.name in _MULTIPLY
        if not (product or is_attention(node)) or len(live) < 2:
            return False
        # What has a wide range may be what another value is the gate of.
        return ranged or not any(self.is_gate(v) for v in live if v != value)

    def _onwards(self, value: int) -> Iterator[int]:
        """Values that come of one without another layer with weights, activation or sum."""
        waiting, seen = [value], set()
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            yield value
            for node in self.users[value]:
                onwards = self.carries(node)
                if node.module is not None:
                    onwards |= family_of(node.module) == "pool"
                else:
                    alone = len(self.live_inputs(node)) == 1
                    onwards |= node.name in JOIN | {"mean"} or (node.name in _NUMBERS and alone)
                if onwards:
                    waiting += node.outputs[:1]

    def is_gate(self, value: int) -> bool:
        """Whether a value is a gate's, or a probability."""
        node = self.origin(value)
        if node is None or node.module is None:
            return node is not None and node.name in _GATES
        return is_ranged(node.module) or family_of(node.module) == "softmax"

    # Sums

    @cached_property
    def sums(self) -> list[Sum]:
        """In the order of the calls, each with its place along its trunk."""
        found: dict[int, Sum] = {}
        for node in self.trace.nodes:
            two = node.module is None and node.name in ADD | SUB and len(node.inputs) == 2
            if not (two and len(self.live_inputs(node)) == 2):
                continue
            made = found[node.outputs[0]] = Sum(node, self._sources_of(node))
            trunk = [v for v, own in zip(node.inputs, made.sources, strict=True) if not own]
            before, between = self._previous(trunk[0], found) if len(trunk) == 1 else (None, "")
            if before is not None:
                made.place = 1 if between == "norm" else before.place + 1
                made.row = [] if between else before.row
            made.row.append(made)
        return list(found.values())

    def _previous(self, value: int, sums: dict[int, Sum]) -> tuple[Sum | None, str]:
        """The sum that a value comes from, and what brings it to its scale in between."""
        between = ""
        while value not in sums:
            node = self.trace.producer.get(value)
            if node is None or not node.inputs or node.opaque:
                return None, between
            family = None if node.module is None else family_of(node.module)
            if family == "statistics":
                between = "norm"
            elif family == "activation":
                between = between or "activation"
            elif not self.carries(node):
                return None, between
            value = node.inputs[0]
        return sums[value], between

    def _sources_of(self, node: Node):
        sources = [self.sources(value) or self._divisor_of(value) for value in node.inputs]
        for i, other in enumerate(reversed(node.inputs)):
            behind = self._behind(other)
            # What the other comes from is no branch of its own.
            if any(path in behind for path in sources[i]):
                sources[i] = ()
        return tuple(sources)

    def _divisor_of(self, value: int) -> tuple[str, ...]:
        """The path of what a branch ends in, called there alone, that divides by a number."""
        node = self.origin(value)
        made = None if node is None else self.twin(node)
        if not (is_curve(made) or mixes(made)):
            return ()
        calls = sum(n.module is node.module for n in self.trace.nodes)
        return (node.name,) if calls == 1 else ()

    def sources(self, value: int) -> tuple[str, ...]:
        """Paths of the layers that scale a value; none where a part of it cannot be scaled."""
        node = self.trace.producer.get(value)
        if node is None or not node.inputs or node.opaque or value != node.outputs[0]:
            return ()
        if has_radius(self.twin(node)):
            return (node.name,)
        if self.carries(node):
            return self.sources(node.inputs[0])
        live = self.live_inputs(node)
        if node.module is None and node.name in _MULTIPLY | DIVIDE and live == node.inputs[:1]:
            # A number, or what is drawn anew, as where whole branches are dropped.
            drawn = all(v in self.trace.producer for v in node.inputs[1:])
            return self.sources(live[0]) if drawn else ()
        if node.module is not None or not len(live) == len(node.inputs) == 2:
            return ()
        if node.name in _MULTIPLY:
            values = [v for v in live if not self.is_gate(v)]
            return self.sources(values[0]) if len(values) == 1 else ()
        parts = self._sources_of(node) if node.name in ADD | SUB else ()
        return sum(parts, ()) if all(parts) else ()

    def carries(self, node: Node) -> bool:
        """Whether a call gives its input on, at other places or without some of it."""
        if node.module is not None:
            return family_of(node.module) in ("moving", "dropout")
        return moves(node) or node.name in _DROPOUTS

    def _behind(self, value: int) -> set[str]:
        """Paths of the layers that a value comes from."""
        waiting, seen, found = [value], set(), set()
        while waiting:
            node = self.trace.producer.get(waiting.pop())
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            if node.module is not None:
                found.add(node.name)
            waiting += node.inputs
        return found

    # The whole

    @cached_property
    def trunk(self) -> set[int]:
        """Values that every way from the inputs to the outputs goes through."""
        prime, middle = (1 << 61) - 1, self.trace.nodes[1:-1]
        # By value, how many ways lead to it, and from it to an output.
        into = dict.fromkeys(self.trace.nodes[0].outputs, 1)
        for node in middle:
            ways = sum(into.get(v, 0) for v in node.inputs) % prime
            into.update(dict.fromkeys(node.outputs[:1], ways))
        out = dict.fromkeys(self.ends, 1)
        for node in reversed(middle):
            ways = sum(out.get(v, 0) for v in node.outputs[:1])
            for value in node.inputs:
                out[value] = (out.get(value, 0) + ways) % prime
        total = sum(into.get(v, 0) for v in self.ends) % prime
        return {v for v in into if into[v] and into[v] * out.get(v, 0) % prime == total}

    def longest(self, counted: Container[str]) -> int:
        """How many of these layers the longest way has."""
        found: dict[int, int] = {}
        for node in self.trace.nodes:
            longest = max((found.get(v, 0) for v in node.inputs), default=0)
            longest += node.module is not None and node.name in counted
            found.update(dict.fromkeys(node.outputs, longest))
        return max(found.values(), default=0)

    @cached_property
    def beyond(self) -> set[int]:
        """Values of heads, and of gates, whose scale is their own affair."""
        found = set()
        for node in self.trace.nodes:
            if node.outputs and (node.name in self.heads or self.is_gate(node.outputs[0])):
                found.update(self._onwards(node.outputs[0]))
        return found


def has_radius(layer: nn.Module | None) -> bool:
    """Whether a twin has a gain: the radius of its ball."""
    return layer is not None and "gain" in getattr(type(layer), "_settings", ())


def is_curve(layer: nn.Module | None) -> bool:
    """Whether it is an activation that can be calibrated."""
    if isinstance(layer, twins.Calibrated):
        return True
    return isinstance(layer, Activation) and next(layer.parameters(), None) is None


def mixes(layer: nn.Module | None) -> bool:
    """Whether it is attention without weights."""
    return layer is not None and family_of(layer) == "attention"


def is_attention(node: Node) -> bool:
    """Whether it mixes values by probabilities."""
    if node.module is None:
        return node.name in _ATTENTION
    return mixes(node.module) or isinstance(node.module, nn.MultiheadAttention)


def family_of(layer: nn.Module) -> str | None:
    """What a layer is to a network."""
    entry = rules.entry_that_applies(type(layer))
    return None if entry is None else entry.family
