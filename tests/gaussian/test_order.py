"""The largest of n normals and of n activations: true to 1e-13, within bounds, monotone in n."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from normprop.gaussian import FUNCTIONS, Image, Normal, elementwise, maximum, maximum_of
from tests import reference

COUNTS = [1, 2, 3, 4, 5, 7, 8, 9, 16, 25, 27, 49, 100, 1000, 10_000]
LAWS = [(0, 1), (3, 2.5), (-8, 0.01), (8, 30)]
COMPOSITE_LAWS = [(0, 1), (0, 0.01), (0, 30), (8, 0.01), (-8, 1), (3, 2.5), (-3, 2.5), (8, 30)]
NAMES = ["relu", "sigmoid", "tanh"]

steady = settings(derandomize=True, deadline=None, database=None, max_examples=30)


def normal(m, s):
    return Normal(float(m), float(s))


def image(name, m, s, shift=0.0, scale=1.0):
    return Image(FUNCTIONS[name], normal(m, s), shift, scale)


def holds(values, exact, error):
    """Every figure agrees to 1e-13 and lies within its bound, and the bound is small."""
    for value, wanted in zip(values, exact, strict=True):
        assert reference.agrees_to_1e13(value, wanted)
        assert reference.close(value, wanted, error)
    assert 0 < error <= 1e-10 * max(1, *map(abs, values))


@pytest.mark.parametrize(("m", "s"), LAWS)
@pytest.mark.parametrize("n", COUNTS)
def test_maximum_of_normals(n, m, s):
    mean, std, error, method = maximum(n, normal(m, s))
    holds((mean, std), reference.maximum(n, m, s), error)
    assert method == ("closed form" if n <= 4 else "quadrature")


# The reference is slow, so that the smallest and the largest window see the usual law alone.
COMPOSITES = [(n, m, s) for n in (4, 9) for m, s in COMPOSITE_LAWS] + [(2, 0, 1), (49, 0, 1)]


@pytest.mark.parametrize(("n", "m", "s"), COMPOSITES)
@pytest.mark.parametrize("name", NAMES)
def test_maximum_of_activations(name, n, m, s):
    mean, std, error, method = maximum_of(n, image(name, m, s))
    holds((mean, std), reference.maximum_of(name, n, m, s), error)
    assert method == "quadrature"


@pytest.mark.parametrize(("shift", "scale"), [(0.4, 0.7), (-3.0, 2.5), (0.0, 0.01)])
@pytest.mark.parametrize("n", [1, 4])
def test_an_image_is_shifted_and_scaled(n, shift, scale):
    mean, std, error, _ = maximum(n, image("relu", 0, 1, shift, scale))
    with mp.workdps(60):
        plain = reference.maximum_of("relu", n, 0, 1)
        exact = (plain[0] - mpf(shift)) / mpf(scale), plain[1] / mpf(scale)
    holds((mean, std), exact, error)


@pytest.mark.parametrize(("m", "s"), COMPOSITE_LAWS)
@pytest.mark.parametrize("name", NAMES)
def test_the_largest_of_one_is_the_activation(name, m, s):
    mean, std, error, _ = maximum_of(1, image(name, m, s))
    figures = elementwise(FUNCTIONS[name], normal(m, s))
    assert abs(mean - figures.mean) <= error + figures.error
    assert abs(std - figures.std) <= error + figures.error


@given(st.integers(1, 2000), st.integers(1, 50))
@steady
def test_the_mean_grows_with_n(n, more):
    low, high = maximum(n, normal(0, 1)), maximum(n + more, normal(0, 1))
    assert high[0] + high[2] > low[0] - low[2]
    # The maximum of normals is sure to grow by more than the bounds for a wide gap.
    if more >= n:
        assert high[0] - high[2] > low[0] + low[2]


@given(st.integers(1, 2000), st.integers(1, 50))
@steady
def test_the_spread_shrinks_with_n(n, more):
    low, high = maximum(n, normal(0, 1)), maximum(n + more, normal(0, 1))
    assert high[1] - high[2] <= low[1] + low[2]


@given(st.sampled_from(NAMES), st.integers(1, 30), st.floats(-8, 8), st.floats(0.05, 30))
@steady
def test_the_mean_of_activations_grows_with_n(name, n, m, s):
    low, high = maximum_of(n, image(name, m, s)), maximum_of(n + 1, image(name, m, s))
    assert high[0] + high[2] >= low[0] - low[2]


@given(st.integers(1, 100), st.floats(-8, 8), st.floats(0.01, 30))
@steady
def test_the_maximum_is_affine_in_the_law(n, m, s):
    mean, std, error, _ = maximum(n, normal(0, 1))
    moved_mean, moved_std, moved_error, _ = maximum(n, normal(m, s))
    rounding = 2**-52 * (abs(m) + s * (abs(mean) + std))
    assert abs(moved_mean - (m + s * mean)) <= moved_error + s * error + rounding
    assert abs(moved_std - s * std) <= moved_error + s * error + rounding


def test_a_wrong_figure_is_seen():
    # The forward post's figure of 2x2 max pooling, and a relative error of 2e-13.
    exact = reference.maximum(4, 0, 1)[0]
    mean, _, error, _ = maximum(4, normal(0, 1))
    assert not reference.agrees_to_1e13(1.0291, exact)
    assert not reference.agrees_to_1e13(mean * (1 + 2e-13), exact)
    assert not reference.close(mean + 2 * error, exact, error)


def test_a_function_that_decreases_is_refused():
    bent = dataclasses.replace(FUNCTIONS["relu"], name="bent", increasing=False)
    with pytest.raises(ValueError, match="never decrease; bent does"):
        maximum(4, Image(bent, normal(0, 1)))
