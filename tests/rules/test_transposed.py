"""Transposed convolutions: the formula, its enumeration in exact arithmetic, torch, simulation."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from torch import nn

import normprop
from normprop import moments, simulate
from normprop.rules.parametric import _phases
from tests import reference
from tests.rules.channels import by_channel, holds, randomised

LAW = (0.3, 0.7)
CASES = [
    (1, {"kernel_size": 3}),
    (1, {"kernel_size": 3, "stride": 2, "groups": 2}),
    (1, {"kernel_size": 4, "stride": 2, "dilation": 2, "padding": 1}),
    (1, {"kernel_size": 2, "stride": 5, "output_padding": 3}),
    (2, {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}),
    (2, {"kernel_size": (3, 2), "stride": (1, 3), "dilation": (2, 1), "groups": 4}),
    (2, {"kernel_size": 1, "stride": 2, "bias": False}),
    (2, {"kernel_size": 3, "stride": 2, "dilation": 2, "groups": 2}),
    (3, {"kernel_size": 2, "stride": (2, 1, 3)}),
    (3, {"kernel_size": (1, 2, 3), "stride": 2, "groups": 2}),
]
cases = pytest.mark.parametrize(("dims", "arguments"), CASES)


def layer_of(dims, arguments, module=nn, **more):
    make = getattr(module, f"ConvTranspose{dims}d")
    return randomised(make(4, 8, **arguments, **more, dtype=torch.float64))


def enumerated(layer, m, s):
    """Figures to 50 digits, over every output of a period of the stride and every tap."""
    weight, m, s = layer.weight.tolist(), mpf(m), mpf(s)
    window, groups = layer.kernel_size, layer.groups
    ins, width = layer.in_channels // groups, layer.out_channels // groups

    def at(i, o, tap):
        found = weight[i][o]
        for t in tap:
            found = found[t]
        return mpf(found)

    outputs, squares = [], [mpf(0)] * layer.in_channels
    for out in range(layer.out_channels):
        group, o = divmod(out, width)
        channels = range(group * ins, (group + 1) * ins)
        means, variances = [], []
        for place in product(*map(range, layer.stride)):
            taps = [
                tap
                for tap in product(*map(range, window))
                if all(
                    (p - t * d) % n == 0
                    for p, t, d, n in zip(place, tap, layer.dilation, layer.stride, strict=True)
                )
            ]
            seen = [at(i, o, tap) for i in channels for tap in taps]
            means.append(m * mp.fsum(seen))
            variances.append(s**2 * mp.fsum(w**2 for w in seen))
        mean = mp.fsum(means) / len(means)
        square = mp.fsum(variances) / len(means)
        square += mp.fsum((other - mean) ** 2 for other in means) / len(means)
        bias = 0 if layer.bias is None else mpf(layer.bias[out].item())
        outputs.append((mean + bias, mp.sqrt(square)))
        for i in channels:
            squares[i] += mp.fsum(at(i, o, tap) ** 2 for tap in product(*map(range, window)))
    return outputs, [mp.sqrt(square) for square in squares]


@cases
@pytest.mark.parametrize("law", [LAW, (0.0, 1.0), (-20.0, 0.01)])
def test_the_formula_is_its_enumeration(dims, arguments, law):
    layer = layer_of(dims, arguments)
    with mp.workdps(50):
        wanted = by_channel(enumerated(layer, *law))
    holds(moments(layer, *law), wanted)


@cases
def test_the_formula_is_what_impulses_show(dims, arguments):
    layer = layer_of(dims, arguments)
    m, s = LAW
    axes = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    sides = [2 * math.ceil((d * (k - 1) + 1) / t) + 3 for k, t, d in axes]
    inputs = 4 * math.prod(sides)
    with torch.no_grad():
        offset = layer(torch.zeros(1, 4, *sides, dtype=torch.float64))
        # An impulse a batch: how every input reaches every output.
        map_ = layer(torch.eye(inputs, dtype=torch.float64).view(inputs, 4, *sides)) - offset
    # A period of outputs and an input in the middle, which no border reaches.
    middle = [
        slice(side // 2 * t - p, side // 2 * t - p + t)
        for side, t, p in zip(sides, layer.stride, layer.padding, strict=True)
    ]
    seen = map_[(..., *middle)].flatten(2)
    means = m * seen.sum(0)
    mean = means.mean(1)
    variance = s**2 * seen.square().sum(0).mean(1) + (means - mean[:, None]).square().mean(1)
    bias = 0 if layer.bias is None else layer.bias.detach()
    back = map_.view(4, *sides, -1)[(slice(None), *(side // 2 for side in sides))]
    got = moments(layer, m, s)
    for figure, wanted in (
        (got.fwd_mean, mean + bias),
        (got.fwd_std, variance.sqrt()),
        (got.bwd_std, back.square().sum(1).sqrt()),
    ):
        # Sums of at most as many products as there are inputs or outputs.
        bound = 2**-52 * 64 * (1 + wanted.abs().max())
        assert np.abs(figure - wanted.numpy()).max() <= bound


@cases
def test_the_formula_is_what_simulation_finds(dims, arguments):
    layer = layer_of(dims, arguments)
    scores = simulate(layer, 200_000, mean=0.3, std=0.7, seed=5).z(moments(layer, *LAW))
    for name, score in scores.items():
        assert np.abs(score).max() < 4.5, name


def test_an_output_sees_the_taps_of_its_phase():
    # As the documentation of functional.conv_transpose1d has it, for 3×3 at stride 2.
    phases, counts = np.unique(_phases((3, 3), (2, 2), (1, 1)), return_counts=True)
    assert phases.tolist() == [0, 1, 2, 3]
    assert counts.tolist() == [4, 2, 2, 1]


def test_phases_without_a_tap_are_zero():
    # A window of 1 at stride 2: three of four outputs are the bias.
    layer = nn.ConvTranspose2d(1, 1, 1, stride=2, bias=False, dtype=torch.float64)
    layer.weight.data.fill_(2.0)
    got = moments(layer, 3.0, 1.0)
    assert got.fwd_mean[0] == 1.5
    # Second moment 4·(9 + 1)/4, less the mean's square.
    assert abs(got.fwd_std[0] - math.sqrt(10 - 1.5**2)) <= got.error
    assert got.bwd_std[0] == 2.0


def test_it_is_the_adjoint_of_the_convolution():
    layer = layer_of(2, {"kernel_size": 3, "stride": 2, "groups": 2, "bias": False})
    adjoint = nn.Conv2d(8, 4, 3, 2, groups=2, bias=False, dtype=torch.float64)
    adjoint.weight.data.copy_(layer.weight)
    mine, its = moments(layer), moments(adjoint)
    for got, wanted in ((mine.fwd_std, its.bwd_std), (mine.bwd_std, its.fwd_std)):
        assert np.abs(got - wanted).max() <= mine.error + its.error


def test_behind_an_activation():
    layer = layer_of(2, {"kernel_size": 3, "stride": 2})
    mean, std, _ = reference.elementwise("relu", *LAW)
    with mp.workdps(50):
        wanted = by_channel(enumerated(layer, mean, std))
    holds(moments(layer, *LAW, after="relu"), wanted)


@cases
@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
def test_a_twin_has_unit_scale_where_it_should(dims, arguments, scaling):
    layer = layer_of(dims, arguments, normprop.nn, scaling=scaling)
    got = moments(layer)
    for side in {"forward": ["fwd"], "backward": ["bwd"], "separate": ["fwd", "bwd"]}[scaling]:
        # Both the layer and the rule add up at most all weights of a channel.
        bound = 2**-52 * (layer.weight.numel() + 16)
        assert np.abs(getattr(got, f"{side}_std") - 1).max() <= bound


def test_a_stride_of_nothing_is_refused():
    layer = nn.ConvTranspose1d(1, 1, 2)
    layer.stride = (0,)
    with pytest.raises(ValueError, match="stride must be made of integers of at least 1"):
        moments(layer)
