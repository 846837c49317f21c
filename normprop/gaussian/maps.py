r"""Depth: what one normalised layer does to the scale of its input, and to a correlation.

A layer takes u, of second moment q, to :math:`g(u) = (f(m + su) - \mu)/\sigma`, its constants
fixed.  With normal u and weights that keep the second moment, a stack of such layers iterates

.. math::
    Q(q) = E\,g(\sqrt q\,z)^2, \qquad
    C(\rho) = \frac{\mathrm{Cov}(f(x_1), f(x_2))}{\mathrm{Var} f(x)}

for the second moment and for the correlation ρ of two inputs at q = 1.
"""

import math
from dataclasses import dataclass

import numpy as np

from normprop.gaussian.elementwise import elementwise, panel_ends
from normprop.gaussian.functions import Function
from normprop.gaussian.law import Figures, Normal, in_range
from normprop.gaussian.named import FUNCTIONS
from normprop.gaussian.normal import BEYOND, EPS, REACH, pdf
from normprop.gaussian.quadrature import converged_mesh, ended
from normprop.gaussian.search import bisected

_HERMITE_TERMS = 128
# Where those leave out more than this, so many.
_LEFT_OUT, _MORE_TERMS = 1e-9, 1024
_SHARE, _NEAR = 1e-2, 1e-3


@dataclass(frozen=True)
class Bounded:
    """A number and a bound on its absolute error.

    Raises:
        ValueError: the number is none, or the bound says nothing.
    """

    value: float
    error: float

    def __post_init__(self) -> None:
        # What is bounded here is 1, or of that order, for the layers that it is about.
        if not (math.isfinite(self.value) and self.error <= max(_SHARE * abs(self.value), _NEAR)):
            raise ValueError(
                "the value must be a number, and its bound at most a hundredth of it; at this law "
                f"it is {self.value:g} ± {self.error:.1g}"
            )


@in_range
def chi(function: Function, law: Normal) -> Bounded:
    r"""Growth of the squared gradient in a forward-normalised layer.

    .. math:: \chi = s^2 \sigma_b^2 / \sigma_f^2 \ge 1

    with equality for straight lines only (the Gaussian Poincaré inequality), for functions
    without jumps: the slope of a jump is not in σ_b.

    Raises:
        ValueError: the function does not vary at this law.
    """
    figures = _varying(function, law)
    root = law.std * figures.slope / figures.std
    of_slope = min(figures.error, figures.slope_error)
    relative = of_slope / max(figures.slope, of_slope) + figures.error / figures.std
    return Bounded(root * root, root * root * (2.5 * relative + 8.0 * EPS))


def _varying(function: Function, law: Normal) -> Figures:
    figures = elementwise(function, law)
    if not figures.std > figures.error:
        raise ValueError(
            f"{function.name} must vary at N({law.mean:g}, {law.std:g}²); its standard deviation "
            f"there is {figures.std:g} ± {figures.error:.1g}"
        )
    return figures


@in_range
def scale_map(
    function: Function, law: Normal, shift: float, divisor: float, second_moment: float
) -> Bounded:
    r"""Q(q), the second moment behind a layer with these constants.

    .. math:: Q(q) = \frac{\sigma_f(q)^2 + (\mu(q) - \mathrm{shift})^2}{\mathrm{divisor}^2},
        \qquad x \sim N(m, q s^2)

    Args:
        function: f.
        law: N(m, s²), the law at q = 1.
        shift: μ, subtracted.
        divisor: σ, divided by.
        second_moment: q > 0.
    """
    figures = elementwise(function, Normal(law.mean, law.std * math.sqrt(second_moment)))
    off = figures.mean - shift
    value = (figures.std**2 + off * off) / divisor**2
    # The standard deviation √q·s is itself rounded; f's figures move with it at most as s·f'.
    moved = figures.error + 2.0 * EPS * law.std * math.sqrt(second_moment) * figures.slope
    error = 2.0 * moved * (figures.std + abs(off)) / divisor**2 + 8.0 * EPS * value
    return Bounded(value, error + 4.0 * EPS * abs(off) * (abs(figures.mean) + abs(shift)))


@in_range
def scale_slope(
    function: Function, law: Normal, shift: float, divisor: float, second_moment: float
) -> Bounded:
    r"""Q'(q), by differentiating the density instead of f.

    .. math:: Q'(q) = \frac{1}{2q}\,E\,(z^2 - 1)\,g(\sqrt q\,z)^2

    A fixed point attracts where this is below 1 and repels where it is above.
    """
    s = law.std * math.sqrt(second_moment)

    def integrand(z):
        g = function.value(law.mean + s * z) - shift
        return pdf(z) * np.stack([(z * z - 1.0) * g * g, g * g])

    marks = function.marks(law.mean, s, (0.0, 1.0, -1.0))
    mesh = converged_mesh(integrand, panel_ends(0.0, marks))
    scale = 0.5 / (second_moment * divisor**2)
    value = float(mesh.integrals()[0]) * scale
    size = np.abs(mesh.values[0]) * mesh.weights
    edge = float(np.abs(function.value(law.mean + s * np.array([-REACH, REACH]))).max())
    cut = BEYOND * REACH**2 * (edge + abs(shift)) ** 2 * 4.0
    rounding = EPS * float(size @ (32.0 + mesh.nodes**2))
    error = (float(mesh.truncation[0]) + rounding + cut) * scale
    return Bounded(value, error + 16.0 * EPS * (1.0 + abs(shift)) ** 2 * scale)


@dataclass(frozen=True)
class FixedPoint:
    """A second moment that a layer leaves as it is, and the map's slope there."""

    second_moment: float
    slope: Bounded

    @property
    def attracts(self) -> bool:
        """Whether nearby second moments move towards this one."""
        return abs(self.slope.value) < 1.0 - self.slope.error


def fixed_points(
    function: Function,
    law: Normal,
    shift: float,
    divisor: float,
    low: float = 1e-4,
    high: float = 1e4,
) -> list[FixedPoint]:
    """Where Q(q) = q between ``low`` and ``high``, in rising order.

    A crossing is found between two points of a logarithmic grid and bisected.  A point where
    Q touches the diagonal without crossing it is found only where the grid has it: at q = 1,
    which belongs to the grid, as for ReLU under the forward scale.
    """

    def distance(log_q: float) -> float:
        q = math.exp(log_q)
        return scale_map(function, law, shift, divisor, q).value / q - 1.0

    steps = 200
    half = max(abs(math.log(low)), abs(math.log(high))) / steps
    grid = [k * half for k in range(-steps, steps + 1)]
    grid = [v for v in grid if math.log(low) <= v <= math.log(high)]
    values = [distance(v) for v in grid]

    def crossing(k: int) -> float:
        sign = math.copysign(1.0, values[k])
        return bisected(lambda v: -sign * distance(v), grid[k], grid[k + 1])

    found = [
        crossing(k)
        for k in range(len(grid) - 1)
        if values[k] * values[k + 1] < 0 and min(abs(values[k]), abs(values[k + 1])) > 64 * EPS
    ]
    found += [grid[k] for k in range(len(grid)) if abs(values[k]) <= 64 * EPS]
    points = []
    for log_q in sorted(found):
        q = math.exp(log_q)
        points.append(FixedPoint(q, scale_slope(function, law, shift, divisor, q)))
    return points


def hermite_energies(function: Function, law: Normal, terms: int = _HERMITE_TERMS) -> np.ndarray:
    r"""Shares a_k²/σ_f² of the variance of f in each Hermite polynomial, k = 1 … terms.

    .. math:: a_k = \frac{1}{\sqrt{k!}} E\,f(m + sz)\,\mathrm{He}_k(z), \qquad
        \sum_{k \ge 1} a_k^2 = \sigma_f^2
    """

    def integrand(z):
        g = function.increment(law.mean, law.std * z)
        return (pdf(z) * g)[None] * _hermite(z, terms)

    # Polynomials up to this degree oscillate with a wave length of about 2π/√degree.
    panels = int(2.0 * REACH * math.sqrt(terms) / (2.0 * math.pi)) + 2
    grid, marks = np.linspace(-REACH, REACH, panels), function.marks(law.mean, law.std, (0.0,))
    coefficients = converged_mesh(integrand, ended(grid, marks)).integrals()
    return coefficients**2 / elementwise(function, law).std ** 2


def _hermite(z: np.ndarray, terms: int) -> np.ndarray:
    """He_k(z)/√k! for k = 1 … terms, by the three-term recurrence, shape (terms, n)."""
    rows = [np.ones_like(z), z]
    for k in range(1, terms):
        rows.append((z * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.stack(rows[1:])


@in_range
def correlation_map(function: Function, law: Normal, correlation: float) -> Bounded:
    r"""C(ρ), the correlation behind a layer of two inputs with correlation ρ.

    .. math:: C(\rho) = \sum_{k \ge 1} \frac{a_k^2}{\sigma_f^2} \rho^k,
        \qquad C(1) = 1, \qquad C'(1) = \chi

    What the series leaves out is at most :math:`|\rho|^{K+1}` times the share of the variance
    beyond its last term K.  ReLU at mean 0 has the closed form of the arc-cosine kernel.

    Raises:
        ValueError: the correlation is not in [-1, 1], the function does not vary at this law, or
            it is so steep that the series leaves too much out.
    """
    if not -1.0 <= correlation <= 1.0:
        raise ValueError(f"correlation must lie in [-1, 1]; it was {correlation}")
    if function is FUNCTIONS["relu"] and law.mean == 0:
        return _arc_cosine(correlation)
    _varying(function, law)
    if correlation == 1.0:
        return Bounded(1.0, 0.0)
    for terms in (_HERMITE_TERMS, _MORE_TERMS):
        energies = hermite_energies(function, law, terms)
        powers = correlation ** np.arange(1, terms + 1)
        rest = max(1.0 - float(energies.sum()), 0.0)
        left_out = rest * abs(correlation) ** (terms + 1)
        if left_out <= _LEFT_OUT:
            break
    value, rounding = float(energies @ powers), 64.0 * EPS * terms
    if correlation > 0:
        # What is left out is positive, and no term exceeds the first power.
        left_out = max(0.5 * (min(left_out, correlation - value)), 0.0)
        value += left_out
    return Bounded(value, left_out + rounding)


def _arc_cosine(rho: float) -> Bounded:
    angle = math.acos(rho)
    product = (math.sqrt(1.0 - rho * rho) + rho * (math.pi - angle)) / (2.0 * math.pi)
    value = (product - 0.5 / math.pi) / (0.5 - 0.5 / math.pi)
    # The arc cosine loses half its digits at 1, but enters with a weight that vanishes there.
    return Bounded(value, 32.0 * EPS)
