"""From a class of torch, its arguments, a shape and a law to the constants of its twin."""

import operator
from collections.abc import Iterable, Mapping
from functools import lru_cache

from torch import nn

from normprop import rules
from normprop.functional.keywords import SHAPES, After
from normprop.functional.scale import Constants, constant_when_compiled, literal
from normprop.gaussian import Law

_LAW = ("scaling", "mean", "std", "after")


def constants_of(
    layer_type: type[nn.Module],
    law: Mapping[str, object],
    shape: tuple[int, ...] | None = None,
    **arguments,
) -> Constants:
    """Shift and divisors of the twin of a layer of torch.

    Args:
        layer_type: its class.
        law: scaling, mean and std; ``after`` where there is one; what else it holds and the rule
            reads of a layer, such as ``target_mean``, becomes an attribute of it.
        shape: of a sample; for a loss, of its whole input.
        arguments: of the class.
    """
    more = tuple((name, _plain(value)) for name, value in law.items() if name not in _LAW)
    # True and 1 have the same hash.
    own = tuple((name, _plain(value), type(value)) for name, value in arguments.items())
    return constants_by(_of_layer, law.get("after"), law, layer_type, own, more, shape)


def _of_layer(after: After, law: Law, layer_type, arguments, more, shape) -> rules.Moments:
    layer = layer_type(**{name: value for name, value, _ in arguments})
    for name, value in more:
        setattr(layer, name, value)
    return rules.declared(layer, law if after is None else rules.image_of(after, law), shape)


def constants_by(figures, function, law: Mapping[str, object], *call) -> Constants:
    """Those of what ``figures(function, law, *call)`` finds, remembered by a function's name."""
    base = literal(law["mean"]), literal(law["std"])
    return _constants(figures, function, law["scaling"], *base, *call)


@constant_when_compiled
def _constants(figures, function, *call) -> Constants:
    # A module may change, or be freed.
    kept = function is None or isinstance(function, str)
    return (_found if kept else _found.__wrapped__)(figures, function, *call)


@lru_cache(maxsize=1024, typed=True)
def _found(figures, function, scaling, mean, std, *call) -> Constants:
    return Constants.of(figures(function, rules.check_law(mean, std), *call), scaling)


def _plain(value):
    """An argument as compiled code holds it fast, which makes variables of numbers that change."""
    if isinstance(value, (tuple, list)):
        return tuple([_plain(each) for each in value])
    if isinstance(value, float):
        return literal(value)
    # Of True it would make 1.
    return operator.index(value) if type(value) is int else value


def sizes_of(shape: Iterable[int]) -> tuple[int, ...]:
    """These sizes of a tensor, which compiled code holds fast, where it leaves the others open."""
    # ``int`` would leave a variable of Dynamo's what it is.
    return tuple([operator.index(size) for size in shape])


def law_of(mean: float, std: float, after: After) -> Law:
    """The law of the input: normal, or what an activation makes of it."""
    base = rules.check_law(mean, std)
    return base if after is None else rules.image_of(after, base)


def sample_of(shape: tuple[int, ...], dims: int) -> tuple[int, ...]:
    """The shape of a sample of one channel, for that of an input with or without a batch."""
    if len(shape) not in (dims + 1, dims + 2):
        raise ValueError(f"input must have shape {SHAPES[dims]}; it was {tuple(shape)}")
    return (1, *sizes_of(shape[-dims:]))
