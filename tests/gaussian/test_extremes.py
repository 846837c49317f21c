"""Parameters and laws at the ends of float64: a bound that says something, or a refusal."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from normprop import moments, rules
from normprop.gaussian import FUNCTIONS, Normal
from normprop.gaussian.maps import chi, correlation_map, scale_map, scale_slope

SIZES = [1e-300, 1e-150, 1e-30, 1e-10, 1e10, 1e30, 1e150, 1e300]
FAMILIES = {
    "CELU": nn.CELU,
    "ELU": nn.ELU,
    "falling ELU": lambda size: nn.ELU(-size),
    "Hardshrink": nn.Hardshrink,
    "Softshrink": nn.Softshrink,
    "Hardtanh": lambda size: nn.Hardtanh(-size, size),
    "LeakyReLU": nn.LeakyReLU,
    "falling LeakyReLU": lambda size: nn.LeakyReLU(-size),
    "Softplus": nn.Softplus,
    "Softplus threshold": lambda size: nn.Softplus(1.0, size),
    "Threshold": lambda size: nn.Threshold(size, 0.0),
    "Threshold value": lambda size: nn.Threshold(-size, size),
    "RReLU": lambda size: nn.RReLU(0.0, size),
    "RReLU in evaluation": lambda size: nn.RReLU(0.0, size).eval(),
}
GROUPS = {
    "LogSoftmax": (nn.LogSoftmax(-1), (10,)),
    "CrossEntropyLoss": (nn.CrossEntropyLoss(), (4, 10)),
    "MSELoss": (nn.MSELoss(), (4, 7)),
    "HuberLoss": (nn.HuberLoss(), (4, 7)),
    "SmoothL1Loss": (nn.SmoothL1Loss(beta=1e-300), (4, 7)),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss(), (4, 7)),
    "HingeEmbeddingLoss": (nn.HingeEmbeddingLoss(1e300), (4, 7)),
    "LayerNorm": (nn.LayerNorm(7), None),
    "CosineSimilarity": (nn.CosineSimilarity(), (9,)),
    "PairwiseDistance": (nn.PairwiseDistance(), (9,)),
    "GLU": (nn.GLU(), None),
    "Linear": (nn.Linear(3, 2), None),
    "MaxPool2d": (nn.MaxPool2d(3), None),
    "Dropout": (nn.Dropout(0.3), None),
}
CRYPTIC = ("fsum", "Errno", "out of range')", "math domain", "Result too large", "nan", "division")


def sound(call):
    """Whether figures come, with a bound that says something; else a refusal that people read."""
    try:
        found = call()
    except (ValueError, TypeError) as refusal:
        words = str(refusal)
        assert "must" in words
        assert not any(piece in words for piece in CRYPTIC)
        return None
    names = ("fwd_mean", "fwd_std", "bwd_std") if hasattr(found, "fwd_mean") else ("value",)
    figures = np.hstack([getattr(found, name) for name in names])
    assert np.isfinite(figures).all()
    floor = 1e-12 if len(names) == 3 else 1e-3
    assert found.error <= max(0.01 * np.abs(figures).max(), floor)
    return found


def laws(size):
    near = (0.0, 1.0), (1.0, 1e-3), (-2.0, 5.0), (0.0, 1.0 / size), (-2.0, 1.0 / size)
    return *near, (0.0, size), (-size, size), (size, 1.0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_with_any_parameter(family, size):
    for mean, std in laws(size):
        sound(lambda m=mean, s=std: moments(FAMILIES[family](size), m, s))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_function_and_its_maps_under_any_law(name, size):
    function = FUNCTIONS[name]
    for mean in (0.0, 1.0, -size):
        law = Normal(mean, size)
        sound(lambda m=mean: moments(name, m, size))
        sound(lambda law=law: chi(function, law))
        sound(lambda law=law: scale_map(function, law, 0.3, 0.7, 1.7))
        sound(lambda law=law: scale_slope(function, law, 0.3, 0.7, 1.7))
        if function.increasing:
            sound(lambda m=mean: moments(nn.MaxPool2d(3), m, size, after=name))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layer", GROUPS)
def test_a_layer_of_several_elements_under_any_law(layer, size):
    module, shape = GROUPS[layer]
    for mean in (0.0, size, -1e5 * size):
        sound(lambda m=mean: moments(module, m, size, shape=shape))


@pytest.mark.parametrize("width", [1e-300, 1e-150, 1e-30, 1e-10])
@pytest.mark.parametrize("law", [(0.0, 1.0), (1.0, 1e-3), (-2.0, 5.0), (0.5, 1e4), (-1e-3, 1e-3)])
@pytest.mark.parametrize("make", [nn.CELU, lambda width: nn.Softplus(1.0 / width)])
def test_a_narrow_bend_is_a_kink(make, law, width):
    # f lies within a width of ReLU; f'² differs from its square by E of at most 1 over 40 widths.
    found, kink = sound(lambda: moments(make(width), *law)), moments("relu", *law)
    room = found.error + kink.error + width
    assert abs(found.fwd_mean - kink.fwd_mean) <= room
    assert abs(found.fwd_std - kink.fwd_std) <= room
    squares = 40 * width / law[1]
    assert abs(found.bwd_std**2 - kink.bwd_std**2) <= 2 * (found.error + kink.error) + squares
    assert found.error <= 1e-12 * max(1.0, *map(abs, law))


@pytest.mark.parametrize("rate", [3000.0, 10_000.0])
def test_a_fast_wave(rate):
    # exp(-2 rate²) is 0: the wave takes no notice of the mean.
    found = moments(lambda x: torch.sin(rate * x), 0.2, 1.0)
    assert abs(found.fwd_mean) <= found.error
    assert abs(found.fwd_std - math.sqrt(0.5)) <= found.error
    assert abs(found.bwd_std - rate * math.sqrt(0.5)) <= found.error
    assert found.error <= 1e-10 * rate


@pytest.mark.parametrize("rate", [1000.0, 1e5])
def test_the_correlation_behind_a_steep_function(rate):
    steep = rules.function_of(lambda x: torch.tanh(rate * x))
    for rho in (0.5, 0.999):
        found = sound(lambda r=rho: correlation_map(steep, Normal(0.0, 1.0), r))
        if rate == 1e5:
            # A step's is the arc sine; the two differ in the slope's width only.
            limit = 2.0 / math.pi * math.asin(rho)
            assert abs(found.value - limit) <= found.error + 4.0 / rate
    at_one = correlation_map(steep, Normal(0.0, 1.0), 1.0)
    assert (at_one.value, at_one.error) == (1.0, 0.0)


def test_a_correlation_of_what_does_not_vary_is_refused():
    for rho in (0.5, 1.0):
        with pytest.raises(ValueError, match="relu must vary at N"):
            correlation_map(FUNCTIONS["relu"], Normal(-60.0, 1.0), rho)
