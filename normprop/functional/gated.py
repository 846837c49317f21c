"""Normalised gated linear units."""

from collections.abc import Callable
from typing import Unpack

from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.constants import constants_by, constants_of
from normprop.functional.keywords import Law, takes
from normprop.functional.scale import constant_when_compiled, literal, normalized
from normprop.gaussian import Normal
from normprop.names import NAMED, canonical

__all__ = ["gated_linear", "glu"]

Gate = str | Callable[[Tensor], Tensor]


@takes(Law)
def glu(input: Tensor, dim: int = -1, **law: Unpack[Law]) -> Tensor:
    r"""Normalised gated linear unit.

    .. math:: y = \frac{a\,\mathrm{sigmoid}(b) - \mu}{\sigma}

    with a and b the halves of the input along ``dim``.  For independent x ~ N(m, s²) and
    g = sigmoid, :math:`\mu = m\,E g`, :math:`\sigma_f^2 = s^2 E g^2 + m^2\,\mathrm{Var}\,g`,
    and :math:`\sigma_b^2 = \tfrac12\bigl(E g^2 + (m^2 + s^2) E g'^2\bigr)`: the gradient's
    mean square over both halves, the first of which has the larger share.  The scalings choose
    σ as in :func:`relu`.

    Args:
        input: any shape whose size along ``dim`` is even.
        dim: where the halves are.

    Returns:
        Tensor of half the size along ``dim``.
    """
    return normalized(lambda x: torch_functional.glu(x, dim), input, constants_of(nn.GLU, law))


@takes(Law)
def gated_linear(input: Tensor, gate: Gate = "silu", dim: int = -1, **law: Unpack[Law]) -> Tensor:
    r"""Normalised unit a·g(b) with a gate of your choice, a and b the halves of the input.

    ``"relu"`` makes it ReGLU, ``"gelu"`` GEGLU, ``"silu"`` SwiGLU.

    Args:
        input: any shape whose size along ``dim`` is even.
        gate: g, the name of an activation or an elementwise function on tensors.
        dim: where the halves are.

    Returns:
        Tensor of half the size along ``dim``.

    Raises:
        TypeError: the gate is no elementwise function.
        ValueError: an argument is out of its range, or the size along ``dim`` is odd.
    """
    base = law["scaling"], literal(law["mean"]), literal(law["std"])
    constants = constants_by(_figures, gate, *base)
    return normalized(lambda x: gated(x, gate, dim), input, constants)


def gated(input: Tensor, gate: Gate, dim: int) -> Tensor:
    """a·g(b), as torch has it for a sigmoid alone."""
    if input.shape[dim] % 2:
        raise ValueError(
            f"input must have an even size along dim {dim}; its shape was {tuple(input.shape)}"
        )
    value, gating = input.chunk(2, dim)
    return value * gate_function(gate)(gating)


def gate_function(gate: Gate) -> Callable[[Tensor], Tensor]:
    """What runs a gate: torch's function of that name, or the function itself."""
    if not isinstance(gate, str):
        return gate
    return NAMED[_name(gate)]


@constant_when_compiled
def _name(gate: str) -> str:
    return canonical(gate, "gate")


def _figures(gate: Gate, law: Normal) -> rules.Moments:
    return rules.gated_linear(rules.function_of(gate), law)
