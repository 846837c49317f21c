r"""Closed forms of the figures of x ~ N(m, s²), with bounds on their rounding errors.

Everything is written in :math:`z = (x - m)/s` and anchored at the mean: f is the piece that
holds m, continued over the whole line, plus corrections beyond the kinks.  A correction enters
only through the tail of the normal law behind its kink, so that far kinks cost no digits and
no exponential is taken of a large number.  What remains is cancellation between kinks that are
close together on the scale of s; the bounds know of it, and
:func:`normprop.gaussian.elementwise` then integrates instead.

A bound is the sum of the sizes of the terms times the ulps that the operations and the rounding
of t = (c - m)/s may cost them.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from normprop.gaussian.law import Figures, Normal, std_error
from normprop.gaussian.normal import (
    EPS,
    FAR,
    NOTHING_BEYOND,
    cdf,
    mills,
    mills_defect,
    pdf,
    rectified,
    tail_moments,
)

_CLOSED = "closed form"
Term = tuple[float, float]
"""A number and a bound on its absolute error."""


def relu(law: Normal) -> Figures:
    r"""Figures of max(x, 0).

    With t = |m|/s and M, V, Φ(-t) of :func:`~normprop.gaussian.normal.rectified`: for m ≤ 0
    they are :math:`sM, s\sqrt V, \sqrt{\Phi(-t)}`; for m > 0, by max(x, 0) = x + max(-x, 0)
    and Stein's lemma, :math:`m + sM, s\sqrt{1 - 2\Phi(-t) + V}, \sqrt{1 - \Phi(-t)}`.
    """
    m, s = law.mean, law.std
    mean, variance, active = rectified(abs(m) / s)
    if m > 0:
        variance, active = 1.0 - 2.0 * active + variance, 1.0 - active
    std, slope = math.sqrt(variance), math.sqrt(active)
    # An ulp of t = |m|/s is a relative error of t² ulp in the density and what hangs on it;
    # t²·exp(-t²/4) < 1.5, so it never counts for more than a few ulp of s.
    error = 16.0 * EPS * (abs(m) + s * (1.0 + std) + slope)
    if m <= 0:
        # Left of the kink all three figures are as small as the density, and so is their error:
        # t² ulp each, and where they are differences as much again for each power of 1/t² that
        # the difference is smaller than its terms.
        t = abs(m) / s
        lost = (1.0 + t * t) * (1.0 + min(t, FAR) ** 2)
        # The floor is for squares that underflow.
        floor = 1e-153 * (s + 1.0)
        error = min(error, 16.0 * EPS * lost * (s * mean + s * std + slope) + floor)
    figures = max(m, 0.0) + s * mean, s * std, slope
    return Figures(*figures, error, _CLOSED, min(error, 32.0 * EPS) if m >= 0 else error)


@dataclass(frozen=True)
class Spline:
    """A function made of pieces of straight lines and parabolas."""

    kinks: tuple[float, ...]  # where the pieces meet, strictly increasing
    # Piece i has the slope ``slopes[i] + 2 curves[i] x``; one more than kinks.
    slopes: tuple[float, ...]
    curves: tuple[float, ...]  # see ``slopes``
    jumps: tuple[float, ...]  # f(c+) - f(c-) at each kink
    at: float  # a point
    value: float  # f there; where it is a kink, on its left

    def slope(self, piece: int, x: float) -> float:
        """Slope at x of a piece."""
        return self.slopes[piece] + 2.0 * self.curves[piece] * x

    def right_of(self, x: float) -> Term:
        """f(x+), by adding the rises of the pieces from ``at`` to x."""
        low, high, sign = (self.at, x, 1.0) if x >= self.at else (x, self.at, -1.0)
        terms = [self.value]
        ends = (-math.inf, *self.kinks, math.inf)
        for i, (slope, curve) in enumerate(zip(self.slopes, self.curves, strict=True)):
            start, end = max(ends[i], low), min(ends[i + 1], high)
            if start < end:
                terms.append(sign * slope * (end - start))
                if curve:
                    terms.append(sign * curve * (end - start) * (end + start))
        for kink, jump in zip(self.kinks, self.jumps, strict=True):
            terms.append(jump * ((x >= kink) - (self.at > kink)))
        return math.fsum(terms), 4.0 * EPS * sum(map(abs, terms))


@dataclass(frozen=True)
class _Tail:
    """What f is more than its middle piece beyond one kink, in units of the amplitude."""

    side: float  # 1 to the right of the mean, -1 to its left
    kink: float  # c
    t: float  # |c - m|/s
    rise: tuple[float, float, float]  # coefficients of (±z - t)^k, k = 0, 1, 2
    steeper: tuple[float, float, float]  # the same for f'², in its own units
    moments: list[float]  # E max(z - t, 0)^k, k = 0 … 4
    errors: list[float]  # bounds on the errors of ``moments``


def spline(pieces: Spline, law: Normal) -> Figures:
    r"""Figures of a function made of lines and parabolas.

    With p the piece that holds m, :math:`p(m + sz) = f(m) + a z + b z^2`, and beyond each kink
    a correction r of degree ≤ 2 in :math:`u = \pm z - t`, :math:`I_k = E \max(u, 0)^k`:

    .. math::
        \mu &= f(m) + b + \textstyle\sum E r, \qquad E r = \sum_k r_k I_k \\
        \sigma_f^2 &= a^2 + 2b^2 + 2a\,E r'(z) + 2b\,E r''(z) + \mathrm{Var} \textstyle\sum r

    by Stein's lemma, the derivatives being those of distributions: a jump J gives
    :math:`J\varphi(t)` and :math:`J t\varphi(t)`.  The product of two corrections on one side
    is a polynomial beyond the farther kink; on different sides it is 0.  :math:`E f'^2` is the
    mean of the function f'², made of pieces at the same kinks.
    """
    m, s = law.mean, law.std
    middle = bisect_right(pieces.kinks, m)
    slope, curve = pieces.slope(middle, m), pieces.curves[middle]
    raw = [*_sides(pieces, law, middle)]
    amplitude = max(
        [abs(slope) * s, abs(curve) * s * s, *(abs(r) for *_, rise, _ in raw for r in rise)]
    )
    start, start_error = pieces.right_of(m)
    if amplitude == 0.0:
        return Figures(start, 0.0, 0.0, start_error, _CLOSED)
    if not math.isfinite(amplitude):
        # Nothing is known: whoever compares bounds looks elsewhere.
        return Figures(0.0, 0.0, 0.0, math.inf, _CLOSED)
    tails = [
        _Tail(side, c, t, tuple(r / amplitude for r in rise), steeper, *tail_moments(t))
        for side, c, t, rise, steeper in raw
    ]
    a, b = slope * s / amplitude, curve * s * s / amplitude
    # Near the vertex of a parabola the slope is a difference.
    loose = 4.0 * EPS * (abs(pieces.slopes[middle]) + 2.0 * abs(curve * m))
    (rises, rises_error), (variance, error) = _spread(a, b, tails, s, loose * s / amplitude)

    mean = start + amplitude * (b + rises)
    error_mean = start_error + amplitude * (rises_error + 4.0 * EPS * abs(b))
    bent = curve * s
    here = slope * slope + 4.0 * bent * bent
    squares = [(here, 8.0 * EPS * here + 2.0 * abs(slope) * loose)]
    square, error_square = _sum(squares + [_dot(tail.steeper, tail) for tail in tails])
    of_slope = std_error(square, error_square) + 4.0 * EPS * math.sqrt(max(square, 0.0))
    bound = max(
        error_mean + 4.0 * EPS * (abs(start) + abs(mean)),
        amplitude * (std_error(variance, error) + 4.0 * EPS * math.sqrt(max(variance, 0.0))),
        of_slope,
    )
    return Figures(
        mean,
        amplitude * math.sqrt(max(variance, 0.0)),
        math.sqrt(max(square, 0.0)),
        bound,
        _CLOSED,
        of_slope,
    )


_WIDE = 1e20


def hardswish(law: Normal) -> Figures:
    r"""Figures of x·hardsigmoid(x), as a spline.

    Under a law so wide that squares of s·s would overflow, those of ReLU d = 3/8 at most away,
    with a slope 3/2 at most away, both only within \|x\| < 3, of probability 6φ(0)/s at most.
    """
    if law.std <= _WIDE:
        return spline(HARDSWISH, law)
    figures = relu(law)
    error = figures.error + 3.0 / math.sqrt(law.std)
    return Figures(figures.mean, figures.std, figures.slope, error, _CLOSED)


HARDSWISH = Spline(
    kinks=(-3.0, 3.0),
    slopes=(0.0, 0.5, 1.0),
    curves=(0.0, 1.0 / 6.0, 0.0),
    jumps=(0.0, 0.0),
    at=0.0,
    value=0.0,
)


def _sides(pieces: Spline, law: Normal, middle: int):
    """(side, kink, t, rise, steeper) of each kink that is not out of sight, outwards."""
    m, s = law.mean, law.std
    for side, kinks in ((1.0, range(middle, len(pieces.kinks))), (-1.0, reversed(range(middle)))):
        for j in kinks:
            c = pieces.kinks[j]
            t = abs(c - m) / s
            if t > NOTHING_BEYOND:
                break
            left, right = pieces.slope(j, c), pieces.slope(j + 1, c)
            bend_left, bend_right = pieces.curves[j], pieces.curves[j + 1]
            rise = (
                side * pieces.jumps[j],
                s * (right - left),
                side * s * s * (bend_right - bend_left) if bend_right != bend_left else 0.0,
            )
            steeper = (
                side * (right - left) * (right + left),
                4.0 * s * (right * bend_right - left * bend_left),
                side * 4.0 * (s * bend_right - s * bend_left) * (s * bend_right + s * bend_left),
            )
            yield side, c, t, rise, steeper


def _spread(a: float, b: float, tails: list[_Tail], s: float, loose: float) -> tuple[Term, Term]:
    """Mean of the corrections, and variance of all, in units of the amplitude."""
    mean, mean_error = _sum([_dot(tail.rise, tail) for tail in tails])
    terms = [(a * a, 8.0 * EPS * a * a + 2.0 * abs(a) * loose), (2.0 * b * b, 16.0 * EPS * b * b)]
    for tail in tails:
        jump, first, second = tail.rise
        density = pdf(tail.t)
        flat, flat_error = tail.moments, tail.errors
        ulps = EPS * (24.0 + 2.0 * tail.t * tail.t)
        drift = (jump * density, first * flat[0], 2.0 * second * flat[1])
        size = sum(map(abs, drift))
        error = abs(first) * flat_error[0] + 2.0 * abs(second) * flat_error[1] + ulps * size
        terms.append((2.0 * tail.side * a * sum(drift), 2.0 * (abs(a) * error + loose * size)))
        bends = (jump * tail.t * density, first * density, 2.0 * second * flat[0])
        error = 2.0 * abs(second) * flat_error[0] + ulps * sum(map(abs, bends))
        terms.append((2.0 * b * sum(bends), 2.0 * abs(b) * error))
    for side in (1.0, -1.0):
        ours = [tail for tail in tails if tail.side == side]
        for i, near in enumerate(ours):
            for far in ours[i:]:
                value, error = _product(near, far, s)
                weight = 1.0 if near is far else 2.0
                terms.append((weight * value, weight * error))
    terms.append((-mean * mean, 2.0 * abs(mean) * mean_error + EPS * mean * mean))
    return (mean, mean_error), _sum(terms)


def _product(near: _Tail, far: _Tail, s: float) -> Term:
    """Mean of the product of two corrections on one side, a polynomial beyond the farther."""
    d = abs(far.kink - near.kink) / s
    c0, c1, c2 = near.rise
    f0, f1, f2 = far.rise
    shifted = (c0 + d * (c1 + d * c2), c1 + 2.0 * d * c2, c2)
    sizes = (abs(c0) + d * (abs(c1) + d * abs(c2)), abs(c1) + 2.0 * d * abs(c2), abs(c2))
    value = error = 0.0
    for i, (p, size) in enumerate(zip(shifted, sizes, strict=True)):
        for k, q in enumerate((f0, f1, f2)):
            if q:
                value += p * q * far.moments[i + k]
                error += size * abs(q) * (far.errors[i + k] + 24.0 * EPS * far.moments[i + k])
    return value, error


def _dot(coefficients: tuple[float, ...], tail: _Tail) -> Term:
    """Σ_k coefficient_k I_k."""
    value = error = 0.0
    for c, moment, off in zip(coefficients, tail.moments, tail.errors, strict=False):
        value += c * moment
        error += abs(c) * (off + 16.0 * EPS * moment)
    return value, error


def _sum(terms: list[Term]) -> Term:
    total = math.fsum(value for value, _ in terms)
    return total, sum(error for _, error in terms) + EPS * abs(total)


_NARROW = 0.5


def elu(ratio: float, law: Normal) -> Figures:
    r"""Figures of f(x) = x for x > 0, γ(e^x - 1) for x ≤ 0, with γ = ``ratio``.

    Completing the square, with b = s k - a and a = -m/s,

    .. math::
        E_k = E\,e^{kx} 1_{x<0} = e^{km + k^2s^2/2}\,\Phi(-b) = \varphi(a) R(b),
        \qquad R = \Phi(-\cdot)/\varphi,

    the first form for b < 0, where its exponent is negative, the second elsewhere.  Then
    :math:`E f'^2 = \Phi(m/s) + \gamma^2 E_2`, and the first two moments follow from
    I_k = E max(±z - t, 0)^k, t = \|m\|/s, in one of three ways: as x plus a correction on the
    left (m ≥ 0), as γ(e^x - 1) plus a correction on the right (m < 0, s ≤ ½), or as what f is
    more than -γ (m < 0, s > ½).
    """
    if law.mean >= 0:
        return _elu_from_line(ratio, law)
    return _elu_from_exponential(ratio, law) if law.std <= _NARROW else _elu_from_floor(ratio, law)


def _elu_from_line(gamma: float, law: Normal) -> Figures:
    """Take f as x + r with r = γ(e^x - 1) - x for x < 0.

    By Stein's lemma Cov(x, r) = s² E r'.
    """
    m, s = law.mean, law.std
    t = min(m / s, NOTHING_BEYOND)
    (below, first, second), tail_ulps = _tail(t)
    one, two = _exponential(1, law), _exponential(2, law)
    shift = [gamma * one, -gamma * below, s * first]
    # In units that keep squares in range.
    scale = max(s, 1.0)
    u, g, mean = s / scale, gamma / scale, math.fsum(shift) / scale
    # E x e^x over x < 0 is -s φ(t)(1 - bR(b)).
    product = u * pdf(t) * mills_defect(s + t)
    square = [g * g * two, -2.0 * g * g * one, g * g * below]
    square += [2.0 * g * product, -2.0 * g * u * first, u * u * second]
    drift = [u * u, 2.0 * u * u * gamma * one, -2.0 * u * u * below]
    slope = [1.0, -below, gamma * gamma * two]
    ulps = 8.0, tail_ulps
    variance = [*drift, *square, -mean * mean]
    return _figures(m, shift, variance, slope, ulps, scale, 2.0 * abs(mean))


def _elu_from_exponential(gamma: float, law: Normal) -> Figures:
    """Take f as γ(e^x - 1) + r with r = x - γ(e^x - 1) for x > 0; s ≤ ½ and m < 0."""
    m, s = law.mean, law.std
    t = min(-m / s, NOTHING_BEYOND)
    (above, first, second), tail_ulps = _tail(t)
    whole = math.exp(m + 0.5 * s * s)
    one, two = _exponential(1, law, 1.0), _exponential(2, law, 1.0)
    # E x e^x over x > 0.
    product = s * pdf(t) * mills_defect(t - s) if t >= s else (m + s * s) * one + s * pdf(t)
    shift = [s * first, -gamma * one, gamma * above]
    mean, g = math.fsum(shift), gamma
    variance = [g * g * whole * whole * math.expm1(s * s)]
    variance += [2.0 * g * product, -2.0 * g * g * two, 2.0 * g * g * one, -2.0 * g * whole * mean]
    variance += [s * s * second, -2.0 * g * product, 2.0 * g * s * first]
    variance += [g * g * two, -2.0 * g * g * one, g * g * above, -mean * mean]
    slope = [g * g * _exponential(2, law), above]
    # The exponents m + s²/2 and twice that are rounded.
    ulps = 32.0 + 8.0 * abs(m), tail_ulps
    anchor, pull = gamma * math.expm1(m + 0.5 * s * s), 2.0 * (abs(mean) + abs(g) * whole)
    return _figures(anchor, shift, variance, slope, ulps, 1.0, pull)


def _elu_from_floor(gamma: float, law: Normal) -> Figures:
    """Take f as -γ + v with v = γe^x for x < 0 and γ + x for x > 0; s > ½ and m < 0."""
    m, s = law.mean, law.std
    t = min(-m / s, NOTHING_BEYOND)
    (above, first, second), tail_ulps = _tail(t)
    one, two = _exponential(1, law), _exponential(2, law)
    shift = [gamma * one, s * first, gamma * above]
    g, mean = gamma / s, math.fsum(shift) / s
    variance = [g * g * two, second, 2.0 * g * first, g * g * above, -mean * mean]
    # e^(-|m|/2) times |m| ulp, where no tail stands before it, is less than one ulp.
    ulps = 64.0 + 8.0 * min(t * t, abs(m)), tail_ulps
    slope = [gamma * gamma * two, above]
    return _figures(-gamma, shift, variance, slope, ulps, s, 2.0 * abs(mean))


def _tail(t: float) -> tuple[list[float], float]:
    """I₀, I₁, I₂ at t, and by how many ulp a product of figures of that tail may be off.

    The moments are off by what their bounds say; an :func:`_exponential` by 16 ulp for the
    density and Mills' ratio, and by t² + 2t for the ulp of t in both; 12 more are for products.
    """
    moments, errors = tail_moments(t)
    ulps = max(error / moment for error, moment in zip(errors[:3], moments[:3], strict=True)) / EPS
    return moments[:3], 12.0 + max(ulps, 16.0 + t * t + 2.0 * t)


def _exponential(k: int, law: Normal, side: float = -1.0) -> float:
    """E e^(kx) over x < 0; on side 1 over x > 0, for m < 0 and s ≤ ½."""
    m, s = law.mean, law.std
    b = -side * (k * s + m / s)
    if b >= 0:
        return pdf(m / s) * mills(b)
    return math.exp(k * m + 0.5 * (k * s) * (k * s)) * cdf(-b)


def _figures(
    anchor: float,
    shift: list[float],
    variance: list[float],
    slope: list[float],
    ulps: tuple[float, float],
    scale: float = 1.0,
    pull: float = 0.0,
) -> Figures:
    """Figures from the terms of μ - anchor, σ_f²/scale² and σ_b²; a term is off by its ulps.

    The first of ``ulps`` is that of the first terms of variance and slope and of the anchor,
    which do not hang on a tail; the second is that of all others.  ``pull`` is the size of the
    derivative of σ_f²/scale² by the mean over scale.
    """
    first, others = ulps

    def rounding(terms: list[float]) -> float:
        return sum(abs(term) * (others if k else first) for k, term in enumerate(terms))

    mean = anchor + math.fsum(shift)
    v, q = math.fsum(variance), math.fsum(slope)
    size = sum(map(abs, shift))
    # Where the mean stands in the variance, it carries the errors of all its terms.
    error_v = rounding(variance) + pull * others * size / scale
    std, root = math.sqrt(max(v, 0.0)), math.sqrt(max(q, 0.0))
    of_slope = std_error(q, EPS * rounding(slope)) + 2.0 * EPS * root
    bound = max(
        EPS * (others * size + first * abs(anchor)),
        scale * (std_error(v, EPS * error_v) + 2.0 * EPS * std),
        of_slope,
    )
    return Figures(mean, scale * std, root, bound, _CLOSED, of_slope)


_HALF_NODES, _HALF_WEIGHTS = np.polynomial.legendre.leggauss(32)
_HALF_NODES, _HALF_WEIGHTS = 0.5 + 0.5 * _HALF_NODES, 0.5 * _HALF_WEIGHTS


def gelu(law: Normal) -> Figures:
    r"""Figures of x Φ(x).

    With :math:`r^2 = 1 + s^2`, :math:`q^2 = 1 + 2s^2`, :math:`\rho = s^2/r^2`,
    :math:`h = m/r`, :math:`k = h/q`, the densities :math:`\varphi(x) N(x; m, s^2)` being normal
    again,

    .. math::
        \mu &= r\,(h\Phi(h) + \rho\varphi(h)) \\
        \sigma_f^2/s^2 &= h^2 D/\rho + \Phi_2
          + 2h\varphi(h)\,[(2-\rho)\Phi(k) - \Phi(h)]
          + \rho\varphi(h)\,[2\varphi(k)/q - \varphi(h)] \\
        \sigma_b^2 &= \Phi_2 + 2h(1-\rho)\varphi(h)\Phi(k)
          + \frac{\varphi(h)\varphi(k)}{q}\Bigl(2\rho + \frac{s^2}{q^2} + \frac{m^2}{q^4}\Bigr)

    by :math:`E x^2 g = (m^2 + s^2) E g + 2ms^2 E g' + s^4 E g''` for g = Φ², where
    :math:`\Phi_2 = P(z_1 < h, z_2 < h)` at correlation ρ is :math:`\Phi(h)^2 + D` and, with
    Owen's function T, :math:`D = 2T(h, 1) - 2T(h, 1/q)`, an integral of a positive function.
    The square of the mean has been taken out of :math:`\sigma_f^2` term by term, so that
    all of it is of the order of s².  For m > 0: xΦ(x) = x + f(-x), as for ReLU, and
    :math:`E f' = \Phi(h) + h(1-\rho)\varphi(h)`.
    """
    m, s = -abs(law.mean), law.std
    r, q = math.hypot(1.0, s), math.hypot(1.0, math.sqrt(2.0) * s)
    rho, rest = (s / r) * (s / r), 1.0 / r / r
    # Farther out all that hangs on h is nothing in double precision.
    h = max(m / r, -NOTHING_BEYOND)
    k = h / q
    dense, density = pdf(h), pdf(k)
    low, mid = cdf(h), cdf(k)
    pair = dense * density
    association = _association(h, q, r, rho)
    both = low * low + rho * association
    shift = [r * h * low, r * rho * dense]
    variance = [
        h * h * association,
        both,
        2.0 * h * dense * (2.0 - rho) * mid,
        -2.0 * h * dense * low,
        2.0 * rho * pair / q,
        -rho * dense * dense,
    ]
    away = h * (r / q) / q
    slope = [both, 2.0 * h * rest * dense * mid]
    slope += [2.0 * rho * pair / q, pair / q * (s / q) ** 2, pair / q * away * away]
    ulps = 48.0 + 6.0 * h * h
    if law.mean <= 0:
        return _figures(0.0, shift, variance, slope, (ulps, ulps), s)
    drift = [1.0, -2.0 * low, -2.0 * h * rest * dense]
    return _figures(law.mean, shift, drift + variance, drift + slope, (4.0, ulps), s)


def _association(h: float, q: float, r: float, rho: float) -> float:
    r"""(Φ₂(h, h; ρ) - Φ(h)²)/ρ for h ≤ 0.

    .. math::
        \Phi_2 - \Phi(h)^2 = \frac1\pi \int_{1/q}^1 \frac{e^{-h^2(1+x^2)/2}}{1+x^2}\,dx

    The integrand falls by at most e⁻⁴⁰ over the interval, which is cut there; it has poles at
    ±i.  On the Bernstein ellipse with half axes of 1.9 and 1.6 half intervals the 32 nodes
    of the Gauss-Legendre rule leave less than 1e-20 of the integral.
    """
    start = 1.0 / q
    # (1 - 1/q)/ρ without the difference.
    length = 2.0 * (r / q) * (r / (q + 1.0))
    if h < -1.0 and rho > 0.0:
        fall = 80.0 / (h * h)
        length = min(length, fall / (math.sqrt(start * start + fall) + start) / rho)
    x = length * rho * _HALF_NODES
    decay = np.exp(-0.5 * h * h * x * (2.0 * start + x))
    mean = float(_HALF_WEIGHTS @ (decay / (1.0 + (start + x) ** 2)))
    return 2.0 * pdf(h) * pdf(h / q) * length * mean
