"""The arguments that functions and layers share: types, meanings, defaults, checks, each said once.

A function takes keywords as ``**law: Unpack[Given]``.  :func:`takes` fills in those that are not
given, shows them all in its signature, and completes its docstring: an argument of which that says
nothing has the meaning that stands here, or torch's.
"""

import functools
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Concatenate, Literal, NamedTuple, ParamSpec, TypedDict, TypeVar

from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop.checks import finite, positive
from normprop.functional.fused import Backend, check_backend
from normprop.functional.scale import (
    OPTIONS,
    SCALINGS,
    Scaling,
    check_option,
    check_scaling,
    refuse_inplace,
)
from normprop.functional.weight import Method, Per

After = str | nn.Module | Callable | None
Keeps = Literal["variance", "mean"]
Made = TypeVar("Made", bound=Callable)
Own = ParamSpec("Own")
Found = TypeVar("Found")

_Scaling = Annotated[Scaling, "which standard deviation divides in which pass."]
_Mean = Annotated[float, "mean of the input."]
_Std = Annotated[float, "standard deviation of the input, greater than 0."]
_Backend = Annotated[
    Backend,
    '``"eager"`` for PyTorch\'s operations; ``"triton"`` for one kernel each way, an error where '
    'it cannot run; ``"auto"`` for the kernel on a GPU, where it can and where that is faster.',
]
_Keeps = Annotated[Keeps, 'what evaluation keeps of training, ``"variance"`` or ``"mean"``.']


class Given(TypedDict, total=False):
    """Which standard deviation divides in which pass; mean and standard deviation of the input."""

    scaling: _Scaling
    mean: _Mean
    std: _Std


class LawBehind(TypedDict, total=False):
    """The law of the input of ``after``, the activation that stands before the layer."""

    scaling: _Scaling
    mean: Annotated[float, "mean of the input, or of the input of ``after``."]
    std: Annotated[float, "standard deviation of the input, or of the input of ``after``."]
    after: Annotated[
        After,
        "the activation that stands before the layer, a name or a module; a ``normprop.nn`` "
        "activation counts as it is, normalised.  The constants are then those of its output.",
    ]


class LawOnBackend(Given, total=False):
    """Who computes besides."""

    backend: _Backend


class LawKept(Given, total=False):
    """What evaluation keeps of training besides."""

    eval: _Keeps


class LawKeptOnBackend(LawKept, LawOnBackend, total=False):
    """Both besides."""


class LawsOfBoth(Given, total=False):
    """Mean and standard deviation of a regression's target besides."""

    target_mean: Annotated[float, "mean of the target."]
    target_std: Annotated[float, "standard deviation of the target, greater than 0."]


class LawsOfParts(TypedDict, total=False):
    """One law, or one a part."""

    scaling: _Scaling
    mean: Annotated[float | Sequence[float], "mean of the parts, one or one a part."]
    std: Annotated[
        float | Sequence[float],
        "standard deviation of the parts, one or one a part, greater than 0.",
    ]


class Ball(TypedDict, total=False):
    """Which ball the weights are on in which pass, its radius, and when they are put there."""

    scaling: Annotated[Scaling, "which ball the weights are on in which pass."]
    per: Annotated[Per, '``"neuron"`` for one norm a neuron, ``"layer"`` for one factor.']
    gain: Annotated[
        float,
        "radius of the ball in the place of 1, greater than 0: a unit input variance gives gain², "
        "and so does, backward, that of a gradient.",
    ]
    method: Annotated[
        Method,
        '``"normalize"`` puts the weight on the ball in each forward pass, so that its gradient '
        'is projected; ``"project"`` takes it as it is, put on the ball after each step of the '
        "optimiser.",
    ]


_MEANINGS = {
    "bias": "shape (out,), not normalised.",
    "inplace": "must be ``False``; there so that torch's arguments fit.",
    "kernel_size": "the window.",
    "return_indices": "also return where the maxima are.",
}
"""Of arguments by position, where it is the same for several."""

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


def _by(check: Callable[[object], None]) -> Callable[[str, object], object]:
    def checked(name: str, value):
        check(value)
        return value

    return checked


_CHECKS: dict[str, Callable] = {
    "scaling": _by(check_scaling),
    "mean": finite,
    "std": positive,
    "backend": _by(check_backend),
    "target_mean": finite,
    "target_std": positive,
    "gain": positive,
    "inplace": _by(refuse_inplace),
    **{name: lambda name, value: check_option(name, value) or value for name in OPTIONS},
}


def checked(name: str, value):
    """The value of a keyword as it is kept."""
    return _CHECKS[name](name, value) if name in _CHECKS else value


def given_by_name(name: str, values: Sequence) -> None:
    """Refuse a scaling among arguments by position, where it would be taken for another."""
    for value in values:
        if isinstance(value, str) and value in SCALINGS:
            raise TypeError(f"scaling must be given by name: {name}(scaling={value!r})")


_kinds = functools.cache(typing.get_type_hints)


def parameters_of(keywords: type, **defaults) -> list[inspect.Parameter]:
    """The keywords of a ``TypedDict`` as a signature shows them, ``defaults`` before the usual."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(name, DEFAULTS[name]),
            annotation=kind,
        )
        for name, kind in _kinds(keywords).items()
    ]


def meanings_of(keywords: type) -> dict[str, str]:
    """What the keywords of a ``TypedDict`` mean."""
    kinds = keywords.__annotations__.items()
    return {name: kind.__metadata__[0] for name, kind in kinds if hasattr(kind, "__metadata__")}


_SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example", "References")
_SECTION = re.compile(rf"\n+(?=(?:{'|'.join(_SECTIONS)}):\n)")
_ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)


@functools.lru_cache(maxsize=1024)
def _parted(doc: str) -> tuple[str, dict[str, str]]:
    """What a docstring says, and its sections."""
    text, *sections = _SECTION.split(inspect.cleandoc(doc))
    return text.rstrip(), {part.partition(":")[0]: part.rstrip() for part in sections}


def arguments_in(doc: str | None) -> dict[str, str]:
    """What a docstring says of arguments, by name."""
    return dict(_ENTRY.findall(_parted(doc or "")[1].get("Args", "")))


@functools.lru_cache(maxsize=4096)
def _entry(name: str, meaning: str) -> str:
    line = f"    {name}: {' '.join(meaning.split())}"
    if len(line) <= 100:
        return line
    return textwrap.fill(line, 100, subsequent_indent=" " * 8, break_on_hyphens=False)


def documented(
    doc: str | None, arguments: Iterable[str], meanings: Mapping[str, str], **usual: str
) -> str | None:
    """A docstring that says what all arguments are, and has the ``usual`` sections.

    What it says goes before ``meanings``, and those before torch's.  Private arguments are shown
    where something is known.  There is none where Python runs without docstrings.
    """
    if doc is None:
        return None
    text, sections = _parted(doc)
    sections = dict(sections)
    known = {**meanings, **arguments_in(doc)}
    entries = [
        _entry(name, known.get(name, "as in torch."))
        for name in arguments
        if name in known or not name.startswith("_")
    ]
    if entries:
        sections["Args"] = "\n".join(["Args:", *entries])
    sections = {name: f"{name}:\n    {said}" for name, said in usual.items()} | sections
    ordered = sorted(sections, key=_SECTIONS.index)
    return "\n\n".join([text, *(sections[name] for name in ordered)]) + "\n"


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
    **said: str,
) -> Callable[..., Tensor]:
    """A function of tensors out of a table, of arguments by position and of keywords.

    ``body`` gets the two, filled with their defaults.  What is ``said`` of arguments, and in
    sections, is what ``doc`` says nothing of.
    """
    places, by_name = [p.name for p in own], tuple(_kinds(keywords))
    defaults = {p.name: p.default for p in own if p.default is not p.empty}

    def function(*args, **given):
        law = {known: given.pop(known) for known in by_name}
        placed = dict(zip(places, args, strict=False))
        arguments = {**defaults, **placed, **given}
        twice = placed.keys() & given.keys()
        if twice or len(arguments) < len(places) or len(args) > len(places):
            named = f" and {', '.join(given)} by name" if given else ""
            raise TypeError(
                f"{name}() takes {', '.join(places)}, each once; it was given {len(args)} of them"
                + named
            )
        # In their own order, whatever the caller's.
        return body({place: arguments[place] for place in places}, law)

    rest = inspect.Parameter("law", inspect.Parameter.VAR_KEYWORD)
    function.__signature__ = inspect.Signature([*own, rest], return_annotation=Tensor)
    said = {"Returns": "Tensor of the shape and type of ``input``.", **said}
    return _taking(keywords, {}, said, under_name(function, name, doc))


def takes(keywords: type, **defaults) -> Callable[[Made], Made]:
    """Have ``**law`` of a function hold all of a ``TypedDict``; signature and docstring show it."""
    return functools.partial(_taking, keywords, defaults, {})


def _taking(
    keywords: type, defaults: dict[str, object], said: Mapping[str, str], function: Made
) -> Made:
    more = parameters_of(keywords, **defaults)
    filled = {p.name: p.default for p in more}
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    known = dict.fromkeys([*(p.name for p in own), *filled])

    @functools.wraps(function)
    def called(*args, **given):
        given_by_name(called.__name__, args)
        for name in given:
            if name not in known:
                raise TypeError(f"{called.__name__}() has no argument {name!r}")
        return function(*args, **{**filled, **given})

    called.__signature__ = signature.replace(parameters=[*own, *more])
    meanings = {"input": "any shape.", **_MEANINGS, **meanings_of(keywords), **said}
    usual = {name: said[name] for name in _SECTIONS if name in said}
    usual = {"Raises": "ValueError: an argument is out of its range.", **usual}
    called.__doc__ = documented(function.__doc__, known, meanings, **usual)
    return called


class OfTorch(NamedTuple):
    """A function and a class of torch that do the same, in so many dimensions."""

    run: Callable
    layer: type[nn.Module]
    dims: int


SHAPES = ("", "(N, C, L) or (C, L)", "(N, C, H, W) or (C, H, W)", "(N, C, D, H, W) or (C, D, H, W)")
"""Of the input of a layer in so many dimensions."""

_CLASSES = {name.lower(): name for name in dir(nn)}


def class_of(name: str) -> type[nn.Module]:
    """The class of torch that does what its function of that name does."""
    return getattr(nn, _CLASSES[name.replace("_", "")])


def in_dimensions(
    template: Callable[Concatenate[OfTorch, Own], Found],
    keywords: type,
    dims: Sequence[int] = (1, 2, 3),
    without: str = "",
    said: Mapping[str, str] | None = None,
) -> tuple[Callable[Own, Found], ...]:
    """The functions that a template stands for, each under torch's name.

    A template bears torch's name behind an underscore, and takes what torch has, then arguments, of
    which they may be ``without`` one; ``keywords`` is a ``TypedDict`` of those by name alone.  What
    is ``said`` of arguments, and in sections, is what the docstring says nothing of.
    """

    def made(dims: int) -> Callable[Own, Found]:
        name = f"{template.__name__[1:]}{dims}d"
        function = functools.partial(
            template, OfTorch(getattr(torch_functional, name), class_of(name), dims)
        )
        function.__doc__ = template.__doc__
        taken = inspect.signature(function)
        own = [p for p in taken.parameters.values() if p.name != without]
        function.__signature__ = taken.replace(parameters=own)
        more = {"input": f"shape {SHAPES[dims]}.", **(said or {})}
        return under_name(_taking(keywords, {}, more, function), name)

    return tuple(made(each) for each in dims)


def under_name(function: Made, name: str, doc: str | None = None) -> Made:
    """The function under a name of its own, by which it can be found and pickled."""
    function.__name__ = function.__qualname__ = name
    if doc is not None:
        function.__doc__ = doc
    return function
