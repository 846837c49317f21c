"""The layers that stand where a constant stays."""

import math

import pytest
import torch

from normprop.graph.affine import Affine, Clamp

EPS = torch.finfo(torch.float64).eps


def points():
    # The limits themselves, their neighbours, and what is not finite.
    edge = torch.tensor([-0.4, 1.5], dtype=torch.float64)
    near = torch.stack([torch.nextafter(edge, torch.full_like(edge, s)) for s in (-9.0, 9.0)])
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    return torch.cat([torch.randn(1023, dtype=torch.float64), edge, near.flatten(), ends])


@pytest.mark.parametrize(("low", "high"), [(-0.4, math.inf), (-0.4, 1.5), (-math.inf, 1.5)])
def test_a_clamp_is_a_clamp_whose_ends_have_no_slope(low, high):
    x = points().requires_grad_()
    dy = torch.randn_like(x)
    y = Clamp(low, high)(x)
    assert torch.equal(y, x.clamp(low, high))
    (dx,) = torch.autograd.grad(y, x, dy)
    assert torch.equal(dx, torch.where((x > low) & ((x < high) | (high == math.inf)), dy, 0.0))


def test_a_clamp_is_a_shifted_rectifier():
    z, shift = torch.randn(999, dtype=torch.float64), 0.3989
    y = Clamp(-shift)(z - shift)
    assert (y - (torch.relu(z) - shift)).abs().max() <= 2 * EPS * z.abs().max()


# torch's forward mode is loaded through its own deprecated TorchScript.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_clamp_has_every_derivative():
    x = torch.randn(20, dtype=torch.float64, requires_grad=True)
    for high in (math.inf, 0.9):
        layer = Clamp(-0.3, high)
        assert torch.autograd.gradcheck(layer, (x,), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(layer, (x,))
        slope = torch.func.vmap(torch.func.grad(layer))(x.detach())
        assert torch.equal(slope, ((x > -0.3) & (x < high)).double())


def test_a_clamp_keeps_its_output_alone():
    kept = []
    x = torch.randn(5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = Clamp(-0.3)(x)
    assert [t.data_ptr() for t in kept] == [y.data_ptr()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_line(dtype):
    x = torch.randn(99, dtype=dtype)
    for scale, shift in ((2.5, -0.7), (1.0, 0.3), (0.25, 0.0)):
        got, wanted = Affine(scale, shift)(x), scale * x.double() + shift
        assert got.dtype == dtype
        bound = 4 * torch.finfo(dtype).eps * (scale * x.double().abs() + abs(shift))
        assert ((got - wanted).abs() <= bound).all()


def test_a_line_in_place():
    x = torch.randn(9)
    before = x.clone()
    y = Affine(1.0, 0.5, inplace=True)(x)
    assert y is x
    assert torch.equal(y, before + 0.5)
    assert torch.equal(Affine(1.0, 0.5)(before), y)


def test_they_print_their_arguments():
    assert str(Clamp(-0.25, 2.0)) == "Clamp(low=-0.25, high=2)"
    assert str(Affine(2.0, -0.5)) == "Affine(scale=2, shift=-0.5)"
