"""Normalisation of a group: against quadrature in high precision, known values and simulation."""

import math
from itertools import pairwise

import numpy as np
import pytest
from mpmath import mp, mpf

from normprop.gaussian.lengths import gamma_rule
from normprop.gaussian.normalization import normalization
from tests import reference


def inverse_moments(free, n, s, epsilon):
    """E v^k/(v + ε)^(k+1), k = 0, 1, 2, and E v/(v + ε): the trapezoidal rule in log g."""
    a, h = mpf(free) / 2, min(mpf(1) / 8, 1 / (4 * mp.sqrt(free)))
    sums = [mpf(0)] * 4
    low, high = mp.log(a) - 60 / a - 20 / mp.sqrt(a), mp.log(a) + 5 + 14 / mp.sqrt(a)
    for i in range(int((high - low) / h)):
        y = low + i * h
        g = mp.exp(y)
        v = 2 * mpf(s) ** 2 * g / n
        weight = h * mp.exp(a * y - g - mp.loggamma(a))
        share = v / (v + epsilon)
        for k in range(3):
            sums[k] += weight * share**k / (v + epsilon)
        sums[3] += weight * share
    return sums


CASES = [(n, s, epsilon) for n in (2, 3, 8, 100) for s, epsilon in ((1.0, 1e-5), (0.3, 0.1))]


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize(("n", "s", "epsilon"), CASES)
def test_high_precision(n, s, epsilon, centered):
    got = normalization(n, s, epsilon, centered)
    free = n - 1 if centered else n
    with mp.workdps(30):
        zero, one, two, variance = inverse_moments(free, n, s, mpf(epsilon))
        # The trace of the square of I - P - yyᵀ/n, y of square length r n.
        square = (free * zero - 2 * one + two) / n
        slope, error = got.slope(n)
        assert reference.close(slope, mp.sqrt(square), error)
        assert reference.close(got.variance, variance, got.errors[0])
    assert error < 1e-11 * slope


@pytest.mark.parametrize("n", [4, 5, 64, 768])
def test_without_epsilon_it_is_a_fraction(n):
    slope, error = normalization(n, 2.0, 0.0).slope(n)
    assert abs(slope - math.sqrt((n - 2) / (n - 3)) / 2.0) <= error < 1e-13
    slope, error = normalization(n, 2.0, 0.0, centered=False).slope(n)
    assert abs(slope - math.sqrt((n - 1) / (n - 2)) / 2.0) <= error < 1e-13


def test_epsilon_that_vanishes():
    free = normalization(16, 1.0, 0.0).slope(16)[0]
    gaps = [free - normalization(16, 1.0, e).slope(16)[0] for e in (1e-4, 1e-5, 1e-6)]
    assert all(abs(a / b - 10) < 0.01 for a, b in pairwise(gaps))


@pytest.mark.parametrize("centered", [True, False])
def test_single_derivatives_by_simulation(centered):
    n, s, epsilon = 5, 0.8, 0.05
    got = normalization(n, s, epsilon, centered)
    generator = np.random.Generator(np.random.SFC64(5))
    lines = []
    for _ in range(64):
        x = s * generator.standard_normal((4000, n))
        x = x - x.mean(1, keepdims=True) if centered else x
        root = np.sqrt((x**2).mean(1, keepdims=True) + epsilon)
        y = x / root
        eye = np.eye(n) - (1 / n if centered else 0)
        jacobian = (eye - y[:, :, None] * y[:, None, :] / n) / root[:, :, None]
        lines.append(
            ((y**2).mean(), (jacobian[:, 0, 0] ** 2).mean(), (jacobian[:, 1, 3] ** 2).mean())
        )
    lines = np.array(lines)
    wanted = np.array([got.variance, got.own, got.other])
    z = (lines.mean(0) - wanted) / (lines.std(0, ddof=1) / math.sqrt(len(lines)))
    assert (np.abs(z) < 4.5).all(), z


def test_one_element_alone():
    alone = normalization(1, 1.0, 1e-5)
    assert (alone.variance, alone.own, alone.slope(1)[0]) == (0.0, 0.0, 0.0)
    assert normalization(1, 1.0, 1e-5, centered=False).variance > 0.99


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 1.0, 0.0), "eps must be greater than 0 for a group of 3"),
        ((2, 1.0, 0.0, False), "eps must be greater than 0 for a group of 2"),
        ((0, 1.0, 1e-5), "at least 1 element"),
        ((4, 1.0, -1e-5), "eps must be at least 0"),
    ],
)
def test_what_must_hold(arguments, message):
    with pytest.raises(ValueError, match=message):
        normalization(*arguments)


@pytest.mark.parametrize("shape", [0.5, 1.0, 7.5, 400.0, 1e5])
def test_the_rule_knows_the_moments_of_gamma(shape):
    rule = gamma_rule(shape)
    for k, wanted in ((0, 1.0), (1, shape), (2, shape * (shape + 1))):
        value = math.fsum(rule.weights * rule.nodes**k)
        bound = float(rule.weights @ (rule.nodes**k * (rule.rounding + 1e-14))) + 1e-16
        assert abs(value - wanted) <= bound
        assert bound <= 2e-12 * wanted


@pytest.mark.parametrize(("shape", "shift"), [(0.5, 0.3), (4.0, 20.0), (32.0, 2.0)])
def test_the_rule_of_a_mixture(shape, shift):
    rule = gamma_rule(shape, shift=shift)
    mean = shape + shift
    assert abs(math.fsum(rule.weights * rule.nodes) - mean) < 1e-12 * mean
    second = math.fsum(rule.weights * (rule.nodes - mean) ** 2)
    assert abs(second - (shape + 2 * shift)) < 1e-11 * mean
