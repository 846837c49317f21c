"""A layer for any elementwise function."""

from collections.abc import Callable
from typing import ClassVar, Unpack

from torch import Tensor, nn

from normprop import rules
from normprop.functional.keywords import Law as LawKeywords
from normprop.gaussian import Image, Law, Normal
from normprop.nn.twin import Twin

__all__ = ["Elementwise"]


def _image(layer: "Elementwise", base: Normal) -> Image:
    function = rules.function_of(layer.function)
    return Image(function, base, layer.constants.shift, layer.constants.forward)


class Elementwise(Twin, nn.Module):
    r"""An elementwise function of your own, normalised: y = (f(x) - μ)/σ.

    See :func:`normprop.functional.elementwise`.  The constants are found once, when the layer
    is made.

    Args:
        function: maps a tensor to one of the same shape, each element on its own, the same
            result each time; differentiable by autograd.  A function defined in a module can
            be pickled with the layer, a lambda cannot.

    Raises:
        TypeError: the function does not take or return one tensor of real numbers.
        ValueError: it is not elementwise, not finite or not differentiable, its integrals do
            not converge, or an argument is out of its range.

    Example:
        >>> snake = Elementwise(lambda x: x + x.sin() ** 2, scaling="forward")
    """

    _image_rule: ClassVar = _image

    def __init__(self, function: Callable[[Tensor], Tensor], **law: Unpack[LawKeywords]) -> None:
        nn.Module.__init__(self)
        self.function = function
        super().__init__(**law)

    def _checked(self, name: str, value):
        if name == "function" and isinstance(value, nn.Module):
            raise TypeError(
                f"function must be a function, not a module with a state; it was {value}"
            )
        return super()._checked(name, value)

    def _compute(self, input: Tensor) -> Tensor:
        return self.function(input)

    def _plain(self, law: Law) -> rules.Moments:
        return rules.activation(rules.function_of(self.function), law)

    def _declared(self, law: Law, shape: tuple[int, ...] | None) -> rules.Moments:
        return rules.moments(self.function, law.mean, law.std)

    def extra_repr(self) -> str:
        """The arguments."""
        name = getattr(self.function, "__name__", repr(self.function))
        return f"{name}, {super().extra_repr()}"
