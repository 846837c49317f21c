"""Kinks of functions that are known by their values only: where they are, and that they are few."""

import math

import numpy as np
import pytest

from normprop.gaussian.landmarks import located

C = 0.3217


def one(both, left=-1.0, right=2.0):
    (found,) = located(both, np.array([left]), np.array([right]))
    return found


KINKED = {
    "kink": lambda x: (np.maximum(x - C, 0.0), (x > C).astype(float)),
    "step": lambda x: ((x > C).astype(float), np.zeros_like(x)),
    "step on a slope": lambda x: (np.sin(x) + (x > C), np.cos(x)),
    "kink on a curve": lambda x: (np.exp(x) + np.abs(x - C), np.exp(x) + np.sign(x - C)),
}


@pytest.mark.parametrize("name", KINKED)
def test_kinks_and_steps_are_enclosed_by_neighbouring_numbers(name):
    found = one(KINKED[name])
    assert 1 <= len(found) <= 2
    assert found[0] <= C <= found[-1]
    assert found[-1] - found[0] <= 4 * math.ulp(C)


def test_a_jump_of_the_second_derivative_is_found_as_far_as_slopes_show_it():
    found = one(lambda x: (np.maximum(x - C, 0.0) ** 2, 2.0 * np.maximum(x - C, 0.0)))
    assert abs(found - C).min() <= 1e-6


@pytest.mark.parametrize(
    "smooth",
    [
        lambda x: (np.sin(x), np.cos(x)),
        lambda x: (np.tanh(x), np.cosh(x) ** -2.0),
        lambda x: (x**3, 3.0 * x**2),
        lambda x: (3.0 * x, np.full_like(x, 3.0)),
        lambda x: (np.ones_like(x), np.zeros_like(x)),
    ],
)
def test_nothing_stands_out_of_a_smooth_function(smooth):
    assert len(one(smooth)) == 0


def test_intervals_are_searched_together():
    calls = []

    def both(x):
        calls.append(len(x))
        return np.abs(x - 0.3) + np.abs(x - 1.7), np.sign(x - 0.3) + np.sign(x - 1.7)

    first, second, third = located(both, np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0]))
    # A cell has to be a few numbers wide for one of 64 to stand out.
    assert abs(first - 0.3).max() <= 32 * math.ulp(0.3)
    assert abs(second - 1.7).max() <= 32 * math.ulp(1.7)
    assert len(third) == 0
    # Sixty-four cells a look are six bits: ten looks, and one at what has no number inside.
    assert len(calls) <= 12


def test_what_is_not_finite_is_left_alone():
    with np.errstate(divide="ignore", invalid="ignore"):
        assert len(one(lambda x: (1.0 / (x - 0.5), -1.0 / (x - 0.5) ** 2))) == 0
        assert len(one(lambda x: (np.log(x), np.log(x)))) == 0
