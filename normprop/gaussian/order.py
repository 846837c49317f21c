r"""The largest of n independent normal variables, and of n activations of them.

.. math:: E g(M_n) = n \int g(z)\,\varphi(z)\,\Phi(z)^{n-1}\,dz
"""

import math
from functools import lru_cache

import numpy as np

from normprop.gaussian.elementwise import elementwise, spread
from normprop.gaussian.law import Image, Law, std_error
from normprop.gaussian.normal import BEYOND, EPS, REACH, log_cdf, pdf
from normprop.gaussian.quadrature import Mesh, converged_mesh, ended

Spread = tuple[float, float, float, str]
"""Mean, standard deviation, error bound and method."""


@lru_cache(maxsize=4096)
def maximum(n: int, law: Law) -> Spread:
    """Mean and standard deviation of the largest of n independent draws from a law.

    Returns:
        (mean, std, error bound of both, method).

    Raises:
        ValueError: the law is the image under a function that is not increasing: there the
            largest image is not the image of the largest.
    """
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
    mesh = _mesh(n, lambda z: z, [])
    z = mesh.nodes
    weights = mesh.weights * _density(n, z)
    mean = math.fsum(weights * z)
    variance = math.fsum(weights * (z - mean) ** 2)
    ulp = EPS * _density_ulps(n, z)
    error_mean = float(weights @ (np.abs(z) * ulp)) + mesh.truncation[1]
    error_square = (
        float(weights @ ((z - mean) ** 2 * ulp))
        + mesh.truncation[2]
        + 2.0 * mean * mesh.truncation[1]
        + mean**2 * mesh.truncation[0]
    )
    cut = n * BEYOND * (2.0 * REACH) ** 2
    error = max(error_mean + cut, std_error(variance, error_square + cut))
    return mean, variance, float(error), "quadrature"


def maximum_of(n: int, law: Image) -> Spread:
    """The same for n independent draws of (f(z) - shift)/scale, f increasing."""
    function, base = law.function, law.base
    if not function.increasing:
        raise ValueError(
            "the maximum over an activation's outputs is computed for functions that never "
            f"decrease; {function.name} does"
        )
    center, *_ = maximum(n, base)

    def increment(z: np.ndarray) -> np.ndarray:
        return function.increment(center, base.std * z + (base.mean - center))

    mesh = _mesh(n, increment, function.marks(base.mean, base.std))
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


def _mesh(n: int, image, marks: list[float]) -> Mesh:
    def integrand(z):
        g = image(z)
        return _density(n, z) * np.stack([np.ones_like(z), g, g * g])

    return converged_mesh(integrand, ended(np.linspace(-REACH, REACH, 17), marks))


def _density(n: int, z: np.ndarray) -> np.ndarray:
    """Density of the largest of n standard normals, n φ(z) Φ(z)^(n-1)."""
    return n * pdf(z) * np.exp((n - 1) * log_cdf(z))


def _density_ulps(n: int, z: np.ndarray) -> np.ndarray:
    # An ulp of z changes the density by z², and the power's exponent, about n·Φ(-z), by its
    # own share of it; where the exponent is large the density itself is nil.
    exponent = np.minimum((n - 1) * np.abs(log_cdf(z)), 745.0)
    return (16.0 + z * z) * (1.0 + exponent)
