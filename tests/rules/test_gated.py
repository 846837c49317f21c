"""Products of a normal with a function of another: by two-dimensional integration and bounds."""

import math

import numpy as np
import pytest

from normprop.gaussian import FUNCTIONS, Figures, Normal, elementwise
from normprop.rules.activation import product

LAWS = [(0.0, 1.0), (0.7, 1.3), (-2.0, 0.4)]


@pytest.mark.parametrize(("m", "s"), LAWS)
@pytest.mark.parametrize("gate", ["sigmoid", "tanh", "gelu", "silu"])
def test_both_inputs_by_integration(gate, m, s):
    # A product rule on a grid whose error is exp(-2π·strip/step): analytic gates, strip π/2/s.
    function = FUNCTIONS[gate]
    z = np.arange(-14, 14, 1 / 32)
    w = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) / 32
    x = m + s * z
    value, slope = function.value(x), function.slope(x)
    a, weight = x[:, None], np.outer(w, w)
    y = a * value
    mean = (weight * y).sum()
    got = product(Normal(m, s), elementwise(function, Normal(m, s)))
    wanted = (
        mean,
        math.sqrt((weight * (y - mean) ** 2).sum()),
        math.sqrt((weight * (np.broadcast_to(value, y.shape) ** 2 + (a * slope) ** 2)).sum() / 2),
    )
    for figure, exact in zip((got.mean, got.std, got.slope), wanted, strict=True):
        # The sums of 800 000 terms round to a few hundred ulp of themselves.
        assert abs(figure - exact) <= got.error + 1e-13 * max(1, abs(exact))
    assert 0 < got.error < 1e-12


def test_a_gate_that_is_open_passes_everything_on():
    got = product(Normal(0.3, 2.0), Figures(1.0, 0.0, 0.0, 0.0, "closed form"))
    assert (got.mean, got.std) == (0.3, 2.0)
    # All of the gradient goes to one half of the input.
    assert abs(got.slope - math.sqrt(0.5)) < 1e-15


def test_errors_grow_with_the_value():
    gate = Figures(0.5, 0.2, 0.2, 1e-9, "quadrature")
    small, large = (product(Normal(m, 1.0), gate).error for m in (0.0, 100.0))
    assert 1e-9 < small < 2e-9
    assert 1e-7 < large < 1.1e-7


def test_the_bound_covers_a_wrong_gate():
    # Figures off by their error: the product is off by no more than its own.
    law, error = Normal(1.5, 0.8), 1e-6
    right = product(law, Figures(0.4, 0.3, 0.2, error, "quadrature"))
    for signs in np.ndindex(2, 2, 2):
        moved = [v + error * (2 * k - 1) for v, k in zip((0.4, 0.3, 0.2), signs, strict=True)]
        wrong = product(law, Figures(*moved, 0.0, "quadrature"))
        for name in ("mean", "std", "slope"):
            assert abs(getattr(wrong, name) - getattr(right, name)) <= right.error
