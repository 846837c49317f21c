"""Dropout without a stored mask: both passes drop the same, at the right rate, by torch's seed."""

import math

import pytest
import torch
from torch.autograd import forward_ad

pytest.importorskip("triton")

import normprop
from normprop import functional
from normprop.kernels import dropout
from tests.kernels.functions import DTYPES, compute, stored_unit, unit

pytestmark = pytest.mark.usefixtures("poisoned")

LIMIT = 4.5
P, SHIFT, FORWARD, BACKWARD = 0.3, 0.2, 0.7, 0.9


def both(x, p=P, leading=0):
    """Which elements each pass keeps."""
    ones = torch.ones_like(x)
    y, seed = dropout.forward(ones, p, 0.0, 1.0, leading=leading)
    dx = dropout.backward(ones, seed, p, 1.0, y.stride(), leading=leading)
    return y != 0, dx != 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("leading", [0, 2])
def test_the_formula(leading, dtype, device):
    x, grad = (torch.randn(5, 7, 9, 3).to(device, dtype) for _ in range(2))
    y, seed = dropout.forward(x, P, SHIFT, FORWARD, leading=leading)
    dx = dropout.backward(grad, seed, P, BACKWARD, y.stride(), leading=leading)
    assert y.dtype == dx.dtype == dtype
    kept = dropout.backward(torch.ones_like(x), seed, P, 1.0, y.stride(), leading=leading) != 0
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
@pytest.mark.parametrize("leading", [0, 2])
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


@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [("dropout", (7, 9, 5)), ("dropout1d", (7, 9, 5)), ("dropout2d", (3, 9, 5, 2))],
)
def test_the_functional_call_takes_the_kernel_by_name(name, shape, scaling, device):
    function = getattr(functional, name)
    options = {"scaling": scaling, "mean": 0.5, "std": 2.0}
    x = torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True)
    y = function(x, P, backend="triton", **options)
    dims = 0 if name == "dropout" else len(shape) - 2
    law = normprop.moments(torch.nn.Dropout(P), 0.5, 2.0)
    forward = law.bwd_std if scaling == "backward" else law.fwd_std
    backward = law.fwd_std if scaling == "forward" else law.bwd_std
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    kept = dx != 0
    assert 0 < kept.sum() < kept.numel()
    if dims:
        flat = kept.flatten(2)
        assert torch.equal(flat.all(2), flat.any(2))
    eps = 16 * torch.finfo(torch.float64).eps
    wanted = (torch.where(kept, x / (1 - P), 0.0) - 0.5) / forward
    assert ((y - wanted).abs() <= eps * (wanted.abs() + 1)).all()
    wanted = torch.where(kept, dy / (1 - P) / backward, 0.0)
    assert ((dx - wanted).abs() <= eps * wanted.abs()).all()
    # Twice: the gradient is linear in dy, through the same mask.
    weights = torch.randn_like(dx)
    dy.requires_grad_()
    (again,) = torch.autograd.grad(function_of(x, dy, function, options), dy, weights)
    assert again.isfinite().all()


def function_of(x, dy, function, options):
    torch.manual_seed(5)
    (dx,) = torch.autograd.grad(
        function(x, P, backend="triton", **options), x, dy, create_graph=True
    )
    return dx


def test_torch_s_seed_governs_the_functional_call(device):
    x = torch.randn(64, 64, device=device)
    torch.manual_seed(3)
    first = functional.dropout(x, backend="triton")
    second = functional.dropout(x, backend="triton")
    torch.manual_seed(3)
    assert torch.equal(functional.dropout(x, backend="triton"), first)
    assert not torch.equal(first, second)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_what_the_kernel_cannot_serve_is_refused(device):
    x = torch.randn(4, 3, device=device)
    with pytest.raises(ValueError, match="the kernel drops channels of an input of 3 dimensions"):
        functional.dropout1d(x, backend="triton")
    with pytest.raises(RuntimeError, match=r"does not run under torch\.compile"):
        torch.func.grad(lambda t: functional.dropout(t, backend="triton").sum())(x)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="or forward mode"):
        functional.dropout(forward_ad.make_dual(x, x), backend="triton")
    with pytest.raises(ValueError, match="backend must be one of"):
        functional.dropout(x, backend="fast", training=False)


def by_batched_gradients(y, x, several):
    return torch.autograd.grad(y, x, several, is_grads_batched=True)[0]


def by_vmap(y, x, several):
    return torch.func.vmap(lambda dy: torch.autograd.grad(y, x, dy, retain_graph=True)[0])(several)


@pytest.mark.parametrize("road", [by_batched_gradients, by_vmap])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("function", ["dropout", "dropout1d"])
def test_many_gradients_at_once(function, dtype, road, device):
    x = torch.randn(4, 6, 5, device=device, dtype=dtype).mT.requires_grad_()
    law = {"mean": 0.5, "std": 2.0, "scaling": "separate", "backend": "triton"}
    y = getattr(functional, function)(x, P, **law)
    several = torch.randn(3, *y.shape, device=device, dtype=dtype)
    alone = [torch.autograd.grad(y, x, dy, retain_graph=True)[0] for dy in several]
    got = road(y, x, several)
    # The factor is rounded once more than in the kernel.
    error = 4 * unit(compute(dtype)) * several.abs() / (1 - P) + 2 * stored_unit(dtype) * got.abs()
    assert got.dtype == dtype
    assert ((got - torch.stack(alone)).abs() <= error).all()
    assert torch.equal(got == 0, torch.stack(alone) == 0)


def test_many_second_derivatives_at_once(device):
    x = torch.randn(5, 7, device=device, dtype=torch.float64, requires_grad=True)
    y = functional.dropout(x, P, backend="triton")
    dy = torch.ones_like(y).requires_grad_()
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    several = torch.randn(3, *y.shape, device=device, dtype=torch.float64)
    (got,) = torch.autograd.grad(dx, dy, several, is_grads_batched=True)
    assert torch.allclose(got, several * dx.detach(), rtol=1e-14, atol=0)
