"""Functions with a number that is drawn for each element, independently of it."""

import math

from normprop.gaussian import families
from normprop.gaussian.elementwise import elementwise
from normprop.gaussian.law import Figures, Normal
from normprop.gaussian.named import FUNCTIONS
from normprop.gaussian.normal import EPS


def rrelu_training(lower: float, upper: float, law: Normal) -> Figures:
    r"""Randomised leaky ReLU in training, max(x, 0) + A min(x, 0) with A uniform on its bounds.

    With g the leaky ReLU of slope E A and v = (upper - lower)²/12 the variance of A,

    .. math::
        E f = E g, \qquad \mathrm{Var} f = \mathrm{Var}\, g + v E \min(x, 0)^2, \qquad
        E f'^2 = E g'^2 + v P(x < 0),

    where the last two integrals are those of a ReLU at -x.  Every term is positive, so that the
    error of a root is at most that of its parts.

    Raises:
        ValueError: the bounds are not finite, or in the wrong order.
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
