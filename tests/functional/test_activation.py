"""Activations as functions: the documented constants, by name and by argument."""

import inspect
import math

import pytest
import torch
from torch import nn

import normprop
from normprop import functional
from normprop.functional.activation import NAMES as NAMES_OF
from normprop.functional.fused import MAPS

NAMES = ["relu", "sigmoid", "tanh", "gelu", "silu"]
OPTIONS = ["scaling", "mean", "std", "backend"]
# Arguments of those that have no defaults, and of those written in C, whose signatures Python
# does not know.
OWN = {"threshold": (0.1, 0.3)}
IN_C = {
    "gelu": ["approximate"], "hardshrink": ["lambd"], "logsigmoid": [],
    "softplus": ["beta", "threshold"], "softshrink": ["lambd"],
}  # fmt: skip


def parameters(function):
    return list(inspect.signature(function).parameters.values())


@pytest.mark.parametrize("name", sorted(MAPS))
def test_arguments_are_those_of_torch_and_then_keywords(name):
    ours = parameters(getattr(functional, name))
    shared = [p for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in ours if p.kind is p.KEYWORD_ONLY] == OPTIONS
    if name == "identity":
        assert [p.name for p in shared] == ["input"]
        return
    theirs = getattr(nn.functional, name)
    if name in IN_C:
        assert [p.name for p in shared[1:]] == IN_C[name]
        return
    assert [(p.name, p.default) for p in shared] == [
        (p.name, p.default) for p in parameters(theirs)
    ]


@pytest.mark.parametrize("name", sorted(MAPS))
def test_arguments_by_name_come_in_any_order(name, x):
    function = getattr(functional, name)
    own = [p.name for p in parameters(function) if p.kind is p.POSITIONAL_OR_KEYWORD]
    own = [n for n in own if n not in ("input", "inplace")]
    values = {n: "tanh" if n == "approximate" else 0.25 * i for i, n in enumerate(own, 1)}
    wanted = function(x, *values.values())
    assert torch.equal(function(**dict(reversed([("input", x), *values.items()]))), wanted)


@pytest.mark.parametrize("name", sorted(MAPS))
@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
def test_a_function_is_its_layer(name, scaling, x):
    own = OWN.get(name, ())
    law = {"scaling": scaling, "mean": 0.5, "std": 2.0}
    layer = getattr(normprop.nn, next(t for t, n in NAMES_OF.items() if n == name).__name__)
    assert torch.equal(getattr(functional, name)(x, *own, **law), layer(*own, **law)(x))


@pytest.mark.parametrize(
    "name",
    [n for n in sorted(MAPS) if "inplace" in inspect.signature(getattr(functional, n)).parameters],
)
def test_working_in_place_is_refused(name, x):
    with pytest.raises(ValueError, match="inplace must be False"):
        getattr(functional, name)(x, *OWN.get(name, ()), inplace=True)


@pytest.fixture
def x():
    return torch.randn(1023, dtype=torch.float64)


def test_relu_at_the_standard_normal(x):
    mean, forward = 1 / math.sqrt(2 * math.pi), math.sqrt(0.5 - 0.5 / math.pi)
    for scaling, sigma in (("forward", forward), ("backward", math.sqrt(0.5))):
        wanted = (x.clamp(min=0) - mean) / sigma
        # The shift, the difference and the quotient are rounded; so is the reference.
        assert (
            (functional.relu(x, scaling=scaling) - wanted).abs() <= 8 * 2**-52 * (1 + wanted.abs())
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
        assert ((function(x, scaling=scaling) - wanted).abs() <= bound * wanted.abs() + 1e-15).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_default_is_backward(name, x):
    function = getattr(functional, name)
    assert torch.equal(function(x), function(x, scaling="backward", mean=0.0, std=1.0))


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


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
def test_the_law_is_a_constant_of_compiled_code(x):
    torch.compiler.reset()
    compiled = torch.compile(functional.relu, backend="aot_eager", fullgraph=True)
    for mean in (0.0, 0.5, 0.7):
        got, wanted = (
            function(x, scaling="separate", mean=mean) for function in (compiled, functional.relu)
        )
        assert torch.allclose(got, wanted, rtol=1e-15, atol=1e-15)


class Doubled(normprop.nn.ELU):
    def forward(self, input):
        return 2 * super().forward(input)


class Renamed(normprop.nn.ELU):
    pass


def test_a_subclass_is_known_while_it_keeps_its_forward():
    assert normprop.moments(Renamed(0.5)) == normprop.moments(normprop.nn.ELU(0.5))
    with pytest.raises(TypeError, match="keeps its forward; it was Doubled"):
        normprop.moments(Doubled())
