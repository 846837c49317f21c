"""Normalised gated linear units."""

from typing import Unpack

from torch import Tensor, nn

from normprop import rules
from normprop.functional.gated import Gate, gated
from normprop.functional.keywords import Law as LawKeywords
from normprop.gaussian import Law
from normprop.nn.twin import Twin

__all__ = ["GLU", "GatedLinear"]


class GLU(Twin, nn.GLU):
    """Normalised gated linear unit: see :func:`normprop.functional.glu`."""


class GatedLinear(Twin, nn.Module):
    """Normalised a·g(b) with a gate of your choice: :func:`normprop.functional.gated_linear`."""

    def __init__(self, gate: Gate = "silu", dim: int = -1, **law: Unpack[LawKeywords]) -> None:
        nn.Module.__init__(self)
        self.gate, self.dim = gate, dim
        super().__init__(**law)

    def _compute(self, input: Tensor) -> Tensor:
        return gated(input, self.gate, self.dim)

    def _plain(self, law: Law) -> rules.Moments:
        return rules.gated_linear(rules.function_of(self.gate), law)

    def _declared(self, law: Law, shape: tuple[int, ...] | None) -> rules.Moments:
        return self._plain(law)

    def extra_repr(self) -> str:
        """The arguments."""
        gate = repr(self.gate) if isinstance(self.gate, str) else self.gate
        return f"gate={gate}, dim={self.dim}, {super().extra_repr()}"
