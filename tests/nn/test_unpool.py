"""Max unpooling as layers: they take two tensors, so the battery does not know them."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn

import normprop
from normprop import moments
from tests.nn.battery import LAW, SCALINGS

dimensions = pytest.mark.parametrize("dims", [1, 2, 3])


def pooled(dims, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 3, *(8, 6, 4)[:dims], generator=generator, dtype=torch.float64)
    pool = getattr(nn.functional, f"max_pool{dims}d")
    values, indices = pool(x, 2, return_indices=True)
    return torch.randn(values.shape, generator=generator, dtype=torch.float64).to(dtype), indices


def make(dims, **options):
    return getattr(normprop.nn, f"MaxUnpool{dims}d")(2, **options)


@dimensions
@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_output_and_the_gradient(dims, scaling):
    layer, (x, indices) = make(dims, scaling=scaling, **LAW), pooled(dims)
    plain = getattr(nn, f"MaxUnpool{dims}d")(2)
    figures = moments(plain, **LAW)
    x.requires_grad_()
    y = layer(x, indices)
    forward = 1.0 if scaling == "backward" else figures.fwd_std
    wanted = (plain(x, indices) - figures.fwd_mean) / forward
    assert ((y - wanted).abs() <= 1e-14 * (1 + wanted.abs())).all()
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    # The gradient comes back from the places where the values went.
    back = dy.flatten(2).gather(2, indices.flatten(2)).reshape(x.shape)
    wanted = back / (figures.fwd_std if scaling == "forward" else 1.0)
    assert ((dx - wanted).abs() <= 1e-14 * (1 + wanted.abs())).all()


@dimensions
def test_unit_scale(dims):
    figures = moments(make(dims, scaling="separate", **LAW), **LAW)
    assert max(abs(figures.fwd_std - 1), abs(figures.bwd_std - 1)) <= 4 * figures.error
    assert abs(figures.fwd_mean) <= 4 * figures.error
    # Where there are no more places than those of windows, a whole sample is the same.
    shape = (3, *(4, 3, 2)[:dims])
    whole = moments(make(dims, scaling="separate", **LAW), **LAW, shape=shape)
    assert abs(whole.fwd_std - 1) <= 4 * whole.error


@dimensions
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dims, dtype):
    layer, (x, indices) = make(dims, **LAW), pooled(dims, dtype)
    assert torch.equal(layer(x, indices), layer(x.float(), indices).to(dtype))


@dimensions
def test_derivatives(dims):
    layer, (x, indices) = make(dims, **LAW), pooled(dims)
    x = x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x, indices), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x, indices), x, fast_mode=True)


@dimensions
def test_it_compiles_and_copies(dims):
    torch.compiler.reset()
    layer, (x, indices) = make(dims, scaling="separate", **LAW), pooled(dims)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    wanted = layer(x, indices)
    assert ((compiled(x, indices) - wanted).abs() <= 1e-14 * (1 + wanted.abs())).all()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x, indices), wanted)
        assert repr(other) == repr(layer)
    torch.compiler.reset()


@dimensions
def test_arguments(dims):
    ours, theirs = (getattr(m, f"MaxUnpool{dims}d") for m in (normprop.nn, nn))
    assert issubclass(ours, theirs)
    names = list(inspect.signature(theirs).parameters)
    assert list(inspect.signature(ours).parameters) == [*names, "scaling", "mean", "std"]
    assert "scaling='forward', mean=0.5, std=2" in repr(make(dims, scaling="forward", **LAW))
    x, indices = pooled(dims)
    size = (*x.shape[:2], *(2 * n for n in x.shape[2:]))
    wanted = make(dims)(x, indices)
    assert torch.equal(make(dims)(x, indices, output_size=size), wanted)
    with pytest.raises(ValueError, match="scaling must be one of"):
        make(dims, scaling="both")
    with pytest.raises(ValueError, match="std must be finite and greater than 0"):
        make(dims, std=0.0)
