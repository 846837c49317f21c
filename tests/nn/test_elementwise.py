"""A layer for a function that the package has never seen."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import normprop
from normprop import moments, simulate
from normprop.nn import Elementwise


def snake(x):
    return x + x.sin() ** 2


def bent(x):
    return torch.where(x > 0.3, 2 * x, x.sin())


SCALINGS = ("forward", "backward", "separate")


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("function", [snake, bent, torch.abs, torch.tanh])
def test_output_and_gradient(function, scaling):
    layer = Elementwise(function, scaling=scaling, mean=0.5, std=2.0)
    at = moments(function, 0.5, 2.0)
    x = torch.randn(64, dtype=torch.float64, requires_grad=True)
    plain = function(x)
    y = layer(x)
    sigma = at.bwd_std if scaling == "backward" else at.fwd_std
    assert torch.allclose(y, (plain - at.fwd_mean) / sigma, rtol=1e-14, atol=1e-15)
    (dx,) = torch.autograd.grad(y.sum(), x)
    (slope,) = torch.autograd.grad(plain.sum(), x)
    divisor = at.fwd_std if scaling == "forward" else at.bwd_std
    assert torch.allclose(dx, slope / divisor, rtol=1e-14, atol=1e-15)
    same = normprop.functional.elementwise(x, function, scaling=scaling, mean=0.5, std=2.0)
    assert torch.equal(same, y)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_layer_measures_as_what_it_is(scaling):
    layer = Elementwise(snake, scaling=scaling, mean=-0.5, std=1.5)
    figures = moments(layer, -0.5, 1.5)
    unit = {"forward": ["fwd_std"], "backward": ["bwd_std"]}.get(scaling, ["fwd_std", "bwd_std"])
    for figure in unit:
        assert abs(getattr(figures, figure) - 1) <= 4 * figures.error + 1e-14
    estimate = simulate(layer, 100_000, mean=-0.5, std=1.5, seed=3)
    assert max(abs(score) for score in estimate.z(figures).values()) < 4.5


def test_snake_by_hand():
    # E cos 2x = e^-2 and E cos 4x = e^-8 at N(0, 1).
    found = moments(snake)
    assert abs(found.fwd_mean - (1 - math.exp(-2)) / 2) <= found.error
    variance = 1 + ((1 + math.exp(-8)) / 2 - math.exp(-4)) / 4
    assert abs(found.fwd_std - math.sqrt(variance)) <= found.error
    assert abs(found.bwd_std - math.sqrt(1 + (1 - math.exp(-8)) / 2)) <= found.error


def test_it_may_stand_before_a_pooling():
    layer = Elementwise(torch.tanh, scaling="forward")
    pool = normprop.nn.MaxPool2d(2, scaling="forward", after=layer)
    named = normprop.nn.MaxPool2d(2, scaling="forward", after=normprop.nn.Tanh(scaling="forward"))
    assert pool.constants == pytest.approx(named.constants, abs=1e-13)


def test_copies_half_precision_and_repr():
    layer = Elementwise(snake, scaling="separate")
    assert "snake, scaling='separate', mean=0, std=1" in repr(layer)
    x = torch.randn(33)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    half = x.to(torch.bfloat16)
    assert torch.equal(layer(half), layer(half.float()).to(torch.bfloat16))


def test_compiled_is_eager():
    torch.compiler.reset()
    layer = Elementwise(snake, scaling="separate")
    x = torch.randn(64, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), layer(x), rtol=1e-14)
    (got,) = torch.autograd.grad(compiled(x).sum(), x)
    (wanted,) = torch.autograd.grad(layer(x).sum(), x)
    assert torch.allclose(got, wanted, rtol=1e-13)
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: x.softmax(0), ValueError, "must be elementwise"),
        (lambda x: x.sum(), ValueError, "must be elementwise"),
        (lambda x: x.log(), ValueError, "must be finite"),
        (lambda x: nn.functional.dropout(x), ValueError, "same result each time"),
        (nn.ReLU(), TypeError, "function must be a function"),
    ],
)
def test_what_is_no_elementwise_function_is_refused(function, error, message):
    with pytest.raises(error, match=message):
        Elementwise(function)
    with pytest.raises(ValueError, match="std must be finite and greater than 0"):
        Elementwise(torch.tanh, std=0.0)
    with pytest.raises(ValueError, match="scaling must be one of"):
        Elementwise(torch.tanh, scaling="both")
