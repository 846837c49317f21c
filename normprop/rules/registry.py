"""The layers that have constants, by type, and those that have none, with the reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from normprop.gaussian import Figures, Function, Image, Law, Normal
from normprop.gaussian.law import says_something
from normprop.rules.arguments import NeedsShapeError

__all__ = [
    "Entry", "Moments", "declared", "entry_of_type", "entry_that_applies", "inherit", "lookup",
    "refuse", "register", "register_each",
]  # fmt: skip

CLOSED = "closed form"

Figure = TypeVar("Figure", float, NDArray[np.float64])
"""One for all elements, or one a channel."""


@dataclass(frozen=True)
class Moments(Generic[Figure]):
    r"""The figures of a layer.

    Attributes:
        fwd_mean: mean of an output element.
        fwd_std: standard deviation of an output element.
        bwd_std: standard deviation of the gradient at an input element, for an arriving
            gradient of standard deviation 1.
        error: bound on the absolute error of every one of these figures, rounding included;
            ``math.inf`` where no bound is known.
        method: ``"closed form"``, ``"quadrature"``, or ``"asymptotic, O(1/n)"`` with the order
            of the relative error in the number that is taken for large.

    The figures are floats; for layers with weights they are float64 arrays, one entry for
    each output channel (forward) or input channel (backward).  To a type checker the first are
    ``Moments[float]``, the second ``Moments[NDArray[np.float64]]``.

    Raises:
        ValueError: a figure is no number, or the bound says nothing: it exceeds a hundredth of
            the largest of them.
    """

    fwd_mean: Figure
    fwd_std: Figure
    bwd_std: Figure
    error: float
    method: str

    def __post_init__(self) -> None:
        figures = np.hstack([self.fwd_mean, self.fwd_std, self.bwd_std]).tolist()
        error = 0.0 if self.method.startswith("asymptotic") else self.error
        if not says_something(figures, error):
            raise ValueError(
                "figures must be numbers of float64, and their bound at most a hundredth of the "
                f"largest; at this law they are {figures[:3]} ± {self.error:.1g}"
            )


def moments_of(figures: Figures) -> Moments[float]:
    """Figures of one number a place, as those of a layer."""
    return Moments(figures.mean, figures.std, figures.slope, figures.error, figures.method)


Rule = Callable[..., Moments]
"""From the module and the law of its input, and the shape of a sample where the entry says so."""

ImageRule = Callable[[nn.Module, Normal], Image]
Grade = Literal["exact", "asymptotic"]
Family = Literal[
    "activation", "attention", "composite", "distance", "dropout", "loss", "map", "moving",
    "padding", "pool", "resizing", "softmax", "statistics",
]  # fmt: skip
"""What a layer is to a network: "map" has weights, "moving" changes no number but its place."""

Algebra = Literal[
    "batchnorm", "clamp", "commuting", "curve", "homogeneous", "map", "norm", "remade"
]  # fmt: skip
"""What becomes of an affine map of the input.

"map": linear but for a bias; "clamp" to ``limits``; "homogeneous": f(cx) = c f(x) for c > 0;
"commuting" with every affine map; "norm": no affine map of the input changes the output, nor, in
training, that of a "batchnorm"; "remade": no constant goes into them or comes out, as the
output is no such map of the input; "curve": any other function.
"""


def _never(layer: nn.Module) -> bool:
    return False


@dataclass(frozen=True)
class Entry:
    """What is known of a type of module."""

    # From the module and the law of its input to :class:`Moments`; ``None`` where there are none.
    rule: Rule | None
    # For activations, from the module and the normal law of its input to the law of its output.
    image: ImageRule | None = None
    grade: Grade = "exact"  # ``"exact"``, or ``"asymptotic"`` where the figures hold in a limit
    # What a reader of the table of all layers should know: the order of an asymptotic figure, or
    # why there is none.
    note: str = ""
    # Whether the rule has a third argument, the shape of a sample, or ``None`` where it was not
    # given.
    shaped: bool = False
    # Where a shaped layer's twin is normalised by other figures than the rule's.
    declares: Rule | None = None
    family: Family | None = None  # what the layer is to a network
    # What becomes of an affine map of its input; ``None`` where nothing is known.
    algebra: Algebra | None = None
    limits: Callable[[nn.Module], tuple[float, float]] | None = None  # of a clamp, from the module
    # From the module, whether only maps without a shift pass as ``algebra`` says.
    needs_zero: Callable[[nn.Module], bool] = _never
    # From the module, whether it draws random numbers in the mode that it is in.
    draws: Callable[[nn.Module], bool] = _never
    # From the module, whether a forward pass in training changes it.
    keeps_state: Callable[[nn.Module], bool] = _never

    @property
    def quiet(self) -> bool:
        """Whether it moves numbers, and changes none but at a border."""
        return self.family in ("moving", "padding")

    @property
    def converts(self) -> bool:
        """Whether a normalised network has the layer's twin: where there is something to do."""
        taken = ("activation", "attention", "dropout", "map", "pool", "resizing")
        return self.rule is not None and self.family in taken


_entries: dict[type, Entry] = {}


def register(module_type: type, rule: Rule, image: ImageRule | None = None, **facts) -> None:
    """Tell :func:`moments` how to measure a class, by the attributes of its :class:`Entry`.

    Subclasses follow only while they keep its ``forward``.
    """
    _entries[module_type] = Entry(rule, image, **facts)


def register_each(
    name: str, rule: Callable[..., Moments], dims: Sequence[int] = (1, 2, 3), **facts
) -> None:
    """The same for the classes of torch of one name, whose number of dimensions a rule takes first.

    ``MaxPool`` stands for ``nn.MaxPool1d``, ``nn.MaxPool2d`` and ``nn.MaxPool3d``.
    """
    for each in dims:
        register(getattr(nn, f"{name}{each}d"), partial(rule, each), **facts)


def inherit(module_type: type, parent: type, rule: Rule, image: ImageRule | None = None) -> None:
    """Make a twin known: a rule of its own, and every other fact of its parent."""
    _entries[module_type] = replace(_entries[parent], rule=rule, image=image)


def refuse(module_type: type, reason: str, **facts) -> None:
    """Say why a type of module has no constants: one sentence, from a small letter on.

    It stands in the error of :func:`moments` and in the table of all layers.
    """
    _entries[module_type] = Entry(None, note=reason, **facts)


def entry_of_type(module_type: type) -> Entry | None:
    """What is known of exactly this type."""
    return _entries.get(module_type)


def lookup(layer: nn.Module) -> Entry | None:
    """What is known of a module, by its type or a parent whose ``forward`` it keeps."""
    return entry_that_applies(type(layer))


def entry_that_applies(module_type: type) -> Entry | None:
    """What is known of a type, or of a parent whose ``forward`` it keeps."""
    for parent in module_type.__mro__:
        if parent in _entries:
            # A subclass with a forward of its own computes something else.
            kept = module_type.forward is parent.forward
            return _entries[parent] if kept else None
    return None


def declared(
    layer: nn.Module, law: Law, shape: Sequence[int] | None = None, module_type: type | None = None
) -> Moments:
    """The figures that a layer's twin is normalised by.

    They are those that need no shape, of the interior, where there are such.  The layer is one of
    torch, or has the attributes of one of ``module_type``.
    """
    entry = _entries[module_type or type(layer)]
    if not entry.shaped:
        return entry.rule(layer, law)
    if entry.declares is not None:
        return entry.declares(layer, law, shape)
    try:
        return entry.rule(layer, law, None)
    except NeedsShapeError:
        if shape is None:
            raise
        return entry.rule(layer, law, tuple(shape))


def rule_of(layer: nn.Module) -> Rule:
    """How to measure a module."""
    entry = lookup(layer)
    if entry is None:
        known = [t for t, entry in _entries.items() if entry.rule is not None]
        # As users write them: torch.nn.ReLU, normprop.nn.ReLU.
        names = {f"{t.__module__.split('.')[0]}.nn.{t.__name__}" for t in known}
        raise TypeError(
            f"layer must be one of {', '.join(sorted(names))}, or a subclass that keeps its "
            f"forward; it was {describe(layer)}"
        )
    if entry.rule is None:
        raise TypeError(f"{describe(layer)} has no constants: {entry.note}")
    return entry.rule


def describe(layer) -> str:
    """A layer in an error."""
    if isinstance(layer, Function):
        return layer.name
    return type(layer).__name__ + ("" if layer.training else " in evaluation")
