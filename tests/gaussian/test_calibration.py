"""The calibrated law has the growth that was asked for and keeps its scale, or is refused."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from normprop.gaussian import FUNCTIONS, Normal, elementwise
from normprop.gaussian.calibration import calibrate, calibrate_mean, calibrate_std
from normprop.gaussian.maps import chi, hermite_energies, scale_map, scale_slope
from normprop.rules import function_of

CURVES = sorted({*FUNCTIONS} - {"hardshrink"})
"""Every named function without jumps."""

OTHERS = {
    "LeakyReLU(0.3)": nn.LeakyReLU(0.3),
    "LeakyReLU(3)": nn.LeakyReLU(3.0),
    "ELU(0.5)": nn.ELU(0.5),
    "CELU(2)": nn.CELU(2.0),
    "Softplus(100)": nn.Softplus(100.0),
    "Hardtanh(-100, 50)": nn.Hardtanh(-100.0, 50.0),
    "Threshold(0, 0)": nn.Threshold(0.0, 0.0),
    "GELU(tanh)": nn.GELU("tanh"),
    "abs": torch.abs,
    "sin": torch.sin,
    "quick GELU": lambda x: x * torch.sigmoid(1.702 * x),
    "wide tanh": lambda x: torch.tanh(x / 100.0),
    "snake": lambda x: x + x.sin() ** 2,
}
DEPTHS = (10, 60, 1000)
GROWTHS = (math.e, math.exp(3.0))


@pytest.mark.parametrize("name", [*CURVES, *OTHERS])
def test_both_conditions_hold(name):
    function = FUNCTIONS[name] if name in FUNCTIONS else function_of(OTHERS[name])
    for depth, growth in product(DEPTHS, GROWTHS):
        if depth == 10 and growth > math.e:
            continue
        found = calibrate(function, depth, growth)
        at = chi(function, Normal(found.mean, found.std))
        assert at == found.chi
        assert depth * math.log(at.value) == pytest.approx(
            math.log(growth), rel=1e-12, abs=2 * depth * at.error
        )
        assert found.slope.value + found.slope.error < 1
        assert found.stable


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "elu", "selu", "tanh", "softplus"])
def test_a_signal_finds_back_from_afar(name):
    function = FUNCTIONS[name]
    found = calibrate(function, 60, math.e)
    law = Normal(found.mean, found.std)
    shift, divisor = _constants(function, law)
    for moment in (0.01, 0.1, 0.5, 2.0, 10.0, 100.0):
        behind = scale_map(function, law, shift, divisor, moment)
        assert abs(math.log(behind.value)) < abs(math.log(moment))


def _constants(function, law):
    figures = elementwise(function, law)
    return figures.mean, figures.std


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "elu", "tanh", "sigmoid"])
def test_no_other_stable_law_is_farther_from_a_line(name):
    function, depth = FUNCTIONS[name], 60
    target = math.e ** (1 / depth)
    found = calibrate(function, depth, math.e)
    best = _distance(function, Normal(found.mean, found.std))
    seen = 0
    for mean in np.linspace(-3.0, 3.0, 25):
        try:
            law = calibrate_std(function, depth, math.e, float(mean))
        except ValueError:
            continue
        assert law.chi.value == pytest.approx(target, rel=1e-11)
        shift, divisor = _constants(function, Normal(law.mean, law.std))
        far = scale_map(function, Normal(law.mean, law.std), shift, divisor, 100.0).value
        if law.stable and far < 100.0:
            # The lattice of means has eight steps an octave.
            assert _distance(function, Normal(law.mean, law.std)) < 1.01 * best
            seen += 1
    assert seen > 3


def _distance(function, law):
    """N(1 - Q'(1)), by the series and the certified slope."""
    slope = scale_slope(function, law, *_constants(function, law), 1.0)
    return (1.0 - float(hermite_energies(function, law, 1)[0])) * (1.0 - slope.value)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs"])
def test_where_the_scale_has_no_say_it_is_1(name):
    function = function_of(torch.abs) if name == "abs" else FUNCTIONS[name]
    found = calibrate(function, 60, math.e)
    assert found.std == 1.0
    assert found.mean == pytest.approx(calibrate_mean(function, 60, math.e).mean, rel=1e-12)


def test_mirrored_functions_have_mirrored_laws():
    right, left = (
        calibrate(FUNCTIONS["softplus"], 60, 2.0),
        calibrate(FUNCTIONS["logsigmoid"], 60, 2.0),
    )
    assert (right.mean, right.std) == pytest.approx((-left.mean, left.std), rel=1e-6)


TWINS = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "elu": nn.functional.elu,
    "softplus": nn.functional.softplus,
    "tanh": torch.tanh,
}


def ends_of(name, law, depth=60, width=128, seed=0):
    """Signal std, and norm of the gradient over that of the output's, behind ``depth`` layers."""
    generator = torch.Generator().manual_seed(seed)
    shift, divisor = _constants(FUNCTIONS[name], Normal(law.mean, law.std))
    first = torch.randn(64, width, generator=generator, requires_grad=True)
    x = first
    for _ in range(depth):
        weight = torch.randn(width, width, generator=generator)
        x = x @ (weight / weight.norm(dim=1, keepdim=True)).T
        x = (TWINS[name](law.mean + law.std * x) - shift) / divisor
    arriving = torch.randn(x.shape, generator=generator)
    (gradient,) = torch.autograd.grad(x, first, arriving)
    return x.std().item(), (gradient.norm() / arriving.norm()).item()


@pytest.mark.parametrize("name", TWINS)
def test_sixty_layers_keep_both_scales(name):
    law = calibrate(FUNCTIONS[name], 60, math.e)
    signals, gradients = zip(*(ends_of(name, law, seed=seed) for seed in range(4)), strict=True)
    # Single networks of this width wander by a tenth.
    assert 0.9 < sum(signals) / 4 < 1.15
    assert 0.8 < min(signals) < max(signals) < 1.25
    # √e in the limit of width.
    assert 1 / 1.5 < sum(gradients) / 4 / math.sqrt(math.e) < 1.5


@pytest.mark.parametrize("name", ["gelu", "silu", "softplus"])
def test_sixty_layers_at_mean_0_do_not(name):
    law = calibrate_std(FUNCTIONS[name], 60, math.e)
    assert not law.stable
    signals = [ends_of(name, law, seed=seed)[0] for seed in range(4)]
    assert max(signals) > 100


@pytest.mark.parametrize("growth", [1.01, math.e, 100.0])
@pytest.mark.parametrize("depth", [10, 100, 1000])
@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_along_one_axis_the_stack_grows_as_asked(name, depth, growth):
    found = calibrate_std(FUNCTIONS[name], depth, growth)
    log_error = depth * found.chi.error
    assert depth * math.log(found.chi.value) == pytest.approx(
        math.log(growth), rel=1e-12, abs=2 * log_error
    )
    assert found.stable


def test_deeper_stacks_take_smaller_scales():
    scales = [calibrate_std(FUNCTIONS["tanh"], depth, 2.0).std for depth in (3, 30, 300, 3000)]
    assert scales == sorted(scales, reverse=True)


def test_a_small_scale_follows_the_fourth_root():
    # χ - 1 ≈ 4s⁴/3 for tanh, so s ≈ (3 ln(growth)/(4 depth))^¼, up to s² relative.
    found = calibrate_std(FUNCTIONS["tanh"], 10**6, math.e)
    assert found.std == pytest.approx((0.75e-6) ** 0.25, rel=2 * 0.75e-3**1)


@pytest.mark.parametrize("one", [calibrate_std, calibrate])
def test_sigmoid_takes_twice_the_scale_of_tanh(one):
    tanh, sigmoid = (one(FUNCTIONS[n], 50, 3.0) for n in ("tanh", "sigmoid"))
    assert sigmoid.std == pytest.approx(2 * tanh.std, rel=1e-3)


def test_relu_moves_its_mean_instead():
    with pytest.raises(ValueError, match="relu must be smooth at mean 0"):
        calibrate_std(FUNCTIONS["relu"], 10, 2.0)
    found = calibrate_mean(FUNCTIONS["relu"], 10, 2.0)
    assert found.chi.value**10 == pytest.approx(2.0, rel=1e-11)


def test_what_is_out_of_reach_is_refused():
    with pytest.raises(ValueError, match="gelu reaches it at no std"):
        calibrate_std(function_of("gelu"), 1, 2.0)
    with pytest.raises(ValueError, match="growth must be less than relu has at mean 0"):
        calibrate_mean(FUNCTIONS["relu"], 1, 2.0)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        # A parabola's scale map has the slope χ everywhere; an exponential's is steeper.
        (torch.square, "nowhere that the signal keeps its scale.* 1.01681 at least"),
        (torch.exp, "nowhere that the signal keeps its scale"),
        (nn.Identity(), "identity has it nowhere .* and 1 at most"),
        (nn.LeakyReLU(0.8), "leaky_relu has it nowhere .* and 1.00793 at most"),
        (nn.Hardshrink(), "hardshrink must have no jumps"),
        (nn.Threshold(0.5, 0.0), "threshold must have no jumps"),
    ],
)
def test_what_has_no_such_law_is_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        calibrate(function_of(layer), 60, math.e)


@pytest.mark.parametrize("depth", [3, 9, 40])
@pytest.mark.parametrize(
    "name", ["tanh", "sigmoid", "softplus", "gelu", "silu", "elu", "softsign", "mish", "relu"]
)
def test_a_function_of_which_nothing_is_known_has_a_law(name, depth):
    own = getattr(nn.functional, name)
    found = calibrate(function_of(lambda x: own(x)), depth, math.e)
    assert found.stable
    assert found.chi.value**depth == pytest.approx(math.e, rel=1e-9)
    named = calibrate(function_of(name), depth, math.e)
    # Beyond, the laws are wider than its bend can be seen from.
    if depth == 40:
        assert (found.mean, found.std) == pytest.approx((named.mean, named.std), rel=1e-9)
