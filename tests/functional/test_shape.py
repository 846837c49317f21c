"""Shuffles and windows as functions."""

import math

import pytest
import torch
from torch.nn import functional as F

from normprop import functional, nn
from tests.functional.inputs import LAW, check, names

CASES = [
    ("pixel_shuffle", "PixelShuffle", (2, 8, 3, 4), (2,)),
    ("pixel_unshuffle", "PixelUnshuffle", (2, 3, 4, 6), (2,)),
    ("channel_shuffle", "ChannelShuffle", (2, 6, 3), (3,)),
    ("unfold", "Unfold", (2, 3, 7, 6), ((3, 2), 2, 1, (1, 2))),
    ("fold", "Fold", (2, 12, 30), ((7, 6), 2)),
]


@pytest.mark.parametrize(("name", "layer", "shape", "arguments"), CASES)
def test_a_function_is_its_layer(name, layer, shape, arguments):
    x = torch.randn(shape, dtype=torch.float64)
    make, function = getattr(nn, layer), getattr(functional, name)
    check(function, lambda **o: make(*arguments, **o), getattr(F, name), x, *arguments)


def test_the_arguments_are_those_of_torch():
    assert names(functional.unfold) == names(F.unfold)
    assert names(functional.fold) == names(F.fold)


def test_the_scale_of_windows():
    # Each input is in 3·2/2 windows; each output of fold adds up as many.
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    got = functional.unfold(x, (3, 2), stride=(2, 1), **LAW)
    wanted = (F.unfold(x, (3, 2), stride=(2, 1)) - 0.5) / math.sqrt(3)
    assert ((got - wanted).abs() <= 1e-15 * (1 + wanted.abs())).all()
    x = torch.randn(2, 12, 30, dtype=torch.float64)
    got = functional.fold(x, (7, 6), 2, scaling="forward", **LAW)
    wanted = (F.fold(x, (7, 6), 2) - 2.0) / 4.0
    assert ((got - wanted).abs() <= 1e-15 * (4 + wanted.abs())).all()


def test_a_batch_of_nothing_has_a_gradient():
    # torch's own backward pass of it fails.
    for function, shape in (
        (functional.pixel_shuffle, (0, 4, 2, 3)),
        (functional.pixel_unshuffle, (0, 1, 4, 6)),
    ):
        x = torch.zeros(shape, requires_grad=True)
        y = function(x, 2)
        assert y.shape[0] == 0
        assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape
