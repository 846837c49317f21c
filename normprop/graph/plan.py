"""Which constants can move into which layer.

Every tensor x' of the network to be made stands for x = scale·x' + shift of the network that
is there; where a layer is normalised, scale and shift are left to whoever comes behind.  Maps
take any of their input, and give any that is asked of their output.  Where somebody needs what
he does not get, he first asks those in front to give it; where none of them can, the constants
that have come to him stay where they were.  Each round settles a layer for good, so it ends.
"""

import math
from dataclasses import dataclass, field

from torch import Tensor, nn

from normprop.functional.parametric import Affine
from normprop.graph.kinds import Kind, kind_of
from normprop.graph.trace import Node, Trace

_ONE = Affine()
_RANGE = 2.0**24
"""Scales beyond this are not left pending: float32 holds 2^127, and half precision 2^15."""
_CLOSE = 2.0**-46
"""Products of the same constants in another order, and a shift that has cancelled, are as close."""
_PATIENCE = 6
"""How often what a map gives may be asked anew."""

_COMMUTING = {
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim",
    "squeeze", "unsqueeze", "contiguous", "clone", "detach", "__getitem__", "chunk", "split",
    "unbind", "narrow", "select", "expand", "expand_as", "view_as", "reshape_as", "repeat", "roll",
    "flip", "mean", "amax", "amin", "alias", "positive",
    "max_pool1d", "max_pool2d", "max_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "interpolate", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
}  # fmt: skip
_HOMOGENEOUS = {"relu", "relu_", "leaky_relu", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d"}
ADD = {"add", "add_", "__add__", "__radd__", "__iadd__"}
SUB = {"sub", "sub_", "subtract", "__sub__", "__isub__"}
_MUL = {"mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"}
_DIV = {"div", "div_", "divide", "true_divide", "__truediv__", "__div__", "__itruediv__"}
JOIN = {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"}


@dataclass(frozen=True)
class Target:
    """What a tensor has to stand for; None where it does not matter."""

    scale: float | None = None
    shift: float | None = None
    gradient: float | None = None

    @classmethod
    def of(cls, affine: Affine) -> "Target":
        """Exactly this."""
        return cls(*affine)

    def met_by(self, affine: Affine) -> bool:
        """Whether the tensor stands for it already."""
        for wanted, value, size in zip(
            (self.scale, self.shift, self.gradient), affine, (affine.scale, 1.0, 1.0), strict=True
        ):
            if wanted is not None and abs(wanted - value) > _CLOSE * max(abs(size), abs(wanted)):
                return False
        return True

    def filled(self, affine: Affine) -> Affine:
        """What is wanted, and where it does not matter what there is."""
        return Affine(*(v if w is None else w for w, v in zip(self._all(), affine, strict=True)))

    def _all(self):
        return self.scale, self.shift, self.gradient


class _ConflictError(Exception):
    """A value has to stand for something else; or these values for the same, at a sum."""

    def __init__(self, value: int, target: Target, other: int | None = None):
        self.value, self.target, self.other = value, target, other


class _JoinError(Exception):
    def __init__(self, node: Node, values: list[int], summed: bool):
        self.node, self.values, self.summed = node, values, summed


@dataclass
class Choice:
    """What is settled about a layer.

    Attributes:
        after: of a map, what its output stands for.
        pinned: of a map, whether that is settled.
        asked: of a map, how often it was asked.
        mode: of a normalised layer: "moved", its constants are somebody else's; "shifted", its
            scale is; "explicit", it keeps both.
        before: what the input stands for.
        reason: why the constants stay.
    """

    after: Affine = _ONE
    pinned: bool = False
    asked: int = 0
    mode: str = "moved"
    before: Affine = _ONE
    reason: str = ""


@dataclass
class Plan:
    """What becomes of every layer, by its path.

    Args:
        model: is looked at, not changed.
        traces: runs of it.
        training: whether gradients matter, and parameters stay what they are.
        kinds: of its layers, by their paths.
        can_shift: paths of the layers that may keep their shift and give away their scale.
    """

    model: nn.Module
    traces: list[Trace]
    training: bool
    kinds: dict[str, Kind]
    can_shift: set[str]
    choices: dict[str, Choice] = field(default_factory=dict)

    def __post_init__(self):
        self.nodes = [node for trace in self.traces for node in trace.nodes]
        self.producer = {v: n for trace in self.traces for v, n in trace.producer.items()}
        read = set().union(*(trace.read for trace in self.traces))
        written = set().union(*(trace.written for trace in self.traces))
        for node in self.nodes:
            if node.module is not None and node.name not in self.choices:
                choice = Choice()
                if any(id(p) in read for p in (*node.module.parameters(),)) and not self.training:
                    choice.pinned, choice.mode = True, "explicit"
                    choice.reason = "its weights are read outside of it"
                elif node.name in written and self.kinds[node.name].normalised:
                    choice.pinned, choice.mode = True, "explicit"
                    choice.reason = "what it gives is written in place"
                elif self.training and _learns_apart(self.kinds[node.name], node.module):
                    choice.mode, choice.reason = "explicit", "its slope is learnt"
                self.choices[node.name] = choice
        self.fixed = {p for p, c in self.choices.items() if c.pinned}
        self._solve()

    # Rounds

    def _solve(self):
        while True:
            try:
                self._propagate()
                return
            except _ConflictError as conflict:
                if not any(self._ask(*question) for question in self._questions(conflict)):
                    self._give_up(conflict)
            except _JoinError as conflict:
                if not self._agree(conflict):
                    self._part(conflict)

    def _propagate(self):
        self.pending: dict[int, Affine] = {}
        self.seen: dict[str, tuple[Affine, int]] = {}
        for node in self.nodes:
            for value in node.inputs:
                self.pending.setdefault(value, _ONE)
            self.current = node
            out = self._through(node)
            for position, value in enumerate(node.outputs):
                # What comes beside the first output of a pooling are indices.
                indices = position and node.module is not None
                self.pending[value] = _ONE if indices else _tidy(out)

    def _through(self, node: Node) -> Affine:
        if node.opaque or not node.inputs:
            for value in node.inputs:
                self._need(value, Target.of(_ONE))
            return _ONE
        if node.module is not None:
            return self._through_module(node)
        return self._through_function(node)

    def _need(self, value: int, target: Target):
        if not target.met_by(self.pending[value]):
            raise _ConflictError(value, target)

    def _same(self, node: Node, value: int):
        """A layer that depends on what its input stands for needs the same in every call."""
        pending = self.pending[value]
        first, other = self.seen.setdefault(node.name, (pending, value))
        if not Target.of(first).met_by(pending):
            raise _ConflictError(value, Target.of(first), other)
        self.choices[node.name].before = first

    def _same_threshold(self, node: Node, value: int):
        scale, shift, _ = self.pending[value]
        (_, first, _), other = self.seen.setdefault(node.name, (Affine(1.0, shift / scale), value))
        target = Target(shift=first * scale)
        if not target.met_by(self.pending[value]):
            raise _ConflictError(value, target, other)
        self.choices[node.name].before = Affine(1.0, first)

    def _through_module(self, node: Node) -> Affine:
        kind, choice, value = self.kinds[node.name], self.choices[node.name], node.inputs[0]
        for other in node.inputs[1:]:
            self._need(other, Target.of(_ONE))
        if node.opaque:
            return _ONE
        if node.name in self.fixed or kind.name == "opaque":
            self._need(value, Target.of(_ONE))
            return _ONE
        if kind.name == "map":
            if kind.needs_zero:
                self._need(value, Target(shift=0.0))
            self._same(node, value)
            return choice.after
        if kind.name in ("norm", "batchnorm"):
            self._need(value, Target(gradient=1.0))
            if kind.name == "batchnorm" and self.training:
                self._need(value, Target.of(_ONE))
            self._same(node, value)
            return _ONE
        return self._through_normalised(node, kind, choice, value)

    def _through_normalised(self, node, kind, choice, value):
        needs = self._needs(kind, choice, node.module)
        self._need(value, needs)
        if choice.mode == "explicit" and self._stays(node.module):
            return _ONE
        if choice.mode != "moved" or (kind.name == "clamp" and not _is_plain_relu(kind)):
            self._same(node, value)
        elif kind.name == "clamp":
            self._same_threshold(node, value)
        out = self.after(kind, node.module, self.pending[value])
        if choice.mode == "explicit":
            return _ONE
        if choice.mode == "shifted":
            out = out._replace(shift=0.0)
        if not 1 / _RANGE < out.scale < _RANGE or abs(out.shift) > _RANGE:
            choice.mode, choice.reason = "explicit", "scales would have piled up"
            return self._through_normalised(node, kind, choice, value)
        return out

    def _stays(self, module: nn.Module) -> bool:
        """Whether the layer, where its constants stay, stays what it is."""
        return self.training or keeps_itself(module)

    def _needs(self, kind: Kind, choice: Choice, module) -> Target:
        if choice.mode == "explicit" and self._stays(module):
            return Target.of(_ONE)
        if kind.name == "curve":
            scale, shift = kind.before
            return Target(1 / scale, -shift / scale)
        if kind.name == "dropout" and self.training:
            shift = module.constants.training.shift
            return Target(shift=0.0) if shift == 0.0 else Target.of(_ONE)
        # A slope that is learnt must not get the factor that is meant for its input.
        learnt = self.training and next(module.parameters(), None) is not None
        shift, gradient = 0.0 if kind.needs_zero else None, 1.0 if learnt else None
        return Target(shift=shift, gradient=gradient)

    def after(self, kind: Kind, module, given: Affine) -> Affine:
        """What the output of the plain layer stands for."""
        if kind.name == "dropout":
            if self.training:
                return given
            shift, factor = module.constants.training.shift, module.constants.evaluation
            return Affine(given.scale * factor, (given.shift - shift) * factor)
        shift, forward, backward = kind.constants
        scale, moved = kind.before
        inner = Affine(given.scale * scale, given.shift * scale + moved)
        if kind.name == "curve":
            inner = _ONE
        gradient = given.gradient * (forward / backward) if self.training else 1.0
        return Affine(inner.scale / forward, (inner.shift - shift) / forward, gradient)

    # Functions

    def _through_function(self, node: Node) -> Affine:
        name, inputs = node.name, node.inputs
        args, kwargs = node.arguments
        first = self.pending[inputs[0]]
        if name in JOIN:
            return self._through_join(node, summed=False)
        if name in ADD | SUB and set(kwargs) <= {"other"}:
            return self._through_sum(node, args, kwargs)
        if name in _MUL | _DIV:
            factor = _number(args, kwargs)
            if factor is not None and factor != 0 and set(kwargs) <= {"other"}:
                shift = first.shift * factor if name in _MUL else first.shift / factor
                return first._replace(shift=shift)
        for value in inputs[1:]:
            if name not in ("view_as", "reshape_as", "expand_as"):
                self._need(value, Target.of(_ONE))
        if name in _COMMUTING or _is_quiet_dropout(node):
            return first
        if name in _HOMOGENEOUS:
            self._need(inputs[0], Target(shift=0.0))
            return first
        if name == "pad":
            mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
            fill = kwargs.get("value", args[3] if len(args) > 3 else None)
            if mode == "constant":
                self._need(inputs[0], Target(shift=0.0) if not fill else Target.of(_ONE))
            return first
        for value in inputs:
            self._need(value, Target.of(_ONE))
        return _ONE

    def _through_sum(self, node, args, kwargs):
        number = _number(args, kwargs)
        first = self.pending[node.inputs[0]]
        sign = 1 if node.name in ADD else -1
        if number is not None:
            return first._replace(shift=first.shift + sign * number * (1.0 - first.scale))
        if len(node.inputs) != 2:
            for value in node.inputs:
                self._need(value, Target.of(_ONE))
            return _ONE
        return self._through_join(node, summed=True, sign=sign)

    def _through_join(self, node, summed, sign=1):
        pending = [self.pending[v] for v in node.inputs]
        head = pending[0]
        target = Target(head.scale, None if summed else head.shift, head.gradient)
        if not all(target.met_by(p) for p in pending):
            raise _JoinError(node, node.inputs, summed)
        if not summed:
            return head
        return head._replace(shift=head.shift + sign * pending[1].shift)

    # Asking

    def _questions(self, conflict: _ConflictError):
        """What may be asked, and of whom."""
        value, other = conflict.value, conflict.other
        if other is not None:
            # Two calls of one layer: at the same scale they can agree on the shift.
            here, there = self.pending[value], self.pending[other]
            yield other, Target(here.scale, None, here.gradient)
            yield value, Target(there.scale, None, there.gradient)
        yield value, conflict.target
        if other is not None:
            yield other, Target.of(here)

    def _ask(self, value: int, target: Target) -> bool:
        """Ask those in front for what a value shall stand for; nothing changes if they cannot."""
        before = {p: Choice(**vars(c)) for p, c in self.choices.items()}
        if not target.met_by(self.pending[value]) and self._request(value, target):
            return True
        self.choices = before
        return False

    def _request(self, value: int, target: Target) -> bool:
        current = self.pending.get(value, _ONE)
        if target.met_by(current):
            return True
        node = self.producer.get(value)
        if node is None or node.opaque or not node.inputs or value != node.outputs[0]:
            return False
        if node.module is not None:
            return self._request_of_module(node, current, target)
        return self._request_of_function(node, current, target)

    def _request_of_module(self, node, current, target) -> bool:
        kind, choice = self.kinds[node.name], self.choices[node.name]
        if node.name in self.fixed:
            return False
        if kind.name == "map":
            if choice.pinned or choice.asked >= _PATIENCE:
                return False
            choice.asked += 1
            choice.after = target.filled(current)
            return choice.after.scale > 0 and self._in_range(choice.after)
        if kind.name in ("norm", "batchnorm", "opaque", "curve") or choice.mode != "moved":
            return False
        if kind.name == "dropout":
            if self.training and target.shift not in (None, 0.0):
                return False
            factor = 1.0 if self.training else node.module.constants.evaluation
            shift = 0.0 if self.training else node.module.constants.training.shift
            constants = (shift, 1 / factor, 1 / factor)
        else:
            constants = kind.constants
        shift, forward, backward = constants
        scale, moved = kind.before
        ratio = forward / backward if self.training else 1.0
        wanted = Target(
            None if target.scale is None else target.scale * forward / scale,
            None if target.shift is None else (target.shift * forward + shift - moved) / scale,
            None if target.gradient is None else target.gradient / ratio,
        )
        if kind.needs_zero and wanted.shift is not None and abs(wanted.shift) > _CLOSE:
            return False
        return self._request(node.inputs[0], wanted)

    def _request_of_function(self, node, current, target) -> bool:
        args, kwargs = node.arguments
        name, inputs = node.name, node.inputs
        if name in JOIN:
            return all(self._request(v, target) for v in inputs)
        number = _number(args, kwargs)
        if name in ADD | SUB and number is None:
            return self._request_of_sum(node, current, target)
        if name in ADD | SUB:
            sign = 1 if name in ADD else -1
            scale = current.scale if target.scale is None else target.scale
            shift = target.shift
            if shift is not None:
                shift -= sign * number * (1.0 - scale)
            return self._request(inputs[0], Target(target.scale, shift, target.gradient))
        if name in _MUL | _DIV and number:
            factor = number if name in _MUL else 1 / number
            shift = None if target.shift is None else target.shift / factor
            return self._request(inputs[0], Target(target.scale, shift, target.gradient))
        homogeneous = name in _HOMOGENEOUS or name == "pad"
        if homogeneous and target.shift not in (None, 0.0):
            return False
        if homogeneous or name in _COMMUTING or _is_quiet_dropout(node):
            return self._request(inputs[0], target)
        return False

    def _request_of_sum(self, node, current, target) -> bool:
        sign = 1 if node.name in ADD else -1
        both = Target(target.scale, None, target.gradient)
        pending = [self.pending[v] for v in node.inputs]
        if not all(both.met_by(p) for p in pending):
            # A new scale for all is asked of all.
            if not all(self._request(v, both) for v in node.inputs):
                return False
            if target.shift is None:
                return True
        # One of them takes the whole shift: the one whose map is nearer, which is the branch;
        # the other may have come through many a sum.
        order = sorted(range(2), key=lambda i: self._distance(node.inputs[i]))
        saved = {p: Choice(**vars(c)) for p, c in self.choices.items()}
        for i in order:
            other = pending[1 - i].shift * (1 if i == 1 else sign)
            shift = (target.shift - other) * (1 if i == 0 else sign)
            if self._request(node.inputs[i], Target(target.scale, shift, target.gradient)):
                return True
            self.choices = {p: Choice(**vars(c)) for p, c in saved.items()}
        return False

    def _distance(self, value: int) -> float:
        """Number of calls between a value and the next map in front that can be asked."""
        steps = 0
        while True:
            node = self.producer.get(value)
            if node is None or node.opaque or not node.inputs:
                return math.inf
            if node.module is not None and self.kinds[node.name].name == "map":
                return steps if not self.choices[node.name].pinned else math.inf
            value, steps = node.inputs[0], steps + 1

    def _agree(self, conflict: _JoinError) -> bool:
        """Take what one of the joined stands for, if the others can give it."""
        values = list(dict.fromkeys(conflict.values))
        for reference in values:
            wanted = self.pending[reference]
            others = [v for v in values if v != reference]
            before = {p: Choice(**vars(c)) for p, c in self.choices.items()}
            for zeroed in (True, False) if conflict.summed else (False,):
                shift = wanted.shift if not conflict.summed else None
                if zeroed:
                    sign = 1 if conflict.node.name in ADD else -1
                    shift = -sign * wanted.shift
                target = Target(wanted.scale, shift, wanted.gradient)
                if all(self._request(v, target) for v in others):
                    return True
                self.choices = {p: Choice(**vars(c)) for p, c in before.items()}
        return False

    @staticmethod
    def _in_range(affine: Affine) -> bool:
        return 1 / _RANGE < affine.scale < _RANGE and abs(affine.shift) < _RANGE

    # Giving up

    def _give_up(self, conflict: _ConflictError):
        half = conflict.target == Target(shift=0.0)
        for value in (conflict.value, conflict.other):
            if value is not None and self._settle(value, half):
                return
        for value in (conflict.value, conflict.other):
            if value is not None and self._settle(value, half, beyond=True):
                return
        raise RuntimeError(f"no layer in front of {self.current.name} could be settled")

    def _part(self, conflict: _JoinError):
        settled = [self._settle(v, False) for v in dict.fromkeys(conflict.values)]
        if not any(settled):
            raise RuntimeError(f"no layer in front of {self.current.name} could be settled")

    def _settle(self, value: int, half: bool, beyond: bool = False) -> bool:
        """Keep the constants that have come to a value where they were."""
        stack, done, settled = [value], set(), False
        while stack:
            value = stack.pop()
            node = self.producer.get(value)
            if node is None or value in done:
                continue
            done.add(value)
            if self.pending.get(value, _ONE) == _ONE and not beyond:
                continue
            if node.module is None:
                if not node.opaque:
                    stack += node.inputs
                continue
            found = self._settle_layer(node, half)
            settled = settled or found
            if not found and self.kinds[node.name].name != "map":
                stack += node.inputs
        return settled

    def _settle_layer(self, node: Node, half: bool) -> bool:
        kind, choice = self.kinds[node.name], self.choices[node.name]
        if kind.name == "map":
            if choice.pinned:
                return False
            choice.after, choice.pinned = _ONE, True
            return True
        if kind.name in ("norm", "batchnorm", "opaque") or not kind.normalised:
            return False
        if kind.name == "dropout" and self.training:
            return False
        if choice.mode == "explicit":
            return False
        shiftable = half and choice.mode == "moved" and node.name in self.can_shift
        choice.mode = "shifted" if shiftable else "explicit"
        what = "the shift alone" if shiftable else "shift and scale"
        choice.reason = f"{what}, for {self.current}"
        return True


def keeps_itself(module: nn.Module) -> bool:
    """Whether nothing can be put behind a layer: for its keys' sake, or as it gives two things."""
    learnt = next(module.parameters(), None) is not None
    return learnt or getattr(module, "return_indices", False)


def kinds_of(model: nn.Module) -> dict[str, Kind]:
    """The kind of every layer whose kind is known, by its path."""
    found = ((path, kind_of(module)) for path, module in model.named_modules())
    return {path: kind for path, kind in found if kind is not None}


def _learns_apart(kind: Kind, module: nn.Module) -> bool:
    """Whether the scale that differs backward is that of the input, not of the parameters."""
    learnt = next(module.parameters(), None) is not None
    return kind.normalised and learnt and kind.constants.forward != kind.constants.backward


def _tidy(affine: Affine) -> Affine:
    """Without what rounding left of a shift."""
    return affine._replace(shift=0.0) if abs(affine.shift) <= _CLOSE else affine


def _is_plain_relu(kind: Kind) -> bool:
    return kind.limits == (0.0, math.inf) and kind.before == (1.0, 0.0)


def _number(args, kwargs) -> float | None:
    """The other operand, where it is a number."""
    other = args[1] if len(args) > 1 else kwargs.get("other")
    if isinstance(other, bool | Tensor):
        return None
    if not isinstance(other, int | float):
        return None
    return float(other) if math.isfinite(other) else None


def _is_quiet_dropout(node: Node) -> bool:
    if "dropout" not in node.name or "." in node.name:
        return False
    args, kwargs = node.arguments
    return not kwargs.get("training", args[2] if len(args) > 2 else True)
