"""Kernels state by what they multiply gradients, and check() reads it."""

import pytest
import torch
from torch import nn

pytest.importorskip("triton")

import normprop
from normprop import functional

LAW = {"mean": 0.5, "std": 2.0, "backend": "triton"}


class Called(nn.Module):
    """A function of the input times a weight; joined, the product also passes beside it."""

    def __init__(self, function, device, joined=False, shape=(2, 3, 4)):
        super().__init__()
        drawn = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.rand(shape, generator=drawn).to(device))
        self.function, self.joined = function, joined

    def forward(self, x):
        fed = x * self.weight
        output = self.function(fed)
        return torch.cat([fed, output]) if self.joined else output


def gradient(model, x):
    torch.manual_seed(0)
    y = model(x)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return torch.autograd.grad(y, model.weight, dy)[0].double()


def prelu(x, scaling):
    return functional.prelu(x, x.new_full((1,), 0.3), scaling=scaling, **LAW)


ROADS = {
    "relu": lambda x, scaling: functional.relu(x, scaling=scaling, **LAW),
    "gelu": lambda x, scaling: functional.gelu(x, scaling=scaling, **LAW),
    "identity": lambda x, scaling: functional.identity(x, scaling=scaling, **LAW),
    "rrelu": lambda x, scaling: functional.rrelu(x, scaling=scaling, **LAW),
    "prelu": prelu,
    "dropout": lambda x, scaling: functional.dropout(x, 0.3, scaling=scaling, **LAW),
    "dropout1d": lambda x, scaling: functional.dropout1d(x, 0.3, scaling=scaling, **LAW),
}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("joined", [False, True])
def test_a_kernel_s_factor_is_what_is_measured(road, dtype, joined, device):
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(7)).to(device, dtype)
    separate, forward = (
        Called(lambda x, s=scaling: ROADS[road](x, s), device, joined)
        for scaling in ("separate", "forward")
    )
    factor = normprop.check(separate, x).factors["weight"]
    if joined:
        assert not factor.legal
        return
    got, true = gradient(separate, x), gradient(forward, x)
    # Two roundings of the type for each of the two.
    bound = 4 * torch.finfo(dtype).eps * true.abs()
    assert factor.value != 1.0
    assert ((got - factor.value * true).abs() <= factor.value * bound).all()


def test_a_weight_on_its_ball_has_its_true_gradient(device):
    model = Called(lambda w: functional.normalize_weight(w, backend="triton"), device, shape=(4, 3))
    assert normprop.check(model, torch.ones(4, 3, device=device)).factors["weight"].value == 1.0
