"""DKS and TAT: their conditions hold, and their authors' own parameters come out."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from normprop.companion import transforms
from normprop.companion.transforms import Transform, Transformed, dks, leaky_tat, tat

CHAIN = (1.0,) * 30
SKIPS = (1.0, *(1 / (k + 1) for k in range(1, 30)))
MODULES = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "softplus": nn.Softplus}


def moments(transform, function, nodes=150):
    """Q(1), E f̂, Q'(1), C'(1) and C''(1) by Gauss-Hermite quadrature and automatic derivatives."""
    z, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = torch.from_numpy(weights / weights.sum())
    z = torch.from_numpy(z).requires_grad_()
    value = Transformed(function, transform)(z)
    (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), z)

    def mean(x):
        return (weights * x).sum().item()

    return (
        mean(value**2),
        mean(value),
        mean(value * slope * z),
        mean(slope**2),
        mean(curve**2),
    )


@pytest.mark.parametrize("shares", [CHAIN, SKIPS], ids=["chain", "skips"])
@pytest.mark.parametrize("name", MODULES)
def test_the_conditions_of_dks(name, shares):
    q, mean, q_slope, slope, _ = moments(dks(name, shares), MODULES[name]())
    assert (q, q_slope) == pytest.approx((1, 1), abs=1e-8)
    assert mean == pytest.approx(0, abs=1e-8)
    network = math.prod(1 + share * (slope - 1) for share in shares)
    assert network == pytest.approx(1.5, rel=1e-8)


@pytest.mark.parametrize("shares", [CHAIN, SKIPS], ids=["chain", "skips"])
@pytest.mark.parametrize("name", MODULES)
def test_the_conditions_of_tat(name, shares):
    q, _, q_slope, slope, curvature = moments(tat(name, shares), MODULES[name]())
    assert (q, q_slope, slope) == pytest.approx((1, 1, 1), abs=1e-8)
    assert curvature * sum(shares) == pytest.approx(0.3, rel=1e-7)


def resnet(value, map_):
    """What the authors' test puts a value through: 50 layers of a ResNet with shortcuts of .6²."""
    for blocks in (3, 4, 23, 3):
        for block in range(blocks):
            branch = map_(map_(map_(value)))
            short = value if block else map_(value)
            value = 0.36 * short + 0.64 * branch
    return map_(value)


def solved(excess, low, high):
    return transforms._bisected(excess, low, high)


LOCAL_SLOPE = solved(lambda x: 1.2 - resnet(1.0, lambda y: x * y), 1.0, 1.5)
LOCAL_CURVATURE = solved(lambda x: 0.2 - resnet(0.0, lambda y: x + y), 0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tanh", (0.07461073, 0.55669152, 18.00263596, -0.50343788)),
        ("softplus", (0.18761008, 0.40688063, 8.87867254, -0.92134662)),
        ("gelu", (0.07043253, 0.25948930, 20.21158902, -0.15815379)),
    ],
)
def test_dks_finds_what_its_authors_find(name, expected):
    """The parameters in the tests of github.com/google-deepmind/dks, which meet theirs to 1e-8."""
    found = dks(name, (1.0,), LOCAL_SLOPE)
    four = (found.input_scale, found.input_shift, found.output_scale, found.output_shift)
    assert four == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tanh", (0.05802052, 0.52186398, 22.36066262, -0.47964307)),
        ("softplus", (0.15011490, 0.53745999, 10.54880188, -0.99648101)),
    ],
)
def test_tat_finds_what_its_authors_find(name, expected):
    found = tat(name, (1.0,), LOCAL_CURVATURE)
    four = (found.input_scale, found.input_shift, found.output_scale, found.output_shift)
    assert four == pytest.approx(expected, rel=1e-7)


def test_leaky_relu_of_dks_is_its_authors():
    found = dks("relu", (1.0,), LOCAL_SLOPE)
    expected = (0.8761257073, 1.0651832706, -0.0494186930)
    assert (found.slope, found.output_scale, found.output_shift) == pytest.approx(
        expected, rel=1e-7
    )


def test_leaky_relu_of_tat_is_its_authors():
    # They compose the map of a network with skips; the slope is theirs, and the rest follows.
    def floor(slope):
        return resnet(0.0, lambda c: transforms.leaky_correlation(c, slope)) - 0.75

    slope = solved(floor, 0.0, 1.0)
    assert slope == pytest.approx(0.6291800290, abs=1e-7)
    assert math.sqrt(2 / (1 + slope**2)) == pytest.approx(1.1969965498, abs=1e-7)


def test_the_leaky_relu_of_tat_correlates_a_chain_as_it_is_asked_to():
    found, correlation = leaky_tat(CHAIN), 0.0
    for _ in CHAIN:
        correlation = transforms.leaky_correlation(correlation, found.slope)
    assert correlation == pytest.approx(0.9, abs=1e-12)
    z = torch.linspace(-8, 8, 40001, dtype=torch.float64)
    density = torch.exp(-z * z / 2) * (z[1] - z[0]) / math.sqrt(2 * math.pi)
    value = Transformed(nn.LeakyReLU(found.slope), found)(z)
    # Outside of 8 lies 1e-13; the kink costs the square of a step.
    assert (density * value**2).sum().item() == pytest.approx(1, abs=1e-6)


def test_the_correlation_of_relu_is_the_arc_cosine_kernel():
    # E relu(x) relu(y) · 2 = (√(1 - c²) + c(π - arccos c))/π.
    for c in (0.0, 0.5, 1.0):
        kernel = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
        assert transforms.leaky_correlation(c, 0.0) == pytest.approx(kernel, abs=1e-15)


def test_a_leaky_relu_of_slope_one_changes_no_correlation():
    assert transforms.leaky_correlation(0.3, 1.0) == 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dks("tanh", CHAIN, 1.0), "slope must be greater than 1; it was 1.0"),
        (lambda: tat("tanh", CHAIN, 0.0), "curvature must be greater than 0; it was 0.0"),
        (lambda: leaky_tat((1.0,) * 5), "floor must be below what ReLU reaches in 5 layers, 0.73"),
        (lambda: dks("relu", (1.0,), 1.5), "slope must be below π/.*; it was 1.5 a layer"),
    ],
)
def test_what_has_no_solution_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_number_of_a_transform_has_an_effect():
    x, plain = torch.linspace(-2, 2, 9), Transform()
    base = Transformed(nn.Tanh(), plain)(x)
    assert torch.equal(base, torch.tanh(x))
    for name in ("input_scale", "input_shift", "output_scale", "output_shift"):
        other = Transformed(nn.Tanh(), Transform(**{name: 0.5}))(x)
        assert not torch.allclose(other, base)
    full = Transformed(nn.Tanh(), Transform(0.5, 0.25, 3.0, -0.125))(x)
    torch.testing.assert_close(full, 3.0 * (torch.tanh(0.5 * x + 0.25) - 0.125))
