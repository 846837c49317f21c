"""Normalised gated linear units."""

from collections.abc import Callable
from functools import lru_cache

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.scale import (
    Constants,
    Scaling,
    constant_when_compiled,
    literal,
    normalized,
)
from normprop.names import NAMED, canonical

Gate = str | Callable[[Tensor], Tensor]


def glu(
    input: Tensor,
    dim: int = -1,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    *,
    constants: Constants | None = None,
) -> Tensor:
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
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        constants: the constants, where they are at hand; then scaling, mean and std have no
            say.

    Returns:
        Tensor of half the size along ``dim``.

    Raises:
        ValueError: an argument is out of its range.
    """
    constants = constants or gated_constants("sigmoid", scaling, literal(mean), literal(std))
    return normalized(lambda x: torch_functional.glu(x, dim), input, constants)


def gated_linear(
    input: Tensor,
    gate: Gate = "silu",
    dim: int = -1,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    *,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised unit a·g(b) with a gate of your choice, a and b the halves of the input.

    ``"relu"`` makes it ReGLU, ``"gelu"`` GEGLU, ``"silu"`` SwiGLU.

    Args:
        input: any shape whose size along ``dim`` is even.
        gate: g, the name of an activation or an elementwise function on tensors.
        dim: where the halves are.
        scaling: as in :func:`glu`; likewise mean, std and constants.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        constants: the constants, where they are at hand.

    Returns:
        Tensor of half the size along ``dim``.

    Raises:
        TypeError: the gate is no elementwise function.
        ValueError: an argument is out of its range, or the size along ``dim`` is odd.
    """
    constants = constants or gated_constants(gate, scaling, literal(mean), literal(std))
    if input.shape[dim] % 2:
        raise ValueError(
            f"input must have an even size along dim {dim}; its shape was {tuple(input.shape)}"
        )
    run = gate_function(gate)

    def unit(x: Tensor) -> Tensor:
        value, gating = x.chunk(2, dim)
        return value * run(gating)

    return normalized(unit, input, constants)


def gate_function(gate: Gate) -> Callable[[Tensor], Tensor]:
    """What runs a gate: torch's function of that name, or the function itself."""
    if not isinstance(gate, str):
        return gate
    return NAMED[_name(gate)]


@constant_when_compiled
def _name(gate: str) -> str:
    return canonical(gate, "gate")


@constant_when_compiled
def gated_constants(gate: Gate, scaling: Scaling, mean: float, std: float) -> Constants:
    """Constants of a·gate(b) at this input law."""
    if isinstance(gate, str):
        return _cached(gate, scaling, mean, std)
    return _found(gate, scaling, mean, std)


def _found(gate: Gate, scaling: Scaling, mean: float, std: float) -> Constants:
    figures = rules.gated_linear(rules.function_of(gate), rules.check_law(mean, std))
    return Constants.of(figures, scaling)


_cached = lru_cache(maxsize=1024, typed=True)(_found)
