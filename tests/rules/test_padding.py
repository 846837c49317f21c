"""Padding: the interior, and whole samples by enumeration and by simulation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from normprop import moments, simulate
from tests.rules.linear import agree, enumerated, worst

MODES = {
    "constant": "Constant",
    "reflect": "Reflection",
    "replicate": "Replication",
    "circular": "Circular",
}


@st.composite
def paddings(draw):
    mode = draw(st.sampled_from([*MODES]))
    dims = draw(st.integers(1, 2))
    sizes = tuple(draw(st.integers(3, 6)) for _ in range(dims))
    # torch cuts off by negative pads for a constant and by copying modes, and reflects no more
    # than there is.
    least = -1 if mode == "constant" else 0
    pads = tuple(draw(st.integers(least, 2)) for _ in range(2 * dims))
    value = draw(st.sampled_from([0.0, -1.5])) if mode == "constant" else 0.0
    return mode, sizes, pads, value


@settings(max_examples=60, deadline=None)
@given(paddings(), st.floats(-2, 2), st.floats(0.1, 3))
def test_a_whole_sample_by_enumeration(case, mean, std):
    mode, sizes, pads, value = case
    given_value = value if mode == "constant" else None
    wanted = enumerated(lambda x: F.pad(x, pads, mode, given_value), (1, *sizes), mean, std)
    more = (value,) if mode == "constant" else ()
    layer = getattr(nn, f"{MODES[mode]}Pad{len(sizes)}d")(pads, *more)
    got = moments(layer, mean, std, shape=(1, *sizes))
    assert agree(got, wanted, max(sizes))


MODULES = [
    nn.ZeroPad1d((2, 1)),
    nn.ZeroPad2d((1, -1, 0, 2)),
    nn.ConstantPad3d(1, 0.75),
    nn.ReflectionPad1d(2),
    nn.ReflectionPad3d((1, 0, 2, 1, 0, 1)),
    nn.ReplicationPad2d((3, 1, 0, 2)),
    nn.CircularPad1d((1, 2)),
    nn.CircularPad3d(1),
]


@pytest.mark.parametrize("layer", MODULES, ids=str)
def test_modules(layer):
    shape = (2, *(4, 3, 5)[: len(layer.padding) // 2])
    inside = moments(layer, 0.5, 2.0)
    assert (inside.fwd_mean, inside.fwd_std, inside.bwd_std) == (0.5, 2.0, 1.0)
    whole = moments(layer, 0.5, 2.0, shape=shape)
    assert agree(whole, enumerated(layer, shape, 0.5, 2.0), 8)
    assert worst(simulate(layer, 50_000, mean=0.5, std=2.0, shape=shape, seed=1), whole) < 4.5


def test_an_interior_is_the_input():
    # Far from the border each output is one input, and each input is used once.
    layer = nn.ReflectionPad1d(2)
    x = torch.arange(9.0).reshape(1, 1, 9).requires_grad_()
    y = layer(x)
    assert torch.equal(y[..., 2:-2], x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert (dx[..., 3:-3] == 1).all()
    assert (dx[..., 1:3] == 2).all()


def test_padding_behind_an_activation():
    got = moments(nn.ZeroPad1d(1), after="relu", shape=(1, 4))
    relu = moments("relu")
    share = 4 / 6
    assert abs(got.fwd_mean - share * relu.fwd_mean) < 1e-15
    second = share * (relu.fwd_std**2 + relu.fwd_mean**2)
    assert abs(got.fwd_std**2 - (second - got.fwd_mean**2)) < 1e-15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments(nn.ZeroPad2d(1), shape=(3,)), "at least 2 sizes for ZeroPad2d"),
        (lambda: moments(nn.ZeroPad1d(-2), shape=(1, 4)), "must leave something of the sizes"),
        (lambda: moments(nn.ReflectionPad1d((1,))), "two entries an axis"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
