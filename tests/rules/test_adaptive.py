"""Pooling fitted to sizes: by enumeration of the windows, and by simulation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from normprop import moments, simulate
from tests.rules.linear import agree, enumerated, matrix_of, worst

LAW = {"mean": 0.5, "std": 2.0}
axes_of_pooling = st.integers(1, 2).flatmap(
    lambda dims: st.lists(
        st.tuples(st.integers(1, 7), st.integers(1, 8)), min_size=dims, max_size=dims
    )
)


@settings(max_examples=60, deadline=None)
@given(axes_of_pooling, st.floats(-2, 2), st.floats(0.1, 3))
def test_an_average_by_enumeration(axes, mean, std):
    sizes, outputs = zip(*axes, strict=True)
    layer = getattr(nn, f"AdaptiveAvgPool{len(sizes)}d")(outputs)
    got = moments(layer, mean, std, shape=(1, *sizes))
    assert agree(got, enumerated(layer, (1, *sizes), mean, std), 64)


@settings(max_examples=40, deadline=None)
@given(axes_of_pooling)
def test_a_maximum_by_enumeration(axes):
    # How many elements each output is taken over, from torch's own windows; then the mixture.
    sizes, outputs = zip(*axes, strict=True)
    average = getattr(nn, f"AdaptiveAvgPool{len(sizes)}d")(outputs)
    windows = (matrix_of(average, (1, *sizes))[0] > 0).sum(0).tolist()
    parts = [moments(nn.MaxPool1d(k), **LAW) for k in windows]
    mean = math.fsum(p.fwd_mean for p in parts) / len(parts)
    square = math.fsum(p.fwd_std**2 + (p.fwd_mean - mean) ** 2 for p in parts) / len(parts)
    layer = getattr(nn, f"AdaptiveMaxPool{len(sizes)}d")(outputs)
    got = moments(layer, **LAW, shape=(1, *sizes))
    error = got.error + max(p.error for p in parts) + 1e-14
    assert abs(got.fwd_mean - mean) <= error
    # The variance is off by no more than twice its root times that.
    assert abs(got.fwd_std**2 - square) <= 8 * error * math.sqrt(square)
    assert abs(got.bwd_std**2 - math.prod(outputs) / math.prod(sizes)) <= error


@pytest.mark.parametrize("after", [None, "relu", nn.Sigmoid()])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.AdaptiveAvgPool2d((3, None)), (2, 7, 4)),
        (nn.AdaptiveMaxPool1d(3), (2, 7)),
        (nn.AdaptiveMaxPool2d((5, 2)), (2, 7, 5)),
        (nn.AdaptiveMaxPool3d((2, None, 1)), (1, 4, 3, 3)),
        (nn.FractionalMaxPool2d(2, output_ratio=(0.5, 0.4)), (2, 8, 10)),
        (nn.FractionalMaxPool2d((2, 3), output_size=(4, 3)), (2, 7, 9)),
        (nn.FractionalMaxPool3d(2, output_size=(2, 3, 2)), (2, 5, 6, 4)),
    ],
    ids=str,
)
def test_by_simulation(layer, shape, after):
    exact = moments(layer, **LAW, shape=shape, after=after)
    estimate = simulate(layer, 100_000, **LAW, shape=shape, after=after, seed=6)
    assert worst(estimate, exact) < 4.5


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_sizes_that_divide_are_plain_pooling(dims):
    size = (2, 12, 18, 6)[: dims + 1]
    window = (4, 6, 2)[:dims]
    for adaptive, plain in (("AdaptiveAvg", "Avg"), ("AdaptiveMax", "Max")):
        got = moments(getattr(nn, f"{adaptive}Pool{dims}d")(3), **LAW, shape=size)
        wanted = moments(getattr(nn, f"{plain}Pool{dims}d")(window), **LAW)
        for name in ("fwd_mean", "fwd_std", "bwd_std"):
            assert abs(getattr(got, name) - getattr(wanted, name)) <= got.error + wanted.error


def test_where_the_fractional_windows_fall_has_no_say():
    # The figures are those of K elements wherever they are: the same for two sets of places.
    x = torch.randn(1, 2, 10, 10)
    first, second = (
        F.fractional_max_pool2d(x, 3, (4, 4), _random_samples=torch.full((1, 2, 2), u))
        for u in (0.1, 0.7)
    )
    assert not torch.equal(first, second)
    got = moments(nn.FractionalMaxPool2d(3, 4), shape=(2, 10, 10))
    wanted = moments(nn.MaxPool2d(3))
    assert (got.fwd_mean, got.fwd_std) == (wanted.fwd_mean, wanted.fwd_std)
    assert abs(got.bwd_std - 4 / 10) < 1e-15


def test_a_ratio_needs_no_shape():
    layer = nn.FractionalMaxPool3d(2, output_ratio=0.5)
    assert abs(moments(layer).bwd_std - 0.5**1.5) < 1e-15
    # Five times a half are two outputs.
    assert abs(moments(layer, shape=(1, 5, 5, 5)).bwd_std - 0.4**1.5) < 1e-15


def fitted(size, output_size, **law):
    return moments(nn.AdaptiveMaxPool1d(output_size), **law, shape=(1, size))


def fractional(**settings):
    """What torch's constructor refuses can still be set."""
    layer = nn.FractionalMaxPool2d(2, output_ratio=0.5)
    for name, value in settings.items():
        setattr(layer, name, value)
    return moments(layer, shape=(1, 4, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments(nn.AdaptiveAvgPool1d(2)), "shape must be given for AdaptiveAvgPool1d"),
        (lambda: moments(nn.AdaptiveMaxPool2d(2), shape=(4, 4)), r"shape must be \(C, H, W\) for"),
        (lambda: moments(nn.FractionalMaxPool2d(2, 3)), "shape must be given for FractionalMax"),
        (lambda: moments(nn.FractionalMaxPool2d(3, 4), shape=(1, 5, 5)), "must fit into inputs"),
        (lambda: fitted(4, (2, 3)), "output_size must have 1 or 1 entries"),
        (lambda: fitted(4, 0), "output_size must be made of integers of at least"),
        (lambda: fractional(output_ratio=1.5), "entries between 0 and 1"),
        (lambda: fractional(output_ratio=None), "output_size or output_ratio"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_mean_and_a_spread_that_are_far_apart():
    # A narrow law far from 0: the mixture's spread is not lost in its mean.
    got = fitted(3, 2, mean=1e6, std=1e-3)
    wanted = fitted(3, 2, mean=0.0, std=1e-3)
    assert abs(got.fwd_std - wanted.fwd_std) <= got.error
    assert got.error < 1e-8
