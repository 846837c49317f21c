"""What twins without parameters share: the constants, the call, the signature, the moments."""

import inspect
from dataclasses import replace

from torch import Tensor, nn

from normprop import rules
from normprop.functional.scale import Constants, Scaling, normalized
from normprop.gaussian import Image, Law, Normal
from normprop.nn.law import joined, law_repr, refuse_inplace

_OPTIONS = {
    "scaling": ("backward", Scaling),
    "mean": (0.0, float),
    "std": (1.0, float),
}


class Twin:
    r"""A layer of ``torch.nn`` without parameters, normalised: y = (layer(x) - shift)/forward.

    Stands before its twin among the bases: ``class Mish(Twin, nn.Mish)``.  The subclass has its
    twin's arguments, in its order, and the keywords ``scaling``, ``mean`` and ``std``.  Its
    constants are those that :func:`normprop.rules.moments` finds for the twin at that law, and
    the class is made known to it, as it is.  ``forward`` runs the twin's own; a subclass that
    knows a faster road replaces it.

    Attributes:
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input.
        constants: shift and divisors.
    """

    constants: Constants
    # The class of torch, and whether its output may stand in ``after``.
    torch_type: type[nn.Module]

    def __init_subclass__(cls, **keywords) -> None:
        super().__init_subclass__(**keywords)
        torch_type = next((t for t in cls.__mro__ if t.__module__.startswith("torch.nn")), None)
        # A subclass from elsewhere may compute anything; it is known while it keeps its forward.
        if torch_type is None or not cls.__module__.startswith("normprop."):
            return
        cls.torch_type = torch_type
        cls.__signature__ = signature_of(torch_type)
        entry = rules.entry_of_type(torch_type)
        if entry is None or entry.rule is None:
            raise TypeError(f"rules must know {torch_type.__name__} before it has a twin")
        image = None if entry.image is None else _image
        rules.inherit(cls, torch_type, _moments, image)

    def __init__(
        self,
        *args,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
        **keywords,
    ) -> None:
        super().__init__(*args, **keywords)
        refuse_inplace(getattr(self, "inplace", False))
        law = rules.check_law(mean, std)
        self.scaling, self.mean, self.std = scaling, law.mean, law.std
        self.constants = self._declared_constants(law)

    def _declared_constants(self, law: Normal) -> Constants:
        """The constants that the layer keeps from its construction on."""
        return Constants.of(self._plain_moments(law), self.scaling)

    def _plain_moments(self, law: Law) -> rules.Moments:
        """Moments of the twin with this layer's arguments."""
        return rules.entry_of_type(self.torch_type).rule(self, law)

    def forward(self, input: Tensor) -> Tensor:
        """Run the twin and normalise."""
        return normalized(super().forward, input, self.constants)

    def extra_repr(self) -> str:
        """The arguments."""
        return joined(super().extra_repr(), law_repr(self))


def signature_of(
    torch_type: type, more: dict[str, tuple[object, object]] | None = None
) -> inspect.Signature:
    """The arguments of a layer of torch and the keywords of its twin, with ``more`` of them."""
    own = [
        p
        for p in inspect.signature(torch_type).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (default, kind) in {**_OPTIONS, **(more or {})}.items()
    ]
    return inspect.Signature([*own, *keywords])


def _moments(layer: Twin, law: Law) -> rules.Moments:
    return rules.affine(layer._plain_moments(law), *layer.constants)


def _image(layer: Twin, base: Normal) -> Image:
    plain = rules.entry_of_type(layer.torch_type).image(layer, base)
    return replace(plain, shift=layer.constants.shift, scale=layer.constants.forward)
