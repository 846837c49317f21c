"""Orthogonal weights are on both balls, and the layer keeps lengths in both passes."""

import pytest
import torch
from torch import nn

from normprop import moments
from normprop.nn.init import orthogonal_

EPS = torch.finfo(torch.float64).eps

CASES = {
    "linear": (nn.Linear(12, 12, bias=False), 1),
    "conv": (nn.Conv2d(5, 5, 3, bias=False), 1),
    "stride 2": (nn.Conv2d(3, 12, 3, stride=2, bias=False), 2),
    "even window": (nn.Conv2d(3, 12, 4, stride=2, bias=False), 2),
    "patches": (nn.Conv2d(2, 32, 4, stride=4, bias=False), 4),
    "groups": (nn.Conv1d(6, 12, 3, stride=2, groups=2, bias=False), 2),
    "3 d": (nn.Conv3d(2, 16, 2, stride=2, bias=False), 2),
    "one way": (nn.Conv2d(4, 8, 3, stride=(1, 2), bias=False), (1, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_both_balls_at_once(name):
    layer, stride = CASES[name]
    layer = layer.double()
    orthogonal_(layer.weight, stride=stride, groups=getattr(layer, "groups", 1))
    figures = moments(layer)
    # Orthogonality holds to a few roundings a row.
    bound = 32 * EPS * layer.weight.shape[1] + figures.error
    assert abs(figures.fwd_std - 1).max() <= bound
    assert abs(figures.bwd_std - 1).max() <= bound


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 1), (3, 2), (4, 4)])
def test_the_layer_is_an_isometry(window, stride):
    layer = nn.Conv2d(3, 3 * stride**2, window, stride=stride, bias=False).double()
    orthogonal_(layer.weight, stride=stride)
    x = torch.zeros(1, 3, 24, 24, dtype=torch.float64)
    x[:, :, 8:16, 8:16] = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    assert layer(x).norm().item() == pytest.approx(x.norm().item(), rel=1e-13)


def test_a_seed_gives_the_same_weights():
    first, second = (
        orthogonal_(torch.empty(6, 6), generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("shape", "stride", "message"),
    [
        ((6, 5), 1, "outputs must be inputs times the product of the stride"),
        ((4, 4, 3, 3), 2, "4 outputs for 4 inputs, and the stride is 2"),
        ((4, 1, 1, 1), 2, "the window must be at least as large as the stride"),
    ],
)
def test_what_cannot_be_on_both_balls_is_refused(shape, stride, message):
    with pytest.raises(ValueError, match=message):
        orthogonal_(torch.empty(shape), stride=stride)
