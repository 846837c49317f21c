"""``moments``: closed forms, cold quadrature and callables, on one thread.

Every call has a law of its own, so that nothing comes out of a cache.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import normprop
from benchmarks import peers
from benchmarks.case import Case, Context, Prepared

CLOSED = ("relu", "leaky_relu", "relu6", "hardtanh", "hardsigmoid", "hardswish", "elu", "gelu")
COLD = ("sigmoid", "tanh", "silu", "softplus", "mish", "softsign")
TOLERANCE = 1e-11
"""Asked of scipy for each integral, so that its figures are as good as those of ``moments``."""
_AUTOINIT = 1e-6
"""AutoInit asks for 1.5e-8 of an integral; its variance is a difference of two, and its
standard deviation may be as small as 0.2."""


@dataclass(frozen=True)
class Scalar:
    """An activation on floats, for those who integrate point by point."""

    value: Callable[[float], float]
    slope: Callable[[float], float]
    kinks: tuple[float, ...] = ()


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _phi(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _mish_slope(x: float) -> float:
    t = math.tanh(_softplus(x))
    return t + x * (1 - t * t) * _sigmoid(x)


SCALARS = {
    "relu": Scalar(lambda x: max(x, 0.0), lambda x: float(x > 0), (0.0,)),
    "leaky_relu": Scalar(
        lambda x: x if x > 0 else 0.01 * x, lambda x: 1.0 if x > 0 else 0.01, (0.0,)
    ),
    "relu6": Scalar(lambda x: min(max(x, 0.0), 6.0), lambda x: float(0 < x < 6), (0.0, 6.0)),
    "hardtanh": Scalar(lambda x: min(max(x, -1.0), 1.0), lambda x: float(-1 < x < 1), (-1.0, 1.0)),
    "hardsigmoid": Scalar(
        lambda x: min(max(x / 6 + 0.5, 0.0), 1.0),
        lambda x: 1 / 6 if -3 < x < 3 else 0.0,
        (-3.0, 3.0),
    ),
    "hardswish": Scalar(
        lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
        lambda x: 0.0 if x <= -3 else 1.0 if x >= 3 else (2 * x + 3) / 6,
        (-3.0, 3.0),
    ),
    "elu": Scalar(
        lambda x: x if x > 0 else math.expm1(x), lambda x: 1.0 if x > 0 else math.exp(x), (0.0,)
    ),
    "gelu": Scalar(lambda x: x * _cdf(x), lambda x: _cdf(x) + x * _phi(x)),
    "sigmoid": Scalar(_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    "tanh": Scalar(math.tanh, lambda x: 1 - math.tanh(x) ** 2),
    "silu": Scalar(lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x))),
    "softplus": Scalar(_softplus, _sigmoid),
    "mish": Scalar(lambda x: x * math.tanh(_softplus(x)), _mish_slope),
    "softsign": Scalar(lambda x: x / (1 + abs(x)), lambda x: (1 + abs(x)) ** -2, (0.0,)),
}


def bump(x: Tensor) -> Tensor:
    """A function that no table knows: x exp(-x²/2) + ½ max(x, 0)."""
    return x * torch.exp(-x * x / 2) + 0.5 * torch.relu(x)


_BUMP = Scalar(
    lambda x: x * math.exp(-x * x / 2) + 0.5 * max(x, 0.0),
    lambda x: (1 - x * x) * math.exp(-x * x / 2) + 0.5 * (x > 0),
    (0.0,),
)


def cases(closed: tuple[str, ...] = CLOSED, cold: tuple[str, ...] = COLD) -> Iterator[Case]:
    """All cases of this family."""
    for name in closed:
        yield _case("moments-closed", name, name, SCALARS[name])
    for name in cold:
        yield _case("moments-quadrature", name, name, SCALARS[name])
    yield _case("moments-callable", "bump", bump, _BUMP)


def _case(group: str, name: str, layer, scalar: Scalar) -> Case:
    function = layer if callable(layer) else getattr(torch.nn.functional, name)
    return Case(
        f"{group}/{name}",
        "normprop",
        {
            "normprop": _package(layer, scalar),
            "scipy": _scipy(scalar),
            "AutoInit's way": _autoinit(function, scalar),
        },
        {"activation": name},
        threads=1,
    )


def laws() -> Iterator[tuple[float, float]]:
    """Laws near N(0, 1), each a little further on than the one before."""
    for step in itertools.count(1):
        yield 1e-9 * step, 1.0


def _package(layer, scalar: Scalar):
    def prepare(context: Context) -> Prepared:
        fresh = laws()

        def call():
            return normprop.moments(layer, *next(fresh))

        def check() -> str | None:
            found = normprop.moments(layer, 0.25, 1.5)
            figures = (found.fwd_mean, found.fwd_std, found.bwd_std)
            return _off(figures, _reference(scalar, 0.25, 1.5), found.error + 1e-12)

        return Prepared(call, check, lambda: {"error": normprop.moments(layer).error})

    return prepare


def _scipy(scalar: Scalar):
    def prepare(context: Context) -> Prepared:
        fresh = laws()

        def run(mean, std):
            return peers.quad_moments(
                scalar.value, scalar.slope, mean, std, scalar.kinks, TOLERANCE
            )

        def check() -> str | None:
            # Twice the tolerance of a variance, over a standard deviation of 0.1 at least.
            return _off(run(0.25, 1.5), _reference(scalar, 0.25, 1.5), 20 * TOLERANCE)

        return Prepared(lambda: run(*next(fresh)), check)

    return prepare


def _autoinit(function, scalar: Scalar):
    def prepare(context: Context) -> Prepared:
        fresh = laws()

        # As there: the framework's function, called on one number at a time.
        def value(x: float) -> float:
            return float(function(torch.tensor(x, dtype=torch.float64)))

        def run(mean, std):
            return peers.autoinit_moments(value, mean, std)

        def check() -> str | None:
            return _off(run(0.25, 1.5), _reference(scalar, 0.25, 1.5)[:2], _AUTOINIT)

        return Prepared(lambda: run(*next(fresh)), check)

    return prepare


def _reference(scalar: Scalar, mean: float, std: float) -> tuple[float, float, float]:
    """μ, σ_f and σ_b by Gauss-Legendre on 400 nodes between each pair of marks."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(400)
    marks = sorted({mean - 12 * std, mean + 12 * std, mean, *scalar.kinks})
    x = np.concatenate([(a + b) / 2 + (b - a) / 2 * nodes for a, b in itertools.pairwise(marks)])
    w = np.concatenate([(b - a) / 2 * weights for a, b in itertools.pairwise(marks)])
    z = (x - mean) / std
    w = w * np.exp(-z * z / 2) / (std * math.sqrt(2 * math.pi))
    value, slope = (np.array([f(t) for t in x]) for f in (scalar.value, scalar.slope))
    mu = math.fsum(w * value)
    return mu, math.sqrt(math.fsum(w * (value - mu) ** 2)), math.sqrt(math.fsum(w * slope**2))


def _off(figures, reference, bound: float) -> str | None:
    for name, got, right in zip(("μ", "σ_f", "σ_b"), figures, reference, strict=False):
        if not abs(got - right) <= bound:
            return f"{name} is off by {abs(got - right):.2e}; its bound is {bound:.2e}"
    return None
