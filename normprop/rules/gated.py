"""Gated linear units: one half of the input times a function of the other."""

from torch import nn

from normprop.gaussian import FUNCTIONS, Function, Law
from normprop.gaussian.gated import gated_linear as ground
from normprop.rules.arguments import need_normal
from normprop.rules.registry import Moments, moments_of, register

__all__ = ["gated_linear"]


def gated_linear(gate: Function, law: Law) -> Moments:
    """Moments of a·gate(b), a and b the halves of the input.

    ``bwd_std`` is the root mean square over both halves;
    :func:`normprop.gaussian.gated.gated_linear` has one for each.

    Raises:
        ValueError: the gate's integrals do not converge.
    """
    try:
        figures = ground(gate, law)
    except ArithmeticError as problem:
        raise ValueError(f"{gate.name} has no constants here: {problem}") from problem
    return moments_of(figures)


register(
    nn.GLU,
    lambda layer, law: gated_linear(FUNCTIONS["sigmoid"], need_normal(layer, law)),
    note="the gradient's standard deviation is over both halves of the input",
    family="activation",
    algebra="curve",
)
