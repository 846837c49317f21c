"""Bilinear maps: the formula in exact arithmetic, and by simulation."""

import math

import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from torch import nn

import normprop
from normprop import moments
from tests import reference
from tests.rules.channels import by_channel, holds, randomised

LAW = (0.3, 0.7)


def enumerated(layer, m, s):
    """Figures to 50 digits, from second moments of every pair of entries."""
    weight = [[[mpf(w) for w in row] for row in rows] for rows in layer.weight.tolist()]
    m, s = mpf(m), mpf(s)
    outs, ins = range(len(weight)), (range(len(weight[0])), range(len(weight[0][0])))

    def second(i, j):
        return m * m + (s * s if i == j else 0)

    outputs = []
    for o in outs:
        mean = m * m * mp.fsum(w for row in weight[o] for w in row)
        square = mp.fsum(
            weight[o][i][j] * weight[o][k][n] * second(i, k) * second(j, n)
            for i in ins[0]
            for j in ins[1]
            for k in ins[0]
            for n in ins[1]
        )
        bias = 0 if layer.bias is None else mpf(layer.bias[o].item())
        outputs.append((mean + bias, mp.sqrt(square - mean**2)))
    first = [
        mp.fsum(weight[o][i][j] * weight[o][i][n] * second(j, n)
                for o in outs for j in ins[1] for n in ins[1])
        for i in ins[0]
    ]  # fmt: skip
    later = [
        mp.fsum(weight[o][i][j] * weight[o][k][j] * second(i, k)
                for o in outs for i in ins[0] for k in ins[0])
        for j in ins[1]
    ]  # fmt: skip
    return outputs, [mp.sqrt(square) for square in first + later]


@pytest.mark.parametrize("law", [(0.0, 1.0), LAW, (-5.0, 0.1), (0.01, 30.0)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_formula_is_its_enumeration(bias, law):
    layer = randomised(nn.Bilinear(4, 3, 5, bias, dtype=torch.float64))
    with mp.workdps(50):
        wanted = by_channel(enumerated(layer, *law))
    holds(moments(layer, *law), wanted)


def test_behind_an_activation():
    layer = randomised(nn.Bilinear(3, 4, 2, dtype=torch.float64))
    mean, std, _ = reference.elementwise("relu", *LAW)
    with mp.workdps(50):
        wanted = by_channel(enumerated(layer, mean, std))
    holds(moments(layer, *LAW, after="relu"), wanted)


def simulated(layer, m, s, replicates=64, batch=4000):
    """Means over independent replicates, and their standard errors: y, y², dx²."""
    generator = torch.Generator().manual_seed(9)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    first, second = layer.in1_features, layer.in2_features
    found = []
    for _ in range(replicates):
        x1 = (m + s * normal(batch, first)).requires_grad_()
        x2 = (m + s * normal(batch, second)).requires_grad_()
        y = layer(x1, x2)
        dx = torch.cat(torch.autograd.grad(y, (x1, x2), normal(*y.shape)), 1)
        y = y.detach()
        found.append(torch.cat([y.mean(0), y.square().mean(0), dx.square().mean(0)]))
    found = torch.stack(found).numpy()
    return found.mean(0), found.std(0, ddof=1) / math.sqrt(replicates)


LAYERS = [nn.Bilinear(4, 3, 5, dtype=torch.float64)] + [
    normprop.nn.Bilinear(4, 3, 5, scaling=scaling, per=per, dtype=torch.float64)
    for scaling, per in [
        ("forward", "neuron"),
        ("forward", "layer"),
        ("backward", "layer"),
        ("separate", "neuron"),
        ("separate", "layer"),
    ]
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_the_formula_is_what_simulation_finds(layer):
    layer = randomised(layer)
    got = moments(layer, *LAW)
    wanted = [got.fwd_mean, got.fwd_mean**2 + got.fwd_std**2, got.bwd_std**2]
    average, error = simulated(layer, *LAW)
    assert np.abs((average - np.concatenate(wanted)) / error).max() < 4.5


@pytest.mark.parametrize("method", ["normalize", "project"])
@pytest.mark.parametrize("layer", LAYERS[1:], ids=repr)
def test_a_twin_has_unit_scale_where_it_should(layer, method):
    layer = normprop.nn.Bilinear(
        4, 3, 5, scaling=layer.scaling, per=layer.per, method=method, dtype=torch.float64
    )
    got = moments(layer)
    forward, first, later = got.fwd_std**2, got.bwd_std[:4] ** 2, got.bwd_std[4:] ** 2
    bound = 2**-52 * (layer.weight.numel() + 32)
    if layer.scaling != "backward":
        assert abs(forward.mean() - 1) <= bound
    if layer.per == "neuron":
        assert np.abs(forward - 1).max() <= bound
    if layer.scaling == "backward":
        assert abs(np.concatenate([first, later]).mean() - 1) <= bound
    if layer.scaling == "separate":
        assert abs(first.mean() - 1) <= bound
        assert abs(later.mean() - 1) <= bound
