"""Pooling as functions: the documented constants, whatever the window's spelling."""

import math

import pytest
import torch
from torch.nn import functional as F

from normprop import functional, nn

SIZES = {1: (9,), 2: (9, 7), 3: (5, 7, 6)}


def inputs(dims):
    return torch.randn(2, 3, *SIZES[dims], dtype=torch.float64)


def close(got, wanted):
    # The shift, the difference and the quotient are rounded on both roads, and the constants.
    return ((got - wanted).abs() <= 16 * 2**-52 * (1 + wanted.abs())).all()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_average(dims):
    x = inputs(dims)
    got = getattr(functional, f"avg_pool{dims}d")(x, 3, 2, scaling="forward", mean=0.5, std=2.0)
    plain = getattr(F, f"avg_pool{dims}d")(x, 3, 2)
    assert close(got, (plain - 0.5) / (2.0 / math.sqrt(3**dims)))
    got = getattr(functional, f"avg_pool{dims}d")(x, 3, 2, mean=0.5, std=2.0)
    assert close(got, (plain - 0.5) * math.sqrt(6**dims))


@pytest.mark.parametrize("dims", [1, 2])
def test_maximum(dims):
    # The closed forms of the largest of two and of four.
    x = inputs(dims)
    mean = {1: 1 / math.sqrt(math.pi), 2: 6 * math.atan(math.sqrt(2)) / math.pi**1.5}[dims]
    square = {1: 1.0, 2: 1 + math.sqrt(3) / math.pi}[dims]
    function, plain = getattr(functional, f"max_pool{dims}d"), getattr(F, f"max_pool{dims}d")
    got = function(x, 2, scaling="forward")
    assert close(got, (plain(x, 2) - mean) / math.sqrt(square - mean**2))
    assert close(function(x, 2, 3), (plain(x, 2, 3) - mean) * math.sqrt(3**dims))


@pytest.mark.parametrize("kind", ["max_pool", "avg_pool"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_window_may_be_spelt_in_every_way(kind, dims):
    x, function = inputs(dims), getattr(functional, f"{kind}{dims}d")
    wanted = function(x, 2, 2)
    for window in (2, (2,), (2,) * dims):
        for stride in (None, 2, (2,), (2,) * dims):
            assert torch.equal(function(x, window, stride), wanted)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_indices_are_those_of_torch(dims):
    x = inputs(dims)
    y, indices = getattr(functional, f"max_pool{dims}d")(x, 3, 2, return_indices=True)
    _, wanted = getattr(F, f"max_pool{dims}d")(x, 3, 2, return_indices=True)
    assert torch.equal(indices, wanted)
    assert torch.equal(y, getattr(functional, f"max_pool{dims}d")(x, 3, 2))


def test_what_stands_before_changes_the_constants():
    x = inputs(2)
    plain = functional.max_pool2d(x, 2)
    for after in ("relu", torch.relu, torch.nn.ReLU()):
        got = functional.max_pool2d(x, 2, after=after)
        assert not torch.equal(got, plain)
        assert torch.equal(got, functional.max_pool2d(x, 2, after="relu"))
    normalised = functional.max_pool2d(x, 2, after=nn.ReLU(scaling="forward"))
    assert not torch.equal(normalised, got)


@pytest.mark.parametrize("kind", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 0}, "kernel_size must be made of integers of at least 1; it was 0"),
        ({"kernel_size": (2, 2, 2)}, "kernel_size must have 1 or 2 entries"),
        (
            {"kernel_size": 2, "stride": 0},
            "stride must be made of integers of at least 1; it was 0",
        ),
        ({"kernel_size": 2, "scaling": "both"}, "scaling must be one of"),
        ({"kernel_size": 2, "std": 0.0}, "std must be finite and greater than 0"),
        ({"kernel_size": 2, "after": "relo"}, "after must be one of the names"),
    ],
)
def test_refusals(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(functional, kind)(inputs(2), **arguments)
