"""Activations as functions: the documented constants, by name and by argument."""

import math

import pytest
import torch

from normprop import functional
from normprop.functional import Constants

NAMES = ["relu", "sigmoid", "tanh", "gelu", "silu"]


@pytest.fixture
def x():
    return torch.randn(1023, dtype=torch.float64)


def test_relu_at_the_standard_normal(x):
    mean, forward = 1 / math.sqrt(2 * math.pi), math.sqrt(0.5 - 0.5 / math.pi)
    for scaling, sigma in (("forward", forward), ("backward", math.sqrt(0.5))):
        wanted = (x.clamp(min=0) - mean) / sigma
        # The shift, the difference and the quotient are rounded; so is the reference.
        assert (
            (functional.relu(x, scaling) - wanted).abs() <= 8 * 2**-52 * (1 + wanted.abs())
        ).all()


@pytest.mark.parametrize(
    ("name", "mean", "forward", "backward"),
    [("sigmoid", 0.5, 0.20827634, 0.21174570), ("tanh", 0.0, 0.62792873, 0.68147113)],
)
def test_documented_decimals(name, mean, forward, backward, x):
    function, plain = getattr(functional, name), getattr(torch, name)(x)
    for scaling, sigma in (("forward", forward), ("backward", backward)):
        # The docstring's eight decimals: half a unit in the last.
        bound = 0.5e-8 / sigma
        wanted = (plain - mean) / sigma
        assert ((function(x, scaling) - wanted).abs() <= bound * wanted.abs() + 1e-15).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_default_is_backward(name, x):
    function = getattr(functional, name)
    assert torch.equal(function(x), function(x, "backward", 0.0, 1.0))


@pytest.mark.parametrize("name", NAMES)
def test_constants_at_hand_have_the_say(name, x):
    function = getattr(functional, name)
    plain = getattr(torch.nn.functional, name)(x)
    assert torch.equal(function(x, "both", constants=Constants(0.25, 2.0, 2.0)), (plain - 0.25) / 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scaling": "both"}, "scaling must be one of"),
        ({"std": 0.0}, "std must be finite and greater than 0"),
        ({"mean": math.inf}, "mean must be finite"),
    ],
)
def test_refusals(name, arguments, message, x):
    with pytest.raises(ValueError, match=message):
        getattr(functional, name)(x, **arguments)


def test_a_law_that_lets_nothing_through_is_refused(x):
    with pytest.raises(ValueError, match="must let the signal and the gradient through"):
        functional.relu(x, mean=-100.0, std=1.0)


def test_the_law_is_a_constant_of_compiled_code(x):
    torch.compiler.reset()
    compiled = torch.compile(functional.relu, backend="aot_eager", fullgraph=True)
    for mean in (0.0, 0.5, 0.7):
        got, wanted = compiled(x, "separate", mean), functional.relu(x, "separate", mean)
        assert torch.allclose(got, wanted, rtol=1e-15, atol=1e-15)
