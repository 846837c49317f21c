"""A layer that no run has reached raises when it is called: constants may have moved before it."""

import copy

import pytest
import torch
from torch import nn

import normprop.nn as nnp
from normprop import fold, fuse

OURS = {"scaling": "forward"}


class Roads(nn.Module):
    """A branch that Python's own number chooses."""

    def __init__(self, other):
        super().__init__()
        self.stem = nn.Sequential(nnp.Linear(6, 6, **OURS), nnp.ReLU(**OURS))
        self.heads = nn.ModuleList([nnp.Linear(6, 2, **OURS), other])
        self.step = 0

    def forward(self, x, second=False):
        x = self.stem(x)
        return self.heads[1 if second or self.step > 3 else 0](x)


OTHERS = {
    "a twin": lambda: nnp.Linear(6, 2, **OURS),
    "a layer of torch": lambda: nn.Linear(6, 2),
    "an activation": nn.Tanh,
    "a block": lambda: nn.Sequential(nn.Identity(), nn.Linear(6, 2)),
}


@pytest.mark.parametrize("verb", [fuse, fold])
@pytest.mark.parametrize("other", OTHERS)
def test_it_raises_instead_of_computing_something_else(verb, other):
    x = torch.randn(4, 6)
    model = Roads(OTHERS[other]()).eval()
    made = verb(model, x)
    for network in (made, copy.deepcopy(made)):
        assert torch.allclose(network(x), model(x), rtol=1e-4, atol=1e-6)
        with pytest.raises(RuntimeError, match=r"heads\.1.* must be reached by the examples"):
            network(x, second=True)
        network.step = 5
        with pytest.raises(RuntimeError, match="none of the runs called it"):
            network(x)
    # An example that takes the road has it.
    there = verb(model, x, second=True)
    assert torch.allclose(there(x, second=True), model(x, second=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("verb", [fuse, fold])
def test_what_is_called_beside_the_network_may_be(verb):
    x = torch.randn(4, 6)
    model = Roads(nn.Tanh()).eval()
    model.loss, model.probabilities = nn.MSELoss(), nn.Softmax(-1)
    made = verb(model, x)
    with pytest.raises(RuntimeError, match="must be reached"):
        made(x, second=True)
    y = made(x)
    assert torch.equal(made.loss(y, y), torch.zeros(()))
    assert torch.allclose(made.probabilities(y).sum(-1), torch.ones(4))


@pytest.mark.parametrize("verb", [fuse, fold])
def test_parts_of_composed_layers_are_their_own_affair(verb):
    # In evaluation, without gradients, torch's fast road calls none of its parts.
    encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(
        nnp.Linear(6, 8, **OURS), nnp.Tanh(**OURS), nnp.Linear(8, 8, **OURS), encoder
    )
    x = torch.randn(2, 3, 6)
    made = verb(model.eval(), x)
    with torch.no_grad():
        quick = made(x)
    assert torch.allclose(made(x), quick, rtol=1e-3, atol=1e-5)


def test_where_nothing_has_moved_nothing_raises():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), Roads(nn.Tanh()).heads[1]).eval()
    made = fold(model, torch.randn(2, 6))
    assert not any(module._forward_pre_hooks for module in made.modules())
