"""Layers whose weights are as small or as large as their type allows."""

import copy

import numpy as np
import pytest
import torch

import normprop
import normprop.nn as nnp
from tests.nn import battery

# A layer knows directions only: what it does at 2^k W follows from what it does at W.
POWERS = {torch.float32: (-110, -60, 60, 110), torch.float64: (-1000, -600, 600, 1000)}


def attention():
    return nnp.MultiheadAttention(6, 2, batch_first=True)


def layers():
    for row in battery.ROWS:
        if row.kind == "weights":
            for scaling in battery.SCALINGS:
                for per in ("neuron", "layer"):
                    more = {"stride": 2, "groups": 2} if "Conv" in row.name else {}
                    yield (
                        f"{row.name}-{scaling}-{per}",
                        lambda r=row, s=scaling, p=per, m=more: r.layer(scaling=s, per=p, **m),
                        row.input(),
                        lambda layer, x: layer(x),
                    )
    x = torch.randn(4, 5, dtype=torch.float64)
    yield "Bilinear", lambda: nnp.Bilinear(5, 5, 3), x, lambda layer, x: layer(x, x)
    tokens = torch.tensor([[0, 3], [2, 1]])
    yield "Embedding", lambda: nnp.Embedding(4, 6), tokens, lambda layer, x: layer(x)
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    yield "Attention", attention, x, lambda layer, x: layer(x, x, x)[0]


LAYERS = list(layers())


def matrices(layer):
    return [p for p in layer.parameters() if p.ndim > 1]


@pytest.mark.parametrize("dtype", list(POWERS), ids=str)
@pytest.mark.parametrize(("make", "x", "run"), [c[1:] for c in LAYERS], ids=[c[0] for c in LAYERS])
def test_a_layer_knows_directions_only(make, x, run, dtype):
    torch.manual_seed(0)
    layer = make().to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    with torch.no_grad():
        for weight in matrices(layer):
            weight.normal_()
    wanted = run(layer, x)
    dy = torch.randn_like(wanted)
    back = torch.autograd.grad(wanted, matrices(layer), dy)
    room = 2**10 * torch.finfo(dtype).eps
    for power in POWERS[dtype]:
        other = copy.deepcopy(layer)
        with torch.no_grad():
            for weight in matrices(other):
                weight.mul_(2.0 ** (power // 2)).mul_(2.0 ** (power - power // 2))
        got = run(other, x)
        assert torch.allclose(got, wanted, rtol=room, atol=room)
        for one, two in zip(torch.autograd.grad(got, matrices(other), dy), back, strict=True):
            one = one * 2.0 ** (power // 2) * 2.0 ** (power - power // 2)
            assert torch.allclose(one, two, rtol=room, atol=room * two.abs().max().item())


@pytest.mark.parametrize(("make", "x", "run"), [c[1:] for c in LAYERS], ids=[c[0] for c in LAYERS])
def test_a_step_on_rows_that_have_decayed_leaves_numbers(make, x, run):
    layer = make().float()
    x = x.float() if x.is_floating_point() else x
    with torch.no_grad():
        for weight in matrices(layer):
            weight.mul_(1e-25)
            weight[0] *= 1e-18
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        output = run(layer, x)
        assert output.isfinite().all()
        output.square().mean().backward()
        optimizer.step()
        assert all(p.isfinite().all() for p in layer.parameters())


MEASURED = [c for c in LAYERS if c[0] != "Attention"]


@pytest.mark.parametrize("dtype", list(POWERS), ids=str)
@pytest.mark.parametrize(("make", "x"), [c[1:3] for c in MEASURED], ids=[c[0] for c in MEASURED])
def test_moments_are_those_of_what_runs(make, x, dtype):
    torch.manual_seed(0)
    layer = make().to(dtype)
    wanted = normprop.moments(layer)
    for power in POWERS[dtype]:
        other = copy.deepcopy(layer)
        with torch.no_grad():
            for weight in matrices(other):
                weight.mul_(2.0 ** (power // 2)).mul_(2.0 ** (power - power // 2))
        got = normprop.moments(other)
        for name in ("fwd_mean", "fwd_std", "bwd_std"):
            difference = np.abs(np.asarray(getattr(got, name)) - np.asarray(getattr(wanted, name)))
            assert (difference <= got.error + wanted.error + 1e-14).all()


@pytest.mark.parametrize("power", [-1000, -600, 0, 480, 1000])
@pytest.mark.parametrize("name", [row.name for row in battery.ROWS if row.kind == "weights"])
def test_a_plain_layer_is_measured_whatever_its_size(name, power):
    row = next(row for row in battery.ROWS if row.name == name)
    layer = row.plain(bias=False)
    battery.fill(layer)
    wanted = normprop.moments(layer)
    with torch.no_grad():
        layer.weight.mul_(2.0 ** (power // 2)).mul_(2.0 ** (power - power // 2))
    got = normprop.moments(layer)
    for name in ("fwd_mean", "fwd_std", "bwd_std"):
        # A product with a power of two is exact.
        assert (getattr(got, name) == getattr(wanted, name) * 2.0**power).all()
