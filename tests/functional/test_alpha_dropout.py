"""Alpha dropout as a function: training, evaluation, and what is refused."""

import math

import pytest
import torch
from torch.nn import functional as F

from normprop import nn, rules
from normprop.functional import alpha_dropout, feature_alpha_dropout
from normprop.gaussian import Normal
from tests.functional.inputs import names

LAWS = [{"mean": 0.0, "std": 1.0}, {"mean": 0.5, "std": 2.0}]
P = 0.3
functions = pytest.mark.parametrize(
    ("function", "plain", "layer"),
    [
        (alpha_dropout, F.alpha_dropout, nn.AlphaDropout),
        (feature_alpha_dropout, F.feature_alpha_dropout, nn.FeatureAlphaDropout),
    ],
)


def seeded(call):
    torch.manual_seed(0)
    return call()


@functions
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
def test_training_is_the_formula(function, plain, layer, law, scaling):
    x = torch.randn(5, 6, 3, dtype=torch.float64)
    figures = rules.alpha_dropout(P, Normal(**law))
    sigma = figures.bwd_std if scaling == "backward" else figures.fwd_std
    got = seeded(lambda: function(x, P, True, scaling=scaling, **law))
    wanted = (seeded(lambda: plain(x, P, True)) - figures.fwd_mean) / sigma
    assert ((got - wanted).abs() <= 1e-14 * (1 + wanted.abs())).all()
    assert torch.equal(got, seeded(lambda: layer(P, scaling=scaling, **law)(x)))


@functions
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("keeps", ["variance", "mean"])
def test_evaluation_is_the_formula(function, plain, layer, law, keeps):
    x = torch.randn(5, 6, 3, dtype=torch.float64)
    figures = rules.alpha_dropout(P, Normal(**law))
    spread = figures.fwd_std / law["std"] if keeps == "variance" else 0.7 * rules.alpha_gain(P)
    wanted = (x - law["mean"]) * spread / figures.fwd_std
    got = function(x, P, False, scaling="forward", eval=keeps, **law)
    assert ((got - wanted).abs() <= 1e-14 * (1 + wanted.abs())).all()
    module = layer(P, scaling="forward", eval=keeps, **law).eval()
    assert torch.equal(got, module(x))


def test_the_mean_over_the_masks():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    masks = 20_000
    y = alpha_dropout(x.expand(masks, -1), P, True, scaling="forward", mean=0.5, std=2.0)
    kept = alpha_dropout(x, P, False, scaling="forward", mean=0.5, std=2.0, eval="mean")
    error = y.std(0) / math.sqrt(masks)
    assert ((y.mean(0) - kept).abs() / error).max() < 4.5


def test_at_unit_law_evaluation_is_the_identity():
    x = torch.randn(50, dtype=torch.float64)
    got = alpha_dropout(x, P, False, scaling="forward")
    # σ_f = 1 but for rounding.
    assert ((got - x).abs() <= 1e-15 * (1 + x.abs())).all()


@functions
def test_arguments(function, plain, layer):
    assert names(function) == ["input", "p", "training", "inplace"]
    assert function(torch.ones(2, 2), P).shape == (2, 2)


@functions
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1.0}, "p must be less than 1 for a normalised dropout; it was 1"),
        ({"p": -0.1}, r"must lie in \[0, 1\]; it was -0.1"),
        ({"eval": "both"}, "eval must be 'variance' or 'mean'; it was 'both'"),
        ({"scaling": "both"}, "scaling must be one of"),
        ({"std": 0.0}, "std must be finite and greater than 0"),
    ],
)
def test_refusals(function, plain, layer, arguments, message):
    for training in (True, False):
        with pytest.raises(ValueError, match=message):
            function(torch.ones(3, 3), training=training, **arguments)
