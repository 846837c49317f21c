"""Gated linear units with a gate of one's own; nn.GLU runs in the battery."""

import copy
import pickle

import pytest
import torch
from torch import nn

import normprop
from normprop import functional, moments, simulate
from tests.layers import named

LAW = {"mean": 0.4, "std": 1.3}


def squared(x):
    return torch.tanh(x) ** 2


GATES = ["relu", "gelu", "silu", "sigmoid", "tanh", nn.functional.softplus, squared]


@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
@pytest.mark.parametrize("gate", GATES, ids=named)
def test_a_gate_of_your_own(gate, scaling):
    layer = normprop.nn.GatedLinear(gate, scaling=scaling, **LAW)
    estimate = simulate(layer, 200_000, **LAW, shape=(6,), seed=5)
    assert abs(estimate.fwd_mean) < 4.5 * estimate.fwd_mean_se
    if scaling != "backward":
        assert abs(estimate.fwd_std - 1) < 4.5 * estimate.fwd_std_se
    if scaling != "forward":
        assert abs(estimate.bwd_std - 1) < 4.5 * estimate.bwd_std_se
    figures = moments(layer, **LAW)
    assert abs(figures.fwd_mean) <= figures.error
    for name, wanted in (("fwd_std", "backward"), ("bwd_std", "forward")):
        if scaling != wanted:
            assert abs(getattr(figures, name) - 1) <= figures.error


def test_sigmoid_is_glu():
    x = torch.randn(3, 8, 5, dtype=torch.float64)
    for scaling in ("forward", "backward", "separate"):
        ours = functional.gated_linear(x, "sigmoid", 1, scaling=scaling)
        assert torch.allclose(ours, functional.glu(x, 1, scaling=scaling), rtol=1e-14, atol=1e-15)


def test_a_copy_is_the_same_layer():
    layer = normprop.nn.GatedLinear("silu", dim=1, **LAW)
    x = torch.randn(3, 8, 5)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert (
            repr(other)
            == repr(layer)
            == ("GatedLinear(gate='silu', dim=1, scaling='backward', mean=0.4, std=1.3)")
        )
        assert torch.equal(other(x), layer(x))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
def test_compiled_is_eager():
    torch.compiler.reset()
    x = torch.randn(3, 8, dtype=torch.float64)
    layer = normprop.nn.GatedLinear("gelu", scaling="separate")
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), layer(x), rtol=1e-13, atol=1e-14)
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: normprop.nn.GatedLinear("swift"), ValueError, "must be one of the names"),
        (lambda: normprop.nn.GatedLinear(nn.Linear(2, 2)), TypeError, "elementwise function"),
        (lambda: functional.gated_linear(torch.ones(3)), ValueError, "must have an even size"),
        (lambda: normprop.nn.GatedLinear(scaling="both"), ValueError, "scaling must be one of"),
    ],
)
def test_what_must_hold(call, error, message):
    with pytest.raises(error, match=message):
        call()
