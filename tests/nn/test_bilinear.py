"""The normalised bilinear map: its weight, the gradients of its two inputs, its options."""

import inspect
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normprop
from normprop import check
from tests.nn.battery import same_up_to_order

OPTIONS = [
    ("forward", "neuron"),
    ("forward", "layer"),
    ("backward", "layer"),
    ("separate", "neuron"),
    ("separate", "layer"),
]
options = pytest.mark.parametrize(("scaling", "per"), OPTIONS)


def layer_of(scaling="backward", per="layer", **arguments):
    layer = normprop.nn.Bilinear(
        4, 3, 5, scaling=scaling, per=per, dtype=torch.float64, **arguments
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(values)
    if arguments.get("method") == "project":
        layer.project_()
    return layer


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    make = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return [x.to(dtype).requires_grad_() for x in (make(6, 4), make(6, 3))]


def run(layer, dtype=torch.float64):
    tensors = (*inputs(dtype), *layer.parameters())
    y = layer(*tensors[:2])
    dy = torch.arange(y.numel(), dtype=y.dtype).sin().view_as(y)
    return [y.detach(), *torch.autograd.grad(y, tensors, dy)]


def formula(layer):
    """The weight that runs, by its documented formula."""
    weight = layer.weight.detach()
    if layer.scaling == "backward":
        return weight * (math.sqrt((4 + 3) / 2) / weight.norm())
    if layer.per == "layer":
        return weight * (math.sqrt(5) / weight.norm())
    return weight / weight.flatten(1).norm(dim=1)[:, None, None]


def test_it_is_its_twin_with_more_arguments():
    mine = inspect.signature(normprop.nn.Bilinear).parameters
    theirs = inspect.signature(nn.Bilinear).parameters
    assert issubclass(normprop.nn.Bilinear, nn.Bilinear)
    assert list(mine) == [*theirs, "scaling", "per", "gain", "method"]
    assert all(mine[name].default == p.default for name, p in theirs.items())


@options
@pytest.mark.parametrize("method", ["normalize", "project"])
def test_the_output_is_the_documented_formula(scaling, per, method):
    layer = layer_of(scaling, per, method=method)
    wanted = F.bilinear(*inputs(), formula(layer), layer.bias)
    assert same_up_to_order(run(layer)[:1], [wanted.detach()], layer.weight.numel())


@pytest.mark.parametrize(("scaling", "per"), OPTIONS[:3])
def test_the_gradient_is_the_derivative(scaling, per):
    layer = layer_of(scaling, per)
    names = [name for name, _ in layer.named_parameters()]

    def call(x1, x2, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, given, (x1, x2))

    assert torch.autograd.gradcheck(call, (*inputs(), *layer.parameters()))
    assert torch.autograd.gradgradcheck(call, (*inputs(), *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize("per", ["neuron", "layer"])
def test_separate_is_forward_times_the_documented_factors(per):
    got, wanted = run(layer_of("separate", per)), run(layer_of("forward", per))
    wanted[1] = wanted[1] * math.sqrt(4 / 5)
    wanted[2] = wanted[2] * math.sqrt(3 / 5)
    assert same_up_to_order(got, wanted, 60)


def test_check_finds_the_factor_of_either_input():
    model = nn.Module()
    model.left = normprop.nn.Linear(4, 4, scaling="forward", dtype=torch.float64)
    model.right = normprop.nn.Linear(3, 3, scaling="forward", dtype=torch.float64)
    model.join = layer_of("separate")
    model.forward = lambda x1, x2: model.join(model.left(x1), model.right(x2))
    found = check(model, *inputs())
    assert found.legal
    assert found.factors["left.weight"].value == pytest.approx(math.sqrt(4 / 5), rel=1e-15)
    assert found.factors["right.weight"].value == pytest.approx(math.sqrt(3 / 5), rel=1e-15)
    assert found.factors["join.weight"].value == 1.0


@options
def test_half_precision_and_copies(scaling, per):
    layer = layer_of(scaling, per)
    other = pickle.loads(pickle.dumps(layer))
    assert all(torch.equal(a, b) for a, b in zip(run(other), run(layer), strict=True))
    assert repr(other) == repr(layer)
    assert f"scaling={scaling!r}, per={per!r}" in repr(layer)
    half = layer.to(torch.bfloat16)
    results = run(half, torch.bfloat16)
    assert all(r.dtype == torch.bfloat16 and r.isfinite().all() for r in results)


def test_checkpoints_go_both_ways():
    layer, plain = layer_of(), nn.Bilinear(4, 3, 5)
    plain.load_state_dict(layer.state_dict())
    layer.load_state_dict(plain.state_dict())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
@options
def test_compiled_is_eager(scaling, per):
    torch.compiler.reset()
    layer = layer_of(scaling, per)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert same_up_to_order(run_of(compiled, layer), run(layer), 60)
    torch.compiler.reset()


def run_of(compiled, layer):
    tensors = (*inputs(), *layer.parameters())
    y = compiled(*tensors[:2])
    dy = torch.arange(y.numel(), dtype=y.dtype).sin().view_as(y)
    return [y.detach(), *torch.autograd.grad(y, tensors, dy)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scaling": "both"}, "scaling must be one of"),
        ({"per": "row"}, "per must be 'neuron' or 'layer'; it was 'row'"),
        ({"method": "clip"}, "method must be 'normalize' or 'project'; it was 'clip'"),
        ({"per": "neuron"}, "per must be 'layer' for scaling='backward'.*it was 'neuron'"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        normprop.nn.Bilinear(4, 3, 5, **arguments)
