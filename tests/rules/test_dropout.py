"""Alpha dropout: its documented constants, and simulation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normprop import moments, rules, simulate
from normprop.gaussian import Normal
from tests.rules.linear import worst


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 0.99))
def test_what_it_is_for(p):
    # Mean 0 and variance 1 stay.
    got = moments(nn.AlphaDropout(p))
    assert abs(got.fwd_mean) <= got.error
    assert abs(got.fwd_std - 1) <= got.error


@pytest.mark.parametrize("p", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("law", [{"mean": 0.0, "std": 1.0}, {"mean": -0.6, "std": 2.0}])
def test_by_simulation(p, law):
    exact = moments(nn.AlphaDropout(p), **law)
    assert worst(simulate(nn.AlphaDropout(p), 400_000, **law, seed=3), exact) < 4.5
    whole = simulate(nn.FeatureAlphaDropout(p), 400_000, **law, shape=(16, 2), seed=3)
    assert worst(whole, exact) < 4.5


def test_the_two_values_are_those_of_torch():
    # y is one of two lines of x: a x + aαp where it is kept, and a constant where it is not.
    torch.manual_seed(1)
    p, x = 0.3, torch.randn(2000, dtype=torch.float64).requires_grad_()
    y = nn.AlphaDropout(p)(x)
    (slopes,) = torch.autograd.grad(y.sum(), x)
    gain, alpha = rules.alpha_gain(p), 1.7580993408473766
    kept = slopes != 0
    assert 0 < kept.sum() < 2000
    # torch's constant a is rounded once more than ours, and so is the sum.
    assert ((slopes[kept] - gain).abs() <= 1e-15).all()
    wanted = torch.where(kept, gain * x, -gain * alpha) + gain * alpha * p
    assert ((y - wanted).abs() <= 1e-14).all()


def test_evaluation_is_the_identity_and_p_one_drops_all():
    assert moments(nn.AlphaDropout(0.3).eval(), 0.5, 2.0).fwd_std == 2.0
    got = moments(nn.AlphaDropout(1.0), 0.5, 2.0)
    assert (got.fwd_mean, got.fwd_std, got.bwd_std) == (0.0, 0.0, 0.0)
    assert not nn.AlphaDropout(1.0)(torch.ones(5)).any()


def test_behind_an_activation():
    law = rules.image_of("selu", Normal(0.0, 1.0))
    got, selu = rules.alpha_dropout(0.25, law), moments("selu")
    gain, alpha = rules.alpha_gain(0.25), 1.7580993408473766
    assert abs(got.fwd_mean - 0.75 * gain * selu.fwd_mean) <= got.error
    spread = selu.fwd_std**2 + 0.25 * (selu.fwd_mean + alpha) ** 2
    assert abs(got.fwd_std - gain * math.sqrt(0.75 * spread)) <= got.error


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match="p must be less than 1"):
        rules.alpha_gain(1.0)
    with pytest.raises(ValueError, match="must lie in"):
        rules.alpha_dropout(-0.1, Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="inverted=False is for dropout"):
        moments(nn.AlphaDropout(0.3), inverted=False)
