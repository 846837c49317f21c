"""Normalised activations."""

from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.activation import activation_constants
from normprop.functional.scale import Scaling
from normprop.gaussian import Image, Normal
from normprop.nn.law import joined, law_repr, refuse_inplace


class ReLU(nn.ReLU):
    """Normalised ReLU: see :func:`normprop.functional.relu`.

    Args:
        inplace: must be ``False``; there so that the twin's arguments fit.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    def __init__(
        self,
        inplace: bool = False,
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        refuse_inplace(inplace)
        _declare(self, "relu", scaling, mean, std)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise max(x, 0)."""
        return functional.relu(input, constants=self.constants)

    def extra_repr(self) -> str:
        """The arguments."""
        return joined(super().extra_repr(), law_repr(self))


class Sigmoid(nn.Sigmoid):
    """Normalised sigmoid: see :func:`normprop.functional.sigmoid`.

    Args:
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    def __init__(
        self, *, scaling: Scaling = "backward", mean: float = 0.0, std: float = 1.0
    ) -> None:
        super().__init__()
        _declare(self, "sigmoid", scaling, mean, std)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise 1/(1 + exp(-x))."""
        return functional.sigmoid(input, constants=self.constants)

    def extra_repr(self) -> str:
        """The arguments."""
        return law_repr(self)


class Tanh(nn.Tanh):
    """Normalised tanh: see :func:`normprop.functional.tanh`.

    Args:
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    def __init__(
        self, *, scaling: Scaling = "backward", mean: float = 0.0, std: float = 1.0
    ) -> None:
        super().__init__()
        _declare(self, "tanh", scaling, mean, std)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise tanh x."""
        return functional.tanh(input, constants=self.constants)

    def extra_repr(self) -> str:
        """The arguments."""
        return law_repr(self)


class GELU(nn.GELU):
    """Normalised GELU: see :func:`normprop.functional.gelu`.

    Args:
        approximate: must be ``"none"``: the constants are those of the exact function.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    def __init__(
        self,
        approximate: str = "none",
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        if approximate != "none":
            raise ValueError(
                f"approximate must be 'none', the exact function; it was {approximate!r}"
            )
        _declare(self, "gelu", scaling, mean, std)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise xΦ(x)."""
        return functional.gelu(input, constants=self.constants)

    def extra_repr(self) -> str:
        """The arguments."""
        return joined(super().extra_repr(), law_repr(self))


class SiLU(nn.SiLU):
    """Normalised SiLU: see :func:`normprop.functional.silu`.

    Args:
        inplace: must be ``False``; there so that the twin's arguments fit.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    def __init__(
        self,
        inplace: bool = False,
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        refuse_inplace(inplace)
        _declare(self, "silu", scaling, mean, std)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise x/(1 + exp(-x))."""
        return functional.silu(input, constants=self.constants)

    def extra_repr(self) -> str:
        """The arguments."""
        return law_repr(self)


def _declare(layer: nn.Module, name: str, scaling: Scaling, mean: float, std: float) -> None:
    law = rules.check_law(mean, std)
    layer.scaling, layer.mean, layer.std = scaling, law.mean, law.std
    layer.constants = activation_constants(name, scaling, law.mean, law.std)


def _register(module_type: type, name: str) -> None:
    def image(layer, base: Normal) -> Image:
        function = rules.function_of(name)
        return Image(function, base, layer.constants.shift, layer.constants.forward)

    def measure(layer, law) -> rules.Moments:
        return rules.affine(rules.activation(rules.function_of(name), law), *layer.constants)

    rules.register(module_type, measure, image)


for _type, _name in (
    (GELU, "gelu"),
    (ReLU, "relu"),
    (Sigmoid, "sigmoid"),
    (SiLU, "silu"),
    (Tanh, "tanh"),
):
    _register(_type, _name)
