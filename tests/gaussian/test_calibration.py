"""The calibrated law has the growth that was asked for, or the request is refused."""

import math

import pytest

from normprop.gaussian import FUNCTIONS
from normprop.gaussian.calibration import calibrate_mean, calibrate_std
from normprop.rules import function_of


@pytest.mark.parametrize("growth", [1.01, math.e, 100.0])
@pytest.mark.parametrize("depth", [10, 100, 1000])
@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_the_stack_grows_as_asked(name, depth, growth):
    found = calibrate_std(FUNCTIONS[name], depth, growth)
    log_error = depth * found.chi.error
    assert depth * math.log(found.chi.value) == pytest.approx(
        math.log(growth), rel=1e-12, abs=2 * log_error
    )


def test_deeper_stacks_take_smaller_scales():
    scales = [calibrate_std(FUNCTIONS["tanh"], depth, 2.0).std for depth in (3, 30, 300, 3000)]
    assert scales == sorted(scales, reverse=True)


def test_a_small_scale_follows_the_fourth_root():
    # χ - 1 ≈ 4s⁴/3 for tanh, so s ≈ (3 ln(growth)/(4 depth))^¼, up to s² relative.
    found = calibrate_std(FUNCTIONS["tanh"], 10**6, math.e)
    assert found.std == pytest.approx((0.75e-6) ** 0.25, rel=2 * 0.75e-3**1)


def test_sigmoid_takes_twice_the_scale_of_tanh():
    tanh, sigmoid = (calibrate_std(FUNCTIONS[n], 50, 3.0).std for n in ("tanh", "sigmoid"))
    assert sigmoid == pytest.approx(2 * tanh, rel=1e-10)


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
