"""Pooling by a norm: closed forms and simulation."""

import math

import pytest
from torch import nn

from normprop import moments, simulate
from tests.rules.linear import worst


@pytest.mark.parametrize("size", [2, 3, 4, 9])
def test_the_length_of_a_standard_vector(size):
    # √2 Γ((K+1)/2)/Γ(K/2), and E y² = K.
    mean = math.sqrt(2) * math.gamma((size + 1) / 2) / math.gamma(size / 2)
    got = moments(nn.LPPool1d(2, size, 3))
    assert abs(got.fwd_mean - mean) <= got.error + 1e-14
    assert abs(got.fwd_std - math.sqrt(size - mean**2)) <= got.error + 1e-14
    assert abs(got.bwd_std - 3**-0.5) <= got.error
    assert got.error < 1e-12


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LPPool1d(2, 4), (2, 16)),
        (nn.LPPool2d(2, (2, 3)), (2, 6, 6)),
        (nn.LPPool3d(2, 2), (1, 4, 4, 4)),
        (nn.LPPool2d(1, 2), (2, 6, 6)),
        (nn.LPPool2d(math.inf, (2, 3)), (2, 6, 6)),
        (nn.LPPool1d(-math.inf, 3), (2, 9)),
    ],
    ids=str,
)
@pytest.mark.parametrize("law", [{"mean": 0.0, "std": 1.0}, {"mean": -0.7, "std": 1.5}])
def test_by_simulation(layer, shape, law):
    estimate = simulate(layer, 100_000, **law, shape=shape, seed=6)
    assert worst(estimate, moments(layer, **law)) < 4.5


def test_overlapping_windows_by_simulation():
    # A circle of windows: every input is in two of them, and there is no border.
    def pool(x):
        layer = nn.LPPool1d(2, 4, 2)
        return layer(nn.functional.pad(x, (0, 2), mode="circular"))

    law = {"mean": 0.4, "std": 1.0}
    estimate = simulate(pool, 100_000, **law, shape=(1, 12), seed=6)
    assert worst(estimate, moments(nn.LPPool1d(2, 4, 2), **law)) < 4.5


def test_the_sum_is_a_multiple_of_the_average():
    got, average = (moments(make, 0.5, 2.0) for make in (nn.LPPool2d(1, 3, 2), nn.AvgPool2d(3, 2)))
    for name in ("fwd_mean", "fwd_std", "bwd_std"):
        assert abs(getattr(got, name) - 9 * getattr(average, name)) <= got.error + 1e-14


@pytest.mark.parametrize("norm", [0, 3, 0.5, -1, math.nan])
def test_other_powers_are_refused(norm):
    with pytest.raises(ValueError, match="norm_type must be 1"):
        moments(nn.LPPool1d(norm, 2))


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="norm_type must be a real number"):
        moments(nn.LPPool1d("2", 2))
    with pytest.raises(ValueError, match="after= goes with norm_type 1 alone"):
        moments(nn.LPPool1d(2, 2), after="relu")
    assert moments(nn.LPPool1d(1, 2), after="relu").fwd_mean > 0
