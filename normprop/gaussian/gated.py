r"""Gated linear units: a·g(b) for independent a, b ~ N(m, s²).

.. math::
    \mu = m\,E g, \qquad \sigma_f^2 = s^2 E g^2 + m^2\,\mathrm{Var}\,g, \qquad
    \sigma_a^2 = E g^2, \qquad \sigma_b^2 = (m^2 + s^2)\,E g'^2,

σ_a and σ_b the standard deviations of the gradients at the two halves of the input.
"""

import math
from dataclasses import dataclass

from normprop.gaussian.elementwise import elementwise
from normprop.gaussian.functions import Function
from normprop.gaussian.law import Figures, Normal
from normprop.gaussian.normal import EPS


@dataclass(frozen=True)
class GatedFigures:
    """Figures of a gated unit."""

    mean: float  # E a·g(b)
    std: float  # Std a·g(b)
    value: float  # standard deviation of the gradient at the half a
    gate: float  # standard deviation of the gradient at the half b
    error: float  # bound on the absolute error of each of the four
    method: str  # that of the gate's figures

    @property
    def slope(self) -> float:
        """Root mean square of the gradient over both halves."""
        return math.sqrt(0.5) * math.hypot(self.value, self.gate)


def gated_linear(gate: Function, law: Normal) -> GatedFigures:
    """Figures of a·gate(b), a and b independent with this law.

    Raises:
        ArithmeticError: the gate's integrals do not converge.
    """
    return product(law, elementwise(gate, law))


def product(value: Normal, gate: Figures) -> GatedFigures:
    """Figures of a·y for a with the law ``value`` and an independent y with these figures."""
    m, s = abs(value.mean), value.std
    second = math.hypot(gate.mean, gate.std)
    rms = math.hypot(m, s)
    figures = (
        value.mean * gate.mean,
        math.hypot(s * second, m * gate.std),
        second,
        rms * gate.slope,
    )
    # A root of a sum of squares changes by at most the root of the sum of squared changes.
    error = gate.error * max(m, math.sqrt(2.0) * s + m, math.sqrt(2.0), rms)
    error += 8.0 * EPS * max(map(abs, figures))
    return GatedFigures(*figures, error, gate.method)
