"""The layers that have constants, by type, and those that have none, with the reason."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn

from normprop.gaussian import Function, Image, Normal

CLOSED = "closed form"


@dataclass(frozen=True)
class Moments:
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
    each output channel (forward) or input channel (backward).
    """

    fwd_mean: float | np.ndarray
    fwd_std: float | np.ndarray
    bwd_std: float | np.ndarray
    error: float
    method: str


Rule = Callable[..., Moments]
"""From the module and the law of its input, and the shape of a sample where the entry says so."""

ImageRule = Callable[[nn.Module, Normal], Image]
Grade = Literal["exact", "asymptotic"]


@dataclass(frozen=True)
class Entry:
    """What is known of a type of module.

    Attributes:
        rule: from the module and the law of its input to :class:`Moments`; ``None`` where
            there are none.
        image: for activations, from the module and the normal law of its input to the law of
            its output.
        grade: ``"exact"``, or ``"asymptotic"`` where the figures hold in a limit.
        shaped: whether the rule has a third argument, the shape of a sample, or ``None`` where
            it was not given.
        note: what a reader of the table of all layers should know: the order of an asymptotic
            figure, or why there is none.
    """

    rule: Rule | None
    image: ImageRule | None = None
    grade: Grade = "exact"
    note: str = ""
    shaped: bool = False


_entries: dict[type, Entry] = {}


def register(
    module_type: type,
    rule: Rule,
    image: ImageRule | None = None,
    *,
    grade: Grade = "exact",
    note: str = "",
    shaped: bool = False,
) -> None:
    """Tell :func:`moments` how to measure a type of module.

    Args:
        module_type: the class; its subclasses follow only while they keep its ``forward``.
        rule: from the module and the law of its input to :class:`Moments`.
        image: for activations, from the module and the normal law of its input to the law
            of its output, so that the module may stand in ``after``.
        grade: whether the figures are exact or hold in a limit.
        note: the order of an asymptotic figure, or another remark.
        shaped: whether the rule also takes the shape of a sample.
    """
    if grade not in ("exact", "asymptotic"):
        raise ValueError(f"grade must be 'exact' or 'asymptotic'; it was {grade!r}")
    _entries[module_type] = Entry(rule, image, grade, note, shaped)


def refuse(module_type: type, reason: str) -> None:
    """Say why a type of module has no constants: one sentence, from a small letter on.

    It stands in the error of :func:`moments` and in the table of all layers.
    """
    _entries[module_type] = Entry(None, note=reason)


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


def rule_of(layer: nn.Module) -> Rule:
    """How to measure a module.

    Raises:
        TypeError: it has no constants, or nothing is known of it.
    """
    entry = lookup(layer)
    if entry is None:
        known = sorted({named(t) for t, entry in _entries.items() if entry.rule is not None})
        raise TypeError(
            f"layer must be one of {', '.join(known)}, or a subclass that keeps its "
            f"forward; it was {describe(layer)}"
        )
    if entry.rule is None:
        raise TypeError(f"{describe(layer)} has no constants: {entry.note}")
    return entry.rule


def named(module_type: type) -> str:
    """The name of a type as users write it: ``torch.nn.ReLU``, ``normprop.nn.ReLU``."""
    return f"{module_type.__module__.split('.')[0]}.nn.{module_type.__name__}"


def describe(layer) -> str:
    """A layer in an error."""
    if isinstance(layer, Function):
        return layer.name
    return type(layer).__name__ + ("" if layer.training else " in evaluation")
