"""The adaptive rule: what it returns lies within the bound it reports, or it raises."""

import math

import numpy as np
import pytest

from normprop.gaussian.normal import EPS
from normprop.gaussian.quadrature import converged_mesh

# An integrand, its interval and its integral: smooth, kinked off the breaks, narrow, singular
# in a derivative.
CASES = {
    "polynomial": (lambda x: x**7 - 3 * x**2, [-1.0, 2.0], 255 / 8 - 9.0),
    "exponential": (np.exp, [0.0, 1.0], math.e - 1),
    "kink": (lambda x: np.abs(x - 0.3), [0.0, 1.0], (0.3**2 + 0.7**2) / 2),
    "step": (lambda x: (x > 1 / 3).astype(float), [0.0, 1.0], 2 / 3),
    "narrow": (lambda x: 1e-8 / (1e-16 + x**2), [-1.0, 1.0], 2 * math.atan(1e8)),
    "root": (np.sqrt, [0.0, 1.0], 2 / 3),
}


def one(function):
    return lambda x: function(x)[None]


@pytest.mark.parametrize("name", CASES)
def test_the_integral_is_within_its_bound(name):
    function, breaks, exact = CASES[name]
    mesh = converged_mesh(one(function), np.array(breaks))
    size = float(np.abs(mesh.values[0]) @ mesh.weights)
    # The nodes, the weights and the sum are rounded: a few dozen ulp of the integral's size.
    assert abs(mesh.integrals()[0] - exact) <= mesh.truncation[0] + 64 * EPS * size


@pytest.mark.parametrize("name", CASES)
def test_the_bound_is_small(name):
    function, breaks, exact = CASES[name]
    mesh = converged_mesh(one(function), np.array(breaks))
    assert mesh.truncation[0] <= 1e-12 * max(1.0, abs(exact))


def test_several_integrands_share_one_mesh():
    def integrand(x):
        return np.stack([np.ones_like(x), np.abs(x - 0.1), np.cos(x)])

    mesh = converged_mesh(integrand, np.array([-1.0, 0.5, 1.0]))
    assert mesh.values.shape == (3, len(mesh.nodes))
    assert mesh.nodes.shape == mesh.weights.shape
    exact = np.array([2.0, (1.1**2 + 0.9**2) / 2, 2 * math.sin(1.0)])
    assert (np.abs(mesh.integrals() - exact) <= mesh.truncation + 64 * EPS * 2).all()


def test_the_weights_cover_the_interval_once():
    mesh = converged_mesh(one(lambda x: np.abs(x - 0.3)), np.array([-2.0, 0.5, 1.0]))
    assert abs(math.fsum(mesh.weights) - 3.0) <= 64 * EPS * 3
    assert (mesh.weights > 0).all()
    assert mesh.nodes.min() > -2
    assert mesh.nodes.max() < 1


def test_panels_are_refined_where_they_must():
    smooth = converged_mesh(one(np.exp), np.array([0.0, 1.0]))
    kinked = converged_mesh(one(lambda x: np.abs(x - 0.3)), np.array([0.0, 1.0]))
    at_the_break = converged_mesh(one(lambda x: np.abs(x - 0.3)), np.array([0.0, 0.3, 1.0]))
    assert len(kinked.nodes) > 10 * len(smooth.nodes)
    assert len(at_the_break.nodes) == 2 * len(smooth.nodes)


def test_noise_does_not_converge():
    noise = np.random.default_rng(0)
    with pytest.raises(ArithmeticError, match=r"must converge .* had not after"):
        converged_mesh(lambda x: noise.normal(size=(1, len(x))), np.array([0.0, 1.0]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(bad):
    with pytest.raises(ArithmeticError, match="must be finite"):
        converged_mesh(one(lambda x: np.where(x > 0.5, bad, x)), np.array([0.0, 1.0]))


def test_a_wrong_integral_is_seen():
    mesh = converged_mesh(one(np.exp), np.array([0.0, 1.0]))
    wrong = (math.e - 1) * (1 + 1e-12)
    assert abs(mesh.integrals()[0] - wrong) > mesh.truncation[0] + 64 * EPS * wrong


# A kink between the end of the panel and its first node, and a step.
HIDDEN = {
    "kink": (lambda x: np.maximum(x - 1e-3, 0.0), 0.5 * (1 - 1e-3) ** 2),
    "step": (lambda x: (x > 1e-3).astype(float), 1 - 1e-3),
}


def nowhere(left, right):
    return [np.empty(0) for _ in left]


@pytest.mark.parametrize("name", HIDDEN)
def test_what_hides_next_to_an_end_is_seen_by_looking_there(name):
    function, exact = HIDDEN[name]
    blind = converged_mesh(one(function), np.array([0.0, 1.0]))
    assert abs(blind.integrals()[0] - exact) > 10 * (blind.truncation[0] + 64 * EPS)
    mesh = converged_mesh(one(function), np.array([0.0, 1.0]), search=nowhere)
    assert abs(mesh.integrals()[0] - exact) <= mesh.truncation[0] + 64 * EPS


def test_looking_at_the_ends_costs_a_smooth_function_no_panels():
    plain = converged_mesh(one(np.exp), np.array([0.0, 1.0]))
    looking = converged_mesh(one(np.exp), np.array([0.0, 1.0]), search=nowhere)
    assert len(looking.nodes) == len(plain.nodes)


def test_found_breaks_end_panels():
    def search(left, right):
        ends = zip(left, right, strict=True)
        return [np.array([0.3]) if a < 0.3 < b else np.empty(0) for a, b in ends]

    kinked = one(lambda x: np.abs(x - 0.3))
    mesh = converged_mesh(kinked, np.array([0.0, 1.0]), search=search)
    halved = converged_mesh(kinked, np.array([0.0, 1.0]))
    # Three panels: the left one, and both halves of the right one.
    assert len(mesh.nodes) == 120 < len(halved.nodes) / 5
    exact = (0.3**2 + 0.7**2) / 2
    assert abs(mesh.integrals()[0] - exact) <= mesh.truncation[0] + 64 * EPS
    assert abs(math.fsum(mesh.weights) - 1.0) <= 64 * EPS


def test_panels_need_not_agree_better_than_to_the_noise():
    blurred = one(lambda x: x + 1e-9 * np.sin(1e12 * x))
    with pytest.raises(ArithmeticError, match="must converge"):
        converged_mesh(blurred, np.array([0.0, 1.0]))
    mesh = converged_mesh(
        blurred, np.array([0.0, 1.0]), noise=lambda nodes, values: np.full_like(values, 1e-9)
    )
    assert len(mesh.nodes) == 40
    assert abs(mesh.integrals()[0] - 0.5) <= 1e-9 + mesh.truncation[0]


def test_what_is_carried_along_need_not_converge():
    def integrand(x):
        return np.stack([np.exp(x), (x > 1 / 3).astype(float)])

    mesh = converged_mesh(integrand, np.array([0.0, 1.0]), tested=1)
    assert mesh.values.shape == (2, 40)
    assert mesh.truncation.shape == (1,)
