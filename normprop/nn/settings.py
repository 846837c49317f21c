"""What layers do with their arguments: taken by name, checked, and followed when they are set."""

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import ClassVar

from torch import nn

from normprop import functional, rules
from normprop.functional import keywords


class Settings:
    """A layer whose arguments may be set later, as if it had been made with them.

    Stands before its class of torch among the bases.  A class without a docstring gets that of its
    function, as far as it is about both.

    Attributes:
        torch_type: the class of torch, or one that does what torch has a function for;
            ``nn.Module`` for a layer that torch does not have.
    """

    torch_type: ClassVar[type[nn.Module]] = nn.Module
    # A TypedDict of what a layer takes by name alone, and where it differs from the usual defaults.
    _keywords: ClassVar[type]
    _defaults: ClassVar[dict[str, object]] = {}
    # What an argument has to be, whatever a whole network asks for.
    _only: ClassVar[dict[str, object]] = {}
    # Attributes that are no arguments, and on which the constants depend.
    _followed: ClassVar[frozenset[str]] = frozenset()
    # The attributes of arguments whose names nn.Module has for methods.
    _stored: ClassVar[dict[str, str]] = {"eval": "eval_keeps"}
    _settings: ClassVar[frozenset[str]] = frozenset()
    # The rule of a layer as it is, where it is another than that of its class of torch.
    _moments: ClassVar[Callable[..., rules.Moments] | None] = None

    def __init_subclass__(cls, **options) -> None:
        super().__init_subclass__(**options)
        if not cls.__module__.startswith("normprop."):
            # A subclass from elsewhere may take anything.
            if "__init__" in vars(cls):
                cls.__signature__ = inspect.signature(cls.__init__.__get__(object()))
            return
        homes = "torch.nn", "normprop.rules."
        found = next((t for t in cls.__mro__ if t.__module__.startswith(homes)), None)
        if found is None:
            return
        cls.torch_type = found
        own = found is nn.Module
        first = _own_parameters(cls.__init__)[1:] if own else keywords.by_place(found)
        parameters = [*first, *keywords.parameters_of(cls._keywords, **cls._defaults)]
        cls.__signature__ = inspect.Signature(parameters)
        cls.__doc__ = _documented(cls)
        # A bias is asked for, and is a parameter then.
        cls._settings = frozenset(cls.__signature__.parameters) - {"bias"} | cls._followed
        if cls._moments is not None:
            rules.inherit(cls, found, cls._moments)

    def __new__(cls, *args, **options):
        """A scaling by position is refused before anything takes it for another argument."""
        keywords.given_by_name(cls.__name__, args)
        return super().__new__(cls)

    def __init__(self, *args, **options) -> None:
        usual = {**keywords.DEFAULTS, **self._defaults}
        own = {name: options.pop(name, usual[name]) for name in self._keywords.__annotations__}
        # A layer that torch does not have has set arguments of its own, modules perhaps.
        if "_modules" not in self.__dict__:
            super().__init__(*args, **options)
        for name, value in own.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value) -> None:
        if name not in self._settings:
            super().__setattr__(name, value)
            return
        value = self._checked(name, value)
        name = self._stored.get(name, name)
        if name == "after":
            # In a tuple, as a module itself would become a child of this one.
            self.__dict__["_before"] = (value,)
            value = described(value)
        super().__setattr__(name, value)
        self._forget()

    def _chosen(self) -> dict[str, object]:
        """What its function takes by name alone."""
        names = self._keywords.__annotations__
        return {name: getattr(self, self._stored.get(name, name)) for name in names}

    def _checked(self, name: str, value):
        """The value as it is kept; an error where it can be none."""
        return keywords.checked(name, value)

    def _forget(self) -> None:
        """Let go of what followed from the settings."""

    def extra_repr(self) -> str:
        """The arguments."""
        parts = [super().extra_repr()]
        for name, value in self._chosen().items():
            # A backend, a gain or a layer before only where one was chosen.
            if name not in ("after", "backend", "gain") or value != keywords.DEFAULTS[name]:
                parts.append(f"{name}={_shown(name, value)}")
        return ", ".join(filter(None, parts))


_FUNCTION = re.compile(r":func:`normprop\.functional\.(\w+)`")
_BESIDE = re.compile(r":func:`(\w+)`")
_OF_FAMILIES = {"padding": "pad", "resizing": "interpolate"}
_OF_CLASSES = {name.replace("_", ""): name for name in functional.__all__}


def _documented(layer_type: type[Settings]) -> str | None:
    """The docstring of a class, with what the function that it names says of arguments."""
    doc = layer_type.__doc__ or _like_its_function(layer_type.torch_type)
    meanings = keywords.meanings_of(layer_type._keywords)
    named = _FUNCTION.search(doc or "")
    if named is not None:
        own = keywords.arguments_in(getattr(functional, named[1]).__doc__)
        # A function has it as a tensor, a class is told whether there is one.
        own.pop("bias", None)
        meanings |= {name: _from_elsewhere(said) for name, said in own.items()}
    return keywords.documented(doc, layer_type.__signature__.parameters, meanings)


def _like_its_function(torch_type: type[nn.Module]) -> str | None:
    """What the function of a class of torch says that it is, and where it says more."""
    entry, short = rules.entry_of_type(torch_type), torch_type.__name__.lower()
    name = _OF_CLASSES.get(short) or _OF_CLASSES.get(short.removesuffix("loss"))
    name = name or _OF_FAMILIES.get(entry and entry.family)
    said = inspect.getdoc(getattr(functional, name)) if name else None
    # There is none where Python runs without docstrings.
    if said is None:
        return None
    title = _from_elsewhere(said.partition("\n\n")[0])
    title = textwrap.fill(title, 100, break_on_hyphens=False)
    return f"{title}\n\nSee :func:`normprop.functional.{name}`."


def _from_elsewhere(said: str) -> str:
    """What a docstring of a function says, where its neighbours are no neighbours."""
    return _BESIDE.sub(r":func:`~normprop.functional.\1`", said)


def _own_parameters(function) -> list[inspect.Parameter]:
    """The parameters of a function that have a name of their own."""
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def described(after: keywords.After) -> str | None:
    """What stands before a layer, as its ``repr`` prints it."""
    if after is None or isinstance(after, str):
        return after
    return str(after) if isinstance(after, nn.Module) else getattr(after, "__name__", str(after))


def _shown(name: str, value) -> str:
    if name == "after":
        return value
    return f"{value:g}" if isinstance(value, float) else repr(value)
