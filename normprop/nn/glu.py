"""Normalised gated linear units."""

from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.gated import Gate, gated_constants
from normprop.functional.scale import Scaling
from normprop.nn.law import law_repr
from normprop.nn.twin import Twin


class GLU(Twin, nn.GLU):
    """Normalised gated linear unit: see :func:`normprop.functional.glu`.

    Args:
        dim: where the halves of the input are.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Gate one half of the input by the other, and normalise."""
        return functional.glu(input, self.dim, constants=self.constants)


class GatedLinear(nn.Module):
    """Normalised a·g(b) with a gate of your choice: see :func:`normprop.functional.gated_linear`.

    Args:
        gate: g, the name of an activation or an elementwise function on tensors.
        dim: where the halves of the input are.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    def __init__(
        self,
        gate: Gate = "silu",
        dim: int = -1,
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        law = rules.check_law(mean, std)
        self.gate, self.dim = gate, dim
        self.scaling, self.mean, self.std = scaling, law.mean, law.std
        self.constants = gated_constants(gate, scaling, law.mean, law.std)

    def forward(self, input: Tensor) -> Tensor:
        """Gate one half of the input by the other, and normalise."""
        return functional.gated_linear(input, self.gate, self.dim, constants=self.constants)

    def extra_repr(self) -> str:
        """The arguments."""
        gate = repr(self.gate) if isinstance(self.gate, str) else self.gate
        return f"gate={gate}, dim={self.dim}, {law_repr(self)}"


def _moments(layer: GatedLinear, law) -> rules.Moments:
    plain = rules.gated_linear(rules.function_of(layer.gate), law)
    return rules.affine(plain, *layer.constants)


rules.register(GatedLinear, _moments)
