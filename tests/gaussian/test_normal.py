"""The normal density, its integral and what is left beyond t: accurate relative to themselves."""

import math

import numpy as np
import pytest
from mpmath import mp, mpf

from normprop.gaussian.normal import BEYOND, EPS, REACH, cdf, log_cdf, pdf, rectified, upper_tail
from tests import reference

POINTS = [-37.0, -20.0, -8.0, -2.5, -1.0, -1e-3, 0.0, 1e-3, 0.7, 1.0, 2.5, 8.0, 20.0, 37.0]
TAILS = [0.0, 1e-3, 0.5, 1.0, 1.9, 1.999, 2.0, 2.001, 3.0, 5.0, 8.0, 14.0, 26.7, 36.0]


@pytest.fixture(autouse=True)
def _precision():
    # Φ(-37) is 1e-300: the terms of the rectified moments need the digits that cancel.
    with mp.workdps(80):
        yield


def accurate(value, wanted, z, ulps=8):
    """Within a few ulp and the z² ulp that rounding z² or z/√2 costs an exponential of it."""
    return reference.close(value, wanted, mpf(EPS) * (ulps + mpf(z) ** 2) * abs(wanted))


@pytest.mark.parametrize("z", POINTS)
def test_density(z):
    assert accurate(pdf(z), mp.npdf(mpf(z)), z)
    assert accurate(pdf(np.array([z])).item(), mp.npdf(mpf(z)), z)


@pytest.mark.parametrize("z", POINTS)
def test_distribution(z):
    wanted = mp.erfc(-mpf(z) / mp.sqrt(2)) / 2
    assert accurate(cdf(z), wanted, z)
    assert accurate(upper_tail(np.array([-z])).item(), wanted, z)


@pytest.mark.parametrize("z", POINTS)
def test_logarithm_of_the_distribution(z):
    smaller = mp.erfc(abs(mpf(z)) / mp.sqrt(2)) / 2
    wanted = mp.log(smaller) if z < 0 else mp.log1p(-smaller)
    # |log Φ| ≥ log 2 on the left, so an ulp of Φ is at most 1.5 of its logarithm; on the right
    # log(1 - u) is within 40 % of -u and inherits its relative error.
    assert accurate(log_cdf(np.array([z])).item(), wanted, 2 * z, ulps=16)


def test_logarithm_far_out_is_minus_infinity_without_a_warning():
    assert log_cdf(np.array([-40.0])).item() == -math.inf


@pytest.mark.parametrize("t", TAILS)
def test_rectified(t):
    with mp.workdps(400):
        tail, density = mp.erfc(mpf(t) / mp.sqrt(2)) / 2, mp.npdf(mpf(t))
        mean = density - t * tail
        second = (1 + mpf(t) ** 2) * tail - t * density
        exact = mean, second - mean**2, tail
    # Below 2 the closed forms cancel, and err by ulps of their largest term; beyond, the
    # fraction keeps all digits.
    sizes = (density, (1 + mpf(t) ** 2) * tail, tail) if t < 2 else exact
    for value, wanted, size in zip(rectified(t), exact, sizes, strict=True):
        assert reference.close(value, wanted, mpf(EPS) * (16 + mpf(t) ** 2) * size)


@pytest.mark.parametrize("t", TAILS)
def test_rectified_moments_are_positive(t):
    assert all(figure > 0 for figure in rectified(t))


def test_the_two_roads_meet():
    # On either side of the switch at 2 the figures differ by their derivative over 2e-9 alone.
    below, above = rectified(math.nextafter(2.0, 0.0)), rectified(2.0)
    for a, b, size in zip(below, above, (0.054, 0.114, 0.023), strict=True):
        assert abs(a - b) <= EPS * 20 * size + EPS * 2


def test_what_is_cut_away():
    wanted = mp.erfc(mpf(REACH) / mp.sqrt(2))
    assert accurate(BEYOND, wanted, REACH)
    assert BEYOND < 2e-44


def test_a_wrong_figure_is_seen():
    assert not accurate(cdf(-8.0) * (1 + 1e-13), mp.erfc(8 / mp.sqrt(2)) / 2, 8.0)
