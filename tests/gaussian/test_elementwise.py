"""Elementwise figures: true to 1e-13, within their own bounds, and obeying the laws they must."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp

from normprop.gaussian import FUNCTIONS, Function, Normal, elementwise
from normprop.gaussian.elementwise import integrate
from tests import reference

# Usual laws; narrow and wide ones; laws in a tail, where next to nothing is left of a figure.
LAWS = [
    (0, 1), (0.5, 2), (-1, 0.5), (0, 0.01), (0, 30), (8, 0.01), (-8, 0.01), (8, 1), (-8, 1),
    (8, 30), (-8, 30), (3, 2.5), (-3, 2.5), (-800, 30), (800, 30), (1e-3, 1e-3), (-35, 1),
]  # fmt: skip
NAMES = ["relu", "sigmoid", "tanh"]

means = st.floats(-8, 8)
stds = st.floats(0.01, 30)
steady = settings(derandomize=True, deadline=None, database=None, max_examples=40)


def figures_of(name, m, s):
    return elementwise(FUNCTIONS[name], Normal(float(m), float(s)))


def triple(figures):
    return figures.mean, figures.std, figures.slope


def overlap(a, error_a, b, error_b):
    """Whether two figures with these error bounds can be the same number."""
    return abs(a - b) <= error_a + error_b


@pytest.mark.parametrize(("m", "s"), LAWS)
@pytest.mark.parametrize("name", NAMES)
def test_figures_agree_with_the_reference(name, m, s):
    figures = figures_of(name, m, s)
    exact = reference.elementwise(name, m, s)
    for value, wanted in zip(triple(figures), exact, strict=True):
        assert reference.agrees_to_1e13(value, wanted)
        assert reference.close(value, wanted, figures.error)


@pytest.mark.parametrize(("m", "s"), LAWS)
@pytest.mark.parametrize("name", NAMES)
def test_the_bound_is_small(name, m, s):
    figures = figures_of(name, m, s)
    assert 0 < figures.error <= 1e-10 * max(1, *map(abs, triple(figures)))


def test_a_wrong_figure_is_seen():
    figures = figures_of("sigmoid", 0, 1)
    wanted = reference.elementwise("sigmoid", 0, 1)[2]
    # The post's constant, a relative error of 2e-13, and one of twice the bound.
    assert not reference.agrees_to_1e13(0.2123, wanted)
    assert not reference.agrees_to_1e13(figures.slope * (1 + 2e-13), wanted)
    assert not reference.close(figures.slope + 2 * figures.error, wanted, figures.error)


@pytest.mark.parametrize("name", NAMES)
def test_the_method_is_named(name):
    wanted = "closed form" if name == "relu" else "quadrature"
    assert figures_of(name, 0.3, 1.2).method == wanted


@given(st.sampled_from(NAMES), means, stds)
@steady
def test_gaussian_poincare(name, m, s):
    # Var f ≤ s² E f'², up to the bounds of the two figures.
    figures = figures_of(name, m, s)
    assert s * (figures.slope + figures.error) >= figures.std - figures.error


@given(means, stds)
@steady
def test_sigmoid_is_symmetric_about_one_half(m, s):
    # sigmoid(-x) = 1 - sigmoid(x); one more rounding for the 1.
    a, b = figures_of("sigmoid", m, s), figures_of("sigmoid", -m, s)
    assert overlap(a.mean, a.error, 1 - b.mean, b.error + 2**-53)
    assert overlap(a.std, a.error, b.std, b.error)
    assert overlap(a.slope, a.error, b.slope, b.error)


@given(means, stds)
@steady
def test_tanh_is_odd(m, s):
    a, b = figures_of("tanh", m, s), figures_of("tanh", -m, s)
    assert overlap(a.mean, a.error, -b.mean, b.error)
    assert overlap(a.std, a.error, b.std, b.error)
    assert overlap(a.slope, a.error, b.slope, b.error)


@pytest.mark.parametrize("s", [0.01, 1.0, 30.0])
def test_tanh_has_no_mean_at_zero(s):
    assert figures_of("tanh", 0, s).mean == 0.0


@given(means, stds, st.integers(-6, 6))
@steady
def test_relu_is_homogeneous(m, s, exponent):
    # max(cx, 0) = c max(x, 0); a power of two scales m and s without rounding.
    c = 2.0**exponent
    plain, scaled = figures_of("relu", m, s), figures_of("relu", c * m, c * s)
    assert overlap(scaled.mean, scaled.error, c * plain.mean, c * plain.error)
    assert overlap(scaled.std, scaled.error, c * plain.std, c * plain.error)
    assert overlap(scaled.slope, scaled.error, plain.slope, plain.error)


@given(means, stds)
@steady
def test_relu_of_x_and_of_minus_x_add_up(m, s):
    # max(x, 0) - max(-x, 0) = x and the squared slopes are the probabilities of the two sides.
    a, b = figures_of("relu", m, s), figures_of("relu", -m, s)
    error = a.error + b.error
    assert abs(a.mean - b.mean - m) <= error + 2**-52 * (a.mean + b.mean + abs(m))
    # An error e of a slope is one of at most 2e + e² in its square.
    assert abs(a.slope**2 + b.slope**2 - 1) <= 2.5 * error + 2**-51


@given(means, stds)
@steady
def test_closed_form_and_quadrature_agree(m, s):
    closed = figures_of("relu", m, s)
    numeric = integrate(FUNCTIONS["relu"], Normal(m, s))
    assert numeric.method == "quadrature"
    for a, b in zip(triple(closed), triple(numeric), strict=True):
        assert overlap(a, closed.error, b, numeric.error)


@given(means, stds)
@steady
def test_tanh_and_its_own_quadrature_agree(m, s):
    # The figures of tanh come from sigmoid's and a folded integral; here from tanh itself.
    folded, direct = figures_of("tanh", m, s), integrate(FUNCTIONS["tanh"], Normal(m, s))
    for a, b in zip(triple(folded), triple(direct), strict=True):
        assert overlap(a, folded.error, b, direct.error)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("c", "h"), [(0.0, 1e-9), (3.0, -1e-9), (-8.0, 5.0), (8.0, -16.0)])
def test_increments_are_accurate_relative_to_themselves(name, c, h):
    function: Function = FUNCTIONS[name]
    exact_function = reference._FUNCTIONS[name]
    got = float(np.asarray(function.increment(c, np.array([h]))).item())
    with mp.workdps(60):
        wanted = exact_function(mp.mpf(c) + mp.mpf(h))[0] - exact_function(mp.mpf(c))[0]
    # The end c + h is rounded once, which moves f by at most |c + h| ulp times the slope;
    # relative to an increment of h that is |c + h| log_slope ulp beside the usual few.
    ulps = 16 + 4 * (abs(c) + abs(h)) * max(function.log_slope, 1.0)
    assert reference.close(got, wanted, 2**-53 * ulps * abs(wanted))
