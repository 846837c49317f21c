"""Any elementwise function: known figures are met within the reported bound, the rest refused."""

import math

import mpmath as mp
import pytest
import torch
from torch import nn

from normprop import moments

PI = math.pi


def _by_definition(value, slope, breaks, mean, std):
    """Mean, std and root mean square slope at 40 digits, by integrating the definition."""
    with mp.workdps(40):
        m, s = mp.mpf(mean), mp.mpf(std)
        ends = sorted({mp.mpf(-13), mp.mpf(-4), mp.mpf(0), mp.mpf(4), mp.mpf(13)})
        ends = sorted({*ends, *((mp.mpf(b) - m) / s for b in breaks)})
        ends = [e for e in ends if -13 <= e <= 13]

        def expectation(f):
            return mp.quad(lambda z: f(m + s * z) * mp.npdf(z), ends)

        mu = expectation(value)
        variance = expectation(lambda x: (value(x) - mu) ** 2)
        return mu, mp.sqrt(variance), mp.sqrt(expectation(lambda x: slope(x) ** 2))


DEFINITIONS = {
    "silu": (
        lambda x: x / (1 + mp.exp(-x)),
        lambda x: (1 + mp.exp(-x) * (1 + x)) / (1 + mp.exp(-x)) ** 2,
        (),
    ),
    "gelu": (
        lambda x: x * mp.ncdf(x),
        lambda x: mp.ncdf(x) + x * mp.npdf(x),
        (),
    ),
    "elu": (
        lambda x: x if x > 0 else mp.expm1(x),
        lambda x: mp.mpf(1) if x > 0 else mp.exp(x),
        (0,),
    ),
    "hardsigmoid": (
        lambda x: min(max(x / 6 + mp.mpf(1) / 2, mp.mpf(0)), mp.mpf(1)),
        lambda x: mp.mpf(1) / 6 if abs(x) < 3 else mp.mpf(0),
        (-3, 3),
    ),
    "softshrink": (
        lambda x: x - mp.sign(x) / 2 if abs(x) > mp.mpf("0.5") else mp.mpf(0),
        lambda x: mp.mpf(1) if abs(x) > mp.mpf("0.5") else mp.mpf(0),
        (-0.5, 0.5),
    ),
}


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.3), (-2.0, 4.0)])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_figures_lie_within_their_bound_of_the_definition(name, mean, std):
    value, slope, breaks = DEFINITIONS[name]
    reference = _by_definition(value, slope, breaks, mean, std)
    figures = moments(name, mean, std)
    assert figures.error <= 1e-12
    for got, wanted in zip(
        (figures.fwd_mean, figures.fwd_std, figures.bwd_std), reference, strict=True
    ):
        # The definition is cut at 13 standard deviations: 1e-37 and less.
        assert abs(mp.mpf(got) - wanted) <= figures.error


@pytest.mark.parametrize(
    ("function", "figures"),
    [
        (lambda x: x**3, (0.0, math.sqrt(15.0), math.sqrt(27.0))),
        (torch.exp, (math.exp(0.5), math.sqrt(math.e**2 - math.e), math.e)),
        (torch.sin, (0.0, math.sqrt(-math.expm1(-2.0) / 2.0), math.sqrt((1 + math.exp(-2)) / 2))),
        (torch.abs, (math.sqrt(2 / PI), math.sqrt(1 - 2 / PI), 1.0)),
        (lambda x: 3.0 * x + 7.0, (7.0, 3.0, 3.0)),
        (nn.GELU(), (0.5 / math.sqrt(PI), None, None)),
        (nn.LeakyReLU(0.5), (0.5 / math.sqrt(2 * PI), None, math.sqrt(0.625))),
        (nn.Threshold(0.0, 0.0), (1 / math.sqrt(2 * PI), None, math.sqrt(0.5))),
        (nn.Softplus(), (0.8060591833474398, None, None)),
    ],
)
def test_closed_forms_are_met(function, figures):
    got = moments(function)
    assert got.error <= 1e-12
    for value, wanted in zip((got.fwd_mean, got.fwd_std, got.bwd_std), figures, strict=True):
        if wanted is not None:
            assert value == pytest.approx(wanted, rel=0, abs=got.error + 4e-16 * abs(wanted))


def test_a_callable_and_its_name_agree():
    named, called = moments("relu", 0.3, 2.0), moments(lambda x: x.clamp(min=0), 0.3, 2.0)
    for field in ("fwd_mean", "fwd_std", "bwd_std"):
        off = abs(getattr(named, field) - getattr(called, field))
        assert off <= named.error + called.error


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.softmax(0), "must be elementwise; an element's value depends"),
        (lambda x: x.sum(), "must be elementwise; an input of shape"),
        (lambda x: x.log(), "must be finite"),
        (lambda x: x.float(), "must keep float64"),
        (lambda x: torch.rand_like(x) * x, "must give the same result each time"),
        (lambda x: x.detach(), "must be differentiable by autograd"),
        (lambda x: torch.exp(x * x), "must have a mean"),
    ],
)
def test_what_has_no_constants_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        moments(function)


def test_what_returns_no_real_tensor_is_refused():
    with pytest.raises(TypeError, match="must return a tensor of real numbers; it returned list"):
        moments(lambda x: x.tolist())


def test_what_takes_more_than_a_tensor_is_refused():
    with pytest.raises(TypeError, match="max_pool2d must take one tensor"):
        moments(nn.functional.max_pool2d)


def test_the_maximum_of_a_function_that_may_decrease_is_refused():
    with pytest.raises(ValueError, match="never decrease; gelu does"):
        moments(nn.MaxPool2d(2), after="gelu")


def test_the_function_may_work_in_place():
    assert moments(torch.relu_).bwd_std == pytest.approx(math.sqrt(0.5), abs=1e-13)
