r"""Mean, standard deviation and slope of an elementwise function of a normal variable.

.. math::
    \mu = E f(x), \quad \sigma_f = \mathrm{Std} f(x), \quad
    \sigma_b = \sqrt{E f'(x)^2}, \qquad x \sim N(m, s^2).
"""

import math
from functools import lru_cache

import numpy as np

from normprop.gaussian.functions import Function
from normprop.gaussian.landmarks import located
from normprop.gaussian.law import Figures, Normal, says_something, std_error
from normprop.gaussian.named import FUNCTIONS
from normprop.gaussian.normal import BEYOND, EPS, REACH, pdf
from normprop.gaussian.quadrature import TINY, Mesh, converged_mesh, ended

# A closed form this good, relative to its largest figure, is not worth a comparison; the floor
# is where a figure counts as small.
_GOOD = 2e-13
_SMALL = 1e-3
# A share of a callable's largest figure beyond REACH that is too much.
_NEGLIGIBLE = 1e-11
# Where its tails are looked at, in standard deviations: one point within REACH, then on to where
# there is no density left in double precision.
_OUTWARDS = np.array([REACH - 1.0, *(REACH + k for k in (0.0, 0.25, 0.5, *range(1, 25)))])
_TAILS = np.concatenate([-_OUTWARDS, _OUTWARDS])
# Where its rounding is looked at: at each place a wide and a narrow row of points.
_PLACES = np.array([-3.1, -1.7, -0.87, -0.31, 0.31, 0.87, 1.7, 3.1])
_ROWS = _PLACES[:, None, None] + np.array([[1e-3], [2.5e-4]]) * np.arange(9)
_FIRST = np.concatenate([[0.0], _ROWS.ravel(), _TAILS])
# More than this, of 1 or of the largest value, is no rounding.
_ROUGHEST = 1e-11


def elementwise(function: Function, law: Normal) -> Figures:
    """Figures of ``function`` under a normal law.

    They come from the closed form where there is one.  Where its bound exceeds 2e-13 of the
    largest figure, the integrals are computed as well, and the smaller bound wins.

    Raises:
        ArithmeticError: the integrals do not converge, or no bound on them says anything.
    """
    try:
        # A callable is described anew each time it comes: nothing to remember.
        found = _figures(function, law) if function.both is None else integrate(function, law)
    except (OverflowError, ZeroDivisionError, ValueError) as problem:
        # Python's own words for numbers that left the range.
        raise _out_of_range(function, law) from problem
    if not says_something((found.mean, found.std, found.slope), found.error):
        raise _out_of_range(function, law)
    return found


def _out_of_range(function: Function, law: Normal) -> ArithmeticError:
    return ArithmeticError(
        f"squares of {function.name} must stay in range under N({law.mean:g}, {law.std:g}²), and "
        "its figures be larger than what rounding leaves of them; no bound on their errors says "
        "anything"
    )


@lru_cache(maxsize=4096)
def _figures(function: Function, law: Normal) -> Figures:
    if function.closed is None:
        own = FUNCTIONS.get(function.name) is function
        special = _SPECIAL.get(function.name) if own else None
        return integrate(function, law) if special is None else special(law)
    found = function.closed(law)
    if found.error <= _GOOD * max(abs(found.mean), found.std, found.slope, _SMALL):
        return found
    try:
        numeric = integrate(function, law)
    except ArithmeticError:
        if math.isfinite(found.error):
            return found
        raise
    return found if found.error <= numeric.error else numeric


def _tanh(law: Normal) -> Figures:
    # The mean of tanh has an integrand of one sign, so that it keeps its relative accuracy
    # where it is tiny.  Everything else is sigmoid's at twice the argument.
    half = _sigmoid(Normal(2.0 * law.mean, 2.0 * law.std))
    mean, mean_error = _tanh_mean(law)
    error = max(4.0 * half.error, mean_error)
    return Figures(mean, 2.0 * half.std, 4.0 * half.slope, error, half.method)


def _sigmoid(law: Normal) -> Figures:
    function = FUNCTIONS["sigmoid"]
    if law.mean <= 0:
        return integrate(function, law)
    # 1 - sigmoid(x) = sigmoid(-x): integrate where the values are small, so that they are
    # accurate relative to themselves.
    found = integrate(function, Normal(-law.mean, law.std))
    return Figures(1.0 - found.mean, found.std, found.slope, found.error + EPS, found.method)


def _tanh_mean(law: Normal) -> tuple[float, float]:
    r"""E tanh x by folding the law at its mean: tanh(m+h) + tanh(m-h) has one sign.

    .. math:: E \tanh x = \int \frac{\sinh 2m}{\cosh 2m + \cosh 2sz}\varphi(z)\,dz
    """
    m, s = abs(law.mean), law.std
    if m == 0:
        return 0.0, 0.0

    def integrand(z):
        with np.errstate(over="ignore"):
            distance = 2.0 * (s * np.abs(z) - m)
            ratio = np.exp(distance) * (1.0 + np.exp(-4.0 * s * np.abs(z)))
        return (pdf(z) / (1.0 + ratio / (1.0 + math.exp(-4.0 * m))))[None]

    # The integrand bends where s|z| = m, over a width of 20/s.
    marks = [side * (m + o) / s for side in (-1, 1) for o in (-20.0, -2.0, 0.0, 2.0, 20.0)]
    mesh = converged_mesh(integrand, panel_ends(0.0, marks))
    mean = math.tanh(2.0 * m) * float(mesh.integrals()[0])
    z = np.abs(mesh.nodes)
    weights = mesh.values[0] * mesh.weights
    # An error of the distance is a relative one of the ratio, which counts only as far as
    # the ratio does beside 1.
    share = np.maximum(1.0 - mesh.values[0] / pdf(z), 0.0)
    ulps = 16.0 + z * z + share * 4.0 * (m + s * z)
    error = float(mesh.truncation[0]) + EPS * float(weights @ ulps) + 2.0 * BEYOND
    return math.copysign(mean, law.mean), error


# A law too wide for squares is found out by values that are not finite.
@np.errstate(over="ignore", invalid="ignore")
def integrate(function: Function, law: Normal) -> Figures:
    """Figures of any function by adaptive quadrature, with an error bound.

    Increments from f(m) are integrated rather than values, so that a small variance on top
    of a large value keeps its digits.
    """
    m, s = law.mean, law.std
    # For a wide law the function's feature is a narrow step; anchoring x there keeps the nodes
    # exact however narrow the step is on the scale of s.
    near = [c for c in function.features if abs(c - m) < s * REACH]
    anchor = near[0] if near and s > 1.0 else m
    sampled = _described if function.both is None else _observed
    mesh, rough, cut, blur, value_m = sampled(function, law, anchor)
    g, slope, values = mesh.values[4:]
    weights = mesh.weights * mesh.values[0]

    # The density is off by z² ulp, everything else by a few and by what hangs on x.
    z = mesh.nodes + (anchor - m) / s
    ulp = EPS * (16.0 + z * z)
    steep, slope_error = rough
    mean_g, variance, error_g, error_square = spread(weights, g, ulp, steep, mesh.truncation)
    slope_square = math.fsum(weights * slope**2)
    direct = value_m + mean_g
    # Where f(m) and the mean increment cancel, the values themselves are the better road.
    mean = math.fsum(weights * values) if abs(value_m) > abs(direct) else direct

    error_slope = (
        _total(weights, slope**2 * ulp + (2.0 * np.abs(slope) + slope_error) * slope_error)
        + mesh.truncation[3]
    )
    if function.both is not None:
        size = max(abs(direct) + abs(value_m), math.sqrt(variance), math.sqrt(slope_square), _SMALL)
        seen = max(cut[0], std_error(variance, cut[1]), std_error(slope_square, cut[2]))
        if not seen <= _NEGLIGIBLE * size:
            raise _still_growing(function, law)
    error_g += cut[0] + blur[0]
    error_square += cut[1] + blur[1]
    error_slope += cut[2] + blur[2]
    error_mean = error_g + EPS * (abs(value_m) + _total(weights, np.abs(values) * 16.0))
    of_slope = float(std_error(slope_square, error_slope))
    error = max(error_mean, std_error(variance, error_square), of_slope)
    if not math.isfinite(error):
        raise _out_of_range(function, law)
    std, root = math.sqrt(variance), math.sqrt(slope_square)
    return Figures(mean, std, root, float(error), "quadrature", of_slope)


def spread(
    weights: np.ndarray, g: np.ndarray, ulp: np.ndarray, steep: np.ndarray, cut: np.ndarray
) -> tuple[float, float, float, float]:
    """Mean and variance of g under a rule, bounds on the errors of the mean and of the square.

    The weights are off by ``ulp`` of themselves, g by ``steep``, integrals of 1, g, g² by ``cut``.
    """
    mean = math.fsum(weights * g)
    variance = math.fsum(weights * (g - mean) ** 2)
    error = _total(weights, np.abs(g) * ulp + steep) + cut[1]
    error_square = (
        _total(weights, g * g * ulp + 2.0 * np.abs(g) * steep)
        + cut[2]
        + 2.0 * abs(mean) * error
        + mean**2 * (_total(weights, ulp) + cut[0])
    )
    return mean, variance, error, error_square


def _still_growing(function: Function, law: Normal) -> ArithmeticError:
    return ArithmeticError(
        f"the square of {function.name} and of its slope must have a mean under "
        f"N({law.mean:g}, {law.std:g}²), and nearly all of it within {REACH:g} standard "
        "deviations; they still grow there, or are not finite"
    )


Shares = tuple[float, float, float]
"""Bounds on errors of E g, E g² and E f'²."""

_NOTHING: Shares = (0.0, 0.0, 0.0)

Sampled = tuple[Mesh, tuple[np.ndarray, np.ndarray], Shares, Shares, float]
"""Mesh in v with x = anchor + s·v, on which 1, g, g² and f'² times the density have converged,
and which carries g, f' and f; bounds on the rounding errors of g and f'; on what lies beyond
REACH; on what the rounding of x does beside; f(m)."""


def _described(function: Function, law: Normal, anchor: float) -> Sampled:
    """Sample a function whose increments, slopes and bends are known."""
    m, s = law.mean, law.std
    offset = anchor - m
    center = -offset / s

    def integrand(v):
        x, h = anchor + s * v, s * v + offset
        return _rows(v - center, function.increment(m, h), function.slope(x), function.value(x))

    ends = panel_ends(center, function.marks(anchor, s))
    mesh = converged_mesh(integrand, ends, tested=4)
    slope = mesh.values[5]
    # x is off by |m| + s|z| ulp.
    x_error = EPS * (abs(m) + abs(anchor) + s * np.abs(mesh.nodes))
    if function.curvature is None:
        slope_error = function.log_slope * np.abs(slope) * x_error
        if function.convex:
            # However narrow the bend is, f' does not move more than from one end to the other.
            x = anchor + s * mesh.nodes
            way = np.abs(function.slope(x + x_error) - function.slope(x - x_error))
            slope_error = np.minimum(slope_error, way + 4.0 * EPS * np.abs(slope))
    else:
        curvature = function.curvature(anchor + s * mesh.nodes)
        slope_error = curvature * x_error + EPS * function.looseness
    h = s * mesh.nodes + offset
    steep = np.abs(slope) * x_error + EPS * (function.looseness * np.abs(h) + function.noise)
    farthest = function.farthest(s, REACH)
    cut = (BEYOND * farthest, BEYOND * farthest**2, BEYOND * function.lipschitz**2)
    return mesh, (steep, slope_error), cut, _NOTHING, float(function.value(np.array([m]))[0])


def _observed(function: Function, law: Normal, anchor: float) -> Sampled:
    """Sample a function that is known by its values and slopes only."""
    m, s = law.mean, law.std
    center = (m - anchor) / s
    f, slope = function.both(m + s * _FIRST, finite=False)
    value_m = float(f[0])
    far = 1 + _ROWS.size
    value_noise, slope_noise = (_jitter(v[1:far].reshape(_ROWS.shape)) for v in (f, slope))
    cut = _beyond(f[far:] - value_m, slope[far:])
    if cut is None:
        raise _still_growing(function, law)

    def integrand(v):
        f, slope = function.both(anchor + s * v)
        return _rows(v - center, f - value_m, slope, f)

    def rounding(f, v):
        x = np.abs(anchor + s * v)
        steep = EPS * (16.0 * (np.abs(f) + abs(value_m)) + function.looseness * x) + value_noise
        return steep, np.full_like(x, EPS * function.looseness + slope_noise)

    def noise(v, values):
        # Beside what is rounded in values and slopes what x is off by, which moves slopes as fast
        # as they change in a panel.
        density, g, slope = values[0], np.abs(values[4]), np.abs(values[5])
        steep, loose = rounding(values[6], v)
        x_error = EPS * (abs(m) + abs(anchor) + s * np.abs(v))
        # A panel may be as narrow as numbers are.
        change = np.ptp(values[5], axis=-1) / (s * np.maximum(np.ptp(v, axis=-1), TINY))
        steep = steep + slope * x_error
        loose = loose + change[:, None] * x_error + 4.0 * EPS * slope
        return density * np.stack(
            [0.0 * g, steep, (2.0 * g + steep) * steep, (2.0 * slope + loose) * loose]
        )

    mesh = converged_mesh(
        integrand,
        panel_ends(center, [*_rungs(function, law, anchor)]),
        tested=4,
        noise=noise,
        search=lambda left, right: located(
            lambda v: function.both(anchor + s * v, finite=False), left, right
        ),
        shift=abs(anchor) / s,
    )
    density, g, slope, f = mesh.values[[0, 4, 5, 6]]
    # x is off by less than this.  That shifts the integrands, and what an integral loses is at
    # most the shift times all the ways that the integrand goes up and down, steps among them.
    order = np.argsort(mesh.nodes)
    shift = density * EPS * ((abs(m) + abs(anchor)) / s + np.abs(mesh.nodes))
    shift = np.maximum(shift[order][1:], shift[order][:-1])
    blur = tuple(_total(shift, np.abs(np.diff(row[order]))) for row in (g, g * g, slope * slope))
    return mesh, rounding(f, mesh.nodes), tuple(cut), blur, value_m


def _rows(z: np.ndarray, g: np.ndarray, slope: np.ndarray, values: np.ndarray) -> np.ndarray:
    density = pdf(z)
    by_g = density * g
    return np.stack([density, by_g, by_g * g, density * slope * slope, g, slope, values])


# Ends of panels around a feature, each so many times nearer to it than the last.
_RUNG = 30.0
# Down to this share of s, and of 1: what is narrower than that at a feature is not looked for.
_NARROWEST_SHARE, _NARROWEST = 1e-6, 0.03


def _rungs(function: Function, law: Normal, anchor: float):
    """Panel ends at the features, and ever nearer to them, in units of v.

    What a wide law sees of a function may be narrow: tanh is a step to it, but for its slope.
    """
    s = law.std
    for c in function.features:
        home = (c - anchor) / s
        yield home
        rung = REACH / _RUNG
        while rung > min(_NARROWEST_SHARE, _NARROWEST / s):
            yield home + rung
            yield home - rung
            rung /= _RUNG


def _jitter(rows: np.ndarray) -> float:
    """How far values on rows of nine points are off from a polynomial.

    An eighth difference is 256 errors at most; that of a smooth function falls by 4⁸ from a wide
    row to a narrow one, where errors stay what they are.  What is larger comes from a kink.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        wide, narrow = np.abs(np.diff(rows, 8, axis=-1))[..., 0].T / 32.0
        error = np.isfinite(wide) & (narrow > wide / 16.0)
        error &= narrow <= _ROUGHEST * max(np.abs(rows).max(), 1.0)
    return float(narrow.max(where=error, initial=0.0))


def _beyond(g: np.ndarray, slope: np.ndarray) -> np.ndarray | None:
    """Bounds on the shares of E|g|, E g² and E f'² beyond REACH, from the values at _TAILS.

    Between two points out there the integrand is at most the density at the nearer times the
    larger of the values at both, if these grow or fall.  Where they overflow on the way, each
    standard deviation is taken to halve the integrand, if the last one within REACH does;
    ``None`` if it does not.
    """
    sizes = np.stack([np.abs(g), g * g, slope * slope]).reshape(3, 2, -1)
    density, steps = pdf(_OUTWARDS), np.diff(_OUTWARDS)
    larger = np.maximum(sizes[..., 1:], sizes[..., :-1])[..., 1:]
    if np.isfinite(larger).all():
        return (larger * (density[1:-1] * steps[1:])).sum((1, 2))
    inner, outer = sizes[..., 0] * density[0], sizes[..., 1] * density[1]
    if np.isfinite(outer).all() and (outer <= 0.5 * inner).all():
        return 2.0 * outer.sum(1)
    return None


def panel_ends(center: float, marks: list[float]) -> np.ndarray:
    """Ends of the first panels: the bulk of the normal law, and the marks that fall in it."""
    return ended(center + np.array([-REACH, -6.0, -3.0, 0.0, 3.0, 6.0, REACH]), marks)


def _total(weights: np.ndarray, errors: np.ndarray) -> float:
    return float(np.dot(weights, errors))


_SPECIAL = {"sigmoid": _sigmoid, "tanh": _tanh}
