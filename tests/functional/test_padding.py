"""Padding as a function."""

import pytest
import torch
from torch.nn import functional as F

from normprop import functional, nn
from tests.functional.inputs import LAW, check, names

MODES = [
    ("ReflectionPad2d", "reflect"),
    ("ReplicationPad2d", "replicate"),
    ("CircularPad2d", "circular"),
    ("ZeroPad2d", "constant"),
]


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_padding(name, mode):
    x, pads = torch.randn(2, 3, 5, 4, dtype=torch.float64), (1, 2, 0, 3)
    make = getattr(nn, name)
    check(functional.pad, lambda **o: make(pads, **o), F.pad, x, pads, mode)


def test_a_constant_is_normalised_with_the_rest():
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    y = functional.pad(x, (1, 1), "constant", 0.5, scaling="forward", **LAW)
    assert (y[..., 0] == 0).all()
    assert torch.equal(y, nn.ConstantPad1d(1, 0.5, scaling="forward", **LAW)(x))
    zeros = functional.pad(x, (1, 1), scaling="forward", **LAW)
    assert (zeros[..., 0] == -0.25).all()


def test_at_unit_law_it_is_torch_itself():
    x = torch.randn(2, 3, 5, dtype=torch.bfloat16)
    for scaling in ("forward", "backward", "separate"):
        assert torch.equal(functional.pad(x, (1, 1), scaling=scaling), F.pad(x, (1, 1)))


def test_the_arguments_are_those_of_torch():
    assert names(functional.pad) == ["input", "pad", "mode", "value"]
