"""Whoever writes in place behind a layer of torch, or into its input, may do so behind a twin."""

import copy

import pytest
import torch
from torch import nn

import normprop
from normprop.companion.benchmarks import saved_bytes
from tests.nn.battery import VARIANTS, first, same_up_to_order

# A write and the same in a new tensor; in evaluation, and in training.
WRITES = {
    False: (torch.relu_, torch.relu),
    True: (lambda t: t.mul_(2.0), lambda t: t * 2.0),
}
# What the battery has no row of; the inputs of each.
MORE = {
    "Bilinear": ((3, 4, 5), [(2, 3), (2, 4)]),
    "FractionalMaxPool2d": ((2, 3), [(2, 3, 7, 7)]),
    "FractionalMaxPool3d": ((2, 3), [(2, 3, 7, 7, 7)]),
    "MultiheadAttention": ((8, 2), [(4, 2, 8)] * 3),
}
ACTIVATIONS = [v for v in VARIANTS if hasattr(v.layer(), "overwritten")]


def _gradients(layer, inputs, where, write):
    """Of inputs and parameters, behind a write into the output or into the first input."""
    torch.manual_seed(0)
    inputs = [x.clone().requires_grad_() for x in inputs]
    h = inputs[0] * 1.0
    y = first(layer(h, *inputs[1:]))
    y, h = (write(y), h) if where == "output" else (y, write(h))
    loss = y.square().sum() + h.cos().sum()
    return torch.autograd.grad(loss, (*inputs, *layer.parameters()), materialize_grads=True)


def _check(plain, twin, inputs, terms):
    """The gradients behind a write that torch allows are those of the same in a new tensor."""
    write, pure = WRITES[twin.training]
    checked = 0
    for where in ("output", "input"):
        written = copy.deepcopy(twin)
        if hasattr(twin, "overwritten"):
            written.overwritten = where
        try:
            _gradients(plain, inputs, where, write)
        except RuntimeError as refused:
            assert "inplace" in str(refused)  # noqa: PT017
            continue
        got = _gradients(written, inputs, where, write)
        wanted = _gradients(twin, inputs, where, pure)
        assert same_up_to_order(got, wanted, terms), where
        checked += 1
    return checked


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_what_torch_allows_a_twin_allows(variant):
    # bfloat16 where torch has the layer in it on a CPU.
    lacking = variant.row.name in ("AvgPool3d", "LPPool3d")
    for dtype in (torch.float64, torch.float64 if lacking else torch.bfloat16):
        for train in (True, False):
            plain = variant.row.plain().to(dtype).train(train)
            twin = variant.layer().to(dtype).train(train)
            x = variant.row.input(dtype=dtype)
            # Sums over the rows of a product, and over windows, in another order.
            weights = variant.row.kind == "weights"
            terms = 2 * x.numel() if weights else 16
            assert _check(plain, twin, [x], terms)
            if weights:
                assert _check(plain, twin, [x[0]], terms)


@pytest.mark.parametrize("scaling", ["forward", "separate"])
@pytest.mark.parametrize("name", MORE)
def test_what_torch_allows_the_other_twins_allow(name, scaling):
    arguments, shapes = MORE[name]
    plain = getattr(nn, name)(*arguments).double()
    twin = getattr(normprop.nn, name)(*arguments, scaling=scaling).double()
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    assert _check(plain, twin, inputs, 64)


@pytest.mark.parametrize("variant", ACTIVATIONS, ids=str)
def test_it_then_keeps_what_torch_keeps(variant):
    plain, twin = variant.row.plain(), variant.layer()
    x = torch.randn(variant.row.shape, dtype=torch.float64)
    for where in ("output", "input"):
        try:
            _gradients(plain, [x], where, torch.relu_)
        except RuntimeError:
            continue

        def step(layer, where=where):
            h = x.clone().requires_grad_() * 1.0
            return layer(h)

        twin.overwritten = where
        kept = saved_bytes(twin, lambda: step(twin))
        assert kept <= saved_bytes(plain, lambda: step(plain))
        assert f"overwritten={where!r}" in repr(twin)


# Dynamo makes an instance of every Function that it traces.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
@pytest.mark.parametrize("variant", ACTIVATIONS[1::3], ids=str)
def test_compiled_it_is_the_same(variant):
    layer = variant.layer().eval()
    layer.overwritten = "output"
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = variant.row.input().requires_grad_()
    found = []
    for run in (layer, compiled):
        y = run(x).mul_(2.0)
        found.append(torch.autograd.grad(y.square().sum(), (x, *layer.parameters())))
    assert same_up_to_order(found[1], found[0], 16)


@pytest.mark.parametrize("variant", ACTIVATIONS, ids=str)
def test_the_second_derivative_is_the_same(variant):
    if variant.separate:
        return
    layer = variant.layer().eval()
    x = variant.row.input().requires_grad_()
    found = []
    for written in (None, "output", "input"):
        layer.overwritten = written
        (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        again = torch.autograd.grad(slope.square().sum(), x, allow_unused=True)
        found.append((slope.detach(), *(torch.zeros_like(x) if g is None else g for g in again)))
    for other in found[1:]:
        assert same_up_to_order(other, found[0], 64)
