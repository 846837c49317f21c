"""Staying on the ball: in the forward pass, or by projection after each step."""

import pytest
import torch
from torch import nn

import normprop
from normprop.nn import Conv2d, Linear, ReLU, project_
from tests.nn.battery import on_ball


def model(**options):
    return nn.Sequential(
        Conv2d(2, 4, 3, stride=2, groups=2, **options),
        ReLU(),
        nn.Flatten(),
        Linear(16, 3, **options),
    ).double()


def step(network, times=3):
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(times):
        optimiser.zero_grad()
        network(torch.randn(5, 2, 5, 5, dtype=torch.float64)).square().sum().backward()
        optimiser.step()
        normprop.nn.project_(network)


def off_the_ball(layer):
    ball = "backward" if layer.scaling == "backward" else "forward"
    stride, groups = getattr(layer, "stride", ()), getattr(layer, "groups", 1)
    wanted = on_ball(layer.weight, ball, layer.per, stride, groups)
    return float(((layer.weight.detach() - wanted).abs() / wanted.abs()).max())


@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
def test_weights_stay_on_the_ball_after_every_step(scaling, per):
    network = model(scaling=scaling, per=per, method="project")
    before = network[0].weight.detach().clone()
    step(network)
    for layer in (network[0], network[3]):
        # As many roundings as a norm has squares, at most.
        assert off_the_ball(layer) <= 2**-52 * (layer.weight.numel() + 16)
    assert not torch.allclose(before, network[0].weight)


def test_projection_is_what_does_it():
    network = model(scaling="forward", method="project")
    network[0].weight.data *= 1.5
    assert off_the_ball(network[0]) > 0.1


@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
def test_a_projected_layer_starts_on_the_ball(scaling):
    layer = Linear(6, 4, scaling=scaling, method="project", dtype=torch.float64)
    assert off_the_ball(layer) <= 2**-52 * (layer.weight.numel() + 16)


def test_the_count_is_that_of_projected_layers():
    assert project_(model(method="project")) == 2
    assert project_(model(method="normalize")) == 0
    assert project_(nn.Sequential(nn.Linear(2, 2), Linear(2, 2, method="project"))) == 1
    assert project_(Linear(2, 2, method="project")) == 1


def test_a_normalised_layer_is_not_projected():
    network = model(method="normalize")
    before = network[0].weight.detach().clone()
    project_(network)
    assert torch.equal(before, network[0].weight)


def test_projection_is_in_place_and_has_no_gradient():
    layer = Linear(6, 4, method="project")
    weight = layer.weight
    layer.weight.data *= 3
    layer.project_()
    assert layer.weight is weight
    assert weight.requires_grad
    assert weight.is_leaf


def test_the_scale_of_a_weight_matters_only_where_it_is_projected():
    x = torch.randn(4, 6)
    for method, invariant in (("normalize", True), ("project", False)):
        layer = Linear(6, 4, bias=False, method=method)
        before = layer(x)
        # A power of two is exact, and so is its cancellation.
        layer.weight.data *= 4
        assert torch.equal(layer(x), before) == invariant


def test_a_loaded_checkpoint_is_projected_on_request():
    layer = Linear(6, 4, method="project", dtype=torch.float64)
    layer.load_state_dict(nn.Linear(6, 4, dtype=torch.float64).state_dict())
    assert off_the_ball(layer) > 1e-3
    layer.project_()
    assert off_the_ball(layer) <= 2**-52 * 40


def test_a_layer_on_the_meta_device_can_be_made():
    assert Linear(6, 4, method="project", device="meta").weight.is_meta
