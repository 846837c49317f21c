"""A slope that is drawn: against an integral over slopes, and against simulation."""

import math

import numpy as np
import pytest
from torch import nn

from normprop import moments, simulate
from normprop.gaussian import Normal
from normprop.rules.activation import rrelu_training

LAWS = [(0.0, 1.0), (0.5, 2.0), (-3.0, 0.5), (40.0, 1.0)]
BOUNDS = [(1 / 8, 1 / 3), (-0.5, 0.9), (0.3, 0.3)]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("lower", "upper"), BOUNDS)
def test_it_is_the_mean_over_slopes(lower, upper, law):
    # Second moments are parabolas of the slope: two nodes of Gauss and Legendre integrate them.
    found = rrelu_training(lower, upper, Normal(*law))
    middle, reach = (lower + upper) / 2, (upper - lower) / 2
    each = [moments(nn.LeakyReLU(middle + z * reach), *law) for z in (-1 / 3**0.5, 1 / 3**0.5)]
    mean = np.mean([m.fwd_mean for m in each])
    raw = np.mean([m.fwd_std**2 + m.fwd_mean**2 for m in each])
    slope = math.sqrt(np.mean([m.bwd_std**2 for m in each]))
    error = found.error + max(m.error for m in each)
    assert abs(found.mean - mean) <= error
    assert abs(found.slope - slope) <= error
    # The difference of raw moments cancels.
    off = 4 * error * (abs(mean) + found.std) + 8 * 2**-52 * raw
    assert abs(found.std**2 - (raw - mean**2)) <= off


@pytest.mark.parametrize("law", LAWS[:3])
@pytest.mark.parametrize(("lower", "upper"), BOUNDS)
def test_it_is_what_torch_draws(lower, upper, law):
    layer = nn.RReLU(lower, upper)
    exact, estimate = (
        moments(layer, *law),
        simulate(layer, 100_000, mean=law[0], std=law[1], seed=2),
    )
    for figure in ("fwd_mean", "fwd_std", "bwd_std"):
        error = getattr(estimate, f"{figure}_se")
        assert abs(getattr(exact, figure) - getattr(estimate, figure)) < 4.5 * error


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"lower not greater than upper; they were 0.5 and 0.25"):
        rrelu_training(0.5, 0.25, Normal(0.0, 1.0))


def test_nothing_has_constants_behind_slopes_that_are_drawn():
    with pytest.raises(ValueError, match="RReLU must be in evaluation here"):
        moments(nn.MaxPool2d(2), after=nn.RReLU())
    with pytest.raises(ValueError, match="after= takes a pooling, dropout or parametric layer"):
        moments(nn.RReLU(), after="relu")
