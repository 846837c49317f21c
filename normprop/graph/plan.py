"""Which constants can move into which layer.

Every tensor x' of the network to be made stands for x = scale·x' + shift of the network that
is there; where a layer is normalised, scale and shift are left to whoever comes behind.  Maps
take any of their input, and give any that is asked of their output.

A round goes through the calls in order, up to the first that does not get what it needs.  Those in
front are asked to give it; where none of them can, the constants that have come to it stay where
they were.  Either settles something for good: a map's scale, shift or gradient, which it is never
asked for again, or that it gives what it gave; or that a layer keeps its shift, its scale too, or
itself.  Steps are never taken back, and no layer has more than seven, so it ends.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import nn

from normprop.functional.parametric import Affine
from normprop.graph.kinds import Kind
from normprop.graph.passing import (
    ANY,
    CLOSE,
    EXACT,
    JOIN,
    ONE,
    WALL,
    Passing,
    Target,
    line_of,
    of_function,
    of_layer,
    takes_shape_alone,
)
from normprop.graph.trace import Node, Trace

_RANGE = 2.0**24
"""Scales beyond this are not left pending: float32 holds 2^127, and half precision 2^15."""
_WHOLE = frozenset((*Affine._fields, "whole"))
_MODES = ("moved", "shifted", "explicit", "kept")


@dataclass(frozen=True)
class Choice:
    """What is settled about a layer.

    Attributes:
        after: of a map, what its output stands for.
        settled: of a map, the parts of that which nobody may ask to be otherwise; "whole", too,
            where it gives what it gave.
        mode: "moved", the constants of the layer are somebody else's; "shifted", its scale is;
            "explicit", it keeps both; "kept", it stays what it is.
        reason: why the constants stay.
        before: what the input stands for.
    """

    after: Affine = ONE
    settled: frozenset[str] = frozenset()
    mode: str = "moved"
    reason: str = ""
    before: Affine = ONE

    @property
    def steps(self) -> int:
        """How much is settled; no round makes it less."""
        return len(self.settled) + _MODES.index(self.mode)


Choices = dict[str, Choice]


@dataclass(frozen=True)
class _Missed:
    """What a call did not get.

    Attributes:
        node: the call.
        values: what it was called with; of a layer that has to get the same in all of its
            calls, also what another got.
        target: what the first of them has to stand for; ``None`` where they have to agree.
        piled: whether what it gives is too large or too small to be left to others.
    """

    node: Node
    values: tuple[int, ...] = ()
    target: Target | None = None
    piled: bool = False


@dataclass
class _Round:
    """What values stand for, up to the first call that misses something.

    Attributes:
        pending: by value.
        first: by path of a layer, what its first call got, and in which value.
        missed: what is missing.
    """

    pending: dict[int, Affine] = field(default_factory=dict)
    first: dict[str, tuple[Affine, int]] = field(default_factory=dict)
    missed: _Missed | None = None


@dataclass
class Plan:
    """What becomes of every layer, by its path.

    Args:
        traces: runs of the model.
        training: whether gradients matter, and parameters stay what they are.
        kinds: of its layers, by their paths.
        can_shift: paths of the layers that may keep their shift and give away their scale.
    """

    traces: tuple[Trace, ...]
    training: bool
    kinds: dict[str, Kind]
    can_shift: set[str]
    choices: Choices = field(default_factory=dict)

    def __post_init__(self):
        self.nodes = [node for trace in self.traces for node in trace.nodes]
        self.producer = {v: n for trace in self.traces for v, n in trace.producer.items()}
        self.choices = self._at_first()
        found = self._propagate(self.choices)
        while found.missed is not None:
            before = self._steps()
            self.choices = self._resolved(found, found.missed)
            if self._steps() <= before:
                raise AssertionError(f"nothing was settled for {found.missed.node}")
            found = self._propagate(self.choices)
        for path, (given, _) in found.first.items():
            self.choices[path] = replace(self.choices[path], before=given)

    def _steps(self) -> int:
        return sum(choice.steps for choice in self.choices.values())

    def _at_first(self) -> Choices:
        read = set().union(*(trace.read for trace in self.traces))
        written = set().union(*(trace.written for trace in self.traces))
        choices = {}
        for node in self.nodes:
            if node.module is None or node.name in choices:
                continue
            kind, choice = self.kinds[node.name], Choice()
            kept = Choice(settled=_WHOLE, mode="kept")
            if kind.name == "opaque":
                choice = replace(kept, reason=kind.reason)
            elif not self.training and any(id(p) in read for p in node.module.parameters()):
                choice = replace(kept, reason="its weights are read outside of it")
            elif node.name in written and kind.normalised:
                choice = replace(kept, reason="what it gives is written in place")
            elif self.training and _learns_apart(kind, node.module):
                choice = Choice(mode="explicit", reason="its slope is learnt")
            choices[node.name] = choice
        return choices

    # A round

    def _propagate(self, choices: Choices) -> _Round:
        found = _Round()
        for node in self.nodes:
            for value in node.inputs:
                found.pending.setdefault(value, ONE)
            passing = self._passing(node, choices)
            found.missed = _missed(node, passing, found)
            if found.missed is not None:
                return found
            out = self._out(node, passing, choices, found.pending)
            for position, value in enumerate(node.outputs):
                # What comes beside the first output of a pooling are indices.
                indices = position and node.module is not None
                found.pending[value] = ONE if indices else _tidy(out)
            if node.module is not None and not _in_range(out):
                found.missed = _Missed(node, piled=True)
                return found
        return found

    def _passing(self, node: Node, choices: Choices) -> Passing:
        if node.opaque or not node.inputs:
            return WALL
        if node.module is None:
            return of_function(node)
        choice = choices[node.name]
        if choice.mode == "kept" or (choice.mode == "explicit" and self.training):
            return WALL
        passing = of_layer(self.kinds[node.name], node.module, self.training)
        return passing if choice.mode == "moved" else replace(passing, alike="all")

    def _out(self, node: Node, passing: Passing, choices: Choices, pending) -> Affine:
        if passing.how == "wall":
            return ONE
        given = pending[node.inputs[0]]
        if passing.how == "source":
            return choices[node.name].after
        if passing.how == "sum":
            first, second = (pending[v].shift for v in node.inputs)
            return given._replace(shift=passing.weights[0] * first + passing.weights[1] * second)
        if passing.how == "join":
            return given
        out = passing.line.forward(given)
        mode = "moved" if node.module is None else choices[node.name].mode
        return {"moved": out, "shifted": out._replace(shift=0.0), "explicit": ONE}[mode]

    def after(self, kind: Kind, module: nn.Module, given: Affine) -> Affine:
        """What the output of the plain layer stands for."""
        return line_of(kind, module, self.training).forward(given)

    # What a call misses

    def _resolved(self, found: _Round, missed: _Missed) -> Choices:
        if missed.piled:
            return self._with(missed.node.name, "explicit", "scales would have piled up")
        asking = _Asking(self, found.pending)
        for wishes in _wishes(missed, found.pending):
            choices = self.choices
            for value, target in wishes:
                choices = None if choices is None else asking.ask(choices, value, target)
            if choices is not None and choices != self.choices:
                return choices
        return self._given_up(missed, found.pending)

    def _with(self, path: str, mode: str, reason: str) -> Choices:
        return {**self.choices, path: replace(self.choices[path], mode=mode, reason=reason)}

    def _given_up(self, missed: _Missed, pending) -> Choices:
        half = missed.target == Target(shift=0.0)
        if missed.target is None:
            # They need not agree if none of them brings anything.
            choices = self.choices
            for value in dict.fromkeys(missed.values):
                choices = self._settled(choices, value, False, missed.node, pending)
            return choices
        for beyond in (False, True):
            for value in missed.values:
                choices = self._settled(self.choices, value, half, missed.node, pending, beyond)
                if choices != self.choices:
                    return choices
        return self._with(missed.node.name, "kept", "nothing in front gives what it needs")

    def _settled(self, choices, value, half, for_node, pending, beyond=False) -> Choices:
        """Keep the constants that have come to a value where they were."""
        waiting, done = [value], set()
        while waiting:
            value = waiting.pop()
            node = self.producer.get(value)
            if node is None or value in done:
                continue
            done.add(value)
            if pending.get(value, ONE) == ONE and not beyond:
                continue
            if node.module is None:
                waiting += [] if node.opaque else node.inputs
                continue
            choice = self._keeping(node.name, choices[node.name], half, for_node)
            if choice != choices[node.name]:
                choices = {**choices, node.name: choice}
            elif not self._gives(node.name):
                waiting += node.inputs
        return choices

    def _gives(self, path: str) -> bool:
        """Whether it has parameters that can take what it is asked to give."""
        kind = self.kinds[path]
        return kind.gives and (kind.name == "map" or not self.training)

    def _keeping(self, path: str, choice: Choice, half: bool, for_node: Node) -> Choice:
        kind = self.kinds[path]
        if self._gives(path):
            whole = choice.settled == _WHOLE
            return choice if whole else replace(choice, after=ONE, settled=_WHOLE)
        if (kind.name == "dropout" and self.training) or not kind.normalised:
            return choice
        if choice.mode in ("explicit", "kept"):
            return choice
        if half and choice.mode == "moved" and path in self.can_shift:
            return replace(choice, mode="shifted", reason=f"the shift alone, for {for_node}")
        return replace(choice, mode="explicit", reason=f"shift and scale, for {for_node}")


@dataclass(frozen=True)
class _Asking:
    """Asking those in front; each answer is a set of choices, or ``None``.

    Args:
        plan: has the calls.
        pending: what values stand for as it is.
    """

    plan: Plan
    pending: dict[int, Affine]

    def ask(self, choices: Choices, value: int, target: Target) -> Choices | None:
        """The choices with which a value stands for the target."""
        given = self.pending.get(value, ONE)
        if target.met_by(given):
            return choices
        node = self.plan.producer.get(value)
        if node is None or value != node.outputs[0]:
            return None
        passing = self.plan._passing(node, choices)
        if passing.how == "source":
            return self._ask_of_map(choices, node, given, target)
        if passing.how == "join":
            return self._ask_all(choices, [(v, target) for v in node.inputs])
        if passing.how == "sum":
            return self._ask_of_sum(choices, node, passing, target)
        moved = node.module is None or choices[node.name].mode == "moved"
        if passing.how == "wall" or not moved:
            return None
        wanted = passing.line.backward(target, self.pending.get(node.inputs[0], ONE))
        if not _both(passing.needs, wanted):
            return None
        return self.ask(choices, node.inputs[0], wanted)

    def _ask_all(self, choices, wishes) -> Choices | None:
        for value, target in wishes:
            choices = self.ask(choices, value, target)
            if choices is None:
                return None
        return choices

    def _ask_of_map(self, choices, node, given, target) -> Choices | None:
        choice = choices[node.name]
        after = target.filled(given)
        parts = zip(Affine._fields, target.parts(), strict=True)
        wanted = {name for name, part in parts if part is not None}
        settled = choice.settled & set(Affine._fields)
        again = Target(**{name: getattr(choice.after, name) for name in settled})
        if not self.plan._gives(node.name) or not again.met_by(after) or not _in_range(after):
            return None
        made = replace(choice, after=after, settled=choice.settled | wanted)
        return {**choices, node.name: made}

    def _ask_of_sum(self, choices, node, passing, target) -> Choices | None:
        both = Target(target.scale, None, target.gradient)
        pending = [self.pending[v] for v in node.inputs]
        if not all(both.met_by(p) for p in pending):
            # A new scale for all is asked of all.
            choices = self._ask_all(choices, [(v, both) for v in node.inputs])
            if choices is None or target.shift is None:
                return choices
        # One of them takes the whole shift: the one whose map is nearer, which is the branch;
        # the other may have come through many a sum.
        for i in sorted(range(2), key=lambda i: self._distance(choices, node.inputs[i])):
            rest = target.shift - passing.weights[1 - i] * pending[1 - i].shift
            wanted = Target(target.scale, rest / passing.weights[i], target.gradient)
            made = self.ask(choices, node.inputs[i], wanted)
            if made is not None:
                return made
        return None

    def _distance(self, choices: Choices, value: int) -> float:
        """Number of calls between a value and the next layer in front that can be asked."""
        steps = 0
        while True:
            node = self.plan.producer.get(value)
            if node is None or node.opaque or not node.inputs:
                return math.inf
            if node.module is not None and self.plan._gives(node.name):
                settled = choices[node.name].settled
                return math.inf if "shift" in settled else steps
            value, steps = node.inputs[0], steps + 1


def _missed(node: Node, passing: Passing, found: _Round) -> _Missed | None:
    pending = [found.pending[v] for v in node.inputs]
    if passing.how in ("sum", "join"):
        head = pending[0]
        shift = None if passing.how == "sum" else head.shift
        target = Target(head.scale, shift, head.gradient)
        agree = all(target.met_by(p) for p in pending)
        return None if agree else _Missed(node, tuple(node.inputs))
    for position, (value, given) in enumerate(zip(node.inputs, pending, strict=True)):
        exact = EXACT if passing is WALL or not takes_shape_alone(node) else ANY
        target = passing.needs if not position else exact
        if not target.met_by(given):
            return _Missed(node, (value,), target)
    if node.module is None or passing is WALL or not passing.alike:
        return None
    return _unlike(node, passing, found)


def _unlike(node: Node, passing: Passing, found: _Round) -> _Missed | None:
    """A layer that depends on what its input stands for needs the same in every call."""
    value = node.inputs[0]
    given = found.pending[value]
    own = given if passing.alike == "all" else Affine(1.0, given.shift / given.scale)
    first, other = found.first.setdefault(node.name, (own, value))
    target = Target.of(first) if passing.alike == "all" else Target(shift=first.shift * given.scale)
    return None if target.met_by(given) else _Missed(node, (value, other), target)


def _wishes(missed: _Missed, pending) -> Iterator[list[tuple[int, Target]]]:
    """What may be asked, and of whom: all that stands in one list together."""
    if missed.target is None:
        values = list(dict.fromkeys(missed.values))
        summed = missed.node.name not in JOIN
        for reference in values:
            wanted = pending[reference]
            target = Target(wanted.scale, None if summed else wanted.shift, wanted.gradient)
            yield [(v, target) for v in values if v != reference]
        return
    value, *others = missed.values
    here = pending[value]
    for other in others:
        # Two calls of one layer: at the same scale they can agree on the shift.
        there = pending[other]
        yield [(other, Target(here.scale, None, here.gradient))]
        yield [(value, Target(there.scale, None, there.gradient))]
    yield [(value, missed.target)]
    for other in others:
        yield [(other, Target.of(here))]


def _both(needs: Target, wanted: Target) -> bool:
    """Whether something can be as is needed and as is wanted."""
    pairs = zip(needs.parts(), wanted.parts(), strict=True)
    return all(a is None or b is None or abs(a - b) <= CLOSE for a, b in pairs)


def _in_range(affine: Affine) -> bool:
    return 1 / _RANGE < affine.scale < _RANGE and abs(affine.shift) < _RANGE


def _tidy(affine: Affine) -> Affine:
    """Without what rounding left of a shift."""
    return affine._replace(shift=0.0) if abs(affine.shift) <= CLOSE else affine


def _learns_apart(kind: Kind, module: nn.Module) -> bool:
    """Whether the scale that differs backward is that of the input, not of the parameters."""
    learnt = next(module.parameters(), None) is not None
    constants = kind.constants
    return kind.normalised and learnt and constants.forward != constants.backward
