"""Norms over the whole range of a type: every road, against exact arithmetic."""

import math

import mpmath
import numpy as np
import pytest
import torch

from normprop.functional import normalize_weight
from normprop.functional.weight import normalize_weight_

SHAPES = [((3, 4), 1), ((2, 2, 2), 1), ((4, 2, 2), 2)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
BALLS = [(ball, per) for ball in ("forward", "backward") for per in ("neuron", "layer")]


def neurons(shape, ball, per, groups):
    """The number of the neuron that each entry belongs to, and the square of its norm."""
    outputs, inputs = shape[:2]
    ends = [1] * (len(shape) - 2)
    period = 2 ** len(ends)
    if per == "layer":
        return np.zeros(
            shape, dtype=int
        ), outputs if ball == "forward" else inputs * groups * period
    rows = np.arange(outputs).reshape(-1, 1, *ends)
    if ball == "forward":
        return np.broadcast_to(rows, shape), 1
    columns = np.arange(inputs).reshape(1, -1, *ends)
    return np.broadcast_to(rows // (outputs // groups) * inputs + columns, shape), period


def exact(weight, gradient, ball, per, groups):
    """V, dW and size/n of every entry, as numbers that know no range."""
    index, period = neurons(weight.shape, ball, per, groups)
    index = index.ravel().tolist()
    w, g = ([mpmath.mpf(v) for v in t.double().flatten().tolist()] for t in (weight, gradient))
    norm, along = {}, {}
    for i, a, b in zip(index, w, g, strict=True):
        norm[i] = norm.get(i, 0) + a * a
        along[i] = along.get(i, 0) + a * b
    norm = {i: mpmath.sqrt(n) if n else mpmath.mpf(1) for i, n in norm.items()}
    rate = [mpmath.sqrt(period) / norm[i] for i in index]
    made = [r * a for r, a in zip(rate, w, strict=True)]
    back = [
        r * (b - along[i] / norm[i] ** 2 * a) for i, r, a, b in zip(index, rate, w, g, strict=True)
    ]
    return made, back, rate


def eager(call, weight, gradient):
    weight.requires_grad_()
    made = call(weight)
    return made.detach(), torch.autograd.grad(made, weight, gradient)[0]


def differentiated(call, weight, gradient):
    weight.requires_grad_()
    made = call(weight)
    (back,) = torch.autograd.grad(made, weight, gradient, create_graph=True)
    return made.detach(), back.detach()


def strided(call, weight, gradient):
    return eager(call, torch.stack([weight, weight], -1)[..., 0], gradient)


def transformed(call, weight, gradient):
    made, pull = torch.func.vjp(call, weight)
    return made, pull(gradient)[0]


def batched(call, weight, gradient):
    both = torch.func.vmap(call), torch.stack([weight, -weight]), torch.stack([gradient] * 2)
    made, back = transformed(*both)
    return made[0], back[0]


def forward_mode(call, weight, gradient):
    return torch.func.jvp(call, (weight,), (gradient,))


def compiled(call, weight, gradient):
    torch.compiler.reset()
    return eager(torch.compile(call, backend="aot_eager", fullgraph=True), weight, gradient)


def weight_of(shape, exponent, which, dtype):
    """Rows of this size: all of them, one, or every third entry."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    powers = torch.zeros(shape, dtype=torch.float64)
    if which == "all":
        powers += exponent
    elif which == "one":
        powers[0] = exponent
    else:
        powers.view(-1)[::3] = exponent
    half = torch.exp2(powers / 2.0)
    return (weight * half * half).to(dtype)


def exponents(dtype):
    """From the smallest number of a type to nearly the largest."""
    info = torch.finfo(dtype)
    low, high = math.log2(info.smallest_normal) + math.log2(info.eps), math.log2(info.max) - 3
    return [int(low), int(0.6 * low), int(0.6 * high), int(high)]


def check(got, wanted, slack, dtype):
    info = torch.finfo(dtype)
    for value, true, room in zip(got.double().flatten().tolist(), wanted, slack, strict=True):
        if abs(true) >= info.max:
            # Too large for the type: its largest number, with the sign.
            assert value == math.copysign(info.max, true)
        else:
            smallest = mpmath.mpf(info.smallest_normal) * info.eps
            assert abs(value - true) <= info.eps * (room + 8 * abs(true)) + 2 * smallest


ROADS = [eager, differentiated, strided, transformed, batched, forward_mode, compiled]


# Loaded for forward mode: torch's own decompositions.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
@pytest.mark.parametrize("which", ["all", "one", "mixed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("road", ROADS)
def test_norms_and_gradients_are_right_in_the_whole_range(road, dtype, which):
    shapes, sizes = SHAPES, exponents(dtype)
    if road is not eager:
        shapes, sizes = SHAPES[2:], sizes[:1] + sizes[-1:]
    with mpmath.workprec(200):
        for shape, groups in shapes:
            for ball, per in BALLS:

                def call(weight, ball=ball, per=per, groups=groups):
                    return normalize_weight(weight, ball, per, stride=2, groups=groups)

                for exponent in sizes:
                    weight = weight_of(shape, exponent, which, dtype)
                    gradient = torch.randn(shape, dtype=torch.float64).to(dtype)
                    made, back, rate = exact(weight, gradient, ball, per, groups)
                    got, got_back = road(call, weight, gradient)
                    check(got, made, [0] * len(made), dtype)
                    # A difference of terms of the size of the largest gradient, a few of them.
                    most = 16 * gradient.abs().max().item()
                    check(got_back, back, [most * r for r in rate], dtype)
                    if road is eager:
                        weight = weight.detach().clone()
                        got = normalize_weight_(weight, ball, per, stride=2, groups=groups)
                        check(got, made, [0] * len(made), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("ball", "per"), BALLS)
def test_a_second_derivative_of_small_and_large_rows(ball, per, dtype):
    # Of a function that forgets lengths: its second derivative at 2^k W is 4^-k times that at W.
    weight = torch.randn(4, 3, dtype=dtype)
    gradient, direction = torch.randn(2, 4, 3, dtype=dtype)

    def second(weight):
        weight = weight.detach().requires_grad_()
        made = normalize_weight(weight, ball, per)
        (first,) = torch.autograd.grad(made, weight, gradient, create_graph=True)
        return torch.autograd.grad(first, weight, direction)[0]

    wanted = second(weight)
    for exponent in (-60, 60) if dtype == torch.float32 else (-500, 500):
        got = second(weight * 2.0**exponent)
        got = got * 2.0**exponent * 2.0**exponent
        assert torch.allclose(got, wanted, rtol=1e4 * torch.finfo(dtype).eps, atol=1e-4)


def test_what_arrives_as_no_number_stays_none():
    weight = torch.randn(3, 4, requires_grad=True)
    for value in (math.inf, math.nan):
        gradient = torch.full((3, 4), value)
        for scale in (1.0, 1e-30):
            made = normalize_weight(weight * scale)
            assert torch.autograd.grad(made, weight, gradient)[0].isnan().any()
    assert normalize_weight(torch.tensor([[math.nan, 1.0], [1.0, 2.0]]), "forward")[0].isnan().all()
