r"""Softmax of independent normals: exact moments by one outer and one inner sum.

For x_j = m + s z_j the mean drops out of p = softmax(x).  With :math:`w = e^{u + sz}` and

.. math:: G_k(u) = E\,w^k e^{-w}, \qquad \Lambda = G_0, \qquad Q = 1 - \Lambda,

Gamma's integral turns every moment of p into one integral over the line,

.. math::
    E\,p_1^a p_2^b = \frac{1}{\Gamma(a+b)} \int G_a(u)\,G_b(u)\,\Lambda(u)^{C-2}\,du,

and likewise for more factors.  What is summed here are forms without cancellation:

.. math::
    \mathrm{Var}\,p &= \frac{C-1}{C}\int V \Lambda^{C-1} du, \qquad
        V = E(w - \bar w)^2 e^{-w}, \quad \bar w = G_1/G_0, \\
    \sigma_b^2 &= E\,p_1^2\bigl(1 - 2p_1 + \textstyle\sum_j p_j^2\bigr)
        = \frac{C-1}{6}\int \bigl(2G_2^2\Lambda^{C-2} + (C-2)G_2G_1^2\Lambda^{C-3}\bigr)du.

The law of S = Σ e^{x_j} comes from :math:`P(\log(E/S) > u) = \Lambda(u)^C` for an exponential
variable E of mean 1, whose logarithm has mean -γ and variance π²/6.

Both sums are trapezoidal.  The functions are analytic in the strip \|Im u\| < π/2, and on the
line Im u = y the integrand of a moment of order n is at most :math:`(\cos y)^{-n}` times the
real one in the mean, because \|exp(-w e^{iy})\| = exp(-w cos y): that bounds the outer error
relative to the integral itself, for every C and s.  The inner one is bounded alike.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace

import numpy as np

from normprop.checks import whole
from normprop.gaussian.law import Figures, std_error
from normprop.gaussian.normal import BEYOND, EPS, REACH, pdf

Array = np.ndarray

WIDEST = 20.0
"""Largest standard deviation of the inputs: beyond it the sums grow long."""

EULER = 0.57721566490153286061
_STEP = 0.1875
_ROWS = 128
# exp(-w) is 0 from here on.
_NOTHING_LEFT = 800.0
# Below this the logarithm of S is measured against that of a constant sum.
_NARROW = 0.3
# How far down the sums over u go: the integrands are below e^-52 of their largest values.
_DEEP = 52.0


@dataclass(frozen=True)
class Rows:
    """Second moments of a row p = softmax(x) of n independent normals x = m + s z."""

    concentration: float  # n E p_1², the mean of Σ p²
    gradient: float  # n E p_1²(1 - 2p_1 + Σ p_j²), the mean square length of p∘(dy - ⟨p, dy⟩)
    tilted: float  # E Σ_j p_j²(z_j - Σ_k p_k z_k)², the mean square of that vector's product with z
    errors: tuple[float, float, float]  # bounds on the absolute errors of the three


def softmax(classes: int, std: float) -> Figures:
    """Figures of one element of softmax over ``classes`` independent N(m, std²), whatever m.

    Raises:
        ValueError: ``std`` exceeds :data:`WIDEST`.
    """
    whole("classes", classes)
    if classes == 1:
        return Figures(1.0, 0.0, 0.0, 0.0, "closed form")
    variance, variance_error = probability_variance(classes, std)
    row = rows_of(classes, std)
    gradient = row.gradient / classes
    error = max(
        std_error(variance, variance_error),
        std_error(gradient, row.errors[1] / classes),
    )
    error += EPS / classes
    return Figures(1.0 / classes, math.sqrt(variance), math.sqrt(gradient), error, "quadrature")


def log_softmax(classes: int, std: float) -> Figures:
    r"""Figures of one element of x - log Σ exp(x), whatever the mean of x.

    Stein's identity gives Cov(x_1, log S) = s² E p_1, so that

    .. math::
        E y = m - E\log S, \quad \sigma_f^2 = s^2(1 - 2/C) + \mathrm{Var}\log S, \quad
        \sigma_b^2 = 1 - 2/C + C\,E p_1^2 = 1 - 1/C + C\,\mathrm{Var}\,p_1.
    """
    whole("classes", classes)
    if classes == 1:
        return Figures(0.0, 0.0, 0.0, 0.0, "closed form")
    loss = cross_entropy(classes, std)
    variance, error = probability_variance(classes, std)
    slope = 1.0 - 1.0 / classes + classes * variance
    error = classes * error + 4.0 * EPS * slope
    error = max(loss.error, std_error(slope, error) + EPS * math.sqrt(slope))
    return Figures(-loss.mean, loss.std, math.sqrt(slope), error, "quadrature")


def cross_entropy(classes: int, std: float, smoothing: float = 0.0) -> Figures:
    r"""Figures of log S - Σ q_j x_j, q the smoothed one-hot vector of a uniform target.

    With ε the smoothing and q = (1-ε)·onehot + ε/C,

    .. math::
        \sigma_f^2 = \mathrm{Var}\log S - \frac{2s^2}{C} + s^2\|q\|^2, \qquad
        \|q\|^2 = (1-\varepsilon)^2 + \frac{\varepsilon(2-\varepsilon)}{C},

    and the gradient is p - q, whose mean square over the classes is
    :math:`\mathrm{Var}\,p + (1-\varepsilon)^2 (1 - 1/C)/C`.
    """
    whole("classes", classes)
    if not 0.0 <= smoothing <= 1.0:
        raise ValueError(f"label_smoothing must lie in [0, 1]; it was {smoothing}")
    if classes == 1:
        return Figures(0.0, 0.0, 0.0, 0.0, "closed form")
    mean, variance, mean_error, variance_error = log_sum(classes, std)
    kept = (1.0 - smoothing) ** 2
    squares = kept + smoothing * (2.0 - smoothing) / classes
    spread = variance + std * std * (squares - 2.0 / classes)
    variance_error += 8.0 * EPS * (variance + std * std * (squares + 2.0 / classes))
    slope, slope_error = probability_variance(classes, std)
    slope += kept * (1.0 - 1.0 / classes) / classes
    slope_error += 8.0 * EPS * slope
    error = max(
        mean_error + EPS * abs(mean),
        std_error(spread, variance_error),
        std_error(slope, slope_error),
    )
    return Figures(mean, math.sqrt(max(spread, 0.0)), math.sqrt(slope), error, "quadrature")


@lru_cache(maxsize=4096)
def probability_variance(classes: int, std: float) -> tuple[float, float]:
    """Var p_1 for at least two classes, and a bound on its error."""
    found = _transforms(float(std), classes, classes)
    power = np.exp((classes - 1.0) * found.log_lambda)
    integrand = found.spread * power
    value = _STEP * math.fsum(integrand)
    roughness = classes * found.log_lambda_error + 8.0 * EPS
    error = _STEP * float(integrand @ roughness + found.spread_error @ power)
    # The spread V is at most G₂, which is known to be log-concave.
    error += value * _outer_bound(2) + _tails(found.gamma[2] * power)
    factor = (classes - 1.0) / classes
    return factor * value, factor * error + 2.0 * EPS * value


@lru_cache(maxsize=4096)
def rows_of(n: int, std: float, causal: bool = False) -> Rows:
    r"""Second moments of a row of n, or averaged over rows of 1, 2, …, n under ``causal``.

    .. math::
        n E p_1^2 &= \int G_2 F_1\,du, \qquad F_k = n(n-1)\cdots(n-k+1)\Lambda^{n-k}, \\
        n E p_1^2\bigl(1 - 2p_1 + \textstyle\sum_j p_j^2\bigr)
            &= \frac16\int (2G_2^2F_2 + G_2G_1^2F_3)\,du, \\
        E \textstyle\sum_j p_j^2(z_j - \sum_k p_kz_k)^2
            &= \frac16\int (2G_2M_2F_2 + G_1^2M_1F_3)\,du

    with :math:`M_k = E\,w^2e^{-w}(z - \bar z_k)^2`, the mean of z under :math:`w^ke^{-w}`.
    """
    whole("classes", n)
    if n == 1:
        return Rows(1.0, 0.0, 0.0, (0.0, 0.0, 0.0))
    found = _transforms(float(std), 1 if causal else n, n)
    _, g1, g2 = found.gamma
    one, two, three = (_falls(found, n, k, causal) for k in (1, 2, 3))
    pair, triple = 2.0 * g2 * two / 6.0, g1**2 * three / 6.0
    integrands = (
        g2 * one,
        g2 * (pair + triple),
        found.tilt_two * pair + found.tilt_one * triple,
    )
    terms = np.minimum(float(n), 4.0 + 4.0 / found.q) if causal else float(n)
    roughness = terms * found.log_lambda_error + 3.0 * found.rough + 100.0 * EPS
    # Every z lies within REACH.
    enclosing = (*integrands[:2], integrands[1] * (2.0 * REACH) ** 2)
    values, errors = [], []
    for order, integrand, wide in zip((2, 4, 4), integrands, enclosing, strict=True):
        value = _STEP * math.fsum(integrand)
        error = _STEP * float(integrand @ roughness) + value * _outer_bound(order) + _tails(wide)
        values.append(value / n if causal else value)
        errors.append(error / n if causal else error)
    return Rows(*values, tuple(errors))


def _falls(found: SimpleNamespace, n: int, k: int, causal: bool) -> Array:
    r"""n(n-1)…(n-k+1) Λ^(n-k), or the sum of these over 1, …, n.

    The sum is :math:`k!\,Q^{-k-1} P(B > k)` for a binomial B of n + 1 trials of chance Q: from
    1 downwards where B is large, term by term where it is small.
    """
    if not causal:
        return math.prod(n - j for j in range(k)) * np.exp(max(n - k, 0) * found.log_lambda)
    q, trials = found.q, n + 1

    def chance(j, power):
        return float(math.comb(trials, j)) * q**power * np.exp((trials - j) * found.log_lambda)

    low = sum(chance(j, j) for j in range(k + 1))
    high = (1.0 - low) / q ** (k + 1)
    # Here at most k + 3 are expected: sixty more terms leave nothing.
    few = trials * q < k + 3.0
    term = chance(k + 1, 0) if k + 1 <= trials else np.zeros_like(q)
    total = term.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        odds = q * np.exp(-found.log_lambda)
        for j in range(k + 1, min(trials, k + 80)):
            term = term * odds * ((trials - j) / (j + 1.0))
            total += term
    return math.factorial(k) * np.where(few, total, high)


@lru_cache(maxsize=1024)
def log_sum(classes: int, std: float) -> tuple[float, float, float, float]:
    r"""Mean and variance of log Σ exp(s z_j), and bounds on their errors.

    Against :math:`\Lambda_0 = e^{-\kappa e^u}`, the transform of a constant sum Cκ,

    .. math::
        E\log S = \log C\kappa - D_1, \quad \mathrm{Var}\log S = D_2 - D_1^2, \quad
        D_1 = \int (\Lambda^C - \Lambda_0^C)\,du, \quad
        D_2 = \int 2(u-c)(\Lambda^C - \Lambda_0^C)\,du

    with c = -γ - log Cκ.  For a narrow law κ = 1, and the difference is found from E(e^-(w-w₀)
    - 1), so that the variance keeps its digits however small it is.
    """
    found = _transforms(float(std), classes, classes)
    u, size = found.u, float(classes)
    if std < _NARROW:
        log_kappa = 0.0
        constant = np.exp(-size * np.exp(u))
        rise = np.expm1(size * found.log_ratio)
        difference = constant * rise
        rounding = constant * (1.0 + rise) * size * found.log_ratio_error
        rounding = rounding + EPS * np.abs(difference) * (8.0 + size * np.exp(u))
    else:
        # Where the median of log(E/S) lies, the constant sum has its own.
        median = float(np.interp(-math.log(2.0), (size * found.log_lambda)[::-1], u[::-1]))
        log_kappa = math.log(math.log(2.0)) - median - math.log(size)
        power = np.exp(size * found.log_lambda)
        exponent = np.exp(u + (math.log(size) + log_kappa))
        difference = power - np.exp(-exponent)
        rounding = power * (size * found.log_lambda_error + 4.0 * EPS)
        rounding = rounding + EPS * (8.0 + np.abs(u)) * exponent * np.exp(-exponent)
        # Near 1 both powers round to an ulp of 1, and their distances from it are smaller.
        far = -size * found.log_lambda < 1e-3
        gap = np.expm1(-exponent[far]) - np.expm1(size * found.log_lambda[far])
        difference[far] = -gap
        share = exponent[far] - size * found.log_lambda[far]
        rounding[far] = (size * found.log_lambda_error + EPS * (8.0 + np.abs(u)) * exponent)[far]
        rounding[far] += 4.0 * EPS * share
    center = -EULER - math.log(size) - log_kappa
    arm = 2.0 * (u - center)
    first = _STEP * math.fsum(difference)
    second = _STEP * math.fsum(arm * difference)
    # Outside the mesh: above, the powers are nil; below, both differ from 1 by at most the
    # C·Q or Cκe^u that is left, which falls at least as fast as it did.
    ends = size * found.q[:2] + np.exp(u[:2] + math.log(size) + log_kappa)
    # Where the law is narrow the two differ by s² of that, and by its square.
    near = std * std + math.exp(-48.0) if std < _NARROW else 1.0
    rest = near * ends[0] / max(ends[1] / ends[0] - 1.0, 1e-3) * (abs(arm[0]) + 50.0)
    rest += math.exp(-48.0) * (np.exp(size * found.log_lambda[-1]) + 1e-30) * (abs(arm[-1]) + 50.0)
    # On the line Im u = y of the strip the powers reach as far as their arguments times cos y.
    strip = 4.0 + (u[-1] - u[0])
    # There, too, their difference is of the order of s², times 1/cos² y at most.
    strip *= min(1.0, 1e4 * std * std)
    outer = 4.0 * strip * (abs(arm[0]) + abs(arm[-1]) + 4.0) * _outer_bound(1)
    first_error = _STEP * float(rounding.sum()) + rest + outer
    second_error = _STEP * float(rounding @ np.abs(arm)) + rest + outer
    second_error += 4.0 * EPS * _STEP * float(np.abs(arm * difference).sum())
    first_error += 4.0 * EPS * _STEP * float(np.abs(difference).sum())
    mean = math.log(size) + log_kappa - first
    variance = second - first * first
    mean_error = first_error + 4.0 * EPS * (abs(math.log(size)) + abs(log_kappa) + abs(first))
    variance_error = second_error + 2.0 * abs(first) * first_error + 4.0 * EPS * first * first
    return mean, variance, float(mean_error), float(variance_error)


@lru_cache(maxsize=256)
def _transforms(s: float, low: int, high: int) -> SimpleNamespace:
    """Transforms and their relative errors, on the nodes that ``low`` to ``high`` classes need."""
    if not 0.0 < s <= WIDEST:
        raise ValueError(
            f"the standard deviation of what softmax sees must be greater than 0 and at most "
            f"{WIDEST:g}; it was {s:g}"
        )
    y, step, inner = _inner_rule(s)
    reach = math.ceil(REACH / step)
    z = step * np.arange(-reach, reach + 1)
    weight = step * pdf(z)
    grow, rise = np.exp(s * z), np.expm1(s * z)

    def tail(u: float) -> float:
        return float(weight @ -np.expm1(-np.minimum(math.exp(u) * grow, _NOTHING_LEFT)))

    def left(u: float) -> float:
        return float(weight @ np.exp(-np.minimum(math.exp(u - math.log(2)) * grow, _NOTHING_LEFT)))

    bottom = _crossing(
        lambda u: high * tail(u) > math.exp(-_DEEP),
        -math.log(high) - 0.5 * s * s - _DEEP - 1.0,
        2.0 - math.log(high),
    )
    deep = 48.0 + 4.0 * math.log(low) - 2.0 * math.log(min(1.0, s))
    top = _crossing(
        lambda u: low * math.log(max(left(u), 1e-300)) < -deep,
        -math.log(low) - 10.0 * s,
        8.0 + 12.0 * s,
    )
    # How many steps cos y is below 1: E w^k exp(-w cos y) ≤ e^(kJ·step) G_k(u - J·step).
    shift = math.ceil(-math.log(math.cos(y)) / _STEP)
    count = math.ceil((top - bottom) / _STEP) + 1
    first = math.floor(bottom / _STEP) - shift
    u = _STEP * (first + np.arange(count + shift + 2))
    parts = [_rows(u[i : i + _ROWS], s, z, weight, grow, rise) for i in range(0, len(u), _ROWS)]
    found = {name: np.concatenate([part[name] for part in parts], -1) for name in parts[0]}
    gamma, q, rough, rough_q = (found[name] for name in ("gamma", "q", "rough", "rough_q"))
    shifted = np.maximum(np.arange(len(u)) - shift, 0)
    orders = np.exp(_STEP * shift * np.arange(3))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = inner * orders * gamma[:, shifted] / gamma + 8.0 * BEYOND / gamma
    lost = np.where(gamma > 1e-250, lost, 0.0).max(0)
    half = q < 0.5
    with np.errstate(divide="ignore"):
        log_lambda = np.where(half, np.log1p(-np.minimum(q, 0.5)), np.log(gamma[0]))
    # |1 - exp(-W)| ≤ min(|W|, 2) on the right half plane: 3.2 times the real mean at most.
    q_error = rough_q + 3.2 * inner + BEYOND / q
    log_error = np.where(half, q * q_error / (1.0 - np.minimum(q, 0.5)), rough + lost)
    log_error = log_error + EPS * np.abs(log_lambda)
    # The deviation w - w̄ grows by at most |e^{iy} - 1| in the strip.
    strip = 1e3 * np.exp(2.0 * _STEP * shift) * inner * (found["spread"] + s * s * gamma[2])
    found |= {
        "u": u,
        "log_lambda": log_lambda,
        "log_lambda_error": log_error,
        "spread_error": found["spread_error"] + strip,
        "rough": rough + 1e3 * lost,
        "log_ratio_error": found["log_ratio_error"] + 1e3 * inner * np.minimum(np.exp(u), 1.0) * s,
    }
    del found["rough_q"]
    return SimpleNamespace(**{name: values[..., shift:] for name, values in found.items()})


def _rows(u, s, z, weight, grow, rise):
    """Sums over z for a block of nodes u, and their rounding errors.

    An exponent s·z is off by an ulp of itself, so that w is off by 4 + s|z| ulp, w^k e^-w by
    (k + w) times that; a weight by z², a pairwise sum by 40.
    """
    scale = np.exp(u)[:, None]
    w = np.minimum(scale * grow, _NOTHING_LEFT)
    terms = [weight * np.exp(-w)]
    for _ in range(3):
        terms.append(terms[-1] * w)
    gamma = np.stack([term.sum(-1) for term in terms[:3]])
    argument, density = 4.0 + s * np.abs(z), 40.0 + z * z
    by_density = np.stack([term @ density for term in terms[:3]])
    by_argument = np.stack([term @ argument for term in terms])
    orders = np.arange(3.0)[:, None]
    rough = by_density + orders * by_argument[:3] + by_argument[1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        rough = np.where(gamma > 1e-250, rough / gamma, 0.0).max(0)

    gone = weight * -np.expm1(-w)
    q = gone.sum(-1)
    rough_q = (gone @ (argument + density)) / q

    floor = np.maximum(gamma, 1e-300)
    # For a narrow law w varies little: its deviation is that of w/e^u - 1.
    narrow = s < _NARROW
    varying, unit = (rise, scale[:, 0] ** 2) if narrow else (w, 1.0)
    center = ((terms[0] * varying).sum(-1) / floor[0])[:, None]
    deviation = varying - center
    spread = unit * (terms[0] * deviation**2).sum(-1)
    slack = 4.0 * (np.abs(varying) + np.abs(center))
    slack = slack + s * np.abs(z) * (grow if narrow else w)
    loose = unit * (terms[0] * np.abs(deviation) * (2.0 * slack)).sum(-1)
    square = unit * (terms[0] * deviation**2 * (density + argument * w)).sum(-1)

    one, two = ((terms[k] @ z / floor[k])[:, None] for k in (1, 2))
    tilt_one = (terms[2] * (z - one) ** 2).sum(-1)
    tilt_two = (terms[2] * (z - two) ** 2).sum(-1)

    ratio = ratio_error = np.zeros_like(u)
    if narrow:
        # log(Λ/Λ₀), Λ₀ = exp(-e^u).  Beyond 700 the constant's power is nil.
        change = np.expm1(np.minimum(-scale * rise, 300.0))
        mean = (weight * change).sum(-1)
        ratio = np.log1p(mean)
        argument = scale * (2.0 * np.abs(rise) + grow * s * np.abs(z))
        ratio_error = (weight * (np.abs(change) * density + (1.0 + change) * argument)).sum(-1)
        ratio_error = EPS * (ratio_error / (1.0 + mean) + np.abs(ratio))
    return {
        "gamma": gamma,
        "q": q,
        "spread": spread,
        "spread_error": EPS * (loose + square),
        "tilt_one": tilt_one,
        "tilt_two": tilt_two,
        "rough": EPS * rough,
        "rough_q": EPS * rough_q,
        "log_ratio": ratio,
        "log_ratio_error": ratio_error,
    }


def _tails(integrand: Array) -> float:
    """Sums beyond both ends: the integrands are log-concave, as mixtures of shifts are."""
    total = 0.0
    for last, inner in ((integrand[0], integrand[1]), (integrand[-1], integrand[-2])):
        if last > 0:
            # A mesh that ended before the top of the integrand would be wrong altogether.
            total += last * last / (inner - last) if inner > last else math.inf
    return _STEP * float(total)


@lru_cache(maxsize=8)
def _outer_bound(order: int) -> float:
    """Relative error of the outer sum for a moment of this order."""
    y = 0.5 * math.pi - order * _STEP / (2.0 * math.pi)
    return 2.0 * math.cos(y) ** -order / math.expm1(2.0 * math.pi * y / _STEP)


def _inner_rule(s: float) -> tuple[float, float, float]:
    """Half-width y of the strip in u, step in z, and the error factor of the inner sum."""
    y = min(10.0 * s, 1.4)
    height = y / s
    # exp(h²/2 - 2πh/step) is the price of a strip of half-width h in z.
    step = 2.0 * math.pi * height / (52.0 + 0.5 * height * height - 5.0 * math.log(math.cos(y)))
    factor = 2.0 * math.exp(0.5 * height * height - 2.0 * math.pi * height / step)
    return y, step, factor


def _crossing(beyond, low: float, high: float) -> float:
    """Where ``beyond`` turns true, to a tenth."""
    while high - low > 0.1:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return high
