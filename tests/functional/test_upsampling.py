"""Interpolation as a function."""

import pytest
import torch
from torch.nn import functional as F

from normprop import functional, moments, nn
from tests.functional.inputs import LAW, check, names

CASES = [
    ({"scale_factor": 3.0}, (2, 3, 5, 4)),
    ({"size": (7, 3), "mode": "bilinear"}, (2, 3, 5, 4)),
    ({"scale_factor": (2.0, 1.5), "mode": "bicubic"}, (2, 3, 6, 4)),
    ({"size": 9, "mode": "linear", "align_corners": True}, (2, 3, 5)),
    ({"scale_factor": 2.0, "mode": "trilinear"}, (2, 3, 2, 3, 4)),
]


@pytest.mark.parametrize(("arguments", "shape"), CASES)
def test_a_function_is_its_layer(arguments, shape):
    x = torch.randn(shape, dtype=torch.float64)
    order = ("size", "scale_factor", "mode", "align_corners")
    values = [{"mode": "nearest", **arguments}.get(name) for name in order]
    check(functional.interpolate, lambda **o: nn.Upsample(*values, **o), F.interpolate, x, *values)


def test_the_arguments_are_those_of_torch():
    assert names(functional.interpolate) == names(F.interpolate)


@pytest.mark.parametrize("size", [4, 9])
def test_the_interior_has_no_size(size):
    # 5/8 an axis; the constants are those of the interior whatever the input.
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    got = functional.interpolate(x, scale_factor=2, mode="bilinear", scaling="forward")
    wanted = F.interpolate(x, scale_factor=2, mode="bilinear") / 0.625
    assert ((got - wanted).abs() <= 1e-15 * (1 + wanted.abs())).all()
    layer = nn.Upsample(scale_factor=2, mode="bilinear", scaling="forward")
    assert layer.constants_of(None) == layer.constants_of((3, size, size))
    assert abs(moments(layer).fwd_std - 1) < 1e-14
    # At the border the last element counts more often, so that the whole varies more.
    assert moments(layer, shape=(3, size, size)).fwd_std > 1.01


def test_antialias():
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    plain = F.interpolate(x, size=(4, 3), mode="bilinear", antialias=True)
    got = functional.interpolate(x, size=(4, 3), mode="bilinear", antialias=True, **LAW)
    sharp = functional.interpolate(x, size=(4, 3), mode="bilinear", **LAW)
    assert got.shape == plain.shape
    ratio = (got - sharp).abs().max()
    assert ratio > 0.1
    scale = (plain - 0.5) / got
    assert ((scale - scale.mean()).abs() <= 1e-12 * scale.mean().abs()).all()


def test_an_input_of_no_axes_is_refused():
    with pytest.raises(ValueError, match=r"input must have shape \(N, C, L\)"):
        functional.interpolate(torch.randn(3, 4), scale_factor=2)


@pytest.mark.parametrize("corners", [False, True])
def test_what_came_is_named_as_it_came(corners):
    with pytest.raises(ValueError, match=f"align_corners must be None.*; it was {corners}"):
        functional.interpolate(torch.ones(1, 2, 4), scale_factor=2, align_corners=corners)
