"""Max unpooling: what a value in a place and zeros elsewhere have, by simulation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normprop import moments, simulate
from tests.rules.linear import agree, enumerated, worst

LAW = {"mean": 0.5, "std": 2.0}


def unpooling(layer, dims, sizes):
    """The layer with indices of its own, all different."""
    single = layer(torch.zeros(1, 1, *sizes), torch.zeros(1, 1, *sizes, dtype=torch.int64))
    places = math.prod(single.shape)
    generator = torch.Generator().manual_seed(5)
    chosen = torch.randperm(places, generator=generator)[: math.prod(sizes)].reshape(sizes)

    def run(x):
        return layer(x, chosen.expand(x.shape))

    return run


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1), st.integers(2, 6))
def test_a_whole_output_by_enumeration(kernel, stride, padding, size):
    layer = nn.MaxUnpool1d(kernel, stride, padding)
    outputs = (size - 1) * stride - 2 * padding + kernel
    if outputs < size:
        with pytest.raises(ValueError, match="a place for every input"):
            moments(layer, **LAW, shape=(1, size))
        return
    wanted = enumerated(unpooling(layer, 1, (size,)), (1, size), **LAW)
    assert agree(moments(layer, **LAW, shape=(1, size)), wanted, size)


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [(nn.MaxUnpool2d(2), (3, 4)), (nn.MaxUnpool3d((2, 1, 3)), (2, 3, 2))],
    ids=str,
)
def test_by_simulation(layer, sizes):
    # Windows side by side have no border.
    exact = moments(layer, **LAW)
    run = unpooling(layer, len(sizes), sizes)
    estimate = simulate(run, 50_000, **LAW, shape=(1, *sizes), seed=2)
    assert agree(moments(layer, **LAW, shape=(1, *sizes)), exact, 8)
    assert worst(estimate, exact) < 4.5


def test_figures_of_a_mixture():
    got = moments(nn.MaxUnpool1d(4), **LAW)
    assert abs(got.fwd_mean - 0.125) <= got.error
    assert abs(got.fwd_std**2 - (0.25 * 4 + 0.25 * 0.75 * 0.25)) < 1e-15
    assert got.bwd_std == 1
