r"""Gated linear units: a·g(b) for independent a, b ~ N(m, s²).

.. math::
    \mu = m\,E g, \qquad \sigma_f^2 = s^2 E g^2 + m^2\,\mathrm{Var}\,g, \qquad
    \sigma_a^2 = E g^2, \qquad \sigma_b^2 = (m^2 + s^2)\,E g'^2,

σ_a and σ_b the standard deviations of the gradients at the two halves of the input.
"""

import math
from dataclasses import dataclass

from normprop.gaussian import families
from normprop.gaussian.elementwise import elementwise
from normprop.gaussian.functions import Function
from normprop.gaussian.law import Figures, Normal
from normprop.gaussian.named import FUNCTIONS
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


def rrelu_training(lower: float, upper: float, law: Normal) -> Figures:
    r"""Randomised leaky ReLU in training, max(x, 0) + A min(x, 0) with A uniform on its bounds.

    With g the leaky ReLU of slope E A and v = (upper - lower)²/12 the variance of A,

    .. math::
        E f = E g, \qquad \mathrm{Var} f = \mathrm{Var}\, g + v E \min(x, 0)^2, \qquad
        E f'^2 = E g'^2 + v P(x < 0),

    where the last two integrals are those of a ReLU at -x.  Every term is positive, so that the
    error of a root is at most that of its parts.
    """
    if not (math.isfinite(lower) and math.isfinite(upper) and lower <= upper):
        raise ValueError(
            "lower and upper must be finite and lower not greater than upper; "
            f"they were {lower} and {upper}"
        )
    mean = elementwise(families.rrelu(lower, upper), law)
    below = elementwise(FUNCTIONS["relu"], Normal(-law.mean, law.std))
    spread = (upper - lower) / math.sqrt(12.0)
    std = math.hypot(mean.std, spread * below.mean, spread * below.std)
    slope = math.hypot(mean.slope, spread * below.slope)
    error = mean.error + math.sqrt(2.0) * spread * below.error + 8.0 * EPS * max(std, slope)
    return Figures(mean.mean, std, slope, error, mean.method)
