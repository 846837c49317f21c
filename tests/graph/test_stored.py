"""Weights of a planned network have a norm at which a rate means the same at any depth."""

import math

import pytest
import torch
from torch import nn

import normprop
from normprop import nn as nnp


def chain(depth: int, width: int = 256) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)))


def converted(depth: int, **options) -> nn.Sequential:
    torch.manual_seed(depth)
    return normprop.convert(chain(depth), torch.randn(64, 256), **options)


@pytest.mark.parametrize("depth", [1, 4, 9])
def test_a_chain_of_maps_has_the_root_of_their_number(depth):
    for layer in converted(depth):
        norms = layer.weight.norm(dim=1)
        assert torch.allclose(norms, torch.full_like(norms, math.sqrt(depth)), rtol=0.05)


def test_a_step_moves_an_output_as_much_at_any_depth():
    def slopes(depth):
        net = converted(depth).double()
        outputs = net(torch.randn(32, 256).double())
        found = []
        for i in range(32):
            gradients = torch.autograd.grad(outputs[i, i], net.parameters(), retain_graph=True)
            found.append(sum(float(g.square().sum()) for g in gradients))
        return sum(found) / 32

    assert slopes(9) == pytest.approx(slopes(1), rel=0.25)


def test_no_rate_means_less_than_a_step_of_every_map():
    """The maps that move an output most are the measure: r² counts at most all of them."""
    torch.manual_seed(0)
    maps = [nn.Conv2d(1, 8, 3, padding=1), *(nn.Conv2d(8, 8, 3, padding=1) for _ in range(5))]
    body = [layer for map_ in maps for layer in (map_, nn.ReLU())]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(8 * 6 * 6, 10))
    net = normprop.convert(model, torch.randn(16, 1, 6, 6))
    squares = [m.weight.detach()[0].square().sum() for m in net if hasattr(m, "weight")]
    assert torch.allclose(squares[0], torch.stack(squares))
    assert 1 < squares[0] < len(maps) + 1


@pytest.mark.parametrize("per", ["neuron", "layer"])
def test_the_function_stays(per):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=2), nn.ReLU()
    ).double()
    x = torch.randn(8, 3, 8, 8).double()
    net = normprop.convert(model, x, per=per)
    before = net(x)
    for mine, theirs in zip(net, model, strict=True):
        if isinstance(mine, nn.Conv2d):
            assert not torch.equal(mine.weight, theirs.weight)
    net.load_state_dict(model.state_dict())
    assert torch.allclose(net(x), before, rtol=1e-12)


def test_weights_on_their_ball_and_shared_ones_stay():
    net = converted(4, method="project")
    for layer in net:
        assert torch.allclose(layer.weight.norm(dim=1), torch.tensor(layer.gain), rtol=1e-5)

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.body = nn.Embedding(50, 32), nn.Linear(32, 32)
            self.head = nn.Linear(32, 50, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids):
            return self.head(self.body(self.embedding(ids)))

    model = Tied()
    net = normprop.convert(model, torch.randint(50, (4, 6)))
    assert torch.equal(net.head.weight, model.head.weight)
    assert net.head.weight is net.embedding.weight
    assert not torch.equal(net.body.weight, model.body.weight)


def test_without_a_plan_weights_stay():
    model = chain(3)
    x = torch.randn(4, 256)
    for net in (normprop.convert(model), normprop.convert(model, x, scaling="backward")):
        for mine, theirs in zip(net, model, strict=True):
            assert isinstance(mine, nnp.Linear)
            assert torch.equal(mine.weight, theirs.weight)


def test_the_report_says_so():
    (said,) = [s for s in normprop.report(converted(4)).plan if "stored" in s]
    assert "norm 2" in said
