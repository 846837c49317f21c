"""Which constants can move into which layer.

Every tensor x' of the network to be made stands for x = scale·x' + shift of the network that
is there; where a layer is normalised, scale and shift are left to whoever comes behind.  Maps
take any of their input, and give any that is asked of their output; where they give the scale that
they got, they run with the weight that they have.

A round goes through the calls in order, up to the first that does not get what it needs.  Those in
front are asked to give it; where none of them can, the constants that have come to it stay where
they were.  Either settles something for good: a map's scale, shift or gradient, which it is never
asked for again, or that it gives what it gave; or that a layer keeps its shift, its scale too, or
itself.  Steps are never taken back, and no layer has more than seven, so it ends.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from torch import nn

from normprop.functional.parametric import Meaning
from normprop.graph import passing
from normprop.graph.kinds import Kind
from normprop.graph.passing import ANY, EXACT, ONE, UNSHIFTED, WALL, Passing, Target
from normprop.graph.trace import Node, Trace

_RANGE = 2.0**24
"""Scales beyond this are not left pending: float32 holds 2^127, and half precision 2^15."""
_NEAR = 2.0**3
"""Scales beyond this go through no map: half precision has 2^14 on either side of 1, of which
values far from their standard deviation, and gradients, are to have the larger part."""
_WHOLE = frozenset((*Meaning._fields, "whole"))
_MODES = ("moved", "shifted", "explicit", "kept")


@dataclass(frozen=True)
class Choice:
    """What is settled about a layer.

    Its mode: "moved", its constants are somebody else's; "shifted", its scale is; "explicit", it
    keeps both; "kept", it stays what it is.
    """

    # Of a map, what its output stands for, and the parts of that which nobody may ask to be
    # otherwise; "whole", too, where it gives what it gave.
    after: Meaning = ONE
    settled: frozenset[str] = frozenset()
    mode: str = "moved"
    # Why the constants stay.
    reason: str = ""
    # What the input stands for.
    before: Meaning = ONE

    @property
    def steps(self) -> int:
        """How much is settled; no round makes it less."""
        return len(self.settled) + _MODES.index(self.mode)


Choices = dict[str, Choice]


@dataclass(frozen=True)
class _Missed:
    """What a call did not get."""

    node: Node
    # What it was called with; of a layer that has to get the same in all of its calls, also what
    # another got; none where what it gives is too large or too small to be left to others.
    values: tuple[int, ...] = ()
    # What the first of them has to stand for; None where they have to agree.
    target: Target | None = None


@dataclass
class Plan:
    """What becomes of every layer, by its path."""

    traces: tuple[Trace, ...]
    # Whether gradients matter, and parameters stay what they are.
    training: bool
    kinds: dict[str, Kind]
    # Paths of the layers that may keep their shift and give away their scale.
    can_shift: set[str]
    # By path of the maps that give the scale that they get, unless somebody behind wants another,
    # the number of their weights.
    through: dict[str, int] = field(default_factory=dict)
    choices: Choices = field(default_factory=dict)

    def __post_init__(self):
        self.nodes = [node for trace in self.traces for node in trace.nodes]
        self.producer = {v: n for trace in self.traces for v, n in trace.producer.items()}
        choices = self._at_first()
        self.wanted = self._wanted(choices) if self.through else set()
        others = {n.name for n in self.nodes if not self.wanted.isdisjoint(n.outputs)}
        self.through = {p: size for p, size in self.through.items() if p not in others}
        found = _Round(self, choices)
        while found.missed is not None:
            resolved = _Round(self, found.resolved())
            if resolved.steps <= found.steps:
                raise AssertionError(f"nothing was settled for {found.missed.node}")
            found = resolved
        self.choices = {
            path: replace(choice, before=found.first[path][0], after=found.after(path))
            if path in found.first
            else choice
            for path, choice in found.choices.items()
        }

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

    def _wanted(self, choices: Choices) -> set[int]:
        """Values of which something behind them wants a scale of its own."""
        wanted = set()
        for node in reversed(self.nodes):
            does, behind = self.passing_of(node, choices), not wanted.isdisjoint(node.outputs)
            if does.how in ("sum", "join"):
                wanted.update(node.inputs if behind else ())
                continue
            # What a number is added to is not to be small beside it.
            own = does.needs.scale is not None or does.line.lift
            wanted.update(node.inputs[:1] if own or (behind and does.how == "line") else ())
            wanted.update(() if passing.takes_shape_alone(node) else node.inputs[1:])
        return wanted

    def costs(self, maps: dict[str, int]) -> tuple[float, ...]:
        """What it costs, each as a number that is better small.

        Layers that keep something, by mode; of these maps those that multiply their weight, and
        such weights; and the scale that is farthest from 1, where half precision would feel it.
        """
        choices = self.choices
        modes, scales = zip(*((c.mode, c.before.scale) for c in choices.values()), strict=True)
        made = [maps[p] for p in maps if choices[p].before.scale != choices[p].after.scale]
        farthest = max(8.0 * _NEAR, *scales, 1.0 / min(scales))
        return *map(modes.count, _MODES[1:]), len(made), sum(made), farthest

    def passing_of(self, node: Node, choices: Choices) -> Passing:
        """What a call does where this is settled."""
        if node.opaque or not node.inputs:
            return WALL
        if node.module is None:
            return passing.of_function(node)
        choice = choices[node.name]
        if choice.mode == "kept" or (choice.mode == "explicit" and self.training):
            return WALL
        does = passing.of_layer(self.kinds[node.name], node.module, self.training)
        return does if choice.mode == "moved" else replace(does, alike="all")

    def after(self, kind: Kind, module: nn.Module, given: Meaning) -> Meaning:
        """What the output of the plain layer stands for."""
        return passing.line_of(kind, module, self.training).forward(given)

    def gives(self, path: str) -> bool:
        """Whether it has parameters that can take what it is asked to give."""
        kind = self.kinds[path]
        return kind.gives and (kind.name == "map" or not self.training)


class _Round:
    """What values stand for, up to the first call that misses something.

    Attributes:
        pending: by value, what it stands for.
        first: by path of a layer, what its first call got, and in which value.
        missed: what is missing.
    """

    def __init__(self, plan: Plan, choices: Choices) -> None:
        self.plan, self.choices = plan, choices
        self.pending: dict[int, Meaning] = {}
        self.first: dict[str, tuple[Meaning, int]] = {}
        self.missed: _Missed | None = None
        for node in plan.nodes:
            self.missed = self._missed_at(node)
            if self.missed is not None:
                break

    @property
    def steps(self) -> int:
        """How much is settled."""
        return sum(choice.steps for choice in self.choices.values())

    def _missed_at(self, node: Node) -> _Missed | None:
        """Go through a call, unless it misses something."""
        for value in node.inputs:
            self.pending.setdefault(value, ONE)
        does = self.plan.passing_of(node, self.choices)
        missed = self._not_given(node, does)
        if missed is not None:
            return missed
        out = self._out(node, does)
        for position, value in enumerate(node.outputs):
            # What comes beside the first output of a pooling are indices.
            indices = position and node.module is not None
            self.pending[value] = ONE if indices else _tidy(out)
        return None if node.module is None or _in_range(out) else _Missed(node)

    def _not_given(self, node: Node, does: Passing) -> _Missed | None:
        pending = [self.pending[v] for v in node.inputs]
        if does.how in ("sum", "join"):
            head = Target(*pending[0])
            target = head._replace(shift=None) if does.how == "sum" else head
            agree = all(target.met_by(p) for p in pending)
            return None if agree else _Missed(node, tuple(node.inputs))
        other = ANY if passing.takes_shape_alone(node) and does is not WALL else EXACT
        for position, (value, given) in enumerate(zip(node.inputs, pending, strict=True)):
            target = other if position else does.needs
            if not target.met_by(given):
                return _Missed(node, (value,), target)
        if node.module is None or does is WALL or not does.alike:
            return None
        # A layer that depends on what its input stands for needs the same in every call.
        value, given = node.inputs[0], pending[0]
        whole = does.alike == "all"
        own = given if whole else Meaning(1.0, given.shift / given.scale)
        first, before = self.first.setdefault(node.name, (own, value))
        target = Target(*first) if whole else Target(shift=first.shift * given.scale)
        return None if target.met_by(given) else _Missed(node, (value, before), target)

    def _out(self, node: Node, does: Passing) -> Meaning:
        if does.how == "wall":
            return ONE
        given = self.pending[node.inputs[0]]
        if does.how == "source":
            return self.after(node.name)
        if does.how == "sum":
            first, second = (self.pending[v].shift for v in node.inputs)
            return given._replace(shift=does.weights[0] * first + does.weights[1] * second)
        if does.how == "join":
            return given
        out = does.line.forward(given)
        mode = "moved" if node.module is None else self.choices[node.name].mode
        return {"moved": out, "shifted": out._replace(shift=0.0), "explicit": ONE}[mode]

    def after(self, path: str) -> Meaning:
        """What comes out of a layer that gives what it is asked to."""
        choice = self.choices[path]
        if path not in self.plan.through or "scale" in choice.settled:
            return choice.after
        scale = self.first[path][0].scale
        return choice.after._replace(scale=scale if 1 / _NEAR < scale < _NEAR else 1.0)

    # What a call misses

    def resolved(self) -> Choices:
        """Choices with which more is settled."""
        node = self.missed.node
        if not self.missed.values:
            return self._with(node.name, "explicit", "scales would have piled up")
        for wishes in self._wishes(self.missed):
            choices = self._ask_all(self.choices, wishes)
            if choices is not None and choices != self.choices:
                return choices
        return self._given_up(self.missed)

    def _with(self, path: str, mode: str, reason: str) -> Choices:
        return {**self.choices, path: replace(self.choices[path], mode=mode, reason=reason)}

    def _wishes(self, missed: _Missed) -> Iterator[list[tuple[int, Target]]]:
        """What may be asked, and of whom: all that stands in one list together."""
        if missed.target is None:
            values = list(dict.fromkeys(missed.values))
            summed = missed.node.name not in passing.JOIN
            if self.plan.through and self.plan.wanted.isdisjoint(missed.node.outputs):
                # The nearest map gives back what its branch took along: others would feed the
                # branch itself.  Of two that are as near, the smaller one.
                far = partial(self._far, self.choices, part="scale")
                values = sorted(values, key=far, reverse=True)
            for reference in values:
                target = Target(*self.pending[reference])
                target = target._replace(shift=None) if summed else target
                yield [(v, target) for v in values if v != reference]
            return
        here, *others = missed.values
        given = Target(*self.pending[here])
        for other in others:
            # Two calls of one layer: at the same scale they can agree on the shift.
            yield [(other, given._replace(shift=None))]
            yield [(here, Target(*self.pending[other])._replace(shift=None))]
        yield [(here, missed.target)]
        yield from ([(other, given)] for other in others)

    def _given_up(self, missed: _Missed) -> Choices:
        if missed.target is None:
            # They need not agree if none of them brings anything.
            choices = self.choices
            for value in dict.fromkeys(missed.values):
                choices = self._settled(choices, value, False)
            return choices
        for beyond in (False, True):
            for value in missed.values:
                choices = self._settled(self.choices, value, missed.target == UNSHIFTED, beyond)
                if choices != self.choices:
                    return choices
        return self._with(missed.node.name, "kept", "nothing in front gives what it needs")

    def _settled(self, choices: Choices, value: int, half: bool, beyond: bool = False) -> Choices:
        """Keep the constants that have come to a value where they were."""
        waiting, done = [value], set()
        while waiting:
            value = waiting.pop()
            node = self.plan.producer.get(value)
            if node is None or value in done:
                continue
            done.add(value)
            if self.pending.get(value, ONE) == ONE and not beyond:
                continue
            if node.module is None:
                waiting += [] if node.opaque else node.inputs
                continue
            choice = self._keeping(node.name, choices[node.name], half)
            if choice != choices[node.name]:
                choices = {**choices, node.name: choice}
            elif not self.plan.gives(node.name):
                waiting += node.inputs
        return choices

    def _keeping(self, path: str, choice: Choice, half: bool) -> Choice:
        kind, plan = self.plan.kinds[path], self.plan
        if plan.gives(path):
            whole = choice.settled == _WHOLE
            return choice if whole else replace(choice, after=ONE, settled=_WHOLE)
        stays = (kind.name == "dropout" and plan.training) or not kind.normalised
        if stays or choice.mode in ("explicit", "kept"):
            return choice
        if half and choice.mode == "moved" and path in plan.can_shift:
            return replace(
                choice, mode="shifted", reason=f"the shift alone, for {self.missed.node}"
            )
        return replace(choice, mode="explicit", reason=f"shift and scale, for {self.missed.node}")

    # Asking those in front: each answer is a set of choices, or None.

    def _ask(self, choices: Choices, value: int, target: Target) -> Choices | None:
        """The choices with which a value stands for the target."""
        given = self.pending.get(value, ONE)
        if target.met_by(given):
            return choices
        node = self.plan.producer.get(value)
        if node is None or value != node.outputs[0]:
            return None
        does = self.plan.passing_of(node, choices)
        if does.how == "source":
            return self._ask_of_map(choices, node, given, target)
        if does.how == "join":
            return self._ask_all(choices, [(v, target) for v in node.inputs])
        if does.how == "sum":
            return self._ask_of_sum(choices, node, does, target)
        moved = node.module is None or choices[node.name].mode == "moved"
        if does.how == "wall" or not moved:
            return None
        wanted = does.line.backward(target, self.pending.get(node.inputs[0], ONE))
        can = all(
            need is None or part is None or abs(need - part) <= passing.CLOSE
            for need, part in zip(does.needs, wanted, strict=True)
        )
        return self._ask(choices, node.inputs[0], wanted) if can else None

    def _ask_all(self, choices, wishes) -> Choices | None:
        for value, target in wishes:
            choices = self._ask(choices, value, target)
            if choices is None:
                return None
        return choices

    def _ask_of_map(self, choices, node, given, target) -> Choices | None:
        choice, after = choices[node.name], target.filled(given)
        again = Target(**{part: getattr(choice.after, part) for part in choice.settled - {"whole"}})
        if not self.plan.gives(node.name) or not again.met_by(after) or not _in_range(after):
            return None
        wanted = {part for part, value in target._asdict().items() if value is not None}
        made = replace(choice, after=after, settled=choice.settled | wanted)
        return {**choices, node.name: made}

    def _ask_of_sum(self, choices, node, does, target) -> Choices | None:
        both = target._replace(shift=None)
        pending = [self.pending[v] for v in node.inputs]
        if not all(both.met_by(p) for p in pending):
            # A new scale for all is asked of all.
            choices = self._ask_all(choices, [(v, both) for v in node.inputs])
            if choices is None or target.shift is None:
                return choices
        # One of them takes the whole shift: the one whose map is nearer, which is the branch;
        # the other may have come through many a sum.
        for i in sorted(range(2), key=lambda i: self._far(choices, node.inputs[i], "shift")[0]):
            rest = target.shift - does.weights[1 - i] * pending[1 - i].shift
            wanted = target._replace(shift=rest / does.weights[i])
            made = self._ask(choices, node.inputs[i], wanted)
            if made is not None:
                return made
        return None

    def _far(self, choices: Choices, value: int, part: str) -> tuple[float, int]:
        """How many calls away a layer is that can be asked for this part, and how large it is."""
        steps = 0
        while True:
            node = self.plan.producer.get(value)
            if node is None or node.opaque or not node.inputs:
                return math.inf, 0
            if node.module is not None and self.plan.gives(node.name):
                settled = part in choices[node.name].settled
                return (math.inf, 0) if settled else (steps, self.plan.through.get(node.name, 0))
            value, steps = node.inputs[0], steps + 1


def _in_range(given: Meaning) -> bool:
    return 1 / _RANGE < given.scale < _RANGE and abs(given.shift) < _RANGE


def _tidy(given: Meaning) -> Meaning:
    """Without what rounding left of a shift."""
    return given._replace(shift=0.0) if abs(given.shift) <= passing.CLOSE else given


def _learns_apart(kind: Kind, module: nn.Module) -> bool:
    """Whether the scale that differs backward is that of the input, not of the parameters."""
    learnt = next(module.parameters(), None) is not None
    constants = kind.constants
    return kind.normalised and learnt and constants.forward != constants.backward
