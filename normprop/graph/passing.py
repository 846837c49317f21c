"""How calls pass on what their inputs stand for, and what they ask of them: one table.

Every tensor x' of a network to be made stands for x = scale·x' + shift of the network that is
there, and its gradient for ``gradient`` times that of the other.
"""

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

from normprop.functional.parametric import Affine
from normprop.graph.kinds import Kind
from normprop.graph.trace import Node

ONE = Affine()
CLOSE = 2.0**-46
"""Products of the same constants in another order, and a shift that has cancelled, are as close."""


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
        for wanted, value, size in zip(self.parts(), affine, (affine.scale, 1.0, 1.0), strict=True):
            if wanted is not None and abs(wanted - value) > CLOSE * max(abs(size), abs(wanted)):
                return False
        return True

    def filled(self, affine: Affine) -> Affine:
        """What is wanted, and where it does not matter what there is."""
        return Affine(*(v if w is None else w for w, v in zip(self.parts(), affine, strict=True)))

    def parts(self) -> tuple[float | None, ...]:
        """In the order of an :class:`Affine`."""
        return self.scale, self.shift, self.gradient


EXACT = Target.of(ONE)
ANY = Target()
UNSHIFTED = Target(shift=0.0)


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

    def forward(self, given: Affine) -> Affine:
        """What the output stands for."""
        shift = self.factor * given.shift + self.offset + self.lift * given.scale
        return Affine(self.slope * given.scale, shift, self.ratio * given.gradient)

    def backward(self, target: Target, given: Affine) -> Target:
        """What the input would have to stand for."""
        scale, shift, gradient = target.parts()
        scale = None if scale is None else scale / self.slope
        if shift is not None:
            actual = given.scale if scale is None else scale
            shift = (shift - self.offset - self.lift * actual) / self.factor
        return Target(scale, shift, None if gradient is None else gradient / self.ratio)


How = Literal["line", "sum", "join", "source", "wall"]


@dataclass(frozen=True)
class Passing:
    """What a call does.

    Attributes:
        how: "line", by ``line``; "sum" of inputs times ``weights``, which must be scaled alike;
            "join" of inputs that stand for the same; "source", a layer that gives what it is
            asked to give; "wall", whose inputs and outputs stay what they are.
        needs: what its first input has to stand for; every other, but of a sum or a join, has
            to stand for itself.
        line: of a line.
        weights: of a sum.
        alike: whether its input has to stand for the same in every call: ``"all"`` of it, or
            of a rectifier the place of the ``"kink"``.
    """

    how: How
    needs: Target = ANY
    line: Line = Line()
    weights: tuple[float, float] = (1.0, 1.0)
    alike: Literal["", "all", "kink"] = ""


WALL = Passing("wall", EXACT)
_PASS = Passing("line")
_KEEP_ZERO = Passing("line", UNSHIFTED)

# Layers.


def of_layer(kind: Kind, module: nn.Module, training: bool) -> Passing:
    """What a layer does whose constants are to move away.

    Args:
        kind: of the layer.
        module: the layer.
        training: whether gradients matter.
    """
    learnt = training and next(module.parameters(), None) is not None
    # A slope that is learnt must not get the factor that is meant for its input.
    needs = Target(shift=0.0 if kind.needs_zero else None, gradient=1.0 if learnt else None)
    if kind.name == "map":
        return Passing("source", Target(shift=needs.shift), alike="all")
    if kind.name in ("norm", "batchnorm"):
        settled = kind.name == "batchnorm" and training
        return Passing("source", EXACT if settled else Target(gradient=1.0), alike="all")
    if kind.name in ("opaque", "remade"):
        return WALL
    if kind.name == "dropout" and training:
        shift = module.constants.training.shift
        return _KEEP_ZERO if shift == 0.0 else Passing("line", EXACT)
    line = line_of(kind, module, training)
    if kind.name == "curve":
        scale, shift = kind.before
        return Passing("line", Target(1 / scale, -shift / scale), line)
    if kind.name == "clamp":
        rectifier = kind.limits == (0.0, math.inf) and kind.before == (1.0, 0.0)
        return Passing("line", needs, line, alike="kink" if rectifier else "all")
    return Passing("line", needs, line)


def line_of(kind: Kind, module: nn.Module, training: bool) -> Line:
    """What the output of the plain layer stands for, where its constants move away."""
    if kind.name == "dropout":
        if training:
            return Line()
        constants = module.constants
        factor = constants.evaluation
        return Line(factor, factor, -constants.center * factor)
    shift, forward, backward = kind.constants
    scale, moved = kind.before
    slope = scale / forward
    ratio = forward / backward if training else 1.0
    return Line(slope, slope, (moved - shift) / forward, 0.0, ratio)


# Functions.


def _add(node: Node) -> Passing:
    return _sum(node, 1.0)


def _subtract(node: Node) -> Passing:
    return _sum(node, -1.0)


def _sum(node: Node, sign: float) -> Passing:
    alpha = node.arguments[1].get("alpha", 1)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        return WALL
    number = _number(node, "alpha")
    if number is not None:
        number *= sign * alpha
        return Passing("line", line=Line(offset=number, lift=-number))
    plain = len(node.inputs) == 2 and set(node.arguments[1]) <= {"other", "alpha"}
    return Passing("sum", weights=(1.0, sign * alpha)) if plain and alpha else WALL


def _subtract_from(node: Node) -> Passing:
    number = _number(node)
    if number is None:
        return WALL
    return Passing("line", line=Line(factor=-1.0, offset=number, lift=-number))


def _multiply(node: Node) -> Passing:
    number = _number(node)
    return Passing("line", line=Line(factor=number)) if number else WALL


def _divide(node: Node) -> Passing:
    number = _number(node)
    return Passing("line", line=Line(factor=1 / number)) if number else WALL


def _pad(node: Node) -> Passing:
    args, kwargs = node.arguments
    mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
    fill = kwargs.get("value", args[3] if len(args) > 3 else None)
    if mode != "constant":
        return _PASS
    return WALL if fill else _KEEP_ZERO


def _dropout(node: Node) -> Passing:
    args, kwargs = node.arguments
    return WALL if kwargs.get("training", args[2] if len(args) > 2 else True) else _PASS


def _residual(node: Node) -> Passing:
    args, kwargs = node.arguments
    weight = kwargs.get("weight", args[2] if len(args) > 2 else math.sqrt(0.5))
    if weight is None or len(node.inputs) != 2 or "branch" in kwargs:
        return WALL
    return Passing("sum", weights=(math.sqrt((1.0 - weight) * (1.0 + weight)), weight))


def _always(passing: Passing):
    return lambda node: passing


_COMMUTING = (
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim",
    "squeeze", "unsqueeze", "contiguous", "clone", "detach", "__getitem__", "chunk", "split",
    "unbind", "narrow", "select", "expand", "expand_as", "view_as", "reshape_as", "repeat", "roll",
    "flip", "mean", "amax", "amin", "alias", "positive",
    "max_pool1d", "max_pool2d", "max_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "interpolate", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
)  # fmt: skip
_HOMOGENEOUS = (
    "relu", "relu_", "leaky_relu", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d",
)  # fmt: skip
ADD = {"add", "add_", "__add__", "__radd__", "__iadd__"}
SUB = {"sub", "sub_", "subtract", "__sub__", "__isub__"}
_MULTIPLY = ("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__")
_DIVIDE = ("div", "div_", "divide", "true_divide", "__truediv__", "__div__", "__itruediv__")
JOIN = {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"}
_SHAPES_OF_ANOTHER = ("view_as", "reshape_as", "expand_as")
_DROPOUTS = ("dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout")
_TABLE = {
    **dict.fromkeys(_COMMUTING, _always(_PASS)),
    **dict.fromkeys(_HOMOGENEOUS, _always(_KEEP_ZERO)),
    **dict.fromkeys(("neg", "negative", "__neg__"), _always(Passing("line", line=Line(factor=-1)))),
    **dict.fromkeys(ADD, _add),
    **dict.fromkeys(SUB, _subtract),
    **dict.fromkeys(("rsub", "__rsub__"), _subtract_from),
    **dict.fromkeys(_MULTIPLY, _multiply),
    **dict.fromkeys(_DIVIDE, _divide),
    **dict.fromkeys(JOIN, _always(Passing("join"))),
    **dict.fromkeys(_DROPOUTS, _dropout),
    "pad": _pad,
    "functional.residual": _residual,
}


def of_function(node: Node) -> Passing:
    """What the call of a function does; where nothing is known of it, a wall."""
    known = _TABLE.get(node.name)
    return WALL if known is None or "out" in node.arguments[1] else known(node)


def takes_shape_alone(node: Node) -> bool:
    """Whether of its other inputs the shapes count, and nothing else."""
    return node.name in _SHAPES_OF_ANOTHER


def _number(node: Node, *known: str) -> float | None:
    """The other operand, where it is a number and no keyword but these is there."""
    args, kwargs = node.arguments
    if not set(kwargs) <= {"other", *known} or len(node.inputs) != 1:
        return None
    other = args[1] if len(args) > 1 else kwargs.get("other")
    if isinstance(other, bool) or not isinstance(other, int | float):
        return None
    return float(other) if math.isfinite(other) else None
