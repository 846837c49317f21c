import math

import pytest
import torch
from torch import nn

from benchmarks import gate, peers
from benchmarks.case import Context
from benchmarks.cases import activation, network
from benchmarks.inputs import normals
from normprop import functional

CONTEXT = Context(torch.device("cpu"))


def test_elementwise_bound():
    right = torch.tensor([1.0, 2.0], dtype=torch.float64)
    eps = torch.finfo(torch.float32).eps
    assert gate.elementwise("y", right.float(), right, 1.0) is None
    off = (right + 20 * eps).float()
    assert "times its error bound" in gate.elementwise("y", off, right, 1.0)
    assert gate.elementwise("y", off, right, 4.0) is None
    assert "shape" in gate.elementwise("y", right.float()[:1], right, 1.0)
    broken = torch.tensor([1.0, math.nan])
    assert gate.elementwise("y", broken, right, 1.0) is not None


class Slope(torch.autograd.Function):
    """The right output with a slope that is off by a factor."""

    @staticmethod
    def forward(ctx, input, factor):
        ctx.save_for_backward(input)
        ctx.factor = factor
        return functional.tanh(input)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (dx,) = torch.autograd.grad(functional.tanh(x), x, dy)
        return ctx.factor * dx, None


# The wrong constants of a real error: the post's simulated 0.2123, or a digit lost.
@pytest.mark.parametrize(
    ("run", "name"),
    [
        (lambda x: functional.tanh(x) * (1 + 1e-5), "y"),
        (lambda x: functional.tanh(x) + 1e-5, "y"),
        (lambda x: torch.tanh(x), "y"),
        (lambda x: functional.tanh(x, scaling="forward"), "y"),
        (lambda x: Slope.apply(x, 1 + 1e-5), "dx"),
        (lambda x: functional.tanh(x).masked_fill(x > 3, math.nan), "y"),
    ],
)
def test_a_wrong_activation_is_refused(run, name):
    x, dy = normals((10, 50, 4, 5), CONTEXT)
    reference = activation._formula("Tanh", "backward").double()
    assert activation.wrong(functional.tanh, reference, x, dy) is None
    assert activation.wrong(lambda x: Slope.apply(x, 1.0), reference, x, dy) is None
    complaint = activation.wrong(run, reference, x, dy)
    assert complaint is not None
    assert complaint.startswith(f"{name} is off")


def test_a_kink_may_be_passed_on_either_side():
    z = torch.tensor([0.0, 1e-8, -1e-8, 1e-3, 5.9999999, 6.0, 3.0], dtype=torch.float64)
    found = activation._at_a_kink(nn.ReLU6(), z, 1e-6)
    assert found.tolist() == [True, True, True, False, True, True, False]
    smooth = torch.linspace(-4, 4, 101, dtype=torch.float64)
    for function in (nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.SiLU()):
        assert not activation._at_a_kink(function, smooth, 1e-6).any()


TINY = {"depth": 4, "dense": 16, "rows": 4}


@pytest.fixture(scope="module")
def task():
    return next(task for task in network.training(**TINY) if task.name == "dense")


def altered(change):
    """What stands for fuse or fold, and does it wrongly."""

    def run(model, example):
        with torch.no_grad():
            change(model)
        return model

    return run


def _weight(model):
    model[0].weight.mul_(torch.linspace(1, 1 + 1e-5, 16).to(model[0].weight)[:, None])


def _bias(model):
    model[2].bias.add_(1e-6)


def _activation(model):
    model[1] = peers.NaiveActivation(nn.GELU(), 0.2821, 0.6752)


def _dropped(model):
    model[3] = nn.Identity()


@pytest.mark.parametrize("change", [_weight, _bias, _activation, _dropped])
def test_a_wrong_network_is_refused(task, change):
    model = network._built(task, "normprop", CONTEXT)
    assert network.wrong(task, "normprop", None, model, CONTEXT) is None
    complaint = network.wrong(task, "normprop", altered(change), model, CONTEXT)
    assert complaint is not None
    assert complaint.endswith("in float64")


def test_the_network_that_is_timed_is_looked_at_too(task):
    model = network._built(task, "normprop", CONTEXT)
    with torch.no_grad():
        model[0].bias.add_(1e-3)
    complaint = network.wrong(task, "normprop", None, model, CONTEXT)
    assert complaint.startswith("output is off")
    assert not complaint.endswith("in float64")


def test_sensitivities_are_those_of_a_product():
    # y = Wx with W = 1 and x = 1: both may change by δ, so that y moves by 2δ or by nothing.
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)

    def results(network, x):
        with torch.no_grad():
            return [network(x)]

    x = torch.ones(1, 1, dtype=torch.float64)
    found = [gate.sensitivities(model, x, results, seed)[0] for seed in range(8)]
    # The change is 1e-7, the rounding of y 1e-16.
    assert sorted({round(v, 6) for v in found}) == [0.0, 2.0]
    assert model.weight.item() == 1.0
