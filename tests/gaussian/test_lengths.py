"""The length of a normal vector: enclosed by ball arithmetic."""

import pytest
from flint import arb, ctx

from normprop.gaussian.lengths import length


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
