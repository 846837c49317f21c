"""What others do to a fused network while it lives: it stays the network that was not fused."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import normprop
import normprop.nn as nnp
from tests.graph.networks import NETWORKS, options

pytestmark = pytest.mark.parametrize("method", ["normalize", "project"])
LINEAR = ["mlp", "padded", "resampled"]


def pair(name, method):
    """A network and itself, fused."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    maps, acts = options("backward")
    model = make({**maps, "method": method}, acts).double()
    x = torch.randn(shape, dtype=torch.float64)
    return model, normprop.fuse(model, x), x


def assert_same(model, fused, x):
    with torch.no_grad():
        assert torch.allclose(model(x), fused(x), rtol=1e-9, atol=1e-12)
    for network in (model, fused):
        network.zero_grad()
        network(x).square().sum().backward()
    for mine, theirs in zip(model.parameters(), fused.parameters(), strict=True):
        assert (mine.grad - theirs.grad).norm() <= 1e-9 * (mine.grad.norm() + 1e-9)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", LINEAR)
def test_a_teacher_is_written_past_the_version_counters(name, mode, method):
    model, fused, x = pair(name, method)
    for _ in range(2):
        for network in (model, fused):
            torch.manual_seed(1)
            with mode():
                network(x)
            for p in network.parameters():
                p.data.mul_(0.9).add_(torch.randn_like(p))
            nnp.project_(network)
        with mode():
            assert torch.allclose(model(x), fused(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_inference_before_training(name, method):
    model, fused, x = pair(name, method)
    with torch.inference_mode():
        fused(x)
    assert_same(model, fused, x)
    fused.requires_grad_(False)
    with torch.inference_mode():
        fused(x)
    given = x.clone().requires_grad_()
    fused(given).sum().backward()
    assert given.grad.abs().sum() > 0


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", LINEAR)
def test_parts_are_checkpointed_inside(name, reentrant, method):
    model, fused, x = pair(name, method)
    x.requires_grad_()
    for child in fused.children():
        forward = child.forward
        child.forward = lambda *a, f=forward: checkpoint(f, *a, use_reentrant=reentrant)
    with warnings.catch_warnings():
        # What runs in a checkpoint has inputs without a gradient where no gradient is asked for.
        warnings.simplefilter("ignore")
        assert_same(model, fused, x)


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(layer)


def turned(layer, inputs):
    layer.weight.data.copy_(layer.weight.data.flip(0))


MAKERS = {
    "weight_norm": parametrizations.weight_norm,
    "the old weight_norm": old_weight_norm,
    "pruning": lambda layer: prune.random_unstructured(layer, "weight", 0.3),
    "pruning of the bias": lambda layer: prune.random_unstructured(layer, "bias", 1),
    "a hook": lambda layer: layer.register_forward_pre_hook(turned),
}


@pytest.mark.filterwarnings("ignore:the weight of:UserWarning")
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("name", LINEAR)
def test_something_else_makes_a_weight(name, maker, method):
    model, fused, x = pair(name, method)
    for network in (model, fused):
        for layer in [m for m in network.modules() if isinstance(m, nnp.parametric.MapFromWeight)]:
            torch.manual_seed(1)
            if maker != "pruning of the bias" or layer.bias is not None:
                MAKERS[maker](layer)
        optimiser = torch.optim.SGD(network.parameters(), 1e-3)
        for _ in range(3):
            optimiser.zero_grad()
            network(x).square().mean().backward()
            optimiser.step()
    assert_same(model, fused, x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LINEAR)
def test_a_trace_reads_the_parameters(name, method):
    model, fused, x = pair(name, method)
    traced = torch.jit.trace(fused, x)
    with torch.no_grad():
        for network in (model, fused):
            torch.manual_seed(1)
            for p in network.parameters():
                p.copy_(torch.randn_like(p))
        # A trace keeps some of Python's numbers in single precision.
        assert torch.allclose(model(x), traced(x), rtol=1e-5)


class Interrupting(nn.Module):
    def forward(self, x):
        raise KeyboardInterrupt


def test_an_interrupted_pass_leaves_nothing_that_lasts(method):
    model, fused, x = pair("mlp", method)
    kept, fused[3] = fused[3], Interrupting()
    with pytest.raises(KeyboardInterrupt):
        fused(x)
    fused[3] = kept
    assert_same(model, copy.deepcopy(fused), x)
    for network in (model, fused):
        torch.manual_seed(1)
        with torch.no_grad():
            network[0].weight.normal_()
        nnp.project_(network)
    assert torch.allclose(fused[:3](x), copy.deepcopy(fused)[:3](x), rtol=1e-12)
    assert_same(model, fused, x)
