"""Pooling fitted to its input as layers; of fractional pooling all, as it is not in the battery."""

import copy
import pickle

import pytest
import torch
from torch import nn

import normprop
from normprop import moments, simulate
from tests.layers import named
from tests.nn.battery import LAW, SCALINGS, first, run

CASES = [
    ("FractionalMaxPool2d", {"kernel_size": 2, "output_size": (4, 3)}, (2, 3, 9, 7)),
    ("FractionalMaxPool2d", {"kernel_size": (3, 2), "output_ratio": (0.5, 0.6)}, (2, 3, 8, 10)),
    ("FractionalMaxPool3d", {"kernel_size": 2, "output_size": 2}, (2, 3, 5, 6, 4)),
]
cases = pytest.mark.parametrize(("name", "arguments", "shape"), CASES)


def normal(shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@cases
@pytest.mark.parametrize("scaling", SCALINGS)
def test_fractional_pooling_is_its_formula(name, arguments, shape, scaling):
    layer = getattr(normprop.nn, name)(**arguments, scaling=scaling, **LAW)
    plain, x = getattr(nn, name)(**arguments), normal(shape)
    figures = moments(plain, **LAW, shape=None if "output_ratio" in arguments else shape[1:])
    sigma = figures.bwd_std if scaling == "backward" else figures.fwd_std
    y, dx = run(layer, x)
    plain_y, plain_dx = run(plain, x)
    wanted = (plain_y - figures.fwd_mean) / sigma
    assert ((y - wanted).abs() <= 1e-14 * (1 + wanted.abs()) + figures.error / sigma).all()
    wanted = plain_dx / (figures.fwd_std if scaling == "forward" else figures.bwd_std)
    assert ((dx - wanted).abs() <= 1e-14 * (1 + wanted.abs()) + figures.error / sigma).all()


@cases
def test_fractional_pooling_has_unit_scale(name, arguments, shape):
    for after in (None, "relu"):
        law = {**LAW, "after": after}
        layer = getattr(normprop.nn, name)(**arguments, scaling="separate", **law)
        estimate = simulate(layer, 100_000, **law, shape=shape[1:], seed=5)
        assert abs(estimate.fwd_mean) < 4.5 * estimate.fwd_mean_se
        for value, error in (
            (estimate.fwd_std, estimate.fwd_std_se),
            (estimate.bwd_std, estimate.bwd_std_se),
        ):
            assert abs(value - 1) < 4.5 * error
        figures = moments(layer, **law, shape=shape[1:])
        assert max(abs(figures.fwd_std - 1), abs(figures.bwd_std - 1)) <= 4 * figures.error


@cases
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fractional_pooling_in_half_precision(name, arguments, shape, dtype):
    x = normal(shape, dtype)
    layer = getattr(normprop.nn, name)(**arguments, **LAW)
    y, dx = run(layer, x)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    wide = run(layer, x.float(), dy.to(dtype).float())
    assert torch.equal(y, wide[0].to(dtype))
    assert torch.equal(dx, wide[1].to(dtype))


@cases
def test_fractional_pooling_differentiates(name, arguments, shape):
    layer = getattr(normprop.nn, name)(**arguments, **LAW)

    def call(x):
        torch.manual_seed(0)
        return layer(x)

    assert torch.autograd.gradcheck(call, normal(shape).requires_grad_(), fast_mode=True)


@cases
def test_fractional_pooling_returns_torchs_indices(name, arguments, shape):
    x = normal(shape)
    torch.manual_seed(0)
    y, indices = getattr(normprop.nn, name)(**arguments, return_indices=True)(x)
    torch.manual_seed(0)
    assert torch.equal(indices, getattr(nn, name)(**arguments, return_indices=True)(x)[1])
    assert y.shape == indices.shape


def test_given_samples_are_used_and_kept():
    samples = torch.full((2, 3, 2), 0.3, dtype=torch.float64)
    layer = normprop.nn.FractionalMaxPool2d(2, 4, _random_samples=samples)
    x = normal((2, 3, 9, 7))
    assert torch.equal(layer(x), layer(x))
    assert list(layer.state_dict()) == ["_random_samples"]


FITTED = [
    lambda after: normprop.nn.AdaptiveAvgPool2d(3, after=after, **LAW),
    lambda after: normprop.nn.AdaptiveMaxPool2d(3, after=after, **LAW),
    lambda after: normprop.nn.FractionalMaxPool2d(2, 3, after=after, **LAW),
]


@pytest.mark.parametrize("make", FITTED)
@pytest.mark.parametrize("after", ["relu", nn.LeakyReLU(0.1), torch.sigmoid], ids=named)
@pytest.mark.parametrize(
    "clone",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["copy", "pickle"],
)
def test_what_stands_before_is_kept_but_no_child(make, after, clone):
    layer, x = make(after), normal((2, 3, 9, 7))
    assert not list(layer.children())
    other = clone(layer)
    assert repr(other) == repr(layer)
    assert "after=" in repr(layer)
    torch.manual_seed(0)
    wanted = layer(x)
    torch.manual_seed(0)
    assert torch.equal(other(x), wanted)


@pytest.mark.parametrize("make", FITTED)
def test_what_stands_before_is_refused_when_it_is_declared(make):
    with pytest.raises(ValueError, match="must be one of the names"):
        make("rellu")


@pytest.mark.parametrize("make", FITTED[:2])
def test_a_module_before_compiles(make):
    torch.compiler.reset()
    layer, x = make(nn.LeakyReLU(0.1)), normal((2, 3, 9, 7))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    wanted = first(layer(x))
    assert ((first(compiled(x)) - wanted).abs() <= 1e-14 * (1 + wanted.abs())).all()
    torch.compiler.reset()


def test_the_constants_of_a_shape_are_public():
    layer = normprop.nn.AdaptiveAvgPool2d(2, scaling="forward")
    assert layer.constants is None
    constants = layer.constants_of((3, 4, 6))
    assert abs(constants.forward - 6**-0.5) < 1e-16
    with pytest.raises(ValueError, match="shape must be given for AdaptiveAvgPool2d"):
        layer.constants_of(None)
