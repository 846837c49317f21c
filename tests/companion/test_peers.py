"""Other authors' layers do what their papers say."""

import math

import pytest
import torch
from torch import nn

from normprop.companion import peers
from normprop.companion.methods import METHODS
from normprop.companion.networks import build

LAYERS = [
    (lambda: peers.StandardizedLinear(12, 8), (5, 12)),
    (lambda: peers.StandardizedConv2d(3, 8, 3, padding=1), (5, 3, 6, 6)),
]


@pytest.mark.parametrize("gain", [False, True])
@pytest.mark.parametrize(("make", "shape"), LAYERS, ids=["linear", "conv"])
def test_standardized_rows_have_mean_0_and_norm_1(make, shape, gain):
    torch.manual_seed(0)
    layer = make()
    layer.standardize(gain)
    rows = layer.standardized().flatten(1)
    # Rounding of float32 over a row.
    assert rows.mean(1).abs().max() < 1e-6
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    inputs = torch.randn(shape)
    if not gain:
        return
    with torch.no_grad():
        layer.gain.mul_(2)
    torch.testing.assert_close(layer.standardized().flatten(1), 2 * rows)
    layer(inputs).sum().backward()
    assert layer.gain.grad is not None


@pytest.mark.parametrize(("make", "shape"), LAYERS, ids=["linear", "conv"])
def test_standardized_layers_ignore_the_scale_and_the_mean_of_their_weights(make, shape):
    torch.manual_seed(0)
    layer, inputs = make(), torch.randn(shape)
    layer.standardize(gain=False)
    before = layer(inputs)
    with torch.no_grad():
        layer.weight.mul_(3).add_(0.5)
    torch.testing.assert_close(layer(inputs), before)


def test_one_input_cannot_be_standardized():
    with pytest.raises(ValueError, match="a layer must have two inputs at least"):
        peers.StandardizedLinear(1, 4).standardize(gain=False)


def test_the_scale_of_relu_is_that_of_normalizer_free_networks():
    layer = peers.ScaledActivation(nn.ReLU(), "relu")
    assert layer.scale == pytest.approx(math.sqrt(2 / (1 - 1 / math.pi)), rel=1e-14)


def test_normalizer_free_blocks_know_the_variance_of_their_skip():
    torch.manual_seed(0)
    value = torch.randn(200_000)
    for before in range(5):
        # A branch of unit variance that depends on nothing.
        layer = nn.Identity()
        layer.forward = torch.randn_like
        block = peers.NormalizerFree(layer, before)
        # 200 000 normals know their deviation to 0.2 %.
        assert block.expected == pytest.approx(value.std().item(), rel=0.01)
        value = block(value)


@pytest.mark.parametrize("method", ["skipinit", "fixup"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_branches_that_begin_at_0_leave_the_skip_alone_and_learn(method, activation):
    torch.manual_seed(0)
    model = build(method, activation, 4, 8, 3, 8, residual=True)
    inputs = torch.randn(6, 8)
    torch.testing.assert_close(model[:-1](inputs), model[0](inputs), rtol=0, atol=0)
    rate = 0.1
    for _ in range(2):
        loss = nn.functional.cross_entropy(model(inputs), torch.arange(6) % 3)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= rate * parameter.grad
    # After one step the branch is open, and in the second all its parameters have a gradient.
    for parameter in model[1].parameters():
        assert parameter.grad.any()


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("orthogonal", [False, True])
def test_lsuv_gives_every_map_outputs_of_unit_variance(kind, orthogonal):
    torch.manual_seed(0)
    model = build("lsuv", "tanh", 5, 16, 10, 36, kind, orthogonal=orthogonal)
    inputs = 7 * torch.randn((64, 36) if kind == "dense" else (64, 1, 6, 6))
    peers.lsuv_(model, inputs)
    seen = []
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(lambda _, arguments, output: seen.append(output))
    model(inputs)
    assert len(seen) == 6
    for output in seen:
        assert output.var(correction=0).item() == pytest.approx(1, abs=0.1)


def test_lsuv_gives_up_on_a_map_without_variance():
    model = build("lsuv", "relu", 2, 4, 3, 4)
    before = [parameter.clone() for parameter in model.parameters()]
    peers.lsuv_(model, torch.zeros(8, 4))
    assert all(map(torch.equal, before, model.parameters()))


def test_a_delta_orthogonal_kernel_keeps_the_norm_of_every_image():
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, 3, padding=1, bias=False).double()
    peers.delta_orthogonal_(layer.weight)
    image = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(image).norm(), image.norm())
    assert layer.weight.count_nonzero() == 36


def test_an_even_kernel_has_no_middle():
    with pytest.raises(ValueError, match=r"must have a middle; its shape was \(2, 3\)"):
        peers.delta_orthogonal_(torch.empty(4, 4, 2, 3))


@pytest.mark.parametrize("method", ["leaky", "critical", "calibrated", "dks"])
def test_orthogonal_convolutions_are_delta_orthogonal(method):
    model = build(method, "tanh", 3, 8, 4, 36, "conv", orthogonal=True, ball="project")
    weight = model[1][0].weight.detach()
    assert not weight[:, :, [0, 2]].any()
    matrix = weight[:, :, 1, 1]
    gram = matrix @ matrix.T
    # Orthogonality of a QR decomposition in float32.
    assert (gram / gram[0, 0] - torch.eye(8)).abs().max() < 1e-5


def test_every_method_says_what_it_is_and_what_was_checked_of_it():
    labels = [method.label for method in METHODS.values()]
    assert len(set(labels)) == len(labels)
    for method in METHODS.values():
        assert method.what
        assert method.chain or method.skips
