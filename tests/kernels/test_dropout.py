"""Dropout without a stored mask: both passes drop the same, at the right rate, by torch's seed."""

import math

import pytest
import torch

pytest.importorskip("triton")

from normprop.kernels import dropout
from tests.kernels.functions import DTYPES, compute, stored_unit, unit

pytestmark = pytest.mark.usefixtures("poisoned")

LIMIT = 4.5
P, SHIFT, FORWARD, BACKWARD = 0.3, 0.2, 0.7, 0.9


def both(x, p=P, leading=0, **options):
    """Which elements each pass keeps."""
    ones = torch.ones_like(x)
    y, seed = dropout.forward(ones, p, 0.0, 1.0, leading=leading, **options)
    dx = dropout.backward(ones, seed, p, 1.0, y.stride(), leading=leading)
    return y != 0, dx != 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("leading", [0, 1, 2])
def test_the_formula(leading, dtype, device):
    x, grad = (torch.randn(5, 7, 9, 3).to(device, dtype) for _ in range(2))
    y, seed = dropout.forward(x, P, SHIFT, FORWARD, leading=leading)
    dx = dropout.backward(grad, seed, P, BACKWARD, y.stride(), leading=leading)
    assert y.dtype == dx.dtype == dtype
    kept = dropout.forward(torch.ones_like(x), P, 0.0, 1.0, leading=leading, seed=seed)[0] != 0
    for got, wanted, size in (
        (y, (x.double() * kept / (1 - P) - SHIFT) / FORWARD, x.double().abs() + 1),
        (dx, grad.double() * kept / (1 - P) / BACKWARD, grad.double().abs()),
    ):
        # Four roundings of numbers up to size/(qσ), and the store.
        error = 4 * unit(compute(dtype)) * size / (1 - P) / FORWARD
        assert ((got.double() - wanted).abs() <= error + stored_unit(dtype) * wanted.abs()).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.permute(2, 0, 3, 1),
        lambda x: x[:, ::2],
        lambda x: x[:1, :1],
        lambda x: x[:0],
    ],
    ids=["flat", "channels_last", "permuted", "strided", "one", "empty"],
)
@pytest.mark.parametrize("leading", [0, 1, 2])
def test_both_passes_drop_the_same(make, leading, device):
    x = make(torch.randn(8, 6, 13, 11, device=device))
    forward, backward = both(x, leading=leading)
    assert torch.equal(forward, backward)
    if not x.numel():
        return
    assert leading or x.numel() < 200 or 0 < forward.sum() < x.numel()
    planes = forward.flatten(leading) if leading else forward.flatten()[:, None]
    assert (planes == planes[..., :1]).all()
    # A gradient in another order of memory is dropped at the same places.
    ones = torch.ones_like(x)
    y, seed = dropout.forward(ones, P, 0.0, 1.0, leading=leading)
    other = torch.ones(x.shape[::-1], device=device).permute(*range(x.ndim)[::-1])
    dx = dropout.backward(other, seed, P, 1.0, y.stride(), leading=leading)
    assert torch.equal(dx != 0, y != 0)


@pytest.mark.parametrize("p", [0.003, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("leading", [0, 2])
def test_the_rate(p, leading, device):
    x = torch.empty((60_001,) if leading == 0 else (100, 1000, 1), device=device)
    kept, _ = both(x, p, leading)
    z = (kept.double().mean().item() - (1 - p)) / math.sqrt(p * (1 - p) / kept.numel())
    assert abs(z) < LIMIT


def test_neighbours_are_independent(device):
    kept = both(torch.empty(60_000, device=device), 0.5)[0].double().mul(2).sub(1)
    for lag in (1, 2, 1024, 2048, 4096):
        products = kept[lag:] * kept[:-lag]
        assert abs(products.sum().item()) < LIMIT * math.sqrt(products.numel())


def test_nothing_is_dropped_at_zero(device):
    x = torch.randn(5000, device=device)
    y, _ = dropout.forward(x, 0.0, 0.0, 1.0)
    assert torch.equal(y, x)


def test_torchs_seed_governs(device):
    x = torch.ones(5000, device=device)

    def draw():
        return dropout.forward(x, 0.5, 0.0, 1.0)[0]

    torch.manual_seed(3)
    first, second = draw(), draw()
    torch.manual_seed(3)
    assert torch.equal(first, draw())
    assert not torch.equal(first, second)


def test_what_is_dropped_may_be_infinite(device):
    x = torch.full((1000,), math.inf, device=device)
    y, _ = dropout.forward(x, 0.5, 0.0, 1.0)
    assert set(y.tolist()) == {0.0, math.inf}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: dropout.forward(x, 1.0, 0.0, 1.0), "p must be .* less than 1; it was 1.0"),
        (lambda x: dropout.forward(x, -0.1, 0.0, 1.0), "p must be at least 0"),
        (lambda x: dropout.forward(x, 0.1, 0.0, 0.0), "forward must be finite"),
        (lambda x: dropout.forward(x, 0.1, 0.0, 1.0, leading=2), "no more than the tensor's 1"),
    ],
)
def test_what_is_out_of_range_is_refused(call, message, device):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(3, device=device))
