"""A fused network costs what the plain one costs, counted, and learns what the slow one learns."""

import copy
import io
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode

import normprop
import normprop.nn as nnp
from benchmarks import networks
from tests.graph.networks import NETWORKS, build, options
from tests.nodes import nodes_behind

OPTIMISERS = {
    "SGD": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, weight_decay=1e-4),
    "AdamW": lambda p: torch.optim.AdamW(p, 1e-3),
}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("method", ["normalize", "project"])
@pytest.mark.parametrize("name", ["mlp", "padded", "residual, post", "shared"])
def test_it_takes_the_steps_of_the_network_that_was_not_fused(name, method, optimiser):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    maps, acts = options("backward" if name == "padded" else "forward")
    model = make({**maps, "method": method}, acts).double()
    x = torch.randn(shape, dtype=torch.float64)
    fused = normprop.fuse(model, x)
    for network in (model, fused):
        step = OPTIMISERS[optimiser](network.parameters())
        for _ in range(50):
            step.zero_grad()
            (network(x) - 1.0).square().mean().backward()
            step.step()
            nnp.project_(network)
    state = fused.state_dict()
    for key, value in model.state_dict().items():
        assert (state[key] - value).norm() <= 1e-9 * value.norm(), key


def functions_of(output) -> int:
    """How many nodes of autograd's graph run Python."""
    python = torch.autograd.function.BackwardCFunction
    return sum(isinstance(node, python) for node in nodes_behind(output))


@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
@pytest.mark.parametrize("name", ["mlp", "calibrated", "resampled"])
def test_one_function_makes_all_weights(name, scaling):
    model, x = build(name, scaling, "layer")
    fused = normprop.fuse(model, x)
    assert functions_of(fused(x)) == 1
    with torch.no_grad():
        assert fused(x).grad_fn is None


class Counting(TorchDispatchMode):
    """Counts operators, views and ``detach`` left out."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view and func.overloadpacket is not torch.ops.aten.detach
        return func(*args, **(kwargs or {}))


def operators_of_a_step(network, x, target) -> int:
    """Of one step that follows others, but for what comes after the optimiser's."""
    optimiser = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)

    def step():
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), target).backward()
        optimiser.step()

    step()
    nnp.project_(network)
    with Counting() as counted:
        step()
    return counted.count


def dense(depth):
    return lambda kit: networks.dense(kit, depth, 16)


SHAPES = {
    "ResNet-18": (lambda kit: networks.resnet18(kit, width=2), (2, 3, 32, 32)),
    "VGG-16": (lambda kit: networks.vgg16(kit, width=2), (2, 3, 32, 32)),
    "4 dense layers": (dense(4), (2, 16)),
    "40 dense layers": (dense(40), (2, 16)),
}


@pytest.mark.parametrize(
    ("name", "activation"),
    [*((name, "ReLU") for name in SHAPES), ("VGG-16", "GELU"), ("40 dense layers", "GELU")],
)
def test_operators_of_a_step(name, activation):
    make, shape = SHAPES[name]
    x, target = torch.randn(shape), torch.tensor([0, 1])

    def count(method):
        network = make(networks.Kit(method, activation))
        if method != "plain":
            network = normprop.fuse(network, x)
        return operators_of_a_step(network, x, target)

    plain, divided, projected = map(count, ("plain", "normprop", "normprop projected"))
    maps = sum(hasattr(m, "weight") for m in make(networks.Kit("plain", activation)).modules())
    # A curve in front of zero padding is followed by its shift, one operator.
    shifts = maps if activation == "GELU" and name == "VGG-16" else 0
    assert projected <= plain + 10 + shifts
    assert divided <= plain + 10 + shifts + 12 * maps


def moved(weight, how):
    """Write a weight in one of the ways that people do."""
    with torch.no_grad():
        if how == "in place":
            weight.mul_(-0.5)
        elif how == "exchanged":
            weight.set_(torch.randn_like(weight))
        else:
            nn.init.normal_(weight)


@pytest.mark.parametrize("how", ["in place", "exchanged", "initialised"])
@pytest.mark.parametrize("method", ["normalize", "project"])
@pytest.mark.parametrize("training", [True, False])
def test_weights_that_are_written_are_seen(method, training, how):
    maps, acts = options("forward")
    model = NETWORKS["mlp"][0]({**maps, "method": method}, acts).double().train(training)
    x = torch.randn(5, 6, dtype=torch.float64)
    nnp.project_(model)
    fused = normprop.fuse(model, x)
    nnp.project_(fused)
    with torch.set_grad_enabled(training):
        before = fused(x)
        moved(fused[0].weight, how)
        with torch.no_grad():
            model[0].weight.copy_(fused[0].weight)
        seen = pytest.warns(UserWarning, match="was written since it was put on its ball")
        with seen if method == "project" else nullcontext():
            after, wanted = fused(x), model(x)
        assert torch.allclose(after, wanted, rtol=1e-12)
    assert not torch.allclose(before, after)


def test_what_was_made_is_kept_while_nothing_changes():
    maps, acts = options("forward")
    model = NETWORKS["mlp"][0]({**maps, "method": "project"}, acts).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    fused = normprop.fuse(model, x).eval()
    with torch.no_grad():
        fused(x)
        kept = fused._normprop_together.made
        fused(x)
        assert fused._normprop_together.made is kept
    # Numbers that were made in one process are not for another.
    assert torch.equal(fused(x), copy.deepcopy(fused)(x))
    assert copy.deepcopy(fused)._normprop_together.layers[0] is not fused[0]
    stream = io.BytesIO()
    torch.save(fused, stream)
    stream.seek(0)
    assert torch.equal(torch.load(stream, weights_only=False)(x), fused(x))


def test_a_part_runs_by_itself_and_an_error_leaves_nothing_behind():
    model, x = build("mlp")
    fused = normprop.fuse(model, x)
    assert torch.allclose(fused[2](fused[1](fused[0](x))), fused[:3](x), rtol=1e-12)
    with pytest.raises(RuntimeError):
        fused(x[:, :2])
    assert all(m.made is None for m in fused if isinstance(m, nnp.Linear))


def test_gradients_of_several_passes_add_up():
    model, x = build("mlp")
    fused = normprop.fuse(model, x)
    for network in (model, fused):
        (network(x).sum() + network(-x).square().sum()).backward()
        network(2.0 * x).sum().backward()
    for mine, theirs in zip(model.parameters(), fused.parameters(), strict=True):
        assert (mine.grad - theirs.grad).abs().max() <= 1e-12 * mine.grad.abs().max()


def test_separate_scales_on_a_chain_are_factors_of_gradients():
    model, x = build("mlp", "separate", "layer")
    fused = normprop.fuse(model, x)
    assert all(m.scaling == "forward" for m in fused.modules() if hasattr(m, "scaling"))
    assert fused[0].absorbed.factors != (1.0, 1.0)
    wanted = normprop.check(model, x).factors
    got = normprop.check(fused, x).factors
    for name, factor in wanted.items():
        assert got[name].value == pytest.approx(factor.value, rel=1e-12)
    # At a join they are more than that, and stay.
    joined, image = build("residual, post", "separate", "layer")
    assert any(
        getattr(m, "scaling", "") == "separate" for m in normprop.fuse(joined, image).modules()
    )


HELD = {
    "hooked": lambda layer: layer.register_forward_hook(lambda *_: None),
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", 0.3),
    "weight_norm": parametrizations.weight_norm,
    "frozen": lambda layer: layer.weight.requires_grad_(False),
}


@pytest.mark.parametrize("how", HELD)
def test_separate_scales_of_maps_whose_weights_others_make(how):
    model, x = build("mlp", "separate", "layer")
    HELD[how](model[2])
    fused = normprop.fuse(model, x)
    learnt = [[p for p in network.parameters() if p.requires_grad] for network in (model, fused)]
    wanted = torch.autograd.grad(model(x).square().sum(), learnt[0])
    got = torch.autograd.grad(fused(x).square().sum(), learnt[1])
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
def test_compiled_code_has_the_factors_too():
    torch.compiler.reset()
    model, x = build("mlp", "separate", "layer")
    fused = normprop.fuse(model, x)
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    x = x.requires_grad_()
    given = [x, *fused.parameters()]
    wanted = torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()])
    for network in (fused, compiled):
        got = torch.autograd.grad(network(x).square().sum(), given)
        for a, b in zip(got, wanted, strict=True):
            assert torch.allclose(a, b, rtol=1e-10)
    torch.compiler.reset()


def test_scales_are_chosen_before():
    model, x = build("mlp", "forward")
    fused = normprop.fuse(model, x)
    fused[0].scaling = "separate"
    with pytest.raises(ValueError, match="scales must be chosen before the model is fused"):
        fused(x)


def test_a_network_that_is_checkpointed_makes_them_again():
    class Checkpointed(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)

    model, x = build("mlp")
    fused = normprop.fuse(model, x)
    wanted = torch.autograd.grad(fused(x).sum(), list(fused.parameters()))
    network = Checkpointed(fused)
    got = torch.autograd.grad(network(x).sum(), list(fused.parameters()))
    for a, b in zip(got, wanted, strict=True):
        assert math.isclose(a.norm(), b.norm(), rel_tol=1e-12)
