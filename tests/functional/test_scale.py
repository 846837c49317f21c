"""Shift and scales: one pass each, one rounding, and a gradient times exactly the factor."""

import math
import operator
import sys

import pytest
import torch

from normprop.functional import Constants, scale_gradient
from normprop.functional.scale import constant_when_compiled, literal, normalized
from normprop.rules import Moments


def figures(fwd_std=0.5, bwd_std=0.25):
    return Moments(1.5, fwd_std, bwd_std, 0.0, "closed form")


@pytest.mark.parametrize(
    ("scaling", "wanted"),
    [
        ("forward", (1.5, 0.5, 0.5)),
        ("backward", (1.5, 0.25, 0.25)),
        ("separate", (1.5, 0.5, 0.25)),
    ],
)
def test_the_scaling_chooses_the_divisors(scaling, wanted):
    assert Constants.of(figures(), scaling) == wanted


@pytest.mark.parametrize("dead", [{"fwd_std": 0.0}, {"bwd_std": 0.0}])
def test_a_layer_that_lets_nothing_through_is_refused(dead):
    with pytest.raises(ValueError, match=r"must let the signal and the gradient through.*= 0.0"):
        Constants.of(figures(**dead), "separate")


def test_an_unknown_scaling_is_refused():
    with pytest.raises(ValueError, match=r"scaling must be one of .*; it was 'both'"):
        Constants.of(figures(), "both")


@pytest.mark.parametrize("factor", [0.0, -2.0, 0.3, 1.0, 1e6])
def test_the_gradient_is_multiplied_and_the_value_is_not(factor):
    x = torch.randn(1023, dtype=torch.float64, requires_grad=True)
    y = scale_gradient(x, factor)
    assert torch.equal(y, x)
    dy = torch.randn_like(x)
    (dx,) = torch.autograd.grad(y, x, dy)
    assert torch.equal(dx, factor * dy)


def test_the_factor_is_that_of_the_gradient_of_the_gradient_too():
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    (dx,) = torch.autograd.grad(scale_gradient(x, 3.0).pow(3).sum(), x, create_graph=True)
    # dx = 3·3x², and its own derivative passes the scaled identity once more: 3·3·6x.
    (ddx,) = torch.autograd.grad(dx.sum(), x)
    assert torch.allclose(ddx, 3 * 3 * 6 * x, rtol=1e-15, atol=0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_forward_mode_raises():
    x = torch.randn(5)
    with pytest.raises(RuntimeError, match="'separate' has no derivative in forward mode"):
        torch.func.jvp(lambda x: scale_gradient(x, 2.0), (x,), (x,))
    _, tangent = torch.func.jvp(lambda x: scale_gradient(x, 1.0), (x,), (x,))
    assert torch.equal(tangent, x)


def test_batches_of_gradients():
    x = torch.randn(6, 5, dtype=torch.float64)
    gradient = torch.func.vmap(torch.func.grad(lambda x: scale_gradient(x, 2.0).square().sum()))
    assert torch.equal(gradient(x), 4 * x)


def test_compiled_code_says_the_same():
    torch.compiler.reset()
    x = torch.randn(1023, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(scale_gradient, backend="aot_eager", fullgraph=True)
    y = compiled(x, 0.3)
    dy = torch.randn_like(x)
    (dx,) = torch.autograd.grad(y, x, dy)
    assert torch.equal(y, x)
    # dy + (0.3 - 1) dy: three roundings.
    assert ((dx - 0.3 * dy).abs() <= 4 * 2**-52 * dy.abs()).all()


class Times(torch.nn.Module):
    """Multiplies by a number that is to stay one."""

    def __init__(self):
        super().__init__()
        self.number = 1.0

    def forward(self, x):
        return x * literal(self.number)


def test_a_literal_is_the_same_number_and_a_constant_of_compiled_code(monkeypatch):
    torch.compiler.reset()
    net, x, seen = Times(), torch.randn(3, dtype=torch.float64), []

    def backend(module, inputs):
        seen.extend(n.args[1] for n in module.graph.nodes if n.target is operator.mul)
        return module.forward

    compiled = torch.compile(net, backend=backend, fullgraph=True)
    numbers = [0.1, 1 / 3, -2.5e-300, 5e-324, math.nextafter(1.0, 2.0), sys.float_info.max]
    for net.number in numbers:
        assert torch.equal(compiled(x), x * net.number)
    assert seen == numbers
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for number in (*numbers, -0.0, math.inf, -math.inf, math.nan, 3):
        assert literal(number).hex() == float(number).hex()


def test_the_mark_of_constants_is_that_of_torch():
    def ours():
        """Marked by the package."""

    def theirs():
        """Marked by torch."""

    constant_when_compiled(ours)
    torch.compiler.assume_constant_result(theirs)
    assert vars(ours) == vars(theirs)
    assert vars(ours)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_is_kept_and_half_precision_computed_in_single(dtype):
    seen = []

    def function(x):
        seen.append(x.dtype)
        return x

    assert normalized(function, torch.ones(3, dtype=dtype), Constants(0.0, 1.0, 1.0)).dtype == dtype
    assert seen == [torch.float32 if dtype.itemsize == 2 else dtype]


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_numbers_that_cannot_hold_the_output_are_refused(dtype):
    with pytest.raises(TypeError, match=f"input must hold floating-point numbers; it was {dtype}"):
        normalized(torch.abs, torch.ones(3, dtype=dtype), Constants(0.0, 1.0, 1.0))
