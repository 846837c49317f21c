"""Random functions, laws, windows and weights: closed form = quadrature = enumeration = simulation.

Figures that are computed agree within the sum of their bounds; simulated ones to 4.5 standard
errors.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normprop import moments, simulate
from normprop.gaussian import Normal, elementwise, families
from tests import reference

FIGURES = ("fwd_mean", "fwd_std", "bwd_std")
N = 20_000
few = settings(derandomize=True, deadline=None, database=None, max_examples=25)


def decimals(low, high, places=2):
    return st.floats(low, high).map(lambda v: round(v, places))


laws = st.tuples(decimals(-3, 3), st.sampled_from([0.1, 0.5, 1.0, 2.0, 30.0]))
# What happens beyond -2 or 2 happens often enough here for a simulation to meet it.
wide_laws = st.tuples(decimals(-1, 1), st.sampled_from([2.0, 5.0, 30.0]))


def agree(a, b):
    """Whether two results can be the same numbers."""
    for figure in FIGURES:
        off = abs(getattr(a, figure) - getattr(b, figure))
        assert off <= a.error + b.error, (figure, a, b)


def double(value):
    return torch.as_tensor(value, dtype=torch.float64)


def simulated(layer, exact, law, **options):
    """Whether a simulation finds the same, with a seed that is fixed."""
    found = simulate(layer, N, mean=law[0], std=law[1], replicates=64, **options)
    for figure in FIGURES:
        wanted, got = (double(getattr(v, figure)) for v in (exact, found))
        error = double(getattr(found, f"{figure}_se"))
        # What does not vary has no standard error, but is added up 20 000 times.
        rounding = exact.error + N * 2**-52 * (1 + wanted.abs())
        if figure == "fwd_std":
            # A deviation d of the mean takes d² from the variance: all that is left for two
            # values of equal chance, whose spread about the true mean is always the same.
            deviation = 4.5 * double(found.fwd_mean_se)
            rounding = rounding + deviation**2 / (2 * wanted).clamp(min=1e-300)
        assert ((wanted - got).abs() <= 4.5 * error + rounding).all(), (figure, exact, found)


def as_tensors(kinks, slopes, jumps, value):
    """The function of lines through (kinks[0], value), left of its jump, as one of tensors."""

    def function(x):
        y = value + slopes[0] * (x - kinks[0])
        at = value
        for k, kink in enumerate(kinks):
            at = at + jumps[k]
            y = torch.where(x > kink, at + slopes[k + 1] * (x - kink), y)
            if k + 1 < len(kinks):
                at = at + slopes[k + 1] * (kinks[k + 1] - kink)
        return y

    return function


@given(
    laws,
    st.lists(decimals(-2, 2, 3), min_size=1, max_size=4, unique=True).map(sorted),
    st.lists(st.one_of(st.sampled_from([0.0, 1.0]), decimals(-2, 2)), min_size=5, max_size=5),
    st.lists(st.sampled_from([0.0, 0.0, 0.75, -1.5]), min_size=4, max_size=4),
    st.booleans(),
)
@few
def test_functions_of_lines(law, places, slopes, jumps, given_kinks):
    # Kinks where the law is, in units of its own.
    kinks = [law[0] + law[1] * place for place in places]
    slopes, jumps = slopes[: len(kinks) + 1], jumps[: len(kinks)]
    closed = elementwise(
        families.piecewise_linear("random", kinks, slopes, jumps, at=kinks[0], value=0.5),
        Normal(*law),
    )
    function = as_tensors(kinks, slopes, jumps, 0.5)
    found = moments(function, *law, kinks=kinks if given_kinks else None)
    for a, b in zip(
        (closed.mean, closed.std, closed.slope), (getattr(found, f) for f in FIGURES), strict=True
    ):
        assert abs(a - b) <= closed.error + found.error
    assert found.error <= 1e-10 * max(1.0, law[1], closed.std, abs(closed.mean))
    simulated(function, found, law)


# Torch's gradients of celu and leaky_relu take their parameter, or its inverse, through single
# precision, in float64, too: here are some that this leaves as they are.
MODULES = st.one_of(
    st.builds(nn.ELU, decimals(-2, 3)),
    st.builds(nn.CELU, st.sampled_from([0.125, 0.5, 1.0, 2.0, 4.0])),
    st.builds(nn.LeakyReLU, st.integers(-64, 128).map(lambda k: k / 64)),
    st.builds(nn.Hardshrink, decimals(0, 2)),
    st.builds(nn.Softshrink, decimals(0, 2)),
    st.builds(nn.Threshold, decimals(-2, 2), decimals(-2, 2)),
    st.builds(lambda low, width: nn.Hardtanh(low, low + width), decimals(-2, 1), decimals(0.1, 3)),
    st.builds(nn.Softplus, decimals(0.2, 4), decimals(2, 20)),
)


@given(MODULES, laws, wide_laws)
@few
def test_modules_with_parameters(module, law, wide_law):
    known = moments(module, *law)
    # The same numbers from values and slopes alone.
    measured = moments(lambda x: module(x), *law)
    agree(known, measured)
    simulated(module, moments(module, *wide_law), wide_law)


@given(decimals(-1, 1), decimals(0, 1), wide_laws)
@few
def test_slopes_that_are_drawn(lower, width, law):
    module = nn.RReLU(lower, lower + width)
    simulated(module, moments(module, *law), law)


@given(laws, decimals(-3, 3), st.sampled_from([-4.0, -0.5, 0.25, 1.0, 8.0]))
@few
def test_stretched_and_shifted_functions(law, shift, factor):
    # f(k(x - c)) at N(m, s²) is f at N(k(m - c), k²s²).
    inner = (factor * (law[0] - shift), abs(factor) * law[1])
    for name in ("silu", "tanh", "elu", "hardswish"):
        plain, function = moments(name, *inner), getattr(nn.functional, name)
        found = moments(lambda x, f=function: f(factor * (x - shift)), *law)
        # c and m are rounded before they are subtracted.
        slack = 2**-50 * abs(factor) * (abs(law[0]) + abs(shift) + law[1])
        for figure, scale in zip(FIGURES, (1.0, 1.0, abs(factor)), strict=True):
            off = abs(getattr(found, figure) - scale * getattr(plain, figure))
            assert off <= found.error + max(scale, 1.0) * (plain.error + slack)


def per_dimension(low, high, dims):
    return st.tuples(*[st.integers(low, high)] * dims)


@st.composite
def windows(draw):
    dims = draw(st.integers(1, 3))
    return draw(per_dimension(1, 4, dims)), draw(per_dimension(1, 4, dims))


@given(windows(), laws)
@few
def test_pooling(shape, law):
    window, stride = shape
    dims = len(window) - 1
    for module, enumerate_windows in (
        ((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims](window, stride), reference.max_pool),
        ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dims](window, stride), reference.avg_pool),
    ):
        found = moments(module, *law)
        for figure, wanted in zip(FIGURES, enumerate_windows(window, stride, *law), strict=True):
            assert reference.close(getattr(found, figure), wanted, found.error)
        simulated(module, found, law)


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 2))
    groups = draw(st.integers(1, 3))
    kernel, stride, dilation = (draw(per_dimension(1, 3, dims)) for _ in range(3))
    module = (nn.Conv1d, nn.Conv2d)[dims - 1](
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        kernel,
        stride,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        dtype=torch.float64,
    )
    drawn = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=drawn)
    return module


@given(convolutions(), laws)
@few
def test_convolution(module, law):
    found = moments(module, *law)
    outputs, backward = reference.convolution(
        module.weight.detach(),
        None if module.bias is None else module.bias.detach(),
        module.stride,
        module.dilation,
        module.groups,
        *law,
    )
    for (mean, std), got_mean, got_std in zip(outputs, found.fwd_mean, found.fwd_std, strict=True):
        assert reference.close(got_mean, mean, found.error)
        assert reference.close(got_std, std, found.error)
    for wanted, got in zip(backward, found.bwd_std, strict=True):
        assert reference.close(got, wanted, found.error)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_is_what_torch_computes(stride):
    module = nn.Conv2d(4, 6, 3, stride, groups=2, dtype=torch.float64)
    with torch.no_grad():
        module.weight.normal_(generator=torch.Generator().manual_seed(1))
    simulated(module, moments(module, 0.5, 2.0), (0.5, 2.0))


@given(st.integers(2, 40), laws)
@few
def test_the_largest_of_n_lies_between_bounds_that_need_no_integral(n, law):
    found = moments(nn.MaxPool1d(n), *law)
    # Above the mean by at most s√(2 log n), and its variance at most that of one draw.
    assert law[0] - found.error <= found.fwd_mean
    assert found.fwd_mean <= law[0] + law[1] * math.sqrt(2 * math.log(n)) + found.error
    assert found.fwd_std <= law[1] + found.error
