"""What twins without weights share: constants, the call, the moments."""

import contextlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normprop import rules
from normprop.functional.constants import law_of
from normprop.functional.keywords import Given, LawBehind
from normprop.functional.scale import Constants, constant_when_compiled, normalized
from normprop.gaussian import Image, Law, Normal
from normprop.nn.settings import Settings


class Twin(Settings):
    r"""A layer of ``torch.nn`` without weights, normalised: y = (layer(x) - shift)/forward.

    Stands before its twin among the bases: ``class GLU(Twin, nn.GLU)``.  The subclass has its
    twin's arguments, in its order, and the keywords ``scaling``, ``mean`` and ``std``; any of them
    may be set later.  Its constants follow from them, by the twin's rule, and the class is made
    known to :func:`normprop.moments`, as it is.

    Attributes:
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input.
    """

    _keywords: ClassVar[type] = Given
    # Of layers that torch does not have, and that may stand in ``after``.
    _image_rule: ClassVar[Callable | None] = None
    # How the twin's function is normalised.
    _run: ClassVar[Callable] = staticmethod(normalized)

    def __init_subclass__(cls, **options) -> None:
        super().__init_subclass__(**options)
        # A subclass from elsewhere may compute anything; it is known while it keeps its forward.
        if not cls.__module__.startswith("normprop.") or not cls._settings:
            return
        if cls.torch_type is nn.Module:
            rules.register(cls, _moments, cls._image_rule)
            return
        entry = rules.entry_of_type(cls.torch_type)
        if entry is None or entry.rule is None:
            raise TypeError(f"rules must know {cls.torch_type.__name__} before it has a twin")
        rules.inherit(cls, cls.torch_type, _moments, entry.image and _image)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # What cannot be normalised is refused here rather than when an input comes.
        _ = self.constants, self._law()
        self.__dict__["_made"] = True
        self._tell()

    @property
    def constants(self) -> Constants | None:
        """Shift and divisors; ``None`` where they follow from the shape of the input."""
        return self._constants(None)

    @constants.setter
    def constants(self, constants: Constants) -> None:
        self.__dict__["_known"] = {None: constants}
        self._tell()

    def constants_of(self, shape: Sequence[int] | None) -> Constants:
        """Shift and divisors for samples of this shape; for a loss, that of its whole input.

        Raises:
            ValueError: the shape has a say, and is ``None``.
        """
        found = self._constants(None if shape is None else tuple(shape))
        return self._found(None) if found is None else found

    def _constants(self, shape: tuple[int, ...] | None) -> Constants | None:
        if torch.compiler.is_compiling():
            # Layers of a class share compiled code: reading the text has it made anew for those
            # that have, or have got, other constants.
            return self._recalled(shape, self._told)
        return self._recalled(shape)

    @constant_when_compiled
    def _recalled(self, shape: tuple[int, ...] | None, told: str = "") -> Constants | None:
        known = self.__dict__.setdefault("_known", {})
        if None not in known:
            known[None] = self._unless_shaped()
        if shape is None or known[None] is not None:
            return known[None]
        if shape not in known:
            known[shape] = self._found(shape)
        return known[shape]

    def _unless_shaped(self) -> Constants | None:
        try:
            return self._found(None)
        except rules.NeedsShapeError:
            return None

    def _found(self, shape: tuple[int, ...] | None) -> Constants:
        return Constants.of(self._declared(self._law(), shape), self.scaling)

    def _declared(self, law: Law, shape: tuple[int, ...] | None) -> rules.Moments:
        """The figures that the layer is normalised by."""
        return rules.declared(self, law, shape, self.torch_type)

    def _plain(self, law: Law, *shape: tuple[int, ...] | None) -> rules.Moments:
        """Moments of the twin with this layer's arguments."""
        return rules.entry_of_type(self.torch_type).rule(self, law, *shape)

    def _measured(self, law: Law, *shape: tuple[int, ...] | None) -> rules.Moments:
        """Moments of the layer as it is."""
        plain = self._plain(law, *shape)
        # The rule has said what is missing where the shape was.
        return rules.rescaled(plain, *self.constants_of(*shape or (None,)))

    def _law(self) -> Law:
        return law_of(self.mean, self.std, *self.__dict__.get("_before", (None,)))

    # What the constants are or follow from, as compiled code is to see it.
    _told = ""
    _made = False

    def _forget(self) -> None:
        self.__dict__.pop("_known", None)
        if self._made:
            # At once, so that no forward pass has to integrate.  What cannot be, alone or before
            # another setting that belongs to it has come, is refused by the next pass.
            with contextlib.suppress(TypeError, ValueError):
                self._constants(None)
            self._tell()

    def _tell(self) -> None:
        kept = self.__dict__.get("_known", {}).get(None)
        if kept is None:
            # They follow from a shape besides.
            names = sorted(self._settings)
            kept = [_distinct(getattr(self, self._stored.get(n, n), None)) for n in names]
            kept += map(_distinct, self.__dict__.get("_before", ()))
        self.__dict__["_told"] = repr(kept)

    def _shape_for(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """What the constants may follow from of an input's shape."""
        return None

    def forward(self, input: Tensor, *more: Any, **named: Any) -> Any:
        """Run the twin and normalise."""
        constants = self._constants(self._shape_for(input.shape))
        return self._run(lambda x: self._compute(x, *more, **named), input, constants)

    def _compute(self, input: Tensor, *more: Any, **named: Any) -> Any:
        """What the twin does."""
        return super().forward(input, *more, **named)


def _distinct(value):
    """The value where its ``repr`` says all of it, else a number that no other has anywhere."""
    if isinstance(value, (tuple, list)):
        return [_distinct(each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return uuid.uuid4().hex


class TwinBehind(Twin):
    """The same with ``after``, the activation that stands before the layer."""

    _keywords: ClassVar[type] = LawBehind


def _moments(layer: Twin, law: Law, *shape: tuple[int, ...] | None) -> rules.Moments:
    return layer._measured(law, *shape)


def _image(layer: Twin, base: Normal) -> Image:
    plain = rules.entry_of_type(layer.torch_type).image(layer, base)
    return replace(plain, shift=layer.constants.shift, scale=layer.constants.forward)
