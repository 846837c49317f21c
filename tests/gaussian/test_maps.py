"""The scale map, its slope and fixed points, the correlation map, and χ."""

import math

import numpy as np
import pytest

from normprop.gaussian import FUNCTIONS, Normal, elementwise
from normprop.gaussian.maps import (
    chi,
    correlation_map,
    fixed_points,
    hermite_energies,
    scale_map,
    scale_slope,
)

STANDARD = Normal(0.0, 1.0)
NAMES = ["relu", "sigmoid", "tanh", "hardsigmoid"]


def _constants(name, law=STANDARD):
    figures = elementwise(FUNCTIONS[name], law)
    return figures.mean, figures.std


def test_chi_of_relu_is_a_ratio_of_pi():
    found = chi(FUNCTIONS["relu"], STANDARD)
    assert abs(found.value - math.pi / (math.pi - 1)) <= found.error < 1e-12


@pytest.mark.parametrize("std", [0.01, 1.0, 7.0])
@pytest.mark.parametrize("name", NAMES)
def test_chi_is_at_least_one(name, std):
    found = chi(FUNCTIONS[name], Normal(0.3, std))
    assert found.value >= 1 - found.error


def test_chi_of_tanh_rises_with_the_fourth_power_of_a_small_std():
    std = 1e-2
    found = chi(FUNCTIONS["tanh"], Normal(0.0, std))
    # The next term of the series is of relative size s².
    assert (found.value - 1) / (4 * std**4 / 3) == pytest.approx(1, abs=20 * std**2)


def test_chi_of_what_does_not_vary_is_refused():
    with pytest.raises(ValueError, match="relu must vary at N"):
        chi(FUNCTIONS["relu"], Normal(-60.0, 1.0))


@pytest.mark.parametrize("name", NAMES)
def test_the_declared_scale_is_a_fixed_point(name):
    found = scale_map(FUNCTIONS[name], STANDARD, *_constants(name), 1.0)
    assert abs(found.value - 1) <= found.error < 1e-12


@pytest.mark.parametrize("q", [0.05, 0.5, 1.0, 3.0, 20.0])
def test_the_scale_map_of_relu_is_the_closed_form(q):
    mu, sigma = _constants("relu")
    found = scale_map(FUNCTIONS["relu"], STANDARD, mu, sigma, q)
    closed = (q / 2 - math.sqrt(q) / math.pi + 1 / (2 * math.pi)) / sigma**2
    assert abs(found.value - closed) <= found.error + 4e-16 * closed


@pytest.mark.parametrize("q", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("name", NAMES)
def test_the_slope_is_the_derivative(name, q):
    constants = _constants(name)
    found = scale_slope(FUNCTIONS[name], STANDARD, *constants, q)
    step = 1e-4 * q
    up, down = (scale_map(FUNCTIONS[name], STANDARD, *constants, q + d) for d in (step, -step))
    # A central difference is off by step²·Q'''/6; Q''' is of order 1/q² here.
    difference = (up.value - down.value) / (2 * step)
    assert abs(found.value - difference) <= found.error + (up.error + down.error) / step + 1e-7


def test_relu_repels_from_above_with_slope_one():
    points = fixed_points(FUNCTIONS["relu"], STANDARD, *_constants("relu"))
    assert [round(p.second_moment, 12) for p in points] == [1.0]
    assert abs(points[0].slope.value - 1) <= points[0].slope.error
    assert not points[0].attracts


def test_relu_with_the_backward_scale_settles_at_a_quarter():
    figures = elementwise(FUNCTIONS["relu"], STANDARD)
    points = fixed_points(FUNCTIONS["relu"], STANDARD, figures.mean, figures.slope)
    assert len(points) == 1
    # q = q - 2√q/π + 1/π, so √q = ½.
    assert points[0].second_moment == pytest.approx(0.25, rel=1e-12)
    assert points[0].attracts


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_saturating_functions_attract(name):
    points = fixed_points(FUNCTIONS[name], STANDARD, *_constants(name))
    assert [round(p.second_moment, 9) for p in points] == [1.0]
    assert points[0].attracts


@pytest.mark.parametrize("name", NAMES)
def test_the_correlation_map_ends_at_zero_and_one(name):
    zero, one = (correlation_map(FUNCTIONS[name], STANDARD, r) for r in (0.0, 1.0))
    assert abs(zero.value) <= zero.error
    assert abs(one.value - 1) <= one.error


@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.4, 0.9])
def test_relu_s_closed_form_and_its_series_agree(rho):
    energies = hermite_energies(FUNCTIONS["relu"], STANDARD)
    series = float(energies @ rho ** np.arange(1, len(energies) + 1))
    rest = (1 - energies.sum()) * abs(rho) ** (len(energies) + 1)
    found = correlation_map(FUNCTIONS["relu"], STANDARD, rho)
    assert abs(found.value - series) <= found.error + rest + 1e-12


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_the_slope_of_the_correlation_map_at_one_is_chi(name):
    energies = hermite_energies(FUNCTIONS[name], STANDARD)
    slope = float(energies @ np.arange(1, len(energies) + 1))
    # For these the energies fall geometrically: what is left out is far below the rounding.
    assert slope == pytest.approx(chi(FUNCTIONS[name], STANDARD).value, abs=1e-9)


def test_the_first_energy_is_the_linear_share():
    # Stein: a₁ = s·E f', and E f' of sigmoid is positive.
    energies = hermite_energies(FUNCTIONS["tanh"], STANDARD)
    assert energies[1] == pytest.approx(0, abs=1e-25)
    assert 0.9 < energies[0] < 1


def test_a_correlation_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r"correlation must lie in \[-1, 1\]; it was 1.5"):
        correlation_map(FUNCTIONS["tanh"], STANDARD, 1.5)
