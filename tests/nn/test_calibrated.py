"""Calibrated activations: any elementwise function, any law that arrives, and what it keeps."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import normprop
import normprop.nn as nnp


def snake(x):
    return x + x.sin() ** 2


class Own(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Sub(nn.GELU):
    """A subclass that runs its parent's forward."""


ACTIVATIONS = {
    "name": ("tanh", torch.tanh),
    "alias": ("swish", nn.functional.silu),
    "gelu_tanh": ("gelu_tanh", nn.GELU("tanh")),
    "ReLU": (nn.ReLU(inplace=True), torch.relu),
    "LeakyReLU": (nn.LeakyReLU(0.1), nn.LeakyReLU(0.1)),
    "ELU": (nn.ELU(0.5), nn.ELU(0.5)),
    "Hardtanh": (nn.Hardtanh(-2.0, 1.0), nn.Hardtanh(-2.0, 1.0)),
    "Softplus": (nn.Softplus(2.0), nn.Softplus(2.0)),
    "subclass": (Sub("tanh"), nn.GELU("tanh")),
    "own": (Own(), Own()),
    "function": (snake, snake),
}
SCALINGS = ("forward", "backward", "separate")
LAW = {"mean": 0.5, "std": 2.0}


@pytest.fixture(params=ACTIVATIONS)
def pair(request):
    return ACTIVATIONS[request.param]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_output_and_gradient(pair, scaling):
    own, function = pair
    layer = nnp.Calibrated(own, depth=20, scaling=scaling, **LAW)
    at = layer.calibration
    assert at.stable
    x = torch.randn(64, dtype=torch.float64, requires_grad=True)
    plain = function(at.mean + at.std * (x - 0.5) / 2.0)
    shift, forward, backward = layer.constants
    y = layer(x)
    assert torch.allclose(y, (plain - shift) / forward, rtol=1e-12, atol=1e-13)
    (dx,) = torch.autograd.grad(y.sum(), x)
    (slope,) = torch.autograd.grad(plain.sum(), x)
    assert torch.allclose(dx, slope / backward, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_law_that_arrives_is_normalised(pair, scaling):
    layer = nnp.Calibrated(pair[0], depth=20, scaling=scaling, **LAW)
    figures = normprop.moments(layer, *LAW.values())
    assert abs(figures.fwd_mean) <= 4 * figures.error + 1e-13
    if scaling != "backward":
        assert abs(figures.fwd_std - 1) <= 4 * figures.error + 1e-13
    # What one layer multiplies a gradient by, in units of the input's std.
    own = math.sqrt(layer.calibration.chi.value) / 2.0
    wanted = own if scaling == "forward" else 1.0
    assert abs(figures.bwd_std - wanted) <= 4 * figures.error + 1e-11
    estimate = normprop.simulate(layer, 50_000, **LAW, seed=3)
    assert max(abs(score) for score in estimate.z(figures).values()) < 4.5


def test_copies_pickles_and_state(pair):
    layer = nnp.Calibrated(pair[0], depth=20, **LAW)
    assert not layer.state_dict()
    assert not list(layer.children())
    x = torch.randn(33)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
        assert other.constants == layer.constants


def test_a_module_that_is_changed_outside_changes_nothing():
    own = nn.LeakyReLU(0.1)
    layer = nnp.Calibrated(own, depth=20)
    x = torch.randn(9)
    before = layer(x)
    own.negative_slope = 0.9
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(pair, dtype):
    layer = nnp.Calibrated(pair[0], depth=1000, **LAW)
    x = torch.randn(4, 33).to(dtype)
    assert torch.equal(layer(x), layer(x.float()).to(dtype))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
@pytest.mark.parametrize("name", ["name", "LeakyReLU", "own", "function"])
def test_compiled_is_eager(name):
    torch.compiler.reset()
    layer = nnp.Calibrated(ACTIVATIONS[name][0], depth=20, **LAW)
    x = torch.randn(64, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), layer(x), rtol=1e-12, atol=1e-13)
    (got,) = torch.autograd.grad(compiled(x).sum(), x)
    (wanted,) = torch.autograd.grad(layer(x).sum(), x)
    assert torch.allclose(got, wanted, rtol=1e-11, atol=1e-13)
    # What is set later is compiled anew.
    layer.depth = 100
    assert torch.allclose(compiled(x), layer(x), rtol=1e-12, atol=1e-13)
    torch.compiler.reset()


def test_each_sample_has_its_gradient(pair):
    layer = nnp.Calibrated(pair[0], depth=20, **LAW)
    x = torch.randn(5, 7, dtype=torch.float64)
    got = torch.func.vmap(torch.func.grad(lambda row: layer(row).sum()))(x)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(layer(leaf).sum(), leaf)
    assert torch.allclose(got, wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("verb", [normprop.fuse, normprop.fold])
def test_its_line_moves_into_the_weights(pair, verb):
    own, function = pair
    net = nn.Sequential(
        nnp.Linear(6, 8, scaling="forward"),
        nnp.Calibrated(own, depth=20, **LAW),
        nnp.Linear(8, 3, scaling="forward"),
    ).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    made = verb(net, x)
    assert torch.allclose(made(x), net.eval()(x), rtol=1e-10, atol=1e-11)
    of_torch = not (callable(function) and isinstance(own, Own)) and own is not snake
    if of_torch:
        assert not any(isinstance(layer, nnp.Calibrated) for layer in made.modules())
        assert not normprop.report(made).kept
        # A line and a function are all that is left between the weights.
        assert len(made) == 3


def test_every_argument_has_an_effect():
    usual = {"activation": "gelu", "depth": 20}
    x = torch.randn(64, dtype=torch.float64)
    before = nnp.Calibrated(**usual)(x)
    changes = [
        {"activation": "tanh"}, {"depth": 30}, {"growth": 2.0}, {"vary": "mean"}, {"mean": 0.5},
        {"std": 2.0}, {"scaling": "backward"},
    ]  # fmt: skip
    for change in changes:
        layer = nnp.Calibrated(**usual)
        for name, value in change.items():
            setattr(layer, name, value)
        after = nnp.Calibrated(**{**usual, **change})(x)
        assert not torch.allclose(after, before)
        assert torch.equal(layer(x), after)
    at = [nnp.Calibrated("tanh", depth=20, vary="std", at=place)(x) for place in (0.0, 0.2)]
    assert not torch.allclose(*at)


@pytest.mark.parametrize("name", ["gelu", "silu", "softplus"])
def test_a_law_that_is_not_stable_is_warned_of(name):
    with pytest.warns(UserWarning, match=f"vary='std' puts {name}.*lose its scale"):
        layer = nnp.Calibrated(name, depth=60, vary="std")
    assert not layer.calibration.stable
    layer = nnp.Calibrated(name, depth=60)
    assert layer.calibration.stable
    with pytest.warns(UserWarning, match="vary='std'"):
        layer.vary = "std"


@pytest.mark.parametrize(
    ("activation", "error", "message"),
    [
        (nn.PReLU(), TypeError, "learns and draws nothing.*PReLU"),
        (nn.RReLU(), TypeError, "learns and draws nothing.*RReLU"),
        (nnp.ReLU(), TypeError, "must be a plain elementwise module"),
        (nn.Linear(3, 3), TypeError, "must be a plain elementwise module"),
        (nn.Dropout(), TypeError, "must be a name or an elementwise function"),
        (nn.Softmax(-1), TypeError, "must be a name or an elementwise function"),
        (nn.ReLU, TypeError, "must be an instance"),
        (3, TypeError, "must be a name, a module"),
        (lambda x: x.softmax(0), ValueError, "must be elementwise"),
        ("softmax", ValueError, "must be one of the names"),
        ("hardshrink", ValueError, "must have no jumps"),
        (nn.Identity(), ValueError, "identity has it nowhere"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(activation, error, message):
    with pytest.raises(error, match=message):
        nnp.Calibrated(activation, depth=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth must be an integer of at least 1"),
        ({"depth": True}, "depth must be an integer"),
        ({"depth": 2.5}, "depth must be an integer"),
        ({"growth": 1.0}, "growth must be finite and greater than 1"),
        ({"growth": math.inf}, "growth must be finite"),
        ({"vary": "scale"}, "vary must be 'both', 'std' or 'mean'"),
        ({"std": 0.0}, "std must be finite and greater than 0"),
        ({"scaling": "all"}, "scaling must be one of"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        nnp.Calibrated(**{"depth": 20, **options})
