"""Names of functions: what people use, near misses, and functions that bear the name of others."""

import functools

import pytest
import torch
from torch import nn

import normprop
import normprop.nn as nnp
from normprop import functional, rules
from normprop.gaussian import FUNCTIONS, Normal
from normprop.gaussian.maps import correlation_map
from normprop.names import NAMED, canonical

SAME = {
    "silu": nn.SiLU(),
    "swish": nn.SiLU(),
    "Swish": nn.SiLU(),
    "hard_swish": nn.Hardswish(),
    "hswish": nn.Hardswish(),
    "h-swish": nn.Hardswish(),
    "Mish": nn.Mish(),
    "leakyrelu": nn.LeakyReLU(),
    "LeakyReLU": nn.LeakyReLU(),
    "lrelu": nn.LeakyReLU(),
    "gelu_python": nn.GELU(),
    "gelu_new": nn.GELU("tanh"),
    "gelu_tanh": nn.GELU("tanh"),
    "gelu_pytorch_tanh": nn.GELU("tanh"),
    "soft_plus": nn.Softplus(),
    "logistic": nn.Sigmoid(),
    "relu_6": nn.ReLU6(),
    "hard_sigmoid": nn.Hardsigmoid(),
    "hard_tanh": nn.Hardtanh(),
    "log_sigmoid": nn.LogSigmoid(),
    "soft_shrink": nn.Softshrink(),
    "linear": nn.Identity(),
    "none": nn.Identity(),
    "identity": nn.Identity(),
}
OTHER = {
    "quick_gelu": r"pass lambda x: x \* torch.sigmoid\(1.702 \* x\)",
    "squared_relu": r"pass lambda x: torch.relu\(x\) \*\* 2",
    "swiglu": r"pass normprop.nn.GatedLinear\(\"silu\"\)",
    "softmax": r"pass torch.nn.Softmax\(dim\), with shape=",
    "prelu": r"pass torch.nn.PReLU\(\)",
    "relo": "did you mean 'relu'",
    "hardswhish": "did you mean 'hardswish'",
    "swihs": "did you mean 'silu'",
    "!": "it was '!'$",
}


def test_the_ground_the_witness_and_torch_have_the_same_names():
    assert set(NAMED) == {*FUNCTIONS, "gelu_tanh", "identity"}
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    for name, run in NAMED.items():
        assert canonical(name) == name
        known = rules.function_of(name)
        assert torch.allclose(run(x), torch.from_numpy(known.value(x.numpy())), atol=1e-13)


@pytest.mark.parametrize("name", SAME)
def test_a_name_that_people_use_is_the_function(name):
    layer = SAME[name]
    x = torch.randn(20, dtype=torch.float64)
    assert torch.equal(NAMED[canonical(name)](x), layer(x))
    assert normprop.moments(name, 0.3, 0.7) == normprop.moments(layer, 0.3, 0.7)
    options = {"n": 512, "replicates": 2}
    assert normprop.simulate(name, **options) == normprop.simulate(layer, **options)
    pool = nn.AvgPool2d(2)
    assert normprop.moments(pool, after=name) == normprop.moments(pool, after=layer)


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("layer", normprop.moments),
        ("layer", lambda name: normprop.simulate(name, 512)),
        ("after", lambda name: normprop.moments(nn.AvgPool2d(2), after=name)),
        ("after", lambda name: normprop.simulate(nn.AvgPool2d(2), 512, after=name)),
        ("after", lambda name: nnp.AvgPool2d(2, after=name)),
        ("activation", lambda name: nnp.Calibrated(name, depth=10)),
        ("activation", nnp.GatedLinear),
    ],
)
def test_the_name_of_something_else_says_what_to_pass(argument, call, name):
    with pytest.raises(ValueError, match=f"{argument} must be one of the names.*{OTHER[name]}"):
        call(name)


def test_gates_and_calibrated_layers_take_such_names():
    x = torch.randn(4, 6, dtype=torch.float64)
    for name, own in (("swish", "silu"), ("gelu_new", "gelu_tanh")):
        assert torch.equal(nnp.GatedLinear(name)(x), nnp.GatedLinear(own)(x))
        assert torch.equal(functional.gated_linear(x, name), functional.gated_linear(x, own))
        layer = nnp.Calibrated(name, depth=10)
        assert layer.activation == own
        assert torch.equal(layer(x), nnp.Calibrated(own, depth=10)(x))


def relu(x):
    return x.tanh()


class Callable:
    def __init__(self, name):
        self.__name__ = name

    def __call__(self, x):
        return x.tanh()


def impostors():
    for name in sorted(NAMED):
        yield name, Callable(name)
        anonymous = lambda x: x.tanh()  # noqa: E731
        anonymous.__name__ = name
        yield name, anonymous
    yield "relu", relu
    yield "relu", functools.wraps(torch.relu)(lambda x: x.tanh())
    yield "relu", functools.partial(torch.tanh)


IMPOSTORS = list(impostors())


@pytest.mark.parametrize(
    "function", [f for _, f in IMPOSTORS], ids=[f"{n}{i}" for i, (n, _) in enumerate(IMPOSTORS)]
)
def test_a_function_is_what_it_computes_not_what_it_is_called(function):
    law, standard = Normal(0.5, 2.0), Normal(0.0, 1.0)
    found, wanted = (normprop.moments(f, law.mean, law.std) for f in (function, "tanh"))
    for name in ("fwd_mean", "fwd_std", "bwd_std"):
        assert abs(getattr(found, name) - getattr(wanted, name)) <= found.error + wanted.error
    run, known = rules.function_of(function), FUNCTIONS["tanh"]
    for rho in (0.5, 1.0):
        one, two = (correlation_map(f, standard, rho) for f in (run, known))
        assert abs(one.value - two.value) <= one.error + two.error + 1e-9
    options = {"n": 512, "replicates": 2}
    assert normprop.simulate(function, **options) == normprop.simulate("tanh", **options)
