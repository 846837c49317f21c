"""Dropout as a function: what is kept in training, and which of two things in evaluation."""

import math

import pytest
import torch

from normprop import functional
from normprop.functional import dropout

FEATURES = {1: (4, 5, 3), 2: (4, 5, 3, 2), 3: (4, 5, 2, 2, 3)}
ULPS = 16 * 2**-52


@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
def test_at_the_standard_law_every_scaling_divides_by_the_root(scaling):
    x = torch.randn(1023, dtype=torch.float64)
    y = dropout(x, 0.3, scaling=scaling)
    wanted = torch.where(y == 0, 0.0, x / math.sqrt(0.7))
    assert 0 < (y == 0).sum() < 1023
    assert ((y - wanted).abs() <= ULPS * wanted.abs()).all()


def test_training_centres_and_scales():
    x = 0.5 + 2.0 * torch.randn(1023, dtype=torch.float64)
    y = dropout(x, 0.3, scaling="forward", mean=0.5, std=2.0)
    sigma = math.sqrt((4 + 0.3 * 0.25) / 0.7)
    nothing, kept = (0 - 0.5) / sigma, (x / 0.7 - 0.5) / sigma
    distance = torch.minimum((y - nothing).abs(), (y - kept).abs())
    assert (distance <= ULPS * (1 + kept.abs())).all()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_whole_channels_are_dropped(dims):
    x = torch.randn(FEATURES[dims], dtype=torch.float64)
    y = getattr(functional, f"dropout{dims}d")(x, 0.5)
    dropped = (y == 0).flatten(2)
    assert torch.equal(dropped.all(2), dropped.any(2))
    assert 0 < dropped.all(2).sum() < dropped.all(2).numel()


def test_evaluation_keeps_the_variance_by_default():
    x = torch.randn(1023, dtype=torch.float64)
    assert ((dropout(x, 0.3, training=False) - x).abs() <= ULPS * x.abs()).all()


def test_evaluation_may_keep_the_mean():
    x = torch.randn(1023, dtype=torch.float64)
    wanted = math.sqrt(0.7) * x
    got = dropout(x, 0.3, training=False, eval="mean")
    assert ((got - wanted).abs() <= ULPS * wanted.abs()).all()


def test_what_evaluation_keeps_is_what_training_has():
    # Over the masks, in training: E y = √q x for each x, and Var y = 1 over both.
    x, masks = torch.randn(200, dtype=torch.float64), 20_000
    y = dropout(x.expand(masks, -1), 0.3)
    mean, error = y.mean(0), y.std(0) / math.sqrt(masks)
    kept = dropout(x, 0.3, training=False, eval="mean")
    assert ((mean - kept).abs() / error).max() < 4.5
    # The second moment of each column is x² exactly; its error is that of a sum of its squares.
    squares, error = y.square().mean(0), y.square().std(0) / math.sqrt(masks)
    assert ((squares - dropout(x, 0.3, training=False).square()).abs() / error).max() < 4.5


@pytest.mark.parametrize("keeps", ["variance", "mean"])
def test_nothing_dropped_is_the_identity(keeps):
    x = torch.randn(50, dtype=torch.float64)
    for training in (True, False):
        assert torch.equal(dropout(x, 0.0, training, eval=keeps), x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1.0}, "p must be less than 1 for a normalised dropout; it was 1"),
        ({"p": 1}, "p must be less than 1"),
        ({"p": -0.1}, r"p, the probability of dropping, must lie in \[0, 1\]; it was -0.1"),
        ({"p": 1.1}, r"must lie in \[0, 1\]; it was 1.1"),
        ({"eval": "both"}, "eval must be 'variance' or 'mean'; it was 'both'"),
        ({"scaling": "both"}, "scaling must be one of"),
        ({"std": 0.0}, "std must be finite and greater than 0"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_refusals(arguments, message, training):
    with pytest.raises(ValueError, match=message):
        dropout(torch.ones(3), training=training, **arguments)
