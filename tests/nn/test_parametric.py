"""Staying on the ball: in the forward pass, or by projection after each step."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn

import normprop
import normprop.nn as nnp
from benchmarks.operators import operators
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


def every_kind(dtype):
    """Every kind of layer that is put on its ball, on every ball."""
    made = []
    for scaling in ("forward", "backward", "separate"):
        for per in ("neuron", "layer"):
            how = {"scaling": scaling, "per": per, "method": "project", "dtype": dtype}
            made += [
                nnp.Linear(5, 7, **how, gain=1.3),
                nnp.Conv1d(4, 6, 3, groups=2, **how),
                nnp.Conv2d(3, 5, (2, 3), stride=2, **how),
                nnp.Conv3d(2, 4, 2, **how),
                nnp.ConvTranspose1d(4, 6, 3, groups=2, **how),
                nnp.ConvTranspose2d(4, 6, 3, stride=(2, 1), **how),
            ]
    made.append(nnp.Embedding(9, 6, padding_idx=2, method="project", gain=0.7, dtype=dtype))
    made.append(nnp.Bilinear(3, 4, 5, method="project", dtype=dtype))
    return nn.ModuleList(made)


def _shared(layers):
    layers[6].weight = layers[0].weight


ODD = {
    "nothing": lambda layers: None,
    "neurons of zeros": lambda layers: [layer.weight[1].zero_() for layer in layers],
    "squares that underflow": lambda layers: [layer.weight.mul_(1e-30) for layer in layers[::2]],
    "squares that overflow": lambda layers: [layer.weight.mul_(1e30) for layer in layers[::2]],
    "frozen": lambda layers: layers[::3].requires_grad_(False),
    "shared": _shared,
    "strided": lambda layers: layers[2:27:6].to(memory_format=torch.channels_last),
    "of two types": lambda layers: layers[::2].double(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("odd", ODD)
def test_all_weights_are_put_where_each_would_be(odd, dtype):
    torch.manual_seed(0)
    layers = every_kind(dtype)
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(3.0).add_(0.01)
        ODD[odd](layers)
    alone = copy.deepcopy(layers)
    assert project_(layers) == len(layers)
    for layer in alone:
        layer.project_()
    for one, other in zip(layers, alone, strict=True):
        a, b = one.weight.detach(), other.weight.detach()
        near = 16 * torch.finfo(a.dtype).eps
        assert torch.allclose(a, b, rtol=near, atol=0.0), one
        assert one._placed[1] == one.weight._version


def test_weights_that_share_memory_are_put_there_one_after_the_other():
    how = {"scaling": "forward", "method": "project"}
    layers = nn.ModuleList(Linear(6, 6, **how) for _ in range(2))
    whole = torch.randn(8, 6)
    layers[0].weight, layers[1].weight = nn.Parameter(whole[:6]), nn.Parameter(whole[2:])
    project_(layers)
    assert torch.allclose(whole.norm(dim=1), torch.ones(8), rtol=1e-6)


def test_the_memory_of_weights_that_were_put_there_is_not_kept():
    network = nn.Sequential(Linear(20, 20, method="project"))
    project_(network)
    memory = network[0].weight.untyped_storage()
    network.half()
    gc.collect()
    # The one of this function.
    assert torch._C._storage_Use_Count(memory._cdata) == 1


def test_all_weights_are_put_there_by_few_operators_a_layer():
    network = nn.Sequential(*(nnp.Conv2d(8, 8, 3, method="project") for _ in range(20)))
    project_(network)
    # Squares, their sums, the product; what is done to a few numbers is done for all at once.
    assert operators(lambda: project_(network)) <= 3 * len(network) + 15


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


def test_a_loaded_checkpoint_is_projected():
    layer = Linear(6, 4, method="project", dtype=torch.float64)
    layer.load_state_dict(nn.Linear(6, 4, dtype=torch.float64).state_dict())
    assert off_the_ball(layer) <= 2**-52 * 40


def test_a_layer_on_the_meta_device_can_be_made():
    assert Linear(6, 4, method="project", device="meta").weight.is_meta


BALLS = {
    "Linear": lambda **o: nnp.Linear(5, 4, **o),
    "Bilinear": lambda **o: nnp.Bilinear(3, 5, 4, **{**o, "per": "layer"}),
    "Embedding": lambda method, **_: nnp.Embedding(6, 4, method=method),
    **{
        name: lambda name=name, **o: getattr(nnp, name)(4, 6, 3, groups=2, stride=2, **o)
        for name in (
            "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
        )
    },
}  # fmt: skip


def _input(name):
    if name == "Embedding":
        return (torch.arange(6),)
    if name == "Bilinear":
        return torch.randn(2, 3), torch.randn(2, 5)
    return (torch.randn(2, *([5] if name == "Linear" else (4, 7, 7, 7)[: int(name[-2]) + 1])),)


def _on_ball(layer):
    wanted = layer._on_ball(layer.weight.detach(), layer._ball())
    return torch.allclose(wanted, layer.weight, rtol=1e-5, atol=0)


balls = pytest.mark.parametrize("name", BALLS)
scalings = pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])


@scalings
@balls
@pytest.mark.parametrize("assign", [False, True])
def test_a_plain_checkpoint_lands_on_the_ball(name, scaling, assign):
    torch.manual_seed(0)
    layer = BALLS[name](scaling=scaling, method="project")
    plain = BALLS[name](scaling=scaling, method="normalize")
    checkpoint = plain.state_dict()
    before = {key: value.clone() for key, value in checkpoint.items()}
    assert not _on_ball(plain)
    model = nn.Sequential(nn.ModuleDict({"inside": layer}))
    model.load_state_dict({f"0.inside.{k}": v for k, v in checkpoint.items()}, assign=assign)
    assert _on_ball(layer)
    assert layer.weight.requires_grad
    # The caller's tensors are his.
    assert all(torch.equal(checkpoint[key], before[key]) for key in before)
    if layer.__dict__["_parameters"].get("bias") is not None:
        assert torch.equal(layer.bias, plain.bias)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@scalings
@balls
def test_a_checkpoint_of_its_own_comes_back_to_the_bit(name, scaling, dtype):
    torch.manual_seed(0)
    layer = BALLS[name](scaling=scaling, method="project").to(dtype)
    layer.project_()
    saved = copy.deepcopy(layer.state_dict())
    other = BALLS[name](scaling=scaling, method="project").to(dtype)
    for assign in (False, True):
        other.load_state_dict(saved, assign=assign)
        assert all(torch.equal(other.state_dict()[key], saved[key]) for key in saved)


@balls
def test_what_lacks_the_weight_leaves_it(name):
    layer = BALLS[name](scaling="forward", method="project")
    before = layer.weight.detach().clone()
    layer.load_state_dict({}, strict=False)
    assert torch.equal(layer.weight, before)


@balls
def test_weights_that_are_drawn_anew_land_on_the_ball(name):
    for method in ("project", "normalize"):
        layer = BALLS[name](scaling="backward", method=method)
        before = layer.weight.detach().clone()
        layer.reset_parameters()
        assert not torch.equal(layer.weight, before)
        assert _on_ball(layer) == (method == "project")


WRITES = {
    "init": lambda layer: nn.init.normal_(layer.weight),
    "copy_": lambda layer: layer.weight.copy_(torch.randn_like(layer.weight)),
    "mul_": lambda layer: layer.weight.mul_(2.0),
    "a row": lambda layer: layer.weight[0].zero_(),
}


@pytest.mark.parametrize("write", WRITES)
@balls
def test_the_next_forward_pass_sees_who_wrote_into_the_weight(name, write):
    layer, inputs = BALLS[name](scaling="forward", method="project"), _input(name)
    layer(*inputs)
    for _ in range(2):
        with torch.no_grad():
            WRITES[write](layer)
        with pytest.warns(UserWarning, match="was written since it was put on its ball"):
            layer(*inputs)
        # Once is enough.
        layer(*inputs)
        nnp.project_(layer)
        layer(*inputs)


@balls
def test_a_step_without_a_projection_is_seen(name):
    layer, inputs = BALLS[name](scaling="forward", method="project"), _input(name)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    for projected in (True, False):
        layer(*inputs).square().sum().backward()
        optimiser.step()
        if projected:
            nnp.project_(layer)
    with pytest.warns(UserWarning, match="after each step"):
        layer(*inputs)


@balls
def test_nothing_is_said_where_nobody_wrote(name):
    layer, inputs = BALLS[name](scaling="forward", method="project"), _input(name)
    for other in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        other(*inputs)
        assert other is layer or other._placed is None
        other.double()(*(x.double() if x.is_floating_point() else x for x in inputs))
    with torch.inference_mode():
        BALLS[name](scaling="forward", method="project")(*inputs)
    free = BALLS[name](scaling="forward", method="normalize")
    nn.init.normal_(free.weight)
    free(*inputs)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
@balls
def test_compiled_it_is_one_graph(name):
    layer, inputs = BALLS[name](scaling="backward", method="project"), _input(name)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for _ in range(3):
        compiled(*inputs)
        nn.init.normal_(layer.weight)
        layer.project_()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
