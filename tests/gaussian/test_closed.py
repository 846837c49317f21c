"""Closed forms: within their bounds of enclosures by ball arithmetic, and of quadrature."""

import math

import pytest
from flint import arb, ctx
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from normprop import moments
from normprop.gaussian import FUNCTIONS, Normal, closed, elementwise, families
from normprop.gaussian.elementwise import integrate
from normprop.gaussian.normal import mills, mills_defect, tail_moments
from scripts import certify

CLOSED = sorted(name for name, function in FUNCTIONS.items() if function.closed)
# Usual laws, narrow and wide ones, at kinks and where a slope is 0, in a tail, extreme ones.
LAWS = [
    (0, 1), (0.3, 0.7), (-1, 1), (-2, 4), (3, 2.5), (0, 0.01), (0.3, 0.001), (-0.75, 0.01),
    (-1.5, 0.3), (-1, 0.4), (0, 30), (8, 1), (-8, 1), (8, 30), (-8, 30), (-35, 4), (0, 1e3),
    (0.75, 1e-6), (1e3, 1e-6), (-1e3, 1e-6), (1e3, 30), (-1e3, 30), (3, 1e-3), (6, 0.1),
]  # fmt: skip
steady = settings(derandomize=True, deadline=None, database=None, max_examples=60)
slopes = st.floats(-2, 2).map(lambda v: round(v, 3))
scales = st.floats(-3, 3).map(lambda v: 10.0**v)


@pytest.fixture(autouse=True)
def digits():
    before, ctx.dps = ctx.dps, 60
    yield
    ctx.dps = before


def triple(figures):
    return figures.mean, figures.std, figures.slope


def holds(figures, enclosure):
    """Whether each figure is within its bound of a ball; a ball may be wider than a tiny bound."""
    for value, ball in zip(triple(figures), enclosure, strict=True):
        if ball.is_finite():
            assert not abs(arb(value) - ball) > arb(figures.error), (value, ball, figures.error)
        else:
            # The root of a ball around 0: there is no variance within 1e-40.
            assert 0 <= value <= 1e-20


def enclosed(name, m, s):
    return certify.figures(*certify.FUNCTIONS[name], float(m), float(s))


@pytest.mark.parametrize(("m", "s"), LAWS)
@pytest.mark.parametrize("name", CLOSED)
def test_figures_are_within_their_bound_of_the_enclosure(name, m, s):
    function, law = FUNCTIONS[name], Normal(float(m), float(s))
    enclosure = enclosed(name, m, s)
    holds(function.closed(law), enclosure)
    best = elementwise(function, law)
    holds(best, enclosure)
    assert best.error <= 1e-12 * max(1.0, abs(m), s)


@pytest.mark.parametrize(("m", "s"), LAWS)
@pytest.mark.parametrize("name", CLOSED)
def test_the_smaller_bound_wins(name, m, s):
    function, law = FUNCTIONS[name], Normal(float(m), float(s))
    exact, numeric = function.closed(law), integrate(function, law)
    for a, b in zip(triple(exact), triple(numeric), strict=True):
        assert abs(a - b) <= exact.error + numeric.error
    best = elementwise(function, law)
    good = exact.error <= 2e-13 * max(1e-3, *map(abs, triple(exact)))
    assert best.error == (exact.error if good else min(exact.error, numeric.error))
    assert best.method == ("closed form" if best == exact else "quadrature")


@pytest.mark.parametrize("name", CLOSED)
def test_the_closed_form_is_taken_at_the_standard_law(name):
    assert elementwise(FUNCTIONS[name], Normal(0.0, 1.0)).method == "closed form"


@pytest.mark.parametrize("m", [0.0, 1e-9, -1e-9, 1e3, -1e3, 1e100, -1e100, 1e300])
@pytest.mark.parametrize("s", [1e-300, 1e-6, 1.0, 1e3, 1e10, 1e100, 1e200])
@pytest.mark.parametrize("name", CLOSED)
def test_nothing_overflows(name, m, s):
    figures = elementwise(FUNCTIONS[name], Normal(m, s))
    assert all(map(math.isfinite, triple(figures)))
    assert figures.error <= 1e-11 * max(1.0, abs(m), s)


@pytest.mark.parametrize("s", [1e-8, 1e-3, 1.0, 1e3, 1e8])
@pytest.mark.parametrize("m", [0.0, -1e-8, 1e-3, -1.0, 10.0, -40.0, 1e3, -1e8])
@pytest.mark.parametrize("name", CLOSED)
def test_extreme_laws_keep_the_bound(name, m, s):
    figures = elementwise(FUNCTIONS[name], Normal(m, s))
    holds(figures, enclosed(name, m, s))
    holds(FUNCTIONS[name].closed(Normal(m, s)), enclosed(name, m, s))
    # Relative to the largest figure, as long as there is one to speak of.
    assert figures.error <= 1e-10 * max(1e-3, *map(abs, triple(figures)))


@given(
    st.lists(st.floats(-8, 8).map(lambda v: round(v, 2)), min_size=1, max_size=4, unique=True),
    st.lists(slopes, min_size=5, max_size=5),
    st.lists(st.sampled_from([0.0, 0.0, 0.5, -1.25]), min_size=4, max_size=4),
    st.floats(-8, 8),
    scales,
)
@steady
def test_random_piecewise_linear_functions(kinks, slopes, jumps, m, s):
    kinks = sorted(kinks)
    slopes, jumps = slopes[: len(kinks) + 1], jumps[: len(kinks)]
    function = families.piecewise_linear("random", kinks, slopes, jumps, at=kinks[0], value=0.75)
    law = Normal(m, s)
    before, ctx.dps = ctx.dps, 60
    try:
        # A point of each line: f(k₀-) of the first, f(k+) of those behind a kink.
        points = [(kinks[0], arb(0.75)), (kinks[0], arb(0.75) + jumps[0])]
        for start, end, slope, jump in zip(kinks, kinks[1:], slopes[1:], jumps[1:], strict=False):
            rise = arb(slope) * (arb(end) - arb(start))
            points.append((end, points[-1][1] + rise + jump))
        pieces = [_line(h, slope, at) for (at, h), slope in zip(points, slopes, strict=True)]
        enclosure = certify.figures(kinks, pieces, m, s, growth=64)
        holds(function.closed(law), enclosure)
        holds(integrate(function, law), enclosure)
    finally:
        ctx.dps = before


def _line(height, slope, at):
    """The line of this slope with this height at a point."""
    return (lambda z, _: arb(slope) * (z - arb(at)) + height), (lambda z, _: arb(slope) + 0 * z)


@given(st.floats(-3, 3), st.floats(-20, 20), scales)
@steady
def test_exponential_units_of_any_ratio(gamma, m, s):
    function, law = families.elu(gamma), Normal(m, s)
    exact, numeric = function.closed(law), integrate(function, law)
    for a, b in zip(triple(exact), triple(numeric), strict=True):
        assert abs(a - b) <= exact.error + numeric.error


@pytest.mark.parametrize("alpha", [0.25, 1.0, 3.0])
@pytest.mark.parametrize(("m", "s"), LAWS[:12])
def test_celu_is_elu_in_units_of_alpha(alpha, m, s):
    # CELU(x) = α ELU(x/α), powers of two but for 3.
    unit = families.elu().closed(Normal(m / alpha, s / alpha))
    got = families.celu(alpha).closed(Normal(float(m), float(s)))
    error = got.error + alpha * unit.error + 1e-15 * (abs(m) + s)
    assert abs(got.mean - alpha * unit.mean) <= error
    assert abs(got.std - alpha * unit.std) <= error
    assert abs(got.slope - unit.slope) <= got.error + unit.error + 1e-15 * (abs(m) + s)


@pytest.mark.parametrize("t", [0, 1e-8, 0.3, 0.9, 1.5, 1.9999, 2, 2.1, 3, 5, 10, 20, 37.9])
def test_tail_moments_are_within_their_bounds(t):
    moments, errors = tail_moments(float(t))
    with mp.workdps(800):
        t = mp.mpf(t)
        exact = [mp.erfc(t / mp.sqrt(2)) / 2]
        exact.append(mp.npdf(t) - t * exact[0])
        for k in (2, 3, 4):
            exact.append((k - 1) * exact[k - 2] - t * exact[k - 1])
        for value, error, wanted in zip(moments, errors, exact, strict=True):
            assert abs(value - wanted) <= error + 1e-300


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0, 1.999, 2.0, 3.0, 10.0, 100.0, 1e8])
def test_mills_ratio(t):
    with mp.workdps(60):
        x = mp.mpf(t)
        # Mills' ratio is √(π/2) times the scaled complementary error function, U(1/2, 1/2, ·).
        exact = mp.hyperu(0.5, 0.5, x * x / 2) / mp.sqrt(2)
        defect = 1 - x * exact
        assert abs(mills(t) - exact) <= 16 * 2**-52 * exact
        assert abs(mills_defect(t) - defect) <= 32 * 2**-52 * defect


def test_a_wrong_figure_is_seen():
    figures = closed.gelu(Normal(0.3, 0.7))
    enclosure = enclosed("gelu", 0.3, 0.7)
    wrong = closed.Figures(
        figures.mean + 3 * figures.error, figures.std, figures.slope, figures.error, "closed form"
    )
    with pytest.raises(AssertionError):
        holds(wrong, enclosure)


@pytest.mark.parametrize("t", [0.0, 0.5, 1.9, 2.1, 8.0, 20.0, 37.0])
@pytest.mark.parametrize("std", [1e-3, 1.0, 1e3])
def test_relu_keeps_its_digits_left_of_the_kink(t, std):
    # However small the figures are, they are not rounded to nothing: t² ulp each.
    found = moments("relu", mean=-t * std, std=std)
    with mp.workdps(400):
        u = mpf(t * std) / mpf(std)
        density = mp.exp(-u * u / 2) / mp.sqrt(2 * mp.pi)
        active = mp.erfc(u / mp.sqrt(2)) / 2
        mean = density - u * active
        std_ = mp.sqrt((1 + u * u) * active - u * density - mean**2)
        figures = (mpf(std) * mean, mpf(std) * std_, mp.sqrt(active))
    for got, wanted in zip((found.fwd_mean, found.fwd_std, found.bwd_std), figures, strict=True):
        assert abs(got - wanted) <= found.error
        assert abs(got / wanted - 1) <= 1e-14 * (1 + t * t)
