"""What twins share that have a border: constants of the interior, figures of a whole sample."""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from normprop import rules
from normprop.functional.pool import After, law_of
from normprop.functional.scale import Constants, check_scaling, constant_when_compiled
from normprop.gaussian import Law, Normal
from normprop.nn.twin import Twin, signature_of


class Interior(Twin):
    """A twin whose constants are those of the interior, from its construction on.

    :func:`normprop.moments` measures it there too, and over all positions of a sample where it is
    given a ``shape``.
    """

    # Further keywords of the subclass, with their defaults and types.
    _options: ClassVar[dict[str, tuple[object, object]]] = {}

    def __init_subclass__(cls, **keywords) -> None:
        super().__init_subclass__(**keywords)
        if "torch_type" not in vars(cls):
            return
        cls.__signature__ = signature_of(cls.torch_type, cls._options)
        rules.inherit(cls, cls.torch_type, _moments)

    def constants_of(self, shape: Sequence[int] | None) -> Constants:
        """Shift and divisors for samples of this shape."""
        return self.constants


class Fitted(Interior):
    """A twin whose constants follow from the shape of its input, when it is seen.

    ``constants`` is ``None`` where they do; :meth:`constants_of` has those of a shape.
    """

    constants: Constants | None

    def _declared_constants(self, law: Normal) -> Constants | None:
        check_scaling(self.scaling)
        return None

    def _law(self) -> Law:
        return rules.check_law(self.mean, self.std)

    @constant_when_compiled
    def constants_of(self, shape: Sequence[int] | None) -> Constants:
        """Shift and divisors for samples of this shape."""
        if self.constants is not None:
            return self.constants
        plain = rules.entry_of_type(self.torch_type).rule(self, self._law(), shape)
        return Constants.of(plain, self.scaling)


class FittedAfter(Fitted):
    """The same with ``after``, the activation that stands before the layer."""

    _options: ClassVar = {"after": (None, After)}

    def __init__(self, *args, after: After = None, **keywords) -> None:
        super().__init__(*args, **keywords)
        # In a tuple, as a module itself would become a child of this one.
        self._before = (after,)
        self.after = described(after)
        # An activation that is none is refused here rather than when an input comes.
        self._law()

    def _law(self) -> Law:
        return law_of(self.mean, self.std, *self._before)


def described(after: After) -> str | None:
    """What stands before a layer, as its ``repr`` prints it."""
    if after is None or isinstance(after, str):
        return after
    return str(after) if isinstance(after, nn.Module) else getattr(after, "__name__", str(after))


def _moments(layer: Interior, law: Law, shape: tuple[int, ...] | None) -> rules.Moments:
    plain = rules.entry_of_type(layer.torch_type).rule(layer, law, shape)
    return rules.affine(plain, *layer.constants_of(shape))
