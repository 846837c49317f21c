"""Linear maps as functions: which weight serves which pass, and whose gradient is whose."""

import pytest
import torch
from torch.nn import functional as F

from normprop.functional import linear
from tests.nn.battery import on_ball, same_up_to_order


@pytest.fixture
def tensors():
    make = lambda *shape: torch.randn(shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    return make(4, 5), make(3, 5), make(3)


def gradients(y, tensors, dy):
    return torch.autograd.grad(y, tensors, dy)


@pytest.mark.parametrize("per", ["neuron", "layer"])
def test_separate_uses_one_weight_in_each_pass(tensors, per):
    x, weight, bias = tensors
    forward, backward = (on_ball(weight, ball, per, (), 1) for ball in ("forward", "backward"))
    y = linear(x, weight, bias, scaling="separate", per=per)
    dy = torch.randn_like(y)
    dx, dw, db = gradients(y, tensors, dy)
    plain = linear(x, weight, bias, scaling="forward", per=per)
    _, plain_dw, plain_db = gradients(plain, tensors, dy)
    wanted = [x @ forward.T + bias, dy @ backward, plain_dw, plain_db]
    assert same_up_to_order([y, dx, dw, db], wanted, 32)


def test_project_takes_the_weight_as_it_is(tensors):
    for scaling in ("forward", "backward"):
        assert torch.equal(linear(*tensors, scaling=scaling, method="project"), F.linear(*tensors))


def test_separate_and_project(tensors):
    x, weight, bias = tensors
    y = linear(x, weight, bias, scaling="separate", method="project")
    dy = torch.randn_like(y)
    assert torch.equal(y, F.linear(x, weight, bias))
    wanted = [dy @ on_ball(weight, "backward", "neuron", (), 1), dy.T @ x, dy.sum(0)]
    assert same_up_to_order(gradients(y, tensors, dy), wanted, 32)


def test_a_row_of_zeros_puts_out_its_bias(tensors):
    x, weight, bias = tensors
    with torch.no_grad():
        weight[1] = 0
    y = linear(x, weight, bias, scaling="forward")
    dy = torch.randn_like(y)
    _, dw, _ = gradients(y, tensors, dy)
    assert torch.equal(y[:, 1], bias[1].expand(4))
    # As if its norm were 1: the gradient of the plain map.
    assert same_up_to_order([dw[1]], [(dy.T @ x)[1]], 8)


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 3, 5)])
def test_any_number_of_leading_dimensions(tensors, shape):
    _, weight, bias = tensors
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    for scaling in ("forward", "backward", "separate"):
        y = linear(x, weight, bias, scaling=scaling)
        assert y.shape == (*shape[:-1], 3)
        y.sum().backward()
        assert x.grad.shape == shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scaling": "both"}, "scaling must be one of"),
        ({"per": "row"}, "per must be 'neuron' or 'layer'; it was 'row'"),
        ({"method": "clip"}, "method must be 'normalize' or 'project'; it was 'clip'"),
    ],
)
def test_refusals(tensors, arguments, message):
    with pytest.raises(ValueError, match=message):
        linear(*tensors, **arguments)
