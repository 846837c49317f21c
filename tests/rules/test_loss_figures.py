"""Losses of normals: closed forms against integration, mixtures against their definition."""

import math
from dataclasses import replace

import numpy as np
import pytest

from normprop.gaussian import FUNCTIONS, Figures, Normal, elementwise
from normprop.gaussian.elementwise import integrate
from normprop.gaussian.law import mixture
from normprop.rules.loss import cross_entropy_of_two, hinge_embedding, huber, smooth_l1, square

LAWS = [(0.0, 1.0), (0.7, 1.3), (-4.0, 0.2), (3.0, 0.001), (8.0, 30.0)]


def agree(one, other):
    for name in ("mean", "std", "slope"):
        assert abs(getattr(one, name) - getattr(other, name)) <= one.error + other.error, name


def by_sums(law, values, slopes):
    """Figures of arrays of a value and a slope on a grid, trapezoidal: smooth integrands only."""
    z = np.arange(-14, 14, 1 / 64)
    w = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) / 64
    x = law.mean + law.std * z
    y, d = values(x), slopes(x)
    mean = (w * y).sum()
    return mean, math.sqrt((w * (y - mean) ** 2).sum()), math.sqrt((w * d * d).sum())


@pytest.mark.parametrize(("m", "s"), LAWS)
def test_the_square(m, s):
    got = square(Normal(m, s))
    wanted = by_sums(Normal(m, s), lambda x: x * x, lambda x: 2 * x)
    for value, exact in zip((got.mean, got.std, got.slope), wanted, strict=True):
        # The sums of 1800 terms round to some ulp of x² each.
        assert abs(value - exact) <= got.error + 1e-13 * (m * m + s * s)
    assert got.error <= 1e-14 * max(got.mean, got.std, got.slope)


@pytest.mark.parametrize(("m", "s"), LAWS)
@pytest.mark.parametrize(("delta", "scale"), [(1.0, 1.0), (0.3, 2.0), (5.0, 0.5)])
def test_huber_in_closed_form_and_by_quadrature(delta, scale, m, s):
    function, law = huber(delta, scale), Normal(m, s)
    agree(function.closed(law), integrate(function, law))
    got = elementwise(function, law)
    assert 0 <= got.error <= 1e-12 * max(1, abs(m) + s) * max(1, delta * scale)


@pytest.mark.parametrize("c", [-3.0, -1.0, -0.3, 0.0, 0.9999999, 1.0, 2.0])
def test_increments_of_huber_are_differences(c):
    function = huber()
    for h in (1e-9, -1e-9, 0.25, -0.75, 3.0, -2.0, -5.0, 12.0):
        value = function.value(np.array([c + h])) - function.value(np.array([c]))
        got = function.increment(c, np.array([h]))
        assert abs(got - value)[0] <= 4e-16 * (1 + abs(c) + abs(h))
    # A short way keeps its digits, where a difference of values would not.
    assert abs(function.increment(2.0, np.array([1e-15]))[0] - 1e-15) < 1e-30


def test_smooth_l1_is_a_scaled_huber():
    assert smooth_l1(0.5) is huber(0.5, 2.0)
    assert smooth_l1(0).name == "abs"
    with pytest.raises(ValueError, match="finite and greater than 0"):
        smooth_l1(-1.0)


@pytest.mark.parametrize("chance", [0.5, 0.2, 1.0])
@pytest.mark.parametrize(("m", "s"), [(0.0, 1.0), (0.7, 1.3), (-4.0, 0.2)])
def test_two_labels(m, s, chance):
    law = Normal(m, s)
    got = cross_entropy_of_two(law, chance)
    ones = by_sums(law, lambda x: np.log1p(np.exp(-x)), lambda x: -1 / (1 + np.exp(x)))
    zeros = by_sums(law, lambda x: np.log1p(np.exp(x)), lambda x: 1 / (1 + np.exp(-x)))
    mean = chance * ones[0] + (1 - chance) * zeros[0]
    second = chance * (ones[1] ** 2 + ones[0] ** 2) + (1 - chance) * (zeros[1] ** 2 + zeros[0] ** 2)
    slope = chance * ones[2] ** 2 + (1 - chance) * zeros[2] ** 2
    assert abs(got.mean - mean) <= got.error + 1e-13
    assert abs(got.std**2 - (second - mean**2)) <= 4 * got.error + 1e-13 * second
    assert abs(got.slope**2 - slope) <= 2 * got.error + 1e-13
    assert got.error < 1e-12


@pytest.mark.parametrize(("m", "s"), LAWS)
def test_an_embedding_hinge(m, s):
    law, margin = Normal(m, s), 1.5
    got = hinge_embedding(law, margin)
    far = elementwise(FUNCTIONS["relu"], Normal(margin - m, s))
    second = 0.5 * (m * m + s * s + far.mean**2 + far.std**2)
    assert abs(got.mean - 0.5 * (m + far.mean)) <= got.error
    assert abs(got.std**2 - (second - got.mean**2)) <= 2 * got.std * got.error + 1e-13 * second
    assert abs(got.slope**2 - 0.5 * (1 + far.slope**2)) <= 4 * got.error


def test_the_bound_of_a_mixture_covers_wrong_parts():
    error = 1e-6
    parts = [(0.3, 0.5, 0.2), (-1.0, 0.1, 0.9)]
    right = mixture([Figures(*p, error, "quadrature") for p in parts], (0.3, 0.7))
    for signs in np.ndindex(*(2,) * 6):
        shifts = error * (2 * np.array(signs) - 1).reshape(2, 3)
        wrong = mixture(
            [
                Figures(*(np.array(p) + d), 0.0, "quadrature")
                for p, d in zip(parts, shifts, strict=True)
            ],
            (0.3, 0.7),
        )
        for name in ("mean", "std", "slope"):
            assert abs(getattr(wrong, name) - getattr(right, name)) <= right.error
    assert right.error < 1e-5


def test_a_mixture_of_one_is_itself():
    part = Figures(0.3, 0.5, 0.2, 1e-9, "quadrature")
    got = mixture([part, replace(part, mean=-0.3)], (1.0, 0.0))
    assert (got.mean, got.method) == (0.3, "quadrature")
    assert abs(got.std - 0.5) < 1e-15
