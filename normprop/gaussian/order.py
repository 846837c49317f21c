r"""The largest of n independent normal variables, and of n activations of them.

.. math:: E g(M_n) = n \int g(z)\,\varphi(z)\,\Phi(z)^{n-1}\,dz
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from normprop.gaussian.elementwise import elementwise, spread
from normprop.gaussian.law import Image, Law, std_error
from normprop.gaussian.normal import BEYOND, EPS, REACH, log_cdf, pdf
from normprop.gaussian.quadrature import converged_mesh, ended

Spread = tuple[float, float, float, str]
"""Mean, standard deviation, error bound and method."""


@lru_cache(maxsize=4096)
def maximum(n: int, law: Law) -> Spread:
    """Mean and standard deviation of the largest of n independent draws from a law."""
    if isinstance(law, Image):
        return _single(law) if n == 1 else maximum_of(n, law)
    mean, variance, error, method = _standard(n)
    std = math.sqrt(variance)
    error = law.std * error + 2.0 * EPS * (abs(law.mean) + law.std * (abs(mean) + std))
    return law.mean + law.std * mean, law.std * std, error, method


def _single(law: Image) -> Spread:
    figures = elementwise(law.function, law.base)
    scale = abs(law.scale)
    mean = (figures.mean - law.shift) / law.scale
    error = (figures.error + 2.0 * EPS * (abs(figures.mean) + abs(law.shift))) / scale
    return mean, figures.std / scale, error + 2.0 * EPS * figures.std / scale, figures.method


@lru_cache(maxsize=1024)
def _standard(n: int) -> tuple[float, float, float, str]:
    root_pi = math.sqrt(math.pi)
    closed = {
        1: (0.0, 1.0),
        2: (1.0 / root_pi, 1.0),
        3: (1.5 / root_pi, 1.0 + math.sqrt(3.0) / (2.0 * math.pi)),
        4: (6.0 * math.atan(math.sqrt(2.0)) / math.pi**1.5, 1.0 + math.sqrt(3.0) / math.pi),
    }
    if n in closed:
        mean, second = closed[n]
        return mean, second - mean * mean, 16.0 * EPS, "closed form"
    grid = np.linspace(-REACH, REACH, 17)
    cut = n * BEYOND * (2.0 * REACH) ** 2
    found = moments_of_density(lambda z: (_density(n, z), _density_ulps(n, z)), grid, cut)
    return *found, "quadrature"


def moments_of_density(
    density: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], breaks: np.ndarray, cut: float
) -> tuple[float, float, float]:
    """Mean and variance of a variable, and a bound on the errors of the mean and of the std.

    The density comes with how many ulp it is off; ``cut`` is what both leave out at the ends.
    """

    def integrand(u):
        return density(u)[0] * np.stack([np.ones_like(u), u, u * u])

    mesh = converged_mesh(integrand, breaks)
    u = mesh.nodes
    values, ulps = density(u)
    weights = mesh.weights * values
    mean = math.fsum(weights * u)
    off = u - mean
    variance = math.fsum(weights * off**2)
    rounded = EPS * weights * ulps
    none, first, second = mesh.truncation
    error_mean = float(rounded @ np.abs(u)) + first + cut
    error_square = float(rounded @ off**2) + second + 2.0 * abs(mean) * first + mean**2 * none + cut
    return mean, variance, float(max(error_mean, std_error(variance, error_square)))


def maximum_of(n: int, law: Image) -> Spread:
    """The same for n independent draws of (f(z) - shift)/scale, f increasing."""
    function, base = law.function, law.base
    # Elsewhere the largest image is not the image of the largest.
    if not function.increasing:
        raise ValueError(
            "the maximum over an activation's outputs is computed for functions that never "
            f"decrease; {function.name} does"
        )
    center, *_ = maximum(n, base)

    def increment(z: np.ndarray) -> np.ndarray:
        return function.increment(center, base.std * z + (base.mean - center))

    def integrand(z):
        g = increment(z)
        return _density(n, z) * np.stack([np.ones_like(z), g, g * g])

    ends = ended(np.linspace(-REACH, REACH, 17), function.marks(base.mean, base.std))
    mesh = converged_mesh(integrand, ends)
    z = mesh.nodes
    weights, g = mesh.weights * _density(n, z), increment(z)
    x_error = EPS * (2.0 * abs(base.mean) + abs(center) + base.std * np.abs(z))
    steep = np.abs(function.slope(base.mean + base.std * z)) * x_error
    way = np.abs(base.std * z + (base.mean - center))
    steep += EPS * (function.looseness * way + function.noise)
    ulp = EPS * _density_ulps(n, z)
    mean_g, variance, error_g, error_square = spread(weights, g, ulp, steep, mesh.truncation)
    value = float(function.value(np.array([center]))[0])
    mean = (value + mean_g - law.shift) / law.scale
    scale = abs(law.scale)
    cut = n * BEYOND * function.farthest(base.std, REACH)
    error_square += cut * function.farthest(base.std, REACH)
    error = max(error_g + cut, std_error(variance, error_square))
    # The largest of n draws is not the image of the largest only where one lies within a fall
    # behind the jump; the two then differ by less than the fall.
    chance = min(n * function.falls * pdf(0.0) / base.std, 1.0)
    error = float(error + function.falls * math.sqrt(chance)) / scale
    error += 4.0 * EPS * ((abs(value) + abs(law.shift)) / scale + abs(mean))
    return mean, math.sqrt(variance) / scale, error, "quadrature"


def _density(n: int, z: np.ndarray) -> np.ndarray:
    """Density of the largest of n standard normals, n φ(z) Φ(z)^(n-1)."""
    return n * pdf(z) * np.exp((n - 1) * log_cdf(z))


def _density_ulps(n: int, z: np.ndarray) -> np.ndarray:
    # An ulp of z changes the density by z², and the power's exponent, about n·Φ(-z), by its
    # own share of it; where the exponent is large the density itself is nil.
    exponent = np.minimum((n - 1) * np.abs(log_cdf(z)), 745.0)
    return (16.0 + z * z) * (1.0 + exponent)
