"""Chapter 1: rates of plain and normalised networks over depth."""

import math

import numpy as np

import normprop
from tests import reference
from tests.book.expectations import Equals, Estimate, Exact, Parameter, PerRun, Within

OWN = {"samples": 1_000_000, "depth": 100, "seeds": 5}
SMALL = {"samples": 100_000, "depth": 50, "seeds": 3, "batch": 16, "steps": 10}
WIDTH = 256


def counted_error(spread):
    """The standard error of an estimate whose single sample contributes this spread."""

    def around(size):
        return Within(0.8 * size, 1.2 * size, "spread/√samples, ± 4.5/√(2·256) from 256 replicates")

    return PerRun(
        own=around(spread / math.sqrt(OWN["samples"])),
        small=around(spread / math.sqrt(SMALL["samples"])),
    )


def depth_error(figure, settled=0):
    """The standard error of a squared gain, averaged over the layers and seeds.

    In a layer of width n, ReLU's mask and the random weights move the squared norm of one gradient
    by √(5/n) of itself: 3/n from the mask, 2/n from the sum over outputs. The gradients of a batch
    share the weights, and average what they do not share.
    """

    def up_to(run):
        most = figure * math.sqrt(5 / (WIDTH * (run["depth"] - 1 - settled) * run["seeds"]))
        return Within(most / 10, 1.5 * most, "at most √(5/n) a layer; less, averaged")

    return PerRun(own=up_to(OWN), small=up_to(SMALL))


def after_depth(gain):
    """The geometric mean over the seeds of the std behind all layers.

    The logarithm of the std is about normal: per layer of width n its variance is at most 5/(4n),
    by the reason of `depth_error`, and its mean is below half that of the gain by as much.
    """

    def between(run):
        blocks = run["depth"] - 1
        centre = gain ** (blocks / 2)
        variance = 5 * blocks / (4 * WIDTH)
        reach = 4.5 * math.sqrt(variance / run["seeds"])
        return Within(
            centre * math.exp(-variance - reach),
            centre * math.exp(reach),
            "log-normal around gain^(layers/2), 4.5 standard errors",
        )

    return PerRun(own=between(OWN), small=between(SMALL))


def level_error(figure):
    """The standard error of a mean std of the signal, over many layers and a few seeds."""
    return Within(1e-5 * figure, 0.02 * figure, "√(5/4n) a layer, over 100 layers and more")


def tanh(s):
    """σ_f and σ_b of tanh by the trapezoidal rule.

    The poles lie π/(2s) > 1.5 off the line, so the rule's error is below exp(-2π·1.5/0.05).
    """
    z = np.arange(-12, 12, 0.05)
    weight = 0.05 * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    value = np.tanh(s * z)
    return math.sqrt(weight @ value**2), math.sqrt(weight @ (1 - value**2) ** 2)


def settled():
    """The s that tanh reproduces when it is divided by its σ_b at s = 1."""
    low, high = 0.5, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        below = tanh(middle)[0] < tanh(1.0)[1] * middle
        low, high = (low, middle) if below else (middle, high)
    return low


MEAN, FWD, BWD = (float(figure) for figure in reference.elementwise("relu", 0.0, 1.0))
BOUND = normprop.moments("relu").error + 1e-16
# Fourth central moment of ReLU: E r = μ, E r² = 1/2, E r³ = 2μ, E r⁴ = 3/2.
FOURTH = 1.5 - 8 * MEAN**2 + 3 * MEAN**2 - 3 * MEAN**4

TANH_STD, TANH_GAIN = settled(), (tanh(settled())[1] / tanh(1.0)[1]) ** 2
TANH_CHI = (tanh(1.0)[1] / tanh(1.0)[0]) ** 2
# The figures' rounding, divided by the angle at which σ_f(s) crosses σ_b(1)·s, about 0.1.
ROOT_BOUND = 100 * (normprop.moments("tanh").error + 1e-16)

EXPECTED = {
    "relu_fwd_mean": Exact(MEAN, BOUND),
    "relu_fwd_std": Exact(FWD, BOUND),
    "relu_bwd_std": Exact(BWD, BOUND),
    "relu_chi": Exact(math.pi / (math.pi - 1), 10 * BOUND),
    "counted_fwd_mean": Estimate(MEAN, "counted_fwd_mean_se"),
    "counted_fwd_mean_se": counted_error(FWD),
    "counted_fwd_std": Estimate(FWD, "counted_fwd_std_se"),
    "counted_fwd_std_se": counted_error(math.sqrt(FOURTH - FWD**4) / (2 * FWD)),
    "counted_bwd_std": Estimate(BWD, "counted_bwd_std_se"),
    # dx² is dy² or 0: its variance is 3/2 - 1/4.
    "counted_bwd_std_se": counted_error(math.sqrt(1.25) / (2 * BWD)),
    "default_gain": Estimate(1 / 6, "default_gain_se"),
    "default_gain_se": depth_error(1 / 6),
    "default_end": after_depth(1 / 6),
    "default_floor": Estimate(math.sqrt(2 / (5 * WIDTH)), "default_floor_se"),
    "default_floor_se": level_error(math.sqrt(2 / (5 * WIDTH))),
    "smallest_float32": Exact(2.0**-126, 0.0),
    "large_gain": Estimate(1.28, "large_gain_se"),
    "large_gain_se": depth_error(1.28),
    "large_end": after_depth(1.28),
    "backward_gain": Estimate(1.0, "backward_gain_se"),
    "backward_gain_se": depth_error(1.0),
    "backward_end": after_depth(1.0),
    "backward_settled": Estimate(0.5, "backward_settled_se"),
    "backward_settled_se": level_error(0.5),
    "forward_gain": Estimate(math.pi / (math.pi - 1), "forward_gain_se"),
    "forward_gain_se": depth_error(math.pi / (math.pi - 1)),
    "forward_end": after_depth(math.pi / (math.pi - 1)),
    "training_steps": Parameter("steps"),
    "excess_narrow": Within(0.1 / 16, 2 / 16, "of the order of one over the width"),
    "excess_wide": Within(0.1 / 128, 2 / 128, "of the order of one over the width"),
    "excess_trained": Within(2 / 128, 1.0, "beyond what the width alone leaves"),
    "excess_exponent": Estimate(-1.0, "excess_exponent_se"),
    "excess_exponent_se": Within(0.01, 0.3, "an exponent of 1 must be told from one of 0"),
    "tanh_settles": Exact(TANH_STD, ROOT_BOUND),
    "tanh_predicted": Exact(TANH_GAIN, 10 * ROOT_BOUND),
    "tanh_backward_gain": Estimate(TANH_GAIN, "tanh_backward_gain_se"),
    "tanh_backward_gain_se": depth_error(TANH_GAIN, 20),
    "tanh_backward_signal": Estimate(TANH_STD, "tanh_backward_signal_se"),
    "tanh_backward_signal_se": level_error(TANH_STD),
    "tanh_forward_gain": Estimate(TANH_CHI, "tanh_forward_gain_se"),
    "tanh_forward_gain_se": depth_error(TANH_CHI, 20),
    "tanh_forward_signal": Estimate(1.0, "tanh_forward_signal_se"),
    "tanh_forward_signal_se": level_error(1.0),
    "tanh_separate_gain": Estimate(1.0, "tanh_separate_gain_se"),
    "tanh_separate_gain_se": depth_error(1.0, 20),
    "tanh_separate_signal": Estimate(1.0, "tanh_separate_signal_se"),
    "tanh_separate_signal_se": level_error(1.0),
    "sigmoid_factor": Exact(1 / 48, 1e-17),
    "sigmoid_layers": Equals(math.ceil(126 * math.log(2) / (math.log(48) / 2))),
}
