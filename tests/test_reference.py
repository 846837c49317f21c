"""The references against closed forms, other quadratures and direct constructions."""

import math
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from mpmath import mp, mpf

from tests import reference

TOLERANCE = mpf("1e-30")
CORNERS = [(0, 0.01), (0, 30), (8, 0.01), (-8, 0.01), (8, 30), (-8, 30), (3, 2.5), (-3, 2.5)]
CASES = [(0, 1), (0.1, 0.7), (-8, 0.5), (-8, 1), *CORNERS]


@pytest.fixture(autouse=True)
def _precision():
    with mp.workdps(80):
        yield


def same(got, wanted, error=TOLERANCE):
    """Whether every figure is within the error, relative to figures above 1."""
    return all(abs(g - w) <= error * max(1, abs(w)) for g, w in zip(got, wanted, strict=True))


def same_relatively(got, wanted):
    return all(abs(g - w) <= TOLERANCE * abs(w) for g, w in zip(got, wanted, strict=True))


def trapezoid(f, density, width):
    """∫ f(z) density(z) dz by the trapezoidal rule, for functions analytic near the real line.

    It shares neither nodes nor error estimates with the reference: its error falls as
    exp(−2π a/h) where the singularities are a away from the real line.
    """
    h = min(mpf(1) / 24, 2 * mp.pi * width / 100)
    nodes = [h * k for k in range(-int(15 / h), int(15 / h) + 1)]
    weights = [h * density(z) for z in nodes]
    values = [f(z) for z in nodes]
    mean = mp.fdot(weights, values)
    return mean, mp.sqrt(mp.fsum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True)))


def order_density(n):
    """The density of the maximum of n, Φ being taken from erf."""
    return lambda z: n * mp.npdf(z) * ((1 + mp.erf(z / mp.sqrt(2))) / 2) ** (n - 1)


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def relu_closed(m, s):
    """Mean m Φ(a) + s φ(a), second moment (m² + s²) Φ(a) + m s φ(a), E f'² = Φ(a), a = m/s."""
    # Far below the kink the terms cancel.
    with mp.workdps(120):
        a = m / s
        cdf, pdf = mp.erfc(-a / mp.sqrt(2)) / 2, mp.exp(-a * a / 2) / mp.sqrt(2 * mp.pi)
        mean = m * cdf + s * pdf
        return mean, mp.sqrt((m**2 + s**2) * cdf + m * s * pdf - mean**2), mp.sqrt(cdf)


def test_relu_at_the_standard_normal():
    wanted = 1 / mp.sqrt(2 * mp.pi), mp.sqrt(mpf(1) / 2 - 1 / (2 * mp.pi)), mp.sqrt(mpf(1) / 2)
    assert same(reference.elementwise("relu", 0, 1), wanted, mpf("1e-40"))


@pytest.mark.parametrize(("m", "s"), CASES)
def test_relu_in_closed_form(m, s):
    assert same_relatively(reference.elementwise("relu", m, s), relu_closed(mpf(m), mpf(s)))


def test_known_decimals_of_sigmoid_and_tanh():
    mean, forward, backward = reference.elementwise("sigmoid", 0, 1)
    assert same([mean], [mpf(1) / 2], mpf("1e-40"))
    assert same([forward, backward], [mpf("0.2082763449"), mpf("0.2117456997")], mpf("1e-10"))
    mean, forward, backward = reference.elementwise("tanh", 0, 1)
    assert same([mean], [0], mpf("1e-40"))
    assert same([forward, backward], [mpf("0.6279287303"), mpf("0.6814711310")], mpf("1e-10"))


def test_variance_of_sigmoid_by_steins_identity():
    # E x g(x) = E g'(x) at N(0, 1), with g' = g − g², gives E g² = ½ − E x g.
    moment, _ = trapezoid(lambda z: z * sigmoid(z), mp.npdf, mp.pi)
    _, forward, _ = reference.elementwise("sigmoid", 0, 1)
    assert same([forward**2], [mpf(1) / 4 - moment], mpf("1e-40"))


@pytest.mark.parametrize(("m", "s"), [(0, 1), (1.5, 0.75), (-4, 15)])
def test_sigmoid_is_a_scaled_tanh(m, s):
    # sigmoid(2x) = (1 + tanh x)/2 and sigmoid'(2x) = tanh'(x)/4.
    mean, forward, backward = reference.elementwise("tanh", m, s)
    wanted = (1 + mean) / 2, forward / 2, backward / 4
    assert same(reference.elementwise("sigmoid", 2 * m, 2 * s), wanted, mpf("1e-40"))


@pytest.mark.parametrize(("m", "s"), CASES)
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_saturating_functions_by_the_trapezoidal_rule(name, m, s):
    slope = 1 if name == "sigmoid" else 2
    m_exact, s_exact = mpf(m), mpf(s)
    width = mp.pi / slope / s_exact

    @cache
    def base(z):
        return sigmoid(slope * (m_exact + s_exact * z))

    def f(z):
        return base(z) if name == "sigmoid" else 2 * base(z) - 1

    def derivative(z):
        return slope**2 * base(z) * (1 - base(z))

    density = cache(mp.npdf)
    mean, std = trapezoid(f, density, width)
    slope_mean, slope_std = trapezoid(derivative, density, width)
    wanted = mean, std, mp.hypot(slope_mean, slope_std)
    got = reference.elementwise(name, m, s)
    assert same(got, wanted, mpf("1e-35"))
    assert same_relatively(got[1:], wanted[1:])


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize(("m", "s"), [(0, 1), (8, 0.01), (-8, 30)])
def test_elementwise_does_not_depend_on_panels_and_precision(name, m, s):
    with mp.workdps(70):
        finer = reference._elementwise(name, mpf(m), mpf(s), refine=mpf(5) / 7)
    assert same(reference.elementwise(name, m, s), finer, mpf("1e-40"))


def test_elementwise_by_double_exponential_quadrature():
    with mp.workdps(45):
        other = reference._elementwise("tanh", mpf(3), mpf(2.5), method="tanh-sinh")
    assert same(reference.elementwise("tanh", 3, 2.5), other, mpf("1e-40"))


def test_maximum_of_few_in_closed_form():
    pi, root = mp.pi, mp.sqrt
    closed = {
        1: (mpf(0), mpf(1)),
        2: (1 / root(pi), mpf(1)),
        3: (3 / (2 * root(pi)), 1 + root(3) / (2 * pi)),
        4: (6 * mp.atan(root(2)) / pi ** mpf(1.5), 1 + root(3) / pi),
    }
    for n, (mean, square) in closed.items():
        wanted = mean, root(square - mean**2)
        assert same(reference.maximum(n, 0, 1), wanted, mpf("1e-40"))
    mean = 5 / (4 * root(pi)) * (1 + 6 / pi * mp.asin(mpf(1) / 3))
    assert same(reference.maximum(5, 0, 1)[:1], [mean], mpf("1e-40"))


def test_known_decimals_of_the_maximum_of_nine():
    wanted = mpf("1.4850131622"), mpf("0.5977903699")
    assert same(reference.maximum(9, 0, 1), wanted, mpf("1e-10"))


@pytest.mark.parametrize("n", [7, 49, 1000, 10_000])
def test_maximum_by_the_trapezoidal_rule(n):
    # The density is entire, but grows fast off the real line for large n.
    wanted = trapezoid(lambda z: z, order_density(n), mpf(1) / 2)
    assert same(reference.maximum(n, 0, 1), wanted, mpf("1e-35"))


def test_maximum_is_affine():
    mean, std = reference.maximum(6, 0, 1)
    wanted = mpf(-1.3) + mpf(0.7) * mean, mpf(0.7) * std
    assert same(reference.maximum(6, -1.3, 0.7), wanted, mpf("1e-40"))


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize(("m", "s"), [(0, 1), (8, 0.01), (-8, 30)])
def test_maximum_of_one_is_elementwise(name, m, s):
    wanted = reference.elementwise(name, m, s)[:2]
    assert same(reference.maximum_of(name, 1, m, s), wanted, mpf("1e-40"))


def test_maximum_of_two_relus_in_closed_form():
    # By parts, ∫₀^∞ z 2φΦ = 1/√(2π) + 1/(2√π) and ∫₀^∞ z² 2φΦ = ¾ + 1/(2π).
    mean = 1 / mp.sqrt(2 * mp.pi) + 1 / (2 * mp.sqrt(mp.pi))
    wanted = mean, mp.sqrt(mpf(3) / 4 + 1 / (2 * mp.pi) - mean**2)
    assert same(reference.maximum_of("relu", 2, 0, 1), wanted, mpf("1e-40"))


def test_maximum_of_relus_far_from_the_kink_is_a_maximum():
    wanted = reference.maximum(9, 8, 0.01)
    assert same(reference.maximum_of("relu", 9, 8, 0.01), wanted, mpf("1e-40"))


def test_maximum_of_relus_far_below_the_kink_is_a_sum():
    # At most one of the four is positive, up to a relative error of the order of Φ(−16).
    mean, _, _ = relu_closed(mpf(-8), mpf(0.5))
    got, _ = reference.maximum_of("relu", 4, -8, 0.5)
    assert same([got / mean], [4], mpf("1e-50"))


@pytest.mark.parametrize(("name", "n", "m", "s"), [("sigmoid", 4, -8, 2), ("tanh", 100, 0.5, 3)])
def test_maximum_of_saturating_functions_by_the_trapezoidal_rule(name, n, m, s):
    def f(z):
        x = m + s * z
        return sigmoid(x) if name == "sigmoid" else 2 * sigmoid(2 * x) - 1

    wanted = trapezoid(f, order_density(n), mp.pi / 2 / s)
    assert same(reference.maximum_of(name, n, m, s), wanted, mpf("1e-35"))


@pytest.mark.parametrize(("name", "n", "m", "s"), [("relu", 9, -3, 2.5), ("sigmoid", 9, 8, 30)])
def test_maximum_of_does_not_depend_on_panels_and_precision(name, n, m, s):
    with mp.workdps(70):
        finer = reference._moments(
            reference._expectation(name, n, mpf(m), mpf(s), refine=mpf(5) / 7)
        )
    assert same(reference.maximum_of(name, n, m, s), finer, mpf("1e-40"))


@pytest.mark.parametrize(
    ("window", "stride"),
    [((2,), (2,)), ((3,), (2,)), ((2,), (3,)), ((3, 2), (1, 2)), ((2, 3, 3), (2, 1, 2))],
)
def test_pools_in_closed_form(window, stride):
    taps, steps = math.prod(window), math.prod(stride)
    mean, std = reference.maximum(taps, 0.3, 0.7)
    wanted = mean, std, 1 / mp.sqrt(steps)
    assert same(reference.max_pool(window, stride, 0.3, 0.7), wanted)
    wanted = mpf(0.3), mpf(0.7) / mp.sqrt(taps), 1 / mp.sqrt(taps * steps)
    assert same(reference.avg_pool(window, stride, 0.3, 0.7), wanted)
    got = reference.avg_pool(window, stride, 0.3, 0.7, divisor=5)
    assert same(got, [figure * taps / 5 for figure in wanted])


def test_dropout_in_closed_form():
    p, m, s = mpf(0.3), mpf(-1.2), mpf(0.7)
    q = 1 - p
    wanted = m, mp.sqrt((s**2 + p * m**2) / q), 1 / mp.sqrt(q)
    assert same(reference.dropout(0.3, -1.2, 0.7), wanted)
    wanted = q * m, mp.sqrt(q * s**2 + p * q * m**2), mp.sqrt(q)
    assert same(reference.dropout(0.3, -1.2, 0.7, inverted=False), wanted)
    assert reference.dropout(1, -1.2, 0.7) == (0, 0, 0)
    assert same(reference.dropout(0, -1.2, 0.7), (m, s, 1))


def test_linear_by_hand():
    outputs, backward = reference.linear([[1, 2, 2], [0, -3, 4]], [0.5, 0], 2, 3)
    assert outputs == [(mpf(10.5), mpf(9)), (mpf(2), mpf(15))]
    assert same(backward, [1, mp.sqrt(13), mp.sqrt(20)])
    as_array = reference.linear(np.array([[1.0, 2, 2], [0, -3, 4]]), np.array([0.5, 0]), 2, 3)
    assert as_array == (outputs, backward)


CONVOLUTIONS = [
    # shape of the weight, stride, dilation, groups
    ((2, 3, 3), (1,), (1,), 1),
    ((4, 2, 3), (2,), (3,), 2),
    ((3, 2, 2), (3,), (1,), 1),
    ((4, 1, 3, 2), (2, 3), (2, 1), 4),
    ((2, 2, 3, 3), (2, 2), (1, 2), 1),
    ((2, 1, 2, 3, 2), (1, 2, 2), (2, 1, 3), 2),
]


@pytest.mark.parametrize(("shape", "stride", "dilation", "groups"), CONVOLUTIONS)
def test_convolution_by_autograd(shape, stride, dilation, groups):
    weight = np.random.default_rng(0).normal(size=shape)
    bias = np.arange(shape[0]) / 4
    outputs, backward = reference.convolution(weight, bias, stride, dilation, groups, 0.3, 0.7)

    # The gradient of the sum of a convolution with squared weights is E dx² at each input.
    dims = len(stride)
    convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[dims - 1]
    spans = [(k - 1) * d for k, d in zip(shape[2:], dilation, strict=True)]
    sizes = [6 * t + 2 * span + 1 for t, span in zip(stride, spans, strict=True)]
    x = torch.zeros(1, shape[1] * groups, *sizes, dtype=torch.float64, requires_grad=True)
    squares = torch.from_numpy(weight) ** 2
    convolve(x, squares, None, stride, 0, dilation, groups).sum().backward()
    starts = [span + 1 for span in spans]
    interior = (slice(None), *(slice(r, r + t) for r, t in zip(starts, stride, strict=True)))
    wanted = x.grad[0][interior].reshape(shape[1] * groups, -1).mean(1).sqrt()
    assert np.allclose([float(b) for b in backward], wanted.numpy(), rtol=1e-13, atol=0)

    flat = weight.reshape(shape[0], -1)
    wanted = [
        (0.3 * row.sum() + b, 0.7 * np.linalg.norm(row)) for row, b in zip(flat, bias, strict=True)
    ]
    assert np.allclose([[float(v) for v in pair] for pair in outputs], wanted, rtol=1e-13)


@pytest.mark.parametrize(("shape", "stride", "dilation", "groups"), CONVOLUTIONS)
def test_convolution_in_closed_form(shape, stride, dilation, groups):
    weight = np.random.default_rng(1).normal(size=shape)
    _, backward = reference.convolution(weight, None, stride, dilation, groups, 0, 1)
    outs = shape[0] // groups
    for group, channel in product(range(groups), range(shape[1])):
        taps = weight[group * outs : (group + 1) * outs, channel].ravel().tolist()
        wanted = mp.sqrt(mp.fsum(mpf(w) ** 2 for w in taps) / math.prod(stride))
        assert same([backward[group * shape[1] + channel]], [wanted])


def test_convolution_takes_integers_and_single_precision():
    weight = np.random.default_rng(2).normal(size=(2, 2, 3, 3)).astype(np.float32)
    once = reference.convolution(weight, None, 2, 1, 1, 0, 1)
    assert once == reference.convolution(weight.tolist(), None, (2, 2), (1, 1), 1, 0, 1)


def test_comparisons():
    third = mpf(1) / 3
    assert reference.close(1 / 3, third, 1e-16)
    assert not reference.close(1 / 3, third, 1e-17)
    assert not reference.close(math.nan, third, 1)
    assert reference.agrees_to_1e13(1 / 3, third)
    assert not reference.agrees_to_1e13(1 / 3 + 4e-14, third)
    assert reference.agrees_to_1e13(9e-17, mpf(0))
    assert not reference.agrees_to_1e13(1.1e-16, mpf(0))


def test_results_are_kept():
    assert reference.elementwise("relu", 0, 1) is reference.elementwise("relu", 0.0, 1.0)
