"""Softmax, its relatives and gated units by moments: simulated, and what must hold."""

import pytest
from torch import nn

from normprop import moments, simulate
from normprop.gaussian.softmax import log_softmax, softmax

LAW = {"mean": 0.3, "std": 1.2}
CASES = [
    # layer, shape of a sample, classes
    (nn.Softmax(1), (7,), 7),
    (nn.Softmax(-1), (4, 3), 3),
    (nn.Softmax(-2), (4, 3), 4),
    (nn.Softmin(2), (4, 3), 3),
    (nn.Softmax2d(), (5, 2, 2), 5),
    (nn.LogSoftmax(1), (6, 2), 6),
]


@pytest.mark.parametrize(("layer", "shape", "classes"), CASES)
def test_a_softmax_by_simulation(layer, shape, classes):
    got = moments(layer, **LAW, shape=shape)
    figures = (log_softmax if isinstance(layer, nn.LogSoftmax) else softmax)(classes, LAW["std"])
    assert (got.fwd_mean, got.fwd_std, got.bwd_std, got.error) == (
        figures.mean,
        figures.std,
        figures.slope,
        figures.error,
    )
    estimate = simulate(layer, 200_000, **LAW, shape=shape, seed=2)
    scores = estimate.z(got)
    # Every sample adds up to 1, so that only rounding is left of the mean's error.
    if not isinstance(layer, nn.LogSoftmax):
        assert abs(estimate.fwd_mean - got.fwd_mean) < 1e-15
        scores.pop("fwd_mean")
    assert all(abs(z) < 4.5 for z in scores.values()), scores


def test_a_gated_unit_by_simulation():
    got = moments(nn.GLU(), **LAW)
    scores = simulate(nn.GLU(), 400_000, **LAW, shape=(8,), seed=2).z(got)
    assert all(abs(z) < 4.5 for z in scores.values()), scores


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments(nn.Softmax(1)), "shape must be given for Softmax: its figures depend on"),
        (lambda: moments(nn.Softmax(), shape=(3,)), "dim must be given"),
        (lambda: moments(nn.Softmax(0), shape=(3,)), "must not be that of the batch; it was 0"),
        (lambda: moments(nn.Softmax(2), shape=(3,)), "dim must exist"),
        (lambda: moments(nn.Softmax(1), 0.0, 25.0, shape=(3,)), "at most 20"),
        (lambda: moments(nn.Softmax(1), shape=(3, 0)), "shape must be made of integers"),
        (lambda: moments(nn.Softmax(1), after="relu", shape=(3,)), "after= takes"),
        (lambda: moments(nn.GLU(), after="relu"), "after= takes"),
        (lambda: moments(nn.ReLU(), shape=(3,)), "shape is for layers whose figures depend on it"),
        (lambda: moments("relu", shape=(3,)), "shape is for layers whose figures depend on it"),
    ],
)
def test_what_must_hold(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_shape_is_a_sequence():
    with pytest.raises(TypeError, match="shape must be a sequence of integers; it was 3"):
        moments(nn.Softmax(1), shape=3)


def test_what_has_no_constants_says_why():
    with pytest.raises(TypeError, match="has no constants: its output is a loss over clusters"):
        moments(nn.AdaptiveLogSoftmaxWithLoss(64, 10, [2, 5]))
