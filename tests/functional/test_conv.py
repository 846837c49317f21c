"""Convolutions as functions: which weight serves which pass, with strides, groups and dilation."""

import pytest
import torch
from torch.nn import functional as F

from normprop import functional
from tests.nn.battery import on_ball, same_up_to_order

CASES = [
    # dims, arguments
    (1, {}),
    (1, {"stride": 2, "groups": 2, "padding": 1}),
    (2, {"stride": (2, 1), "dilation": (1, 2)}),
    (2, {"stride": (2,), "padding": "valid"}),
    (3, {"groups": 2, "stride": 2}),
]


def tensors_of(dims, groups=1):
    make = lambda *shape: torch.randn(shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    return make(2, 4, *(7, 6, 5)[:dims]), make(6, 4 // groups, *(3, 3, 2)[:dims]), make(6)


def steps(stride, dims):
    stride = (stride,) if isinstance(stride, int) else stride
    return stride * dims if len(stride) == 1 else stride


@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize(("dims", "arguments"), CASES)
def test_separate_uses_one_weight_in_each_pass(dims, arguments, per):
    groups = arguments.get("groups", 1)
    tensors = x, weight, bias = tensors_of(dims, groups)
    period = steps(arguments.get("stride", 1), dims)
    function, plain = getattr(functional, f"conv{dims}d"), getattr(F, f"conv{dims}d")
    forward, backward = (on_ball(weight, b, per, period, groups) for b in ("forward", "backward"))
    y = function(x, weight, bias, **arguments, scaling="separate", per=per)
    dy = torch.randn_like(y)
    got = [y, *torch.autograd.grad(y, tensors, dy)]
    true = function(x, weight, bias, **arguments, scaling="forward", per=per)
    _, dw, db = torch.autograd.grad(true, tensors, dy)
    (dx,) = torch.autograd.grad(plain(x, backward, None, **arguments), x, dy)
    wanted = [plain(x, forward, bias, **arguments), dx, dw, db]
    assert same_up_to_order(got, wanted, weight.numel() + x.numel())


@pytest.mark.parametrize(("dims", "arguments"), CASES)
def test_project_takes_the_weight_as_it_is(dims, arguments):
    tensors = tensors_of(dims, arguments.get("groups", 1))
    got = getattr(functional, f"conv{dims}d")(*tensors, **arguments, method="project")
    assert torch.equal(got, getattr(F, f"conv{dims}d")(*tensors, **arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scaling": "both"}, "scaling must be one of"),
        ({"per": "row"}, "per must be 'neuron' or 'layer'; it was 'row'"),
        ({"method": "clip"}, "method must be 'normalize' or 'project'; it was 'clip'"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        functional.conv2d(*tensors_of(2), **arguments)
