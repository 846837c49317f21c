r"""Mean, standard deviation and slope of an elementwise function of a normal variable.

.. math::
    \mu = E f(x), \quad \sigma_f = \mathrm{Std} f(x), \quad
    \sigma_b = \sqrt{E f'(x)^2}, \qquad x \sim N(m, s^2).
"""

import math
from functools import lru_cache

import numpy as np

from normprop.gaussian.functions import Function
from normprop.gaussian.law import Figures, Normal, std_error
from normprop.gaussian.named import FUNCTIONS
from normprop.gaussian.normal import BEYOND, EPS, REACH, pdf
from normprop.gaussian.quadrature import Mesh, converged_mesh

# A closed form this good, relative to its largest figure, is not worth a comparison; the floor
# is where a figure counts as small.
_GOOD = 2e-13
_SMALL = 1e-3


def elementwise(function: Function, law: Normal) -> Figures:
    """Figures of ``function`` under a normal law.

    They come from the closed form where there is one.  Where its bound exceeds 2e-13 of the
    largest figure, the integrals are computed as well, and the smaller bound wins.

    Raises:
        ArithmeticError: the integrals do not converge.
    """
    # A callable is described anew each time it comes: nothing to remember.
    return _remembered(function, law) if function.exact_increments else _figures(function, law)


def _figures(function: Function, law: Normal) -> Figures:
    if function.closed is None:
        special = _SPECIAL.get(function.name)
        known = special is not None and FUNCTIONS[function.name] is function
        return special(law) if known else integrate(function, law)
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


@lru_cache(maxsize=4096)
def _remembered(function: Function, law: Normal) -> Figures:
    return _figures(function, law)


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
    mirrored = integrate(function, Normal(-law.mean, law.std))
    return Figures(
        1.0 - mirrored.mean,
        mirrored.std,
        mirrored.slope,
        mirrored.error + EPS,
        mirrored.method,
    )


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
    mesh, anchor = _mesh(function, law)
    m, s = law.mean, law.std
    z = mesh.nodes + (anchor - m) / s
    weights = mesh.weights * pdf(z)
    h = s * mesh.nodes + (anchor - m)
    x = anchor + s * mesh.nodes
    g = function.increment(m, h)
    slope = function.slope(x)

    mean_g = math.fsum(weights * g)
    variance = math.fsum(weights * (g - mean_g) ** 2)
    slope_square = math.fsum(weights * slope**2)

    value_m = float(function.value(np.array([m]))[0])
    direct = value_m + mean_g
    # Where f(m) and the mean increment cancel, the values themselves are the better road.
    values = function.value(x)
    mean = math.fsum(weights * values) if abs(value_m) > abs(direct) else direct

    # Rounding: the density is off by z² ulp, x by |m| + s|z| ulp, the rest by a few.
    ulp = EPS * (16.0 + z * z)
    x_error = EPS * (abs(m) + abs(anchor) + s * np.abs(mesh.nodes))
    steep = np.abs(slope) * x_error
    if function.curvature is None:
        slope_error = function.log_slope * np.abs(slope) * x_error
    else:
        slope_error = function.curvature(x) * x_error + EPS * function.looseness
    steep = steep + EPS * (function.looseness * np.abs(h) + function.noise)
    if not function.exact_increments:
        steep = steep + 16.0 * EPS * (np.abs(values) + abs(value_m))
        slope_error = _variation(x, slope) * x_error
    error_g = _total(weights, np.abs(g) * ulp + steep) + mesh.truncation[1]
    error_square = (
        _total(weights, g * g * ulp + 2.0 * np.abs(g) * steep)
        + mesh.truncation[2]
        + 2.0 * abs(mean_g) * error_g
        + mean_g**2 * (_total(weights, ulp) + mesh.truncation[0])
    )
    error_slope = (
        _total(weights, slope**2 * ulp + 2.0 * np.abs(slope) * slope_error) + mesh.truncation[3]
    )
    cut = _outskirts(function, law)
    error_g += cut[0]
    error_square += cut[1]
    error_slope += cut[2]
    error_mean = error_g + EPS * (abs(value_m) + _total(weights, np.abs(values) * 16.0))
    error = max(
        error_mean,
        std_error(variance, error_square),
        std_error(slope_square, error_slope),
    )
    if not math.isfinite(error):
        raise ArithmeticError(
            f"squares of {function.name} must stay in range under N({law.mean:g}, {law.std:g}²); "
            "its figures have no bound"
        )
    return Figures(mean, math.sqrt(variance), math.sqrt(slope_square), float(error), "quadrature")


def _variation(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """How fast the slope changes around each node, from its neighbours on the mesh."""
    order = np.argsort(x)
    steps, rises = np.diff(x[order]), np.abs(np.diff(slope[order]))
    rates = np.divide(rises, steps, out=np.zeros_like(rises), where=steps > 0)
    variation = np.empty_like(x)
    variation[order] = np.maximum(np.append(rates, 0.0), np.insert(rates, 0, 0.0))
    return variation


def _outskirts(function: Function, law: Normal) -> tuple[float, float, float]:
    """What lies beyond REACH: bounds on its share of E|g|, E g² and E f'².

    Raises:
        ArithmeticError: the function grows so fast that its square has no mean that
            integration within REACH could find.
    """
    if function.bounded:
        farthest = function.farthest(law.std, REACH)
        return BEYOND * farthest, BEYOND * farthest**2, BEYOND * function.lipschitz**2
    z = np.array([1.0 - REACH, -REACH, REACH - 1.0, REACH])
    with np.errstate(over="ignore"):
        g = np.abs(function.increment(law.mean, law.std * z))
        slope = np.abs(function.slope(law.mean + law.std * z))
        shares = pdf(z) * np.stack([g, g * g, slope * slope])
    inner, outer = shares[:, [0, 2]], shares[:, [1, 3]]
    if not np.isfinite(shares).all() or (outer > 0.5 * inner).any():
        raise ArithmeticError(
            f"the square of {function.name} and of its slope must have a mean under "
            f"N({law.mean:g}, {law.std:g}²); within {REACH:g} standard deviations they still grow"
        )
    # Each further standard deviation contributes at most half of the one before.
    return tuple(2.0 * outer.sum(1))


def _mesh(function: Function, law: Normal) -> tuple[Mesh, float]:
    """Mesh in v with x = anchor + s·v, on which 1, g, g² and f'² have converged.

    For a wide law the function's feature is a narrow step; anchoring x there keeps the nodes
    exact however narrow the step is on the scale of s.
    """
    m, s = law.mean, law.std
    near = [c for c in function.features if abs(c - m) < s * REACH]
    anchor = near[0] if near and s > 1.0 else m
    center = (m - anchor) / s

    def integrand(v):
        g = function.increment(m, s * v + (anchor - m))
        slope = function.slope(anchor + s * v)
        return pdf(v - center) * np.stack([np.ones_like(v), g, g * g, slope * slope])

    marks = [
        (c + offset - anchor) / s
        for c in function.features
        for offset in {0.0, function.width, -function.width, 0.1 * function.width}
    ]
    return converged_mesh(integrand, panel_ends(center, marks)), anchor


def panel_ends(center: float, marks: list[float]) -> np.ndarray:
    """Ends of the first panels: the bulk of the normal law, and the marks that fall in it."""
    grid = center + np.array([-REACH, -6.0, -3.0, 0.0, 3.0, 6.0, REACH])
    inside = [v for v in marks if grid[0] < v < grid[-1]]
    return np.unique(np.concatenate([grid, inside]))


def _total(weights: np.ndarray, errors: np.ndarray) -> float:
    return float(np.dot(weights, errors))


_SPECIAL = {"sigmoid": _sigmoid, "tanh": _tanh}
