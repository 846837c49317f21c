"""Adaptive and fractional pooling as functions."""

import pytest
import torch
from torch.nn import functional as F

from normprop import functional, nn
from tests.functional.inputs import LAW, check

SIZES = (9, 7, 5)


def inputs(dims):
    return torch.randn(2, 3, *SIZES[:dims], dtype=torch.float64)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_adaptive(kind, dims):
    name = f"adaptive_{kind}_pool{dims}d"
    make = getattr(nn, f"Adaptive{kind.title()}Pool{dims}d")
    check(
        getattr(functional, name),
        lambda **options: make(4, **options),
        getattr(F, name),
        inputs(dims),
        4,
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_fractional(dims):
    name, make = f"fractional_max_pool{dims}d", getattr(nn, f"FractionalMaxPool{dims}d")
    function, plain = getattr(functional, name), getattr(F, name)
    check(function, lambda **o: make(2, 2, **o), plain, inputs(dims), 2, 2)
    ratio = (0.5,) * dims
    check(function, lambda **o: make(2, None, 0.5, **o), plain, inputs(dims), 2, None, ratio)
    torch.manual_seed(0)
    single = function(inputs(dims), 2, output_ratio=0.5)
    assert single.shape == (2, 3, *(n // 2 for n in SIZES[:dims]))


def test_indices_are_those_of_torch():
    x = inputs(2)
    y, indices = functional.adaptive_max_pool2d(x, 4, True, **LAW)
    assert torch.equal(indices, F.adaptive_max_pool2d(x, 4, True)[1])
    assert torch.equal(y, functional.adaptive_max_pool2d(x, 4, **LAW))
    torch.manual_seed(0)
    _, indices = functional.fractional_max_pool2d(x, 2, 3, return_indices=True)
    torch.manual_seed(0)
    assert torch.equal(indices, F.fractional_max_pool2d(x, 2, 3, return_indices=True)[1])


@pytest.mark.parametrize("after", ["relu", torch.tanh])
def test_behind_an_activation(after):
    x = inputs(2).relu()
    got = functional.adaptive_max_pool2d(x, 3, after=after, **LAW)
    assert torch.equal(got, nn.AdaptiveMaxPool2d(3, after=after, **LAW)(x))
    assert not torch.equal(got, functional.adaptive_max_pool2d(x, 3, **LAW))


def test_constants_follow_from_the_shape():
    layer = nn.AdaptiveAvgPool1d(2, scaling="forward")
    for size in (4, 6, 7):
        x = torch.randn(2, 1, size, dtype=torch.float64)
        window = (size + 1) // 2
        got, wanted = layer(x), F.adaptive_avg_pool1d(x, 2) * window**0.5
        assert ((got - wanted).abs() <= 1e-15 * (1 + wanted.abs())).all()


def test_an_input_of_another_dimension_is_refused():
    with pytest.raises(ValueError, match=r"input must have shape \(N, C, H, W\) or \(C, H, W\)"):
        functional.adaptive_avg_pool2d(torch.randn(3, 4), 2)
