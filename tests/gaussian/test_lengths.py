"""Norms of a normal vector: enclosed by ball arithmetic, and by high-precision quadrature."""

import mpmath
import pytest
from flint import arb, ctx

from normprop.gaussian.lengths import extreme_size, length


# The reference's series does not enclose it where n·mean² is large.
@pytest.mark.parametrize(
    ("n", "mean"),
    [
        (n, mean)
        for n in (1, 2, 3, 9, 27, 1000)
        for mean in (0.0, 0.3, -1.0, 5.0)
        if n * mean**2 <= 300
    ],
)
def test_against_the_hypergeometric_function(n, mean):
    # E|x| = √2 Γ((n+1)/2)/Γ(n/2) ₁F₁(-1/2; n/2; -nm²/2), and E|x|² = n(1 + m²).
    got, std, error = length(n, mean)
    before, ctx.prec = ctx.prec, 400
    try:
        half, offset = arb(n) / 2, arb(n) * arb(mean) ** 2 / 2
        ratio = (half + arb(1) / 2).gamma() / half.gamma()
        expected = arb(2).sqrt() * ratio * (-offset).hypgeom_1f1(arb(-1) / 2, half)
        spread = (n + 2 * offset - expected**2).sqrt()
        assert float(expected.rad()) < 1e-20
        assert abs(float(got - expected)) <= error
        assert abs(float(std - spread)) <= error
    finally:
        ctx.prec = before
    assert error <= 1e-11 * max(1.0, got)


def test_far_from_the_origin_it_is_a_straight_line():
    # |x| has the mean √n m + (n - 1)/(2 √n m) + O(m^-3), and the spread 1 + O(m^-2).
    got, std, error = length(4, 60.0)
    assert error < 1e-10
    assert abs(got - (120 + 3 / 240)) < 3 / 120**3
    assert abs(std - 1) < 3 / 120**2


def test_too_far_is_refused():
    with pytest.raises(ValueError, match=r"n·mean²/std² must be at most 20000"):
        length(9, 100.0)
    with pytest.raises(ValueError, match="must be at most"):
        length(9, float("nan"))


@pytest.mark.parametrize("n", [1, 2, 9, 1000])
@pytest.mark.parametrize("mean", [0.0, -0.5, 3.0, 40.0])
@pytest.mark.parametrize("largest", [True, False])
def test_the_largest_and_the_smallest_size(n, mean, largest):
    m = abs(mean)
    got, std, error = extreme_size(n, mean, largest=largest)
    with mpmath.workdps(25):

        def density(y):
            beyond = mpmath.ncdf(m - y) + mpmath.ncdf(-m - y)
            slope = mpmath.npdf(y - m) + mpmath.npdf(y + m)
            return n * slope * ((1 - beyond) if largest else beyond) ** (n - 1)

        low, high = max(0.0, m - 14), m + 14
        ends = {low + (high - low) * k / 8 for k in range(9)}
        ends |= {low + (high - low) * 0.5**k for k in range(4, 14)}
        ends = sorted(ends)
        expected = mpmath.quad(lambda y: y * density(y), ends)
        variance = mpmath.quad(lambda y: (y - expected) ** 2 * density(y), ends)
        assert abs(got - expected) <= error
        assert abs(std - mpmath.sqrt(variance)) <= error
    assert error <= 1e-9


def test_the_smallest_of_many_is_that_of_an_exponential():
    # Near 0 the density of |x| is √(2/π): n√(2/π) min|x_i| tends to an exponential variable, with
    # errors of the order of 1/n² in the density's curvature.
    got, std, _ = extreme_size(100_000, largest=False)
    scale = (3.14159265358979 / 2) ** 0.5 / 100_000
    assert abs(got / scale - 1) < 1e-4
    assert abs(std / scale - 1) < 1e-4
