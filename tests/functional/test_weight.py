"""Weights on the unit ball: their norms, their projected gradient, and a weight of zeros."""

import math

import pytest
import torch

from normprop.functional import normalize_weight
from normprop.functional.weight import normalize_weight_
from tests.nn.battery import on_ball

CASES = [
    # shape, stride, groups
    ((6, 4), 1, 1),
    ((6, 4, 3), 2, 1),
    ((6, 4, 3), (3,), 2),
    ((6, 2, 3, 2), (2, 3), 3),
    ((6, 2, 3, 2), (2,), 3),
    ((4, 3, 2, 1, 2), 2, 2),
]


def weight_of(shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def steps(stride, shape):
    stride = (stride,) if isinstance(stride, int) else stride
    return stride * (len(shape) - 2) if len(stride) == 1 else stride


@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize("ball", ["forward", "backward"])
@pytest.mark.parametrize(("shape", "stride", "groups"), CASES)
def test_the_weight_is_on_its_ball(shape, stride, groups, ball, per):
    weight = weight_of(shape)
    got = normalize_weight(weight, ball, per, stride=stride, groups=groups)
    wanted = on_ball(weight, ball, per, steps(stride, shape), groups)
    # A norm is a sum of at most all squares; its root, a quotient and a product follow.
    assert ((got - wanted).abs() <= 2**-52 * (weight.numel() + 16) * wanted.abs()).all()


@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize("ball", ["forward", "backward"])
@pytest.mark.parametrize(("shape", "stride", "groups"), CASES[::2])
def test_the_gradient_is_the_derivative(shape, stride, groups, ball, per):
    def call(weight):
        return normalize_weight(weight, ball, per, stride=stride, groups=groups)

    assert torch.autograd.gradcheck(call, (weight_of(shape),))
    assert torch.autograd.gradgradcheck(call, (weight_of(shape),), fast_mode=True)


def test_the_gradient_is_tangent_to_the_ball():
    weight = weight_of((6, 4))
    dy = torch.randn(6, 4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(normalize_weight(weight, "forward"), weight, dy)
    radial = (gradient * weight).sum(1)
    assert (radial.abs() <= 2**-52 * 64 * (gradient.abs() * weight.abs()).sum(1)).all()


@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize("ball", ["forward", "backward"])
def test_a_weight_of_zeros_stays_and_its_gradient_passes_as_if_its_norm_were_one(ball, per):
    weight = torch.zeros(6, 4, 3, dtype=torch.float64, requires_grad=True)
    scaled = normalize_weight(weight, ball, per, stride=2)
    assert torch.equal(scaled, torch.zeros_like(weight))
    dy = torch.randn_like(weight)
    (gradient,) = torch.autograd.grad(scaled, weight, dy)
    squares = {
        ("forward", "neuron"): 1, ("backward", "neuron"): 2,
        ("forward", "layer"): 6, ("backward", "layer"): 8,
    }  # fmt: skip
    wanted = math.sqrt(squares[ball, per]) * dy
    assert torch.allclose(gradient, wanted, rtol=1e-15, atol=0)


@pytest.mark.parametrize(("ball", "index"), [("forward", (1,)), ("backward", (slice(None), 1))])
def test_one_neuron_of_zeros_leaves_the_others_alone(ball, index):
    weight = weight_of((6, 4, 3))
    before = normalize_weight(weight, ball).detach()
    with torch.no_grad():
        weight[index] = 0
    after = normalize_weight(weight, ball)
    dy = torch.randn_like(weight)
    (gradient,) = torch.autograd.grad(after, weight, dy)
    assert (after[index] == 0).all()
    assert torch.equal(gradient[index], dy[index])
    assert gradient.isfinite().all()
    untouched = torch.ones_like(weight, dtype=torch.bool)
    untouched[index] = False
    assert torch.equal(after[untouched], before[untouched])


def test_one_tap_of_zeros_leaves_the_others_alone():
    weight = torch.randn(6, 4, 3, dtype=torch.float64)
    weight[:, 1, 2] = 0
    got = normalize_weight(weight, "backward")
    wanted = on_ball(weight, "backward", "neuron", (1,), 1)
    assert torch.allclose(got, wanted, rtol=1e-14, atol=0)
    assert (got[:, 1, 2] == 0).all()


@pytest.mark.parametrize("ball", ["forward", "backward"])
@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (3, 0, 2), (0, 3, 2)])
def test_an_empty_weight_stays_empty(shape, ball):
    weight = torch.empty(shape, requires_grad=True)
    scaled = normalize_weight(weight, ball)
    assert scaled.shape == shape
    assert torch.autograd.grad(scaled.sum(), weight)[0].shape == shape
    assert normalize_weight_(torch.empty(shape), ball).shape == shape


@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize("ball", ["forward", "backward"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "stride", "groups"), CASES)
def test_in_place_is_the_same(shape, stride, groups, dtype, ball, per):
    weight = weight_of(shape).detach().to(dtype)
    weight[0] = 0
    wanted = normalize_weight(weight, ball, per, stride=stride, groups=groups)
    got = normalize_weight_(weight, ball, per, stride=stride, groups=groups)
    assert got is weight
    # Two roundings of a norm, of a factor and of a product.
    assert torch.allclose(got, wanted, rtol=16 * torch.finfo(dtype).eps, atol=0)


def test_in_place_takes_a_weight_that_is_not_contiguous():
    weight = torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last)
    wanted = normalize_weight(weight, "backward")
    got = normalize_weight_(weight, "backward")
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(got, wanted, rtol=1e-6, atol=0)


def test_a_single_entry_of_a_stride_is_for_every_dimension():
    weight = weight_of((6, 4, 3, 3))
    one, all_, plain = (normalize_weight(weight, stride=s) for s in ((2,), (2, 2), 2))
    assert torch.equal(one, all_)
    assert torch.equal(one, plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ball": "sideways"}, "ball must be 'forward' or 'backward'; it was 'sideways'"),
        ({"per": "row"}, "per must be 'neuron' or 'layer'; it was 'row'"),
        ({"groups": 4}, "groups must divide 6 outputs; it was 4"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        normalize_weight(weight_of((6, 4)), **arguments)


@pytest.mark.parametrize("size", [1.0, 1e-25])
@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize("ball", ["forward", "backward"])
@pytest.mark.parametrize(("shape", "groups"), [((6, 4), 1), ((6, 4, 3), 1), ((6, 2, 3, 3), 3)])
def test_many_gradients_at_once(shape, groups, ball, per, size):
    weight = (size * torch.randn(shape)).requires_grad_()
    scaled = normalize_weight(weight, ball, per, groups=groups)
    several = torch.randn(3, *shape)
    options = {"retain_graph": True}
    (batch,) = torch.autograd.grad(scaled, weight, several, is_grads_batched=True, **options)
    for together, arriving in zip(batch, several, strict=True):
        (alone,) = torch.autograd.grad(scaled, weight, arriving, **options)
        assert (together - alone).abs().max() <= 64 * torch.finfo(
            torch.float32
        ).eps * alone.abs().max()
