r"""Losses of a normal prediction: of the distance to a normal target, of two labels, of a class.

With independent x ~ N(m, s²) and t ~ N(m_t, s_t²) a loss of the distance is an elementwise
function of x - t ~ N(m - m_t, s² + s_t²), whose slope is the gradient at x.  A loss with labels
is a different function of x for each of them: figures of the mixture.
"""

import math

from normprop.gaussian.closed import Spline
from normprop.gaussian.elementwise import elementwise
from normprop.gaussian.families import absolute, of_pieces
from normprop.gaussian.functions import Function
from normprop.gaussian.law import Figures, Normal, mixture
from normprop.gaussian.named import FUNCTIONS
from normprop.gaussian.normal import EPS


def distance(prediction: Normal, target: Normal) -> Normal:
    """The law of x - t."""
    return Normal(prediction.mean - target.mean, math.hypot(prediction.std, target.std))


def square(law: Normal) -> Figures:
    r"""Figures of x²: m² + s², :math:`s\sqrt{2s^2 + 4m^2}` and :math:`2\sqrt{m^2 + s^2}`."""
    m, s = abs(law.mean), law.std
    figures = (m * m + s * s, s * math.hypot(math.sqrt(2.0) * s, 2.0 * m), 2.0 * math.hypot(m, s))
    return Figures(*figures, 8.0 * EPS * max(figures), "closed form")


def huber(delta: float = 1.0, scale: float = 1.0) -> Function:
    r"""The function scale·x²/2 up to \|x\| = ``delta``, then scale·delta·(\|x\| - delta/2)."""
    if not (0 < delta < math.inf and 0 < scale < math.inf):
        raise ValueError(
            f"delta and scale must be finite and greater than 0; they were {delta} and {scale}"
        )
    steep = scale * delta
    slopes, curves = (-steep, 0.0, steep), (0.0, 0.5 * scale, 0.0)
    return of_pieces("huber", Spline((-delta, delta), slopes, curves, (0.0, 0.0), 0.0, 0.0))


def smooth_l1(beta: float = 1.0) -> Function:
    r"""The function x²/(2 beta) up to \|x\| = ``beta``, then \|x\| - beta/2; \|x\| for 0."""
    return absolute() if beta == 0 else huber(float(beta), 1.0 / beta)


def cross_entropy_of_two(law: Normal, chance: float = 0.5) -> Figures:
    r"""Figures of -t log σ(x) - (1 - t) log σ(-x), t = 1 with probability ``chance``, else 0."""
    log = FUNCTIONS["logsigmoid"]
    here, there = (elementwise(log, Normal(sign * law.mean, law.std)) for sign in (1.0, -1.0))
    return mixture([negative(here), negative(there)], [chance, 1.0 - chance])


def hinge_embedding(law: Normal, margin: float, chance: float = 0.5) -> Figures:
    """Figures of x for the label 1, of max(margin - x, 0) for the label -1."""
    near = Figures(law.mean, law.std, 1.0, EPS * (abs(law.mean) + law.std), "closed form")
    far = elementwise(FUNCTIONS["relu"], Normal(margin - law.mean, law.std))
    return mixture([near, far], [chance, 1.0 - chance])


def negative(figures: Figures) -> Figures:
    """Figures of -f."""
    return Figures(-figures.mean, figures.std, figures.slope, figures.error, figures.method)
