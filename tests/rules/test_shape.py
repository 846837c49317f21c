"""What moves elements: nothing changes; windows by enumeration, whole and inside."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from normprop import moments, simulate
from tests.rules.linear import agree, enumerated, figures_of, matrix_of, worst


@st.composite
def windows(draw):
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = (draw(pair) for _ in range(3))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    sizes = draw(st.tuples(st.integers(2, 6), st.integers(2, 6)))
    axes = zip(kernel, stride, dilation, padding, sizes, strict=True)
    blocks = [(n + 2 * p - d * (k - 1) - 1) // t + 1 for k, t, d, p, n in axes]
    assume(min(blocks) > 0)
    arguments = {"kernel_size": kernel, "stride": stride, "dilation": dilation, "padding": padding}
    return arguments, sizes, math.prod(blocks)


@settings(max_examples=50, deadline=None)
@given(windows(), st.floats(-2, 2), st.floats(0.1, 3))
def test_unfold_by_enumeration(case, mean, std):
    arguments, sizes, _ = case
    layer, shape = nn.Unfold(**arguments), (1, *sizes)
    assert agree(moments(layer, mean, std, shape=shape), enumerated(layer, shape, mean, std), 36)


@settings(max_examples=50, deadline=None)
@given(windows(), st.floats(-2, 2), st.floats(0.1, 3))
def test_fold_by_enumeration(case, mean, std):
    arguments, sizes, blocks = case
    layer = nn.Fold(sizes, **arguments)
    shape = (math.prod(arguments["kernel_size"]), blocks)
    assert agree(moments(layer, mean, std, shape=shape), enumerated(layer, shape, mean, std), 36)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_the_interior_by_enumeration(kernel, stride, dilation):
    # One axis is enough; the other has a window of one.
    options = {"kernel_size": (1, kernel), "stride": (1, stride), "dilation": (1, dilation)}
    reach = dilation * (kernel - 1) + 1
    middle = (reach + stride - 1) // stride * stride
    size = 2 * middle + stride + reach
    weights, nothing = matrix_of(nn.Unfold(**options), (1, 1, size))
    # Inputs of one period, far from both ends.
    inside = weights[middle : middle + stride].square().sum(1).mean()
    wanted = figures_of(weights, nothing, 0.5, 2.0, inside)
    assert agree(moments(nn.Unfold(**options), 0.5, 2.0), wanted, size)

    blocks = (size - reach) // stride + 1
    weights, nothing = matrix_of(nn.Fold((1, size), **options), (kernel, blocks))
    outputs = weights[:, middle : middle + stride]
    wanted = figures_of(outputs, nothing[:stride], 0.5, 2.0, 1.0)
    assert agree(moments(nn.Fold((1, size), **options), 0.5, 2.0), wanted, size)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Unfold((3, 2), stride=2, padding=1), (2, 5, 6)),
        (nn.Fold((5, 4), 2, padding=1), (8, 30)),
    ],
    ids=str,
)
def test_windows_by_simulation(layer, shape):
    estimate = simulate(layer, 100_000, mean=0.5, std=2.0, shape=shape, seed=3)
    exact = moments(layer, 0.5, 2.0, shape=shape)
    assert worst(estimate, exact) < 4.5


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.PixelShuffle(2), (8, 2, 3)),
        (nn.PixelUnshuffle(2), (2, 4, 6)),
        (nn.ChannelShuffle(3), (6, 2)),
        (nn.Flatten(), (2, 3, 4)),
        (nn.Unflatten(1, (2, 3)), (6, 2)),
    ],
    ids=str,
)
def test_a_permutation_changes_nothing(layer, shape):
    weights, _ = matrix_of(layer, shape)
    assert torch.equal(weights.sort(0).values.sum(0), torch.ones(math.prod(shape)).double())
    assert torch.equal(weights.sum(1), torch.ones(math.prod(shape)).double())
    got = moments(layer, 0.5, 2.0)
    assert (got.fwd_mean, got.fwd_std, got.bwd_std) == (0.5, 2.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments(nn.Unfold(2), shape=(3, 4)), r"shape must be \(C, H, W\) for Unfold"),
        (lambda: moments(nn.Unfold(5), shape=(1, 4, 4)), "must fit into the padded size"),
        (lambda: moments(nn.Fold((4, 4), 2), shape=(4, 8)), r"shape must be \(C·4, 9\) for Fold"),
        (lambda: moments(nn.Fold((4, 4), 2), shape=(6, 9)), r"shape must be \(C·4, 9\) for Fold"),
        (lambda: moments(nn.Flatten(), shape=(4,)), "shape is for layers whose figures depend"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
