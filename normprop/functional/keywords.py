"""The keywords that functions and layers share: types, defaults and checks, each said once.

A function takes them as ``**law: Unpack[Law]``.  :func:`takes` fills in those that are not given
and shows them all in its signature.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Literal, TypedDict, TypeVar

from torch import Tensor, nn

from normprop import rules
from normprop.functional.fused import Backend, check_backend
from normprop.functional.scale import SCALINGS, Scaling, check_scaling, refuse_inplace
from normprop.functional.weight import Method, Per

After = str | nn.Module | Callable | None
Keeps = Literal["variance", "mean"]
Made = TypeVar("Made", bound=Callable)


class Law(TypedDict, total=False):
    """Which standard deviation divides in which pass; mean and standard deviation of the input."""

    scaling: Scaling
    mean: float
    std: float


class LawBehind(Law, total=False):
    """The law of the input of ``after``, the activation that stands before the layer."""

    after: After


class LawOnBackend(Law, total=False):
    """Who computes besides."""

    backend: Backend


class LawKept(Law, total=False):
    """What evaluation keeps of training besides."""

    eval: Keeps


class LawKeptOnBackend(LawKept, total=False):
    """Who computes besides."""

    backend: Backend


class LawsOfBoth(Law, total=False):
    """Mean and standard deviation of a regression's target besides."""

    target_mean: float
    target_std: float


class LawsOfParts(TypedDict, total=False):
    """One law, or one a part."""

    scaling: Scaling
    mean: float | Sequence[float]
    std: float | Sequence[float]


class Ball(TypedDict, total=False):
    """Which ball the weights are on in which pass, its radius, and when they are put there."""

    scaling: Scaling
    per: Per
    gain: float
    method: Method


DEFAULTS = {
    "scaling": "backward",
    "mean": 0.0,
    "std": 1.0,
    "after": None,
    "backend": "auto",
    "eval": "variance",
    "target_mean": 0.0,
    "target_std": 1.0,
    "per": "neuron",
    "gain": 1.0,
    "method": "normalize",
}


def _finite(name: str, value: float) -> float:
    rules.check_number(name, value)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite; it was {value}")
    return float(value)


def _positive(name: str, value: float) -> float:
    rules.check_number(name, value)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and greater than 0; it was {value}")
    return float(value)


def _one_of(*known: str) -> Callable[[str, str], str]:
    def check(name: str, value: str) -> str:
        if value not in known:
            raise ValueError(f"{name} must be {' or '.join(map(repr, known))}; it was {value!r}")
        return value

    return check


def _by(check: Callable[[object], None]) -> Callable[[str, object], object]:
    def checked(name: str, value):
        check(value)
        return value

    return checked


_CHECKS: dict[str, Callable] = {
    "scaling": _by(check_scaling),
    "mean": _finite,
    "std": _positive,
    "backend": _by(check_backend),
    "eval": _one_of("variance", "mean"),
    "target_mean": _finite,
    "target_std": _positive,
    "per": _one_of("neuron", "layer"),
    "gain": _positive,
    "method": _one_of("normalize", "project"),
    "inplace": _by(refuse_inplace),
}


def checked(name: str, value):
    """The value of a keyword as it is kept.

    Raises:
        TypeError: it has the wrong type.
        ValueError: it is out of its range.
    """
    return _CHECKS[name](name, value) if name in _CHECKS else value


def given_by_name(name: str, values: Sequence) -> None:
    """Refuse a scaling among arguments by position, where it would be taken for another."""
    for value in values:
        if isinstance(value, str) and value in SCALINGS:
            raise TypeError(f"scaling must be given by name: {name}(scaling={value!r})")


def parameters_of(keywords: type, **defaults) -> list[inspect.Parameter]:
    """The keywords of a ``TypedDict`` as a signature shows them, ``defaults`` before the usual."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(name, DEFAULTS[name]),
            annotation=kind,
        )
        for name, kind in keywords.__annotations__.items()
    ]


def by_place(function: Callable) -> list[inspect.Parameter]:
    """The arguments of a function or a class of torch that it takes by position and by name."""
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def tabled(
    name: str,
    own: Sequence[inspect.Parameter],
    keywords: type,
    body: Callable[[dict[str, object], dict[str, object]], Tensor],
    doc: str,
) -> Callable[..., Tensor]:
    """A function of tensors out of a table.

    Args:
        name: what it is called.
        own: its arguments by position.
        keywords: a ``TypedDict`` of those by name alone.
        body: from the two, filled with their defaults, to what the function returns.
        doc: of the function.
    """
    more = parameters_of(keywords)
    places = [p.name for p in own]
    needed = [p.name for p in own if p.default is p.empty]
    defaults = {p.name: p.default for p in own if p.default is not p.empty}
    filled = {p.name: p.default for p in more}

    def function(*args, **given):
        given_by_name(name, args)
        placed = dict(zip(places, args, strict=False))
        for known in given:
            if known in placed or not (known in places or known in filled):
                raise TypeError(f"{name}() has no argument {known!r}, or has it already")
        arguments, law = {**defaults, **placed}, {**filled}
        for known, value in given.items():
            (law if known in filled else arguments)[known] = value
        missing = [place for place in needed if place not in arguments]
        if missing or len(args) > len(places):
            raise TypeError(f"{name}() takes {', '.join(places)}; it was given {len(args)} of them")
        return body(arguments, law)

    function.__signature__ = inspect.Signature([*own, *more], return_annotation=Tensor)
    return under_name(function, name, doc)


def takes(keywords: type, **defaults) -> Callable[[Made], Made]:
    """Have ``**law`` of a function hold all these keywords, and its signature show them.

    Args:
        keywords: a ``TypedDict``.
        defaults: where they are others than the usual ones.
    """
    more = parameters_of(keywords, **defaults)
    filled = {p.name: p.default for p in more}

    def decorate(function: Made) -> Made:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        known = {*filled, *(p.name for p in own)}

        @functools.wraps(function)
        def called(*args, **given):
            given_by_name(called.__name__, args)
            for name in given:
                if name not in known:
                    raise TypeError(f"{called.__name__}() has no argument {name!r}")
            return function(*args, **{**filled, **given})

        called.__signature__ = signature.replace(parameters=[*own, *more])
        return called

    return decorate


def under_name(function: Made, name: str, doc: str | None = None) -> Made:
    """The function under a name of its own, by which it can be found and pickled."""
    function.__name__ = function.__qualname__ = name
    if doc is not None:
        function.__doc__ = doc
    return function
