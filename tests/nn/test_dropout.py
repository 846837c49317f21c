"""Dropout modules: training against evaluation, measured, and what is refused."""

import math
from types import SimpleNamespace

import pytest
import torch

from normprop import moments, simulate
from normprop.nn import Dropout, Dropout2d

LAWS = [{"mean": 0.0, "std": 1.0}, {"mean": 0.5, "std": 2.0}]


def worst(estimate, exact):
    return max(abs(score) for score in estimate.z(exact).values())


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
def test_evaluation_has_the_variance_of_training(scaling, law):
    layer = Dropout(0.3, scaling=scaling, **law)
    training = simulate(layer, 200_000, **law)
    evaluation = simulate(layer.eval(), 200_000, **law)
    error = math.hypot(training.fwd_std_se, evaluation.fwd_std_se)
    assert abs(training.fwd_std - evaluation.fwd_std) < 4.5 * error


@pytest.mark.parametrize("law", LAWS)
def test_evaluation_by_the_mean_shrinks_the_variance(law):
    # √q at mean 0; (s/√((s² + p m²)/q)) in general.
    layer = Dropout(0.3, scaling="forward", eval="mean", **law).eval()
    mean, std = law["mean"], law["std"]
    factor = 1 / math.sqrt((std**2 + 0.3 * mean**2) / 0.7)
    exact = SimpleNamespace(fwd_mean=0.0, fwd_std=std * factor, bwd_std=factor)
    assert worst(simulate(layer, 200_000, **law), exact) < 4.5
    assert abs(moments(layer, **law).fwd_std - exact.fwd_std) < 1e-14


def test_the_flag_of_evaluation_is_shown_and_stored():
    layer = Dropout2d(0.3, eval="mean")
    assert "eval='mean'" in repr(layer)
    assert layer.eval_keeps == "mean"
    assert layer.eval() is layer


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (1.0, "p must be less than 1 for a normalised dropout; it was 1"),
        (1.5, r"p, the probability of dropping, must lie in \[0, 1\]; it was 1.5"),
        (-0.1, r"must lie in \[0, 1\]; it was -0.1"),
        (math.nan, r"must lie in \[0, 1\]; it was nan"),
    ],
)
def test_p_must_leave_something(p, message):
    with pytest.raises(ValueError, match=message):
        Dropout(p)


@pytest.mark.parametrize("p", [True, "0.5", None, torch.tensor(0.5)])
def test_p_must_be_a_number(p):
    with pytest.raises(TypeError, match="p must be a real number"):
        Dropout(p)


def test_what_evaluation_keeps_must_be_known():
    with pytest.raises(ValueError, match="eval must be 'variance' or 'mean'; it was 'none'"):
        Dropout(eval="none")
