"""What is the transposed twins' own: output sizes, and the weights of the two passes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normprop
from normprop import functional, moments
from normprop.functional.parametric import Absorbed, Meaning
from normprop.nn.init import orthogonal_
from tests.nn.battery import on_ball, same_up_to_order

CASES = [
    # dims, arguments
    (1, {}),
    (1, {"stride": 2, "groups": 2, "padding": 1}),
    (2, {"stride": (2, 1), "dilation": (1, 2), "output_padding": (1, 0)}),
    (3, {"groups": 2, "stride": 2}),
]


def tensors_of(dims, groups=1):
    make = lambda *shape: torch.randn(shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    return make(2, 4, *(7, 6, 5)[:dims]), make(4, 6 // groups, *(3, 3, 2)[:dims]), make(6)


def on_its_ball(weight, ball, per, stride, groups):
    """The weight, one channel after the other."""
    result, period = weight.detach().clone(), torch.Size(stride).numel()
    ins, outs = len(weight), weight.shape[1] * groups
    if per == "layer":
        squares = outs * period if ball == "forward" else ins
        return result * (squares**0.5 / result.norm())
    if ball == "backward":
        for channel in result:
            channel /= channel.norm()
        return result
    for block in result.chunk(groups):
        for out in range(weight.shape[1]):
            block[:, out] *= period**0.5 / block[:, out].norm()
    return result


@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize(("dims", "arguments"), CASES)
def test_separate_uses_one_weight_in_each_pass(dims, arguments, per):
    groups = arguments.get("groups", 1)
    tensors = x, weight, bias = tensors_of(dims, groups)
    stride = arguments.get("stride", 1)
    stride = stride if isinstance(stride, tuple) else (stride,) * dims
    function, plain = (getattr(m, f"conv_transpose{dims}d") for m in (functional, F))
    forward, backward = (
        on_its_ball(weight, ball, per, stride, groups) for ball in ("forward", "backward")
    )
    y = function(x, weight, bias, **arguments, scaling="separate", per=per)
    dy = torch.randn_like(y)
    got = [y, *torch.autograd.grad(y, tensors, dy)]
    true = function(x, weight, bias, **arguments, scaling="forward", per=per)
    _, dw, db = torch.autograd.grad(true, tensors, dy)
    (dx,) = torch.autograd.grad(plain(x, backward, None, **arguments), x, dy)
    wanted = [plain(x, forward, bias, **arguments), dx, dw, db]
    assert same_up_to_order(got, wanted, weight.numel() + x.numel())


@pytest.mark.parametrize("ball", ["forward", "backward"])
@pytest.mark.parametrize("per", ["neuron", "layer"])
def test_the_battery_s_ball_is_the_ball(per, ball):
    weight = torch.randn(4, 3, 3, 2, dtype=torch.float64)
    wanted = on_its_ball(weight, ball, per, (2, 3), 2)
    got = on_ball(weight, ball, per, (2, 3), 2, transposed=True)
    assert ((got - wanted).abs() <= 2**-52 * 64 * wanted.abs()).all()


@pytest.mark.parametrize(("dims", "arguments"), CASES)
def test_project_takes_the_weight_as_it_is(dims, arguments):
    tensors = tensors_of(dims, arguments.get("groups", 1))
    name = f"conv_transpose{dims}d"
    got = getattr(functional, name)(*tensors, **arguments, method="project")
    assert torch.equal(got, getattr(F, name)(*tensors, **arguments))


@pytest.mark.parametrize("size", [(9, 9), (10, 9), [10, 10]])
def test_the_output_size_can_be_chosen(size):
    layer = normprop.nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1)
    plain = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1)
    weight = layer._on_ball(layer.weight, "backward")
    plain.load_state_dict({**layer.state_dict(), "weight": weight})
    x = torch.randn(2, 3, 5, 5)
    y = layer(x, output_size=size)
    assert tuple(y.shape[2:]) == tuple(size)
    assert torch.equal(y, plain(x, output_size=size))
    with pytest.raises(ValueError, match="requested an output size"):
        layer(x, output_size=(12, 9))


def test_scales_are_absorbed_and_shifts_of_the_output():
    x, weight, bias = tensors_of(2)
    absorbed = Absorbed(Meaning(2.0), Meaning(4.0, 0.5))
    got = functional.conv_transpose2d(x, weight, bias, 2, scaling="forward", absorbed=absorbed)
    plain = functional.conv_transpose2d(2.0 * x, weight, bias, 2, scaling="forward")
    assert same_up_to_order([got], [(plain - 0.5) / 4.0], weight.numel())


def test_a_shift_of_the_input_is_refused():
    with pytest.raises(ValueError, match=r"a shift of the input must be 0.*it was 0\.5"):
        functional.conv_transpose2d(*tensors_of(2), absorbed=Absorbed(Meaning(1.0, 0.5)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scaling": "both"}, "scaling must be one of"),
        ({"per": "row"}, "per must be 'neuron' or 'layer'; it was 'row'"),
        ({"method": "clip"}, "method must be 'normalize' or 'project'; it was 'clip'"),
        ({"groups": 3}, "groups must divide 4 inputs; it was 3"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        functional.conv_transpose2d(*tensors_of(2), **arguments)


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (2, 2)])
def test_an_orthogonal_weight_is_on_both_balls(stride, groups):
    # Inputs must be outputs times the product of the stride.
    layer = nn.ConvTranspose2d(4 * stride**2, 4, 3, stride, groups=groups, bias=False).double()
    orthogonal_(layer.weight, stride=stride, groups=groups)
    figures = moments(layer)
    bound = 32 * 2**-52 * layer.weight.shape[0] + figures.error
    assert abs(figures.fwd_std - 1).max() <= bound
    assert abs(figures.bwd_std - 1).max() <= bound
