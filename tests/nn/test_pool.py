"""Pooling modules: composite constants behind an activation, as they stand in a network."""

import pytest
import torch
from torch import nn

from normprop import moments, simulate
from normprop.nn import AvgPool2d, MaxPool1d, MaxPool2d, ReLU, Sigmoid

POOLS = [MaxPool1d, MaxPool2d, AvgPool2d]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("before", [ReLU(), ReLU(scaling="forward"), Sigmoid(), nn.Tanh(), "relu"])
def test_a_pool_behind_an_activation_has_unit_variance(pool, before):
    layer = pool(3, 2, scaling="forward", after=before)
    estimate = simulate(layer, 200_000, seed=6, after=before)
    assert abs(estimate.fwd_mean) < 4.5 * estimate.fwd_mean_se
    assert abs(estimate.fwd_std - 1) < 4.5 * estimate.fwd_std_se


def test_a_pool_that_does_not_know_has_not():
    # The figures for normal inputs behind a normalised ReLU: 1.64 in facts 3.6.
    estimate = simulate(MaxPool2d(2, scaling="forward"), 200_000, after=ReLU(scaling="forward"))
    assert abs(estimate.fwd_std - 1) > 100 * estimate.fwd_std_se


def test_what_stands_before_is_described_not_kept():
    before = ReLU()
    layer = MaxPool2d(2, after=before)
    assert list(layer.children()) == []
    assert f"after={before}" in repr(layer)
    assert "after=relu" in repr(MaxPool2d(2, after="relu"))
    assert "after=relu" in repr(MaxPool2d(2, after=torch.relu))
    assert "after" not in repr(MaxPool2d(2))


@pytest.mark.parametrize("pool", POOLS)
def test_the_stride_is_the_window_by_default(pool):
    assert pool(3).constants == pool(3, 3).constants
    assert pool(3).constants != pool(3, 2).constants


def test_padding_changes_no_constant():
    assert MaxPool2d(3, 2, 1).constants == MaxPool2d(3, 2).constants
    assert moments(MaxPool2d(3, 2, 1)) == moments(MaxPool2d(3, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 0}, "kernel_size must be made of integers of at least 1; it was 0"),
        ({"kernel_size": (2, 2, 2)}, "kernel_size must have 1 or 2 entries"),
        (
            {"kernel_size": 2, "stride": 0},
            "stride must be made of integers of at least 1; it was 0",
        ),
    ],
)
def test_windows_must_be_windows(arguments, message):
    for pool in (MaxPool2d, AvgPool2d):
        with pytest.raises(ValueError, match=message):
            pool(**arguments)


def test_after_must_be_an_activation():
    with pytest.raises(TypeError, match=r"after must be an activation.*MaxPool2d"):
        MaxPool2d(2, after=nn.MaxPool2d(2))
