"""What twins share whose constants follow from the shape of the input."""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from normprop import rules
from normprop.functional.scale import Constants, Scaling, check_scaling
from normprop.gaussian import Law
from normprop.nn.law import joined, law_repr
from normprop.nn.twin import signature_of


class Shaped:
    r"""A layer of ``torch.nn`` without parameters, normalised: y = (layer(x) - shift)/forward.

    Stands before its twin among the bases, as :class:`normprop.nn.twin.Twin` does, and has the
    same keywords.  Its constants wait for the shape of the input: ``forward`` hands scaling, mean
    and std to a function, and :func:`normprop.moments` takes ``shape``.

    Attributes:
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input.
    """

    torch_type: type[nn.Module]
    # Further keywords of the subclass, with their defaults and types.
    _options: ClassVar[dict[str, tuple[object, object]]] = {}

    def __init_subclass__(cls, **keywords) -> None:
        super().__init_subclass__(**keywords)
        torch_type = next((t for t in cls.__mro__ if t.__module__.startswith("torch.nn")), None)
        if torch_type is None:
            return
        cls.torch_type = torch_type
        cls.__signature__ = signature_of(torch_type, cls._options)
        rules.inherit(cls, torch_type, _moments)

    def __init__(
        self,
        *args,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
        **keywords,
    ) -> None:
        super().__init__(*args, **keywords)
        check_scaling(scaling)
        law = rules.check_law(mean, std)
        self.scaling, self.mean, self.std = scaling, law.mean, law.std

    def constants_of(self, shape: Sequence[int]) -> Constants:
        """Shift and divisors for samples of this shape; for a loss, that of its whole input."""
        law = rules.check_law(self.mean, self.std)
        plain = rules.entry_of_type(self.torch_type).rule(self, law, tuple(shape))
        return Constants.of(plain, self.scaling)

    def _law(self) -> dict[str, object]:
        return {"scaling": self.scaling, "mean": self.mean, "std": self.std}

    def extra_repr(self) -> str:
        """The arguments."""
        return joined(super().extra_repr(), law_repr(self))


def _moments(layer: Shaped, law: Law, shape: tuple[int, ...] | None) -> rules.Moments:
    plain = rules.entry_of_type(layer.torch_type).rule(layer, law, shape)
    # The rule has said what is missing where the shape was.
    return rules.affine(plain, *layer.constants_of(() if shape is None else shape))
