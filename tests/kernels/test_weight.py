"""Weights on the ball: what the eager reference gives, forward and backward."""

import math

import pytest
import torch

pytest.importorskip("triton")

from normprop import functional
from normprop.kernels import weight as kernel
from tests.kernels.functions import DTYPES, compute, projected, scaled, stored_unit, unit

pytestmark = pytest.mark.usefixtures("poisoned")

CASES = [
    # shape, groups
    ((6, 4), 1),
    ((1, 1), 1),
    ((70, 130), 1),
    ((6, 4, 3), 2),
    ((6, 2, 3, 3), 3),
    ((8, 5, 2, 1, 2), 2),
    ((3, 600), 1),
    ((42, 2), 14),
]
BALLS = {
    "fan-in": ("forward", "neuron"),
    "fan-out": ("backward", "neuron"),
    "all": ("forward", "layer"),
}


def eager(weight, grad, over, groups, stride=2):
    """The reference in float64, its gradient, and the size it gives a neuron."""
    wide = weight.double().cpu().requires_grad_()
    ball, per = BALLS[over]
    out = functional.normalize_weight(wide, ball, per, stride=stride, groups=groups)
    (gradient,) = torch.autograd.grad(out, wide, grad.double().cpu())
    period = stride ** (weight.ndim - 2)
    size = {"fan-in": 1, "fan-out": period, "all": weight.shape[0]}[over]
    return out.detach(), gradient, math.sqrt(size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("over", list(BALLS))
@pytest.mark.parametrize(("shape", "groups"), CASES)
def test_the_reference_is_met(shape, groups, over, dtype, device):
    w, g = (torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(2))
    wanted, gradient, size = eager(w, g, over, groups)
    got, inverse = scaled(w.to(device), over, groups, size)
    assert got.dtype == dtype
    # A sum of n squares is right to n roundings, its root to half of that.
    slack = 2 * unit(compute(dtype)) * (w.numel() + 16)
    error = (slack + stored_unit(dtype)) * wanted.abs()
    assert ((got.cpu().double() - wanted).abs() <= error + torch.finfo(dtype).tiny).all()

    got = projected(w.to(device), inverse, g.to(device), over, groups, size)
    assert got.dtype == dtype
    # The projection is a difference: its terms are no larger than |G| and its norm over the neuron.
    terms = (
        size * inverse[: len(inverse) // 2].max().item() * (g.double().abs() + g.double().norm())
    )
    error = slack * terms + stored_unit(dtype) * gradient.abs()
    assert ((got.cpu().double() - gradient).abs() <= error + torch.finfo(dtype).tiny).all()


@pytest.mark.parametrize("over", list(BALLS))
def test_long_sums_are_taken_in_parts_of_many_tiles(over, device, monkeypatch):
    # Sizes of which a weight of millions of elements would have to be, made small.
    monkeypatch.setattr(kernel, "_SHORT", 2)
    monkeypatch.setattr(kernel, "_LONG", 4)
    w, g = torch.randn(2, 70, 5, 3, dtype=torch.float64, device=device)
    wanted, gradient, size = eager(w, g, over, 2)
    got, inverse = scaled(w, over, 2, size)
    assert torch.allclose(got.cpu(), wanted, rtol=1e-13, atol=0)
    got = projected(w, inverse, g, over, 2, size)
    assert torch.allclose(got.cpu(), gradient, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("over", list(BALLS))
@pytest.mark.parametrize(("shape", "groups"), [((3, 4), 1), ((4, 2, 3), 2)])
def test_gradcheck(shape, groups, over, device):
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, w):
            out, inverse = scaled(w, over, groups, 1.5)
            ctx.save_for_backward(w, inverse)
            return out

        @staticmethod
        def backward(ctx, grad):
            return projected(*ctx.saved_tensors, grad, over, groups, 1.5)

    w = torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(Scaled.apply, (w,))


@pytest.mark.parametrize(
    ("over", "index"), [("fan-in", (1,)), ("fan-out", (slice(None), 1)), ("all", ())]
)
def test_a_neuron_of_zeros_stays_and_its_gradient_passes(over, index, device):
    w = torch.randn(6, 4, 3, dtype=torch.float64, device=device)
    w[index] = 0
    g = torch.randn_like(w)
    out, inverse = scaled(w, over, 1, 1.5)
    assert (out[index] == 0).all()
    gradient = projected(w, inverse, g, over, 1, 1.5)
    assert torch.equal(gradient[index], 1.5 * g[index])
    assert gradient.isfinite().all()


@pytest.mark.parametrize("over", list(BALLS))
def test_memory_formats_and_strides(over, device):
    w = torch.randn(6, 4, 3, 3, device=device)
    wanted, inverse = scaled(w, over, 2, 1.0)
    g = torch.randn_like(w)
    gradient = projected(w, inverse, g, over, 2, 1.0)
    strided = torch.randn(6, 8, 3, 3, device=device)[:, ::2].copy_(w)
    out, inverse = scaled(strided, over, 2, 1.0)
    assert torch.equal(out, wanted)
    assert torch.equal(projected(strided, inverse, g, over, 2, 1.0), gradient)
    # Read where it lies, so that sums of 216 terms are taken in another order.
    last = w.to(memory_format=torch.channels_last)
    room = 2 * unit(torch.float32) * (216 + 16)
    out, inverse = scaled(last, over, 2, 1.0)
    assert ((out - wanted).abs() <= room * wanted.abs()).all()
    got = projected(last, inverse, g, over, 2, 1.0)
    assert ((got - gradient).abs() <= room * inverse[:4].max() * (g.abs() + g.norm())).all()
    assert scaled(last, over, 2, 1.0)[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("over", list(BALLS))
def test_an_empty_weight(over, device):
    w = torch.empty(4, 0, device=device)
    out, inverse = scaled(w, over, 1, 1.0)
    assert out.shape == w.shape
    assert projected(w, inverse, w, over, 1, 1.0).shape == w.shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: scaled(w, "all", 4, 1.0), r"\(6, 4\) with groups = 4"),
        (lambda w: scaled(w[0], "all", 1, 1.0), "must have the shape"),
    ],
)
def test_what_is_out_of_range_is_refused(call, message, device):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(6, 4, device=device))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("over", list(BALLS))
def test_the_functional_call_takes_the_kernel_by_name(over, dtype, device):
    ball, per = BALLS[over]
    w, g = (torch.randn(6, 2, 3, 3, dtype=torch.float64).to(dtype).to(device) for _ in range(2))
    wanted, gradient, _ = eager(w, g, over, 3)
    w.requires_grad_()
    made = functional.normalize_weight(w, ball, per, stride=2, groups=3, backend="triton")
    assert made.dtype == dtype
    (dw,) = torch.autograd.grad(made, w, g, retain_graph=True)
    # Sums of at most 108 terms, and one rounding to the type.
    slack = 2 * unit(compute(dtype)) * (w.numel() + 16) + stored_unit(dtype)
    assert ((made.cpu().double() - wanted).abs() <= slack * wanted.abs()).all()
    assert ((dw.cpu().double() - gradient).abs() <= 4 * slack * gradient.abs().max()).all()
    # Whoever differentiates once more gets PyTorch's operations, and the same first gradient.
    (again,) = torch.autograd.grad(made, w, g, create_graph=True)
    assert ((again - dw).abs() <= 4 * slack * dw.abs().max()).all()
    (second,) = torch.autograd.grad(again.square().sum(), w)
    assert second.isfinite().all()


def test_what_the_kernel_cannot_serve_is_refused(device):
    w = torch.randn(4, 3, device=device)
    with pytest.raises(ValueError, match="backend must be one of auto, eager, triton"):
        functional.normalize_weight(w, backend="fast")
    with pytest.raises(RuntimeError, match=r"does not run under torch\.compile"):
        torch.func.grad(lambda t: functional.normalize_weight(t, backend="triton").sum())(w)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("over", list(BALLS))
def test_norms_of_the_whole_range(over, dtype, device):
    # Every neuron of its own size, from the smallest number of the type to nearly the largest.
    info = torch.finfo(dtype)
    low, high = math.log2(info.smallest_normal) + math.log2(info.eps), math.log2(info.max) - 3
    if dtype == torch.bfloat16:
        # Triton's interpreter takes smaller ones for zeros.
        low = math.log2(info.smallest_normal) + 4
    for shape, groups in CASES[3:5]:
        w, g = torch.randn(2, *shape, dtype=torch.float64)
        sizes = torch.linspace(low, high, {"fan-in": shape[0], "fan-out": shape[1], "all": 2}[over])
        at = {"fan-in": (-1, 1), "fan-out": (1, -1), "all": (-1, 1)}[over]
        for exponent in sizes.view(*at, *[1] * (len(shape) - 2)).double().unsqueeze(0):
            parts = exponent if over != "all" else exponent[:1]
            half = torch.exp2(parts / 2)
            given = (w * half * half).to(dtype).to(device)
            ball, per = BALLS[over]
            leaf = given.cpu().requires_grad_()
            made = functional.normalize_weight(leaf, ball, per, stride=2, groups=groups)
            (wanted,) = torch.autograd.grad(made, leaf, g.to(dtype))
            _, _, size = eager(w, g, over, groups)
            got, inverse = scaled(given, over, groups, size)
            room = 16 * stored_unit(dtype) + 64 * unit(compute(dtype))
            assert torch.allclose(got.cpu().double(), made.detach().double(), rtol=room, atol=room)
            back = projected(given, inverse, g.to(dtype).to(device), over, groups, size)
            assert back.isfinite().all()
            assert torch.allclose(
                back.cpu().double(), wanted.double(), rtol=1e3 * room, atol=1e-300
            )
