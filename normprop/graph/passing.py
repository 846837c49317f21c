"""How calls pass on what their inputs stand for, and what they ask of them: one table.

Every tensor x' of a network to be made stands for x = scale·x' + shift of the network that is
there, and its gradient for ``gradient`` times that of the other.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import nn

from normprop import rules
from normprop.functional.parametric import Meaning
from normprop.graph.kinds import Kind
from normprop.graph.trace import Node

ONE = Meaning()
CLOSE = 2.0**-46
"""Products of the same constants in another order, and a shift that has cancelled, are as close."""


class Target(NamedTuple):
    """What a tensor has to stand for; None where it does not matter."""

    scale: float | None = None
    shift: float | None = None
    gradient: float | None = None

    def met_by(self, given: Meaning) -> bool:
        """Whether the tensor stands for it already."""
        return all(
            wanted is None or abs(wanted - part) <= CLOSE * max(abs(size), abs(wanted))
            for wanted, part, size in zip(self, given, (given.scale, 1.0, 1.0), strict=True)
        )

    def filled(self, given: Meaning) -> Meaning:
        """What is wanted, and where it does not matter what there is."""
        return Meaning(*(v if w is None else w for w, v in zip(self, given, strict=True)))


ANY, EXACT, UNSHIFTED = Target(), Target(*ONE), Target(shift=0.0)


@dataclass(frozen=True)
class Line:
    """What an output stands for, from what the input does.

    Its scale is slope·scale, its shift factor·shift + offset + lift·scale, and its gradient
    ratio·gradient.
    """

    slope: float = 1.0
    factor: float = 1.0
    offset: float = 0.0
    lift: float = 0.0
    ratio: float = 1.0

    def forward(self, given: Meaning) -> Meaning:
        """What the output stands for."""
        shift = self.factor * given.shift + self.offset + self.lift * given.scale
        return Meaning(self.slope * given.scale, shift, self.ratio * given.gradient)

    def backward(self, target: Target, given: Meaning) -> Target:
        """What the input would have to stand for."""
        scale, shift, gradient = target
        scale = None if scale is None else scale / self.slope
        if shift is not None:
            actual = given.scale if scale is None else scale
            shift = (shift - self.offset - self.lift * actual) / self.factor
        return Target(scale, shift, None if gradient is None else gradient / self.ratio)


How = Literal["line", "sum", "join", "source", "wall"]


@dataclass(frozen=True)
class Passing:
    """What a call does.

    How: "line", by its line; "sum" of inputs times its weights, which must be scaled alike; "join"
    of inputs that stand for the same; "source", a layer that gives what it is asked to give;
    "wall", whose inputs and outputs stay what they are.
    """

    how: How
    # What its first input has to stand for; every other, but of a sum or a join, for itself.
    needs: Target = ANY
    line: Line = Line()
    weights: tuple[float, float] = (1.0, 1.0)
    # Whether its input has to stand for the same in every call: all of it, or of a rectifier the
    # place of the kink.
    alike: Literal["", "all", "kink"] = ""


WALL = Passing("wall", EXACT)
_PASS = Passing("line")
_KEEP_ZERO = Passing("line", UNSHIFTED)


def of_layer(kind: Kind, module: nn.Module, training: bool) -> Passing:
    """What a layer does whose constants are to move away; in training, gradients matter."""
    learnt = training and next(module.parameters(), None) is not None
    # A slope that is learnt must not get the factor that is meant for its input.
    needs = Target(shift=0.0 if kind.needs_zero else None, gradient=1.0 if learnt else None)
    alike = ""
    match kind.name:
        case "opaque" | "remade":
            return WALL
        case "map":
            return Passing("source", Target(shift=needs.shift), alike="all")
        case "relative":
            return Passing("source", needs._replace(gradient=1.0), alike="all")
        case "batchnorm" | "norm":
            settled = training and kind.name == "batchnorm"
            return Passing("source", EXACT if settled else Target(gradient=1.0), alike="all")
        case "dropout" if training:
            needs = UNSHIFTED if module.constants.training.shift == 0.0 else EXACT
        case "curve":
            scale, shift = kind.before
            needs = Target(1 / scale, -shift / scale)
        case "clamp":
            rectifier = kind.limits == (0.0, math.inf) and kind.before == (1.0, 0.0)
            alike = "kink" if rectifier else "all"
    return Passing("line", needs, line_of(kind, module, training), alike=alike)


def line_of(kind: Kind, module: nn.Module, training: bool) -> Line:
    """What the output of the plain layer stands for, where its constants move away."""
    if kind.name == "dropout":
        factor = 1.0 if training else module.constants.evaluation
        return Line() if training else Line(factor, factor, -module.constants.center * factor)
    shift, forward, backward = kind.constants[:3]
    scale, moved = kind.before
    slope = scale / forward
    ratio = forward / backward if training else 1.0
    return Line(slope, slope, (moved - shift) / forward, 0.0, ratio)


def _number(node: Node, *known: str) -> float | None:
    """The other operand, where it is a number and no keyword but these is there."""
    if not node.arguments[1].keys() <= {"other", *known} or len(node.inputs) != 1:
        return None
    return _finite(node.argument(1, "other"))


def _finite(other: object) -> float | None:
    number = isinstance(other, int | float) and not isinstance(other, bool)
    return float(other) if number and math.isfinite(other) else None


def _by_number(line: Callable[[float], Line], zero: bool = False):
    """A call with a number of Python's, and whether that may be 0."""

    def passing(node: Node) -> Passing:
        number = _number(node)
        return (
            WALL if number is None or not (number or zero) else Passing("line", line=line(number))
        )

    return passing


def _sum(sign: float):
    def passing(node: Node) -> Passing:
        alpha, number = _finite(node.arguments[1].get("alpha", 1)), _number(node, "alpha")
        if alpha is None:
            return WALL
        if number is not None:
            number *= sign * alpha
            return Passing("line", line=Line(offset=number, lift=-number))
        plain = len(node.inputs) == 2 and node.arguments[1].keys() <= {"other", "alpha"}
        return Passing("sum", weights=(1.0, sign * alpha)) if plain and alpha else WALL

    return passing


def _pad(node: Node) -> Passing:
    if node.argument(2, "mode", "constant") != "constant":
        return _PASS
    return WALL if node.argument(3, "value") else _KEEP_ZERO


def _dropout(node: Node) -> Passing:
    return WALL if node.argument(2, "training", True) else _PASS


def _residual(node: Node) -> Passing:
    weight = node.argument(2, "weight", math.sqrt(0.5))
    if weight is None or len(node.inputs) != 2 or "branch" in node.arguments[1]:
        return WALL
    return Passing("sum", weights=(math.sqrt((1.0 - weight) * (1.0 + weight)), weight))


_PLACES = {
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim",
    "squeeze", "unsqueeze", "contiguous", "clone", "detach", "__getitem__", "chunk", "split",
    "unbind", "narrow", "select", "expand", "expand_as", "view_as", "reshape_as", "repeat",
    "roll", "flip", "alias", "positive", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
}  # fmt: skip
"""Functions that change no number but its place, and with which every affine map commutes."""

MOVES = _PLACES | {
    "to", "float", "double", "half", "bfloat16", "type_as", "t", "T", "mT",
}  # fmt: skip
"""Functions that change no number but its place or its type."""

_COMMUTING = _PLACES | {
    "mean", "amax", "amin", "interpolate", "max_pool1d", "max_pool2d", "max_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
}  # fmt: skip
_HOMOGENEOUS = (
    "relu", "relu_", "leaky_relu", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d",
)  # fmt: skip
ADD = {"add", "add_", "__add__", "__radd__", "__iadd__"}
SUB = {"sub", "sub_", "subtract", "__sub__", "__isub__"}
_SUB_FROM = ("rsub", "__rsub__")
_NEGATE = ("neg", "negative", "__neg__")
MULTIPLY = {"mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"}
DIVIDE = {"div", "div_", "divide", "true_divide", "__truediv__", "__div__", "__itruediv__"}
JOIN = {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"}
_SHAPES_OF_ANOTHER = ("view_as", "reshape_as", "expand_as")
_DROPOUTS = ("dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout")
_TABLE: dict[str, Passing | Callable[[Node], Passing]] = {
    name: passing
    for names, passing in (
        (_COMMUTING, _PASS),
        (_HOMOGENEOUS, _KEEP_ZERO),
        (_NEGATE, Passing("line", line=Line(factor=-1.0))),
        (ADD, _sum(1.0)),
        (SUB, _sum(-1.0)),
        (_SUB_FROM, _by_number(lambda n: Line(factor=-1.0, offset=n, lift=-n), zero=True)),
        (MULTIPLY, _by_number(lambda n: Line(factor=n))),
        (DIVIDE, _by_number(lambda n: Line(factor=1 / n))),
        (JOIN, Passing("join")),
        (_DROPOUTS, _dropout),
        (("pad",), _pad),
        (("functional.residual",), _residual),
    )
    for name in names
}


def of_function(node: Node) -> Passing:
    """What the call of a function does; where nothing is known of it, a wall."""
    known = WALL if "out" in node.arguments[1] else _TABLE.get(node.name, WALL)
    return known(node) if callable(known) else known


def takes_shape_alone(node: Node) -> bool:
    """Whether of its other inputs the shapes count, and nothing else."""
    return node.name in _SHAPES_OF_ANOTHER


def moves(node: Node) -> bool:
    """Whether a call changes no number but its place."""
    if node.module is None:
        return node.name in MOVES
    entry = rules.entry_of_type(type(node.module))
    return entry is not None and entry.quiet
