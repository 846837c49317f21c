"""Families: torch's values and slopes, exact increments, figures within their bounds."""

import math

import numpy as np
import pytest
import torch
from flint import arb, ctx
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from torch import nn

from normprop import moments
from normprop.gaussian import FUNCTIONS, Function, Image, Normal, elementwise, families, smooth
from normprop.gaussian.elementwise import integrate
from normprop.gaussian.order import maximum_of
from normprop.rules import function_of
from scripts import certify

MODULES = [
    nn.CELU(), nn.CELU(2.5), nn.ELU(), nn.ELU(0.3), nn.ELU(-0.5), nn.GELU(), nn.GELU("tanh"),
    nn.Hardshrink(), nn.Hardshrink(1.25), nn.Hardshrink(0.0), nn.Hardsigmoid(), nn.Hardswish(),
    nn.Hardtanh(), nn.Hardtanh(-2, 0.5), nn.Hardtanh(1.0, 3.0), nn.Identity(), nn.LeakyReLU(),
    nn.LeakyReLU(0.3), nn.LeakyReLU(-0.2), nn.LogSigmoid(), nn.Mish(), nn.PReLU(), nn.PReLU(1, 0.7),
    nn.ReLU(), nn.ReLU6(), nn.RReLU().eval(), nn.RReLU(0.1, 0.9).eval(), nn.SELU(), nn.SiLU(),
    nn.Sigmoid(), nn.Softplus(), nn.Softplus(2.0, 5.0), nn.Softplus(0.5, 1.0), nn.Softshrink(),
    nn.Softshrink(1.5), nn.Softsign(), nn.Tanh(), nn.Tanhshrink(), nn.Threshold(0.1, 20.0),
    nn.Threshold(-1.0, -3.0), nn.Threshold(0.0, 0.0),
]  # fmt: skip
CLOSED = (
    nn.CELU, nn.ELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity,
    nn.LeakyReLU, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.Softshrink, nn.Threshold,
)  # fmt: skip
DECREASE = (nn.GELU, nn.Hardswish, nn.Mish, nn.SiLU)
QUADRATURE = sorted(name for name, function in FUNCTIONS.items() if function.closed is None)
steady = settings(derandomize=True, deadline=None, database=None, max_examples=60)


def describe(layer):
    return str(layer)


@pytest.fixture(autouse=True)
def digits():
    before, ctx.dps = ctx.dps, 60
    yield
    ctx.dps = before


@pytest.mark.parametrize("layer", MODULES, ids=describe)
def test_values_and_slopes_are_torchs(layer):
    layer = layer.double()
    # Torch's sixth of hardsigmoid and hardswish is that of float32 in the gradient.
    tolerance = 3e-8 if isinstance(layer, nn.Hardsigmoid | nn.Hardswish) else 1e-14
    x = torch.linspace(-9, 9, 1023, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    function, at = function_of(layer), x.detach().numpy()
    np.testing.assert_allclose(function.value(at), y.detach().numpy(), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(function.slope(at), slope.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Hardtanh(), nn.Hardtanh(-2, 0.5), nn.ReLU6(), nn.Hardshrink(), nn.Softshrink(),
        nn.LeakyReLU(0.3), nn.Threshold(0.5, -1.0), nn.PReLU(), nn.Hardsigmoid(), nn.ReLU(),
    ],
    ids=describe,
)  # fmt: skip
def test_the_slope_at_a_kink_is_torchs(layer):
    layer, function = layer.double(), function_of(layer)
    x = torch.tensor(function.features, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x).sum(), x)
    np.testing.assert_array_equal(function.slope(x.detach().numpy()), slope.numpy())


@pytest.mark.parametrize("layer", MODULES, ids=describe)
def test_a_module_is_what_autograd_says_of_it(layer):
    # A wrapped module is no module that rules know: its slope comes from autograd.
    layer = layer.double()
    known, unknown = moments(layer, 0.2, 1.3), moments(lambda x: layer(x), 0.2, 1.3)
    assert unknown.method == "quadrature"
    torchs = 1e-7 if isinstance(layer, nn.Hardsigmoid | nn.Hardswish) else 0.0
    for figure in ("fwd_mean", "fwd_std", "bwd_std"):
        off = abs(getattr(known, figure) - getattr(unknown, figure))
        # Before a jump, the panels of a callable that names no kinks shrink only so far.
        assert off <= known.error + unknown.error + torchs + 1e-13


@pytest.mark.parametrize("layer", MODULES, ids=describe)
def test_the_method_is_named(layer):
    gelu = isinstance(layer, nn.GELU) and layer.approximate == "none"
    wanted = "closed form" if isinstance(layer, CLOSED) or gelu else "quadrature"
    assert moments(layer).method == wanted
    assert moments(layer).error <= 1e-12


@pytest.mark.parametrize("layer", MODULES, ids=describe)
def test_increasing_is_right(layer):
    function = function_of(layer)
    values = layer.double()(torch.linspace(-9, 9, 20001, dtype=torch.float64)).detach()
    falls = bool((values.diff() < -1e-15).any())
    if isinstance(layer, nn.Softplus):
        # Torch's falls at its threshold, which no step of a grid may show.
        assert function.increasing == (function.falls < 1e-6)
    else:
        assert function.increasing == (not falls)
    if isinstance(layer, DECREASE):
        assert not function.increasing


@pytest.mark.parametrize("name", [*sorted(FUNCTIONS), "gelu_tanh"])
@pytest.mark.parametrize("c", [-30.0, -2.0, -1.2784645, -0.3, 0.0, 0.7, 3.0, 19.9])
def test_increments_are_within_what_they_promise(name, c):
    function = smooth.gelu_tanh() if name == "gelu_tanh" else FUNCTIONS[name]
    h = np.array([1e-12, -1e-12, 1e-5, -1e-5, 0.3, -0.3, 0.9, -1.1, 4.0, -4.0, 35.0, -35.0])
    got = function.increment(c, h)
    for step, rise in zip(h, got, strict=True):
        # From both ends of the double that c + h is rounded to.
        with mp.workdps(60):
            wanted = _definition(name, mp.mpf(c) + mp.mpf(step)) - _definition(name, mp.mpf(c))
            ulp = mp.mpf(2) ** -52
            slack = 16 * abs(wanted) + function.looseness * abs(step) + function.noise
            slope = function.lipschitz if function.curvature or name == "softplus" else 0.0
            relative = abs(wanted) * (function.log_slope if slope == 0.0 else 0.0)
            slack += (abs(c) + abs(step)) * (slope + relative)
            # At a kink the rounding of c + h counts with the steeper side.
            kinked = function.width == 0 and name != "softsign"
            slack += (abs(c) + abs(step)) * function.lipschitz if kinked else 0
            assert abs(mp.mpf(float(rise)) - wanted) <= slack * ulp, (step, rise, wanted)


def _definition(name, x):
    """The function of a name, for an mpf."""
    gate = {
        "silu": lambda: 1 / (1 + mp.exp(-x)),
        "gelu": lambda: mp.ncdf(x),
        "mish": lambda: mp.tanh(mp.log1p(mp.exp(x))),
        "hardswish": lambda: min(max(x + 3, 0), 6) / mp.mpf(6),
        "gelu_tanh": lambda: (
            1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf(0.044715) * x**3))
        ) / 2,
    }  # fmt: skip
    if name in gate:
        return x * gate[name]()
    alpha, scale = mp.mpf(families.SELU_ALPHA), mp.mpf(families.SELU_SCALE)
    return {
        "celu": lambda: x if x > 0 else mp.expm1(x),
        "elu": lambda: x if x > 0 else mp.expm1(x),
        "hardshrink": lambda: x if abs(x) > 0.5 else mp.mpf(0),
        "hardsigmoid": lambda: min(max(x + 3, mp.mpf(0)), mp.mpf(6)) / 6,
        "hardtanh": lambda: min(max(x, mp.mpf(-1)), mp.mpf(1)),
        "leaky_relu": lambda: x if x > 0 else mp.mpf(0.01) * x,
        "logsigmoid": lambda: -mp.log1p(mp.exp(-x)),
        "relu": lambda: max(x, mp.mpf(0)),
        "relu6": lambda: min(max(x, mp.mpf(0)), mp.mpf(6)),
        "selu": lambda: scale * (x if x > 0 else alpha * mp.expm1(x)),
        "sigmoid": lambda: 1 / (1 + mp.exp(-x)),
        "softplus": lambda: mp.log1p(mp.exp(x)) if x <= 20 else x,
        "softshrink": lambda: mp.sign(x) * max(abs(x) - 0.5, mp.mpf(0)),
        "softsign": lambda: x / (1 + abs(x)),
        "tanh": lambda: mp.tanh(x),
        "tanhshrink": lambda: x - mp.tanh(x),
    }[name]()


@pytest.mark.parametrize("name", [*QUADRATURE, "gelu", "hardswish", "gelu_tanh"])
def test_the_bound_of_the_curvature_holds(name):
    function = smooth.gelu_tanh() if name == "gelu_tanh" else FUNCTIONS[name]
    x, d = np.linspace(-15, 15, 6001), 1e-5
    bend = np.abs(function.slope(x + d) - function.slope(x - d)) / (2 * d)
    if function.curvature is None:
        bound = function.log_slope * np.abs(function.slope(x))
    else:
        bound = function.curvature(x)
    away = np.min(np.abs(x[:, None] - np.array(function.features)), axis=1) > 2 * d
    assert (bend[away] <= bound[away] * (1 + 1e-4) + 1e-9).all()
    assert np.abs(function.slope(x)).max() <= function.lipschitz


@pytest.mark.parametrize(("m", "s"), [(0, 1), (0, 0.01), (-8, 1), (8, 1), (-2, 4), (1e3, 1e-6)])
@pytest.mark.parametrize("name", QUADRATURE)
def test_quadrature_is_within_its_bound_of_the_enclosure(name, m, s):
    figures = elementwise(FUNCTIONS[name], Normal(float(m), float(s)))
    enclosure = certify.figures(*certify.FUNCTIONS[name], float(m), float(s))
    values = (figures.mean, figures.std, figures.slope)
    for value, ball in zip(values, enclosure, strict=True):
        assert not abs(arb(value) - ball) > arb(figures.error)
        assert ball.is_finite() or value <= 1e-20
    assert figures.error <= 1e-12 * max(1.0, abs(m))


@pytest.mark.parametrize(("m", "s"), [(0.2, 1.1), (-8, 0.5)])
def test_the_tanh_approximation_against_its_definition(m, s):
    figures = elementwise(smooth.gelu_tanh(), Normal(m, s))
    with mp.workdps(40):
        points = [-14, -8, -4, -2, 0, 2, 4, 8, 14]

        def expectation(g):
            return mp.quad(lambda z: g(m + s * z) * mp.npdf(z), points)

        mean = expectation(lambda x: _definition("gelu_tanh", x))
        square = expectation(lambda x: (_definition("gelu_tanh", x) - mean) ** 2)
        assert abs(figures.mean - mean) <= figures.error
        assert abs(figures.std - mp.sqrt(square)) <= figures.error


@given(st.floats(-4, 4), st.floats(0.1, 4), st.floats(0.5, 20), st.floats(-5, 25), st.floats(0, 4))
@steady
def test_softplus_with_its_threshold(m, beta, threshold, at, decades):
    # By definition on both sides of the threshold, by callable and by description.
    layer = nn.Softplus(beta, threshold).double()
    function, s = function_of(layer), 10.0 ** (decades - 2)
    x = torch.tensor([at, at + 1e-9, threshold / beta], dtype=torch.float64)
    np.testing.assert_allclose(function.value(x.numpy()), layer(x).numpy(), rtol=1e-13, atol=1e-15)
    assert integrate(function, Normal(m, s)).error <= 1e-11 * max(1.0, s)


def test_max_pooling_after_softplus_has_its_fall_in_the_bound():
    function = function_of(nn.Softplus())
    mean, std, error, _ = maximum_of(4, Image(function, Normal(20.0, 0.5)))
    assert function.increasing
    assert 0 < function.falls < 3e-9
    # Nearly all of it is the line x, but for 1e-9.
    assert abs(mean - (20 + 0.5 * 1.0293753730039641)) < 1e-8
    assert abs(std - 0.5 * 0.7012240990) < 1e-8
    assert error < 1e-10


def test_slopes_by_channel_are_refused():
    layer = nn.PReLU(3)
    assert moments(layer) == moments(nn.PReLU())
    layer.weight.data[1] = 0.5
    with pytest.raises(ValueError, match=r"PReLU must have one slope.*it has 2"):
        moments(layer)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: families.piecewise_linear("f", (1, 0), (1, 2, 3)), "strictly increasing"),
        (lambda: families.piecewise_linear("f", (0,), (1, math.inf)), "must be finite"),
        (lambda: families.hardshrink(-1.0), "lambd must not be negative"),
        (lambda: families.softshrink(-1.0), "lambd must not be negative"),
        (lambda: families.celu(-1.0), "greater than 0"),
        (lambda: smooth.softplus(-1.0), "beta must be greater than 0"),
    ],
)
def test_parameters_that_make_no_function_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.functional.gelu, "gelu"),
        (nn.functional.silu, "silu"),
        (nn.functional.elu, "elu"),
        (torch.selu, "selu"),
        (nn.functional.hardtanh, "hardtanh"),
        (nn.functional.relu6, "relu6"),
        (nn.functional.leaky_relu, "leaky_relu"),
        (nn.functional.mish, "mish"),
    ],
)
def test_torchs_callables_are_known(function, name):
    assert function_of(function) is FUNCTIONS[name]


def test_the_same_parameters_give_the_same_function():
    one, other = function_of(nn.LeakyReLU(0.3)), function_of(nn.LeakyReLU(0.3))
    assert isinstance(one, Function)
    assert one is other
    assert one is not function_of(nn.LeakyReLU(0.4))


def test_an_absolute_value():
    got = moments(torch.abs)
    assert got.method == "closed form"
    assert abs(got.fwd_mean - math.sqrt(2 / math.pi)) <= got.error
    assert got.bwd_std == 1.0
