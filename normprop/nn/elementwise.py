"""A layer for any elementwise function."""

from collections.abc import Callable

from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.callables import elementwise_constants
from normprop.functional.scale import Scaling
from normprop.gaussian import Image, Law, Normal
from normprop.nn.law import law_repr


class Elementwise(nn.Module):
    r"""An elementwise function of your own, normalised: y = (f(x) - μ)/σ.

    See :func:`normprop.functional.elementwise`.  The constants are found once, when the layer
    is made.

    Args:
        function: maps a tensor to one of the same shape, each element on its own, the same
            result each time; differentiable by autograd.  A function defined in a module can
            be pickled with the layer, a lambda cannot.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.

    Raises:
        TypeError: the function does not take or return one tensor of real numbers.
        ValueError: it is not elementwise, not finite or not differentiable, its integrals do
            not converge, or an argument is out of its range.

    Example:
        >>> snake = Elementwise(lambda x: x + x.sin() ** 2, scaling="forward")
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        if isinstance(function, nn.Module):
            raise TypeError(
                f"function must be a function, not a module with a state; it was {function}"
            )
        law = rules.check_law(mean, std)
        self.function = function
        self.scaling, self.mean, self.std = scaling, law.mean, law.std
        self.constants = elementwise_constants(function, scaling, law.mean, law.std)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function and normalise."""
        return functional.elementwise(input, self.function, constants=self.constants)

    def extra_repr(self) -> str:
        """The arguments."""
        name = getattr(self.function, "__name__", repr(self.function))
        return f"{name}, {law_repr(self)}"


def _moments(layer: Elementwise, law: Law) -> rules.Moments:
    plain = rules.activation(rules.function_of(layer.function), law)
    return rules.affine(plain, *layer.constants)


def _image(layer: Elementwise, base: Normal) -> Image:
    function = rules.function_of(layer.function)
    return Image(function, base, layer.constants.shift, layer.constants.forward)


rules.register(Elementwise, _moments, _image)
