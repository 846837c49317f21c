"""Fused activations: values, slopes at kinks, what is kept, derivatives of derivatives."""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from normprop import kernels
from normprop.functional import Constants
from normprop.functional.fused import MAPS, SMALL, fused, wants_triton
from normprop.functional.scale import normalized, scale_gradient

PARAMS = {
    "celu": [(1.0,), (2.0,)],
    "elu": [(1.0,), (0.5,), (-0.5,), (0.0,)],
    "gelu": [("none",), ("tanh",)],
    "hardshrink": [(0.5,)],
    "hardtanh": [(-1.0, 1.0), (-0.25, 2.0)],
    "leaky_relu": [(0.01,), (0.0,), (-0.3,), (1.0,), (2.0,)],
    "softplus": [(1.0, 20.0), (2.0, 20.0), (1.0, 1.0)],
    "softshrink": [(0.5,)],
    "threshold": [(0.125, 0.25), (0.5, -1.0)],
}
CALLS = [(name, params) for name in MAPS for params in PARAMS.get(name, [()])]
calls = pytest.mark.parametrize(("name", "params"), CALLS, ids=str)
dtypes = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
# Forward mode makes torch load decompositions that it wrote in its own deprecated TorchScript.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
# Dynamo makes an instance of a Function, and says itself that one should not.
compiled_function = pytest.mark.filterwarnings("ignore:.*should not be instantiated")
TRUE, SEPARATE = Constants(0.3, 0.7, 0.7), Constants(0.3, 0.7, 1.3)
HALF = (torch.float16, torch.bfloat16)


def points(dtype):
    """Random numbers, the kinks of all functions, and what lies about them."""
    kinks = torch.tensor([0.0, 0.125, -0.25, 0.5, -0.5, 1.0, -1.0, 2.0, 3.0, -3.0, 6.0])
    near = torch.cat([kinks + 1e-2, kinks - 1e-2, torch.tensor([30.0, -30.0])])
    return torch.cat([2 * torch.randn(1001), kinks, near]).to(dtype)


def gradient(function, x, dy=None, **options):
    y = function(x)
    return torch.autograd.grad(y, x, torch.ones_like(y) if dy is None else dy, **options)[0]


def exact(name, params, x, constants, dy):
    """y, dx and the size of f, in float64, by torch's own functions."""
    x = x.detach().double().requires_grad_()
    f = MAPS[name].plain(x, *params)
    slope = torch.autograd.grad(f.sum(), x)[0]
    y = (f - constants.shift) / constants.forward
    return y.detach(), dy.double() * slope / constants.backward, f.detach().abs()


@calls
@dtypes
@pytest.mark.parametrize("constants", [TRUE, SEPARATE, Constants(0.0, 0.5, 0.5)], ids=str)
def test_values_and_gradients(name, params, dtype, constants):
    x = points(dtype).requires_grad_()
    dy = torch.randn(x.shape, dtype=torch.float64).to(dtype)
    y = fused(name, x, params, constants)
    (dx,) = torch.autograd.grad(y, x, dy)
    assert y.dtype == dx.dtype == dtype
    wanted, wanted_dx, size = exact(name, params, x, constants, dy)
    # Torch's f is good to a few units of 1, in which erf and differences of numbers near 1 are
    # computed; a, c and their sum are rounded once each.
    eps = torch.finfo(dtype).eps
    wide = torch.finfo(torch.float32).eps if dtype in HALF else eps
    rounding = (eps if dtype in HALF else 0.0) * wanted.abs()
    bound = rounding + 16 * wide * (1 + size + abs(constants.shift)) / constants.forward
    assert ((y.double() - wanted).abs() <= bound).all()
    # A slope from y: y's rounding by |f''| ≤ 1, and as much again for the way back to f.
    away = torch.ones_like(size, dtype=torch.bool)
    if name == "softplus" and dtype == torch.float64:
        # Where softplus becomes a line its slope jumps by e^-20, and y does not say when.
        away = (params[0] * x.detach() - params[1]).abs() > 1e-6
    slope_bound = 32 * wide * (1 + y.detach().double().abs()) * dy.double().abs()
    bound = eps * (wanted_dx.abs() + torch.finfo(dtype).tiny) + slope_bound / constants.backward
    assert ((dx.double() - wanted_dx).abs() <= bound)[away].all()


KINKED = [("relu", ()), ("relu6", ()), ("hardtanh", (-0.25, 2.0)), ("hardsigmoid", ()),
          ("leaky_relu", (0.25,))]  # fmt: skip


@pytest.mark.parametrize(("name", "params"), KINKED, ids=str)
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("constants", [TRUE, Constants(0.39894228, 0.58381937, 0.70710678)])
def test_half_precision_loses_no_gradient_at_a_kink(name, params, dtype, constants):
    # Every number of the type about the kinks, down to the smallest.
    bits = torch.arange(-(2**15), 2**15, 3, dtype=torch.int32).to(torch.int16)
    x = bits.view(dtype)
    x = torch.cat(
        [x[x.isfinite() & (x.abs() < 8)], torch.tensor([0.0, 2.0, 3.0, -3.0], dtype=dtype)]
    )
    x.requires_grad_()
    dx = gradient(lambda x: fused(name, x, params, constants), x)
    _, wanted, _ = exact(name, params, x, constants, torch.ones_like(x))
    assert torch.equal(dx, wanted.to(dtype))
    # Rounded once, or from the y of a kink to the neighbour inside.
    for numbers, most in ((x.detach(), 1.0), (torch.randn(100_000).to(dtype), 4e-3)):
        y = fused(name, numbers, params, constants)
        once = fused(name, numbers.float(), params, constants).to(dtype)
        moved = y != once
        low, high = MAPS[name].kinks(*params)
        f = MAPS[name].plain(numbers.float(), *params)
        assert ((f > low) & (f < high))[moved].all()
        ends = fused("identity", torch.tensor([low, high]), (), constants).to(dtype)
        assert torch.isin(once[moved], ends).all()
        assert (
            (y - once).abs()[moved] <= torch.finfo(dtype).eps * ends[ends.isfinite()].abs().max()
        ).all()
        assert moved.float().mean() <= most
        assert name != "relu" or moved.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_relu_is_exact_at_its_kink(dtype):
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor([0.0, -0.0, -tiny, -1.0, math.inf, -math.inf, 1e-3], dtype=dtype)
    for mean, std in [(0.4, 0.58), (1e3, 0.7), (1e-6, 1e-6)]:
        constants = Constants(mean, std, std)
        leaf = x.clone().requires_grad_()
        slopes = gradient(lambda x, c=constants: fused("relu", x, (), c), leaf) * std
        assert torch.equal(slopes[:4], torch.zeros(4, dtype=dtype))
        y = fused("relu", x, (), constants)
        assert (y[[0, 1, 2, 3, 5]] == y[0]).all()
        assert y[4] == math.inf


# What is kept

LAYERS = {
    "celu": nn.CELU, "elu": nn.ELU, "gelu": nn.GELU, "hardshrink": nn.Hardshrink,
    "hardsigmoid": nn.Hardsigmoid, "hardswish": nn.Hardswish, "hardtanh": nn.Hardtanh,
    "identity": nn.Identity, "leaky_relu": nn.LeakyReLU, "logsigmoid": nn.LogSigmoid,
    "mish": nn.Mish, "relu": nn.ReLU, "relu6": nn.ReLU6, "selu": nn.SELU, "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU, "softplus": nn.Softplus, "softshrink": nn.Softshrink,
    "softsign": nn.Softsign, "tanh": nn.Tanh, "tanhshrink": nn.Tanhshrink,
    "threshold": nn.Threshold,
}  # fmt: skip
FROM_OUTPUT = {
    "celu", "elu", "hardsigmoid", "hardtanh", "leaky_relu", "logsigmoid", "relu", "relu6", "selu",
    "sigmoid", "softplus", "softsign", "tanh",
}  # fmt: skip


def kept(function, x):
    """The storages that a call keeps for its backward pass, and its output."""
    found = {}

    def pack(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = function(x)
    return found, y


@pytest.mark.parametrize("name", sorted(MAPS))
@pytest.mark.parametrize("constants", [TRUE, SEPARATE], ids=["true", "separate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_more_is_kept_than_by_torch(name, constants, dtype):
    params = PARAMS.get(name, [()])[0]
    x = torch.randn(64, 1023).to(dtype).requires_grad_()
    ours, y = kept(lambda x: fused(name, x, params, constants), x)
    theirs, _ = kept(LAYERS[name](*params), x)
    assert sum(ours.values()) <= sum(theirs.values())
    tensor = y if name in FROM_OUTPUT and (dtype == torch.float32 or MAPS[name].kinks) else x
    wanted = set() if name == "identity" else {tensor.untyped_storage().data_ptr()}
    assert set(ours) == wanted


@pytest.mark.parametrize("name", sorted(MAPS))
def test_small_tensors_keep_what_torch_keeps(name):
    params = PARAMS.get(name, [()])[0]
    x = torch.randn(9, 11).requires_grad_()
    ours, _ = kept(lambda x: fused(name, x, params, TRUE), x)
    theirs, _ = kept(LAYERS[name](*params), x)
    assert sum(ours.values()) <= sum(theirs.values())


KEEPS_ITS_INPUT = [
    (name, params)
    for name, params in CALLS
    if MAPS[name].keeps(*params) == "input" and not MAPS[name].derived
]


def runs_python(y):
    """Whether a node of autograd's graph is a Function."""
    return isinstance(y.grad_fn, torch.autograd.function.BackwardCFunction)


@pytest.mark.parametrize(("name", "params"), KEEPS_ITS_INPUT, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_small_tensors_run_what_large_ones_run(name, params, dtype, monkeypatch):
    x = points(dtype).requires_grad_()
    for constants in (TRUE, SEPARATE):
        for overwritten in (None, "output"):
            small, y = kept(lambda x, c=constants, o=overwritten: fused(
                name, x, params, c, overwritten=o), x)  # fmt: skip
            (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
            bare = constants is TRUE and MAPS[name].lean(dtype)
            assert runs_python(y) != bare
            # Neither more is kept nor anything else.
            assert set(small) == {x.untyped_storage().data_ptr()}
            with monkeypatch.context() as patch:
                patch.setitem(SMALL, "cpu", 0)
                z = fused(name, x, params, constants, overwritten=overwritten)
                (dz,) = torch.autograd.grad(z, x, torch.ones_like(z))
            assert runs_python(z)
            assert torch.equal(y, z)
            assert torch.equal(dx == 0, dz == 0)
            # b·f' dy or f'·(b dy): two roundings of terms no larger than 2 + |x|.
            eps = torch.finfo(dtype).eps
            size = (2 + x.detach().abs()) / constants.backward
            assert ((dx - dz).abs() <= 4 * eps * size).all()


@pytest.mark.parametrize(
    ("name", "params"), [call for call in CALLS if call not in KEEPS_ITS_INPUT], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_small_tensors_have_the_derivative_of_torch(name, params, dtype):
    # At a kink too, where x decides and not a y that was rounded.
    x = points(dtype).requires_grad_()
    row = MAPS[name]
    y = fused(name, x, params, TRUE)
    assert runs_python(y) == (row.derived or not row.lean(dtype))
    if runs_python(y):
        return
    f = row.plain(x, *params)
    dy = torch.randn_like(y)
    (dx,), (wanted,) = (torch.autograd.grad(t, x, g) for t, g in ((y, dy), (f, dy / TRUE.forward)))
    eps = torch.finfo(dtype).eps
    assert ((dx - wanted).abs() <= 4 * eps * dy.abs() / TRUE.forward).all()
    line = (f - TRUE.shift) / TRUE.forward
    assert ((y - line).abs() <= 4 * eps * (f.abs() + abs(TRUE.shift)) / TRUE.forward).all()
    # What is written into was kept by nobody, whatever is said of it.
    z = fused(name, x, params, TRUE, overwritten="output")
    z.mul_(2.0)
    assert torch.equal(torch.autograd.grad(z, x, dy / 2.0)[0], dx)


def test_a_large_tensor_has_the_one_function():
    for size, more in ((SMALL["cpu"], False), (SMALL["cpu"] + 1, True)):
        x = torch.randn(size, requires_grad=True)
        for name, params in (("gelu", ("none",)), ("tanh", ())):
            assert runs_python(fused(name, x, params, TRUE)) == more
        with torch.no_grad():
            assert not fused("gelu", x, ("none",), TRUE).requires_grad


@compiled_function
@pytest.mark.skipif(sys.platform == "win32", reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.parametrize("name", ["relu", "hardtanh"])
def test_compiled_code_keeps_no_mask(name):
    torch.compiler.reset()
    params = PARAMS.get(name, [()])[0]
    x = torch.randn(64, 1023, requires_grad=True)
    compiled = torch.compile(lambda x: fused(name, x, params, SEPARATE), fullgraph=True)
    compiled(x)
    sizes, _ = kept(compiled, x)
    assert list(sizes.values()) == [x.nbytes]
    dx, wanted = gradient(compiled, x), gradient(lambda x: fused(name, x, params, SEPARATE), x)
    assert torch.equal(dx == 0, wanted == 0)
    assert torch.allclose(dx, wanted, rtol=4e-7, atol=0)
    torch.compiler.reset()


@compiled_function
@pytest.mark.parametrize("name", ["relu", "hardshrink", "leaky_relu", "hardsigmoid", "threshold"])
@dtypes
def test_compiled_slopes_are_those_at_the_kinks_too(name, dtype):
    torch.compiler.reset()
    params = PARAMS.get(name, [()])[0]
    x = points(dtype).requires_grad_()

    def call(x):
        return fused(name, x, params, SEPARATE)

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    dx, wanted = gradient(compiled, x), gradient(call, x)
    assert torch.equal(dx == 0, wanted == 0)
    eps = torch.finfo(dtype).eps
    assert ((dx - wanted).abs() <= 4 * eps * wanted.abs()).all()


@compiled_function
def test_layers_of_other_laws_share_compiled_code():
    # Dynamo turns floats that change into variables; a law must stay a constant.
    torch.compiler.reset()
    x = torch.randn(7, requires_grad=True)
    compiled = torch.compile(
        lambda x, c: fused("relu", x, (), c), backend="aot_eager", fullgraph=True
    )
    for constants in (TRUE, SEPARATE, Constants(0.1, 0.2, 0.3)):
        wanted = fused("relu", x, (), constants)
        assert torch.allclose(compiled(x, constants), wanted, rtol=4e-7, atol=4e-7)


# Derivatives of derivatives, and of many at once


def twice(function, x):
    dx = gradient(function, x, create_graph=True)
    if not dx.requires_grad:
        return dx, None
    (second,) = torch.autograd.grad(dx.square().sum(), x, allow_unused=True)
    return dx, second


@calls
@pytest.mark.parametrize("constants", [TRUE, SEPARATE], ids=["true", "separate"])
def test_second_derivatives(name, params, constants):
    # dx = dy f'/backward, so that its derivative is f''/backward, also where the gradient of y is
    # no derivative.
    x = (1.5 * torch.randn(64, dtype=torch.float64)).requires_grad_()

    def plain(x):
        scaled = scale_gradient(x, constants.forward / constants.backward)
        return normalized(lambda x: MAPS[name].plain(x, *params), scaled, Constants(*TRUE))

    def slope(x):
        f = MAPS[name].plain(x, *params)
        (g,) = torch.autograd.grad(f.sum(), x, create_graph=True)
        return g / constants.backward

    wanted = slope(x)
    got, second = twice(lambda x: fused(name, x, params, constants), x)
    assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-13)
    wanted_second = None
    if wanted.requires_grad:
        (wanted_second,) = torch.autograd.grad(wanted.square().sum(), x, allow_unused=True)
    zero = torch.zeros_like(x)
    second = zero if second is None else second
    wanted_second = zero if wanted_second is None else wanted_second
    assert torch.allclose(second, wanted_second, rtol=1e-10, atol=1e-12)


@forward_mode
@calls
def test_batches_of_gradients_and_forward_mode(name, params):
    x = (1.5 * torch.randn(9, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: fused(name, x, params, TRUE), x, check_batched_grad=True, check_forward_ad=True
    )


@forward_mode
def test_forward_mode_raises_where_there_is_no_derivative():
    x = torch.randn(5)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones(5))
        with pytest.raises(RuntimeError, match="'separate' has no derivative in forward mode"):
            fused("relu", dual, (), SEPARATE)


def test_half_precision_differentiates_twice():
    x = torch.randn(64, dtype=torch.bfloat16, requires_grad=True)
    dx = gradient(lambda x: fused("sigmoid", x, (), TRUE), x, create_graph=True)
    (second,) = torch.autograd.grad(dx.sum(), x)
    wide = x.detach().double().requires_grad_()
    s = torch.sigmoid(wide)
    wanted = (s * (1 - s) * (1 - 2 * s) / 0.7).detach()
    # Rounded on the way back, from float32 on.
    assert ((second.double() - wanted).abs() <= 2**-8 * wanted.abs() + 1e-6).all()


# Tensors of every kind


@pytest.mark.parametrize("name", ["relu", "sigmoid", "gelu", "softsign", "identity", "tanhshrink"])
def test_memory_formats_are_kept(name):
    params = PARAMS.get(name, [()])[0]
    x = torch.randn(2, 5, 4, 3).to(memory_format=torch.channels_last).requires_grad_()
    y = fused(name, x, params, TRUE)
    dx = gradient(lambda x: fused(name, x, params, TRUE), x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert dx.is_contiguous(memory_format=torch.channels_last)


@calls
@pytest.mark.parametrize("size", [5, 2 * SMALL["cpu"]])
def test_a_tensor_without_numbers_has_a_shape_and_a_gradient(name, params, size):
    x = torch.empty(size, device="meta", requires_grad=True)
    y = fused(name, x, params, SEPARATE)
    assert y.is_meta
    assert y.shape == x.shape == gradient(lambda x: fused(name, x, params, SEPARATE), x).shape


def test_a_class_of_its_own_is_served_by_plain_operations():
    class Mine(torch.Tensor):
        pass

    x = torch.randn(5).as_subclass(Mine)
    y = fused("relu", x, (), TRUE)
    assert type(y) is Mine
    assert torch.allclose(y.as_subclass(torch.Tensor), fused("relu", torch.Tensor(x), (), TRUE))


def test_the_incoming_gradient_is_left_alone():
    x = torch.randn(64, requires_grad=True)
    for name, params in CALLS:
        dy = torch.randn(64)
        before, y = dy.clone(), fused(name, x, params, TRUE)
        out = y.detach().clone()
        torch.autograd.grad(y, x, dy)
        assert torch.equal(dy, before), name
        assert torch.equal(y, out), name


# The backend


def test_an_unknown_backend_is_refused():
    with pytest.raises(
        ValueError, match="backend must be one of auto, eager, triton; it was 'gpu'"
    ):
        fused("relu", torch.ones(3), (), TRUE, "gpu")


def test_what_was_asked_for_by_name_never_falls_back():
    # Of a type that no kernel serves, so that it makes no difference whether tests before this one
    # have started Triton's interpreter, which serves the CPU.
    with pytest.raises((TypeError, ImportError), match="Triton kernel"):
        fused("relu", torch.ones(3, dtype=torch.float8_e5m2), (), TRUE, "triton")
    with pytest.raises(RuntimeError, match="'triton' does not run under"):
        torch.func.grad(lambda x: fused("relu", x, (), TRUE, "triton").sum())(torch.ones(3))


def test_auto_takes_the_kernel_where_it_can(monkeypatch):
    # A stand-in for the kernels that computes what they are asked, and counts.
    seen = []

    class Kernel:
        @staticmethod
        def forward(name, params, input, shift, forward, *, save_output):
            seen.append(("forward", name, params, save_output))
            return (MAPS["relu"].plain(input) - shift) / forward

        @staticmethod
        def backward(name, params, saved, grad, shift, forward, backward, *, from_output):
            seen.append(("backward", name, params, from_output))
            return grad * (saved > (0 - shift) / forward) / backward

    monkeypatch.setattr(kernels, "usable", lambda tensor: True)
    monkeypatch.setattr(kernels, "check_usable", lambda tensor: None)
    monkeypatch.setattr(kernels, "activation", Kernel, raising=False)
    monkeypatch.setitem(sys.modules, "normprop.kernels.activation", Kernel)
    x = torch.randn(9, requires_grad=True)
    fused("relu", x, (), TRUE, "auto")
    assert seen == []
    for backend in ("triton", "auto"):
        # As a tensor on a GPU says of itself.
        monkeypatch.setattr(torch.Tensor, "is_cuda", backend == "auto", raising=False)
        if backend == "auto":
            # Few elements are for ATen; in half precision it would take more operators.
            fused("relu", x, (), TRUE, backend)
            assert seen == []
            fused("relu", x.half(), (), TRUE, backend)
            assert seen.pop() == ("forward", "relu", (), True)
            monkeypatch.setitem(SMALL, "cpu", 8)
        y = fused("relu", x, (), TRUE, backend)
        (dx,) = torch.autograd.grad(y.sum(), x)
        assert seen == [("forward", "relu", (), True), ("backward", "relu", (), True)]
        assert torch.allclose(dx, (x > 0) / TRUE.backward)
        seen.clear()
    fused("relu", x, (), TRUE, "eager")
    torch.func.grad(lambda x: fused("relu", x, (), TRUE, "auto").sum())(x.detach())
    assert seen == []
    monkeypatch.undo()
    monkeypatch.setattr(kernels, "check_usable", lambda tensor: None)
    monkeypatch.setattr(kernels, "activation", Kernel, raising=False)
    monkeypatch.setitem(sys.modules, "normprop.kernels.activation", Kernel)
    # GELU's two forms have two names there.
    fused("gelu", x, ("tanh",), TRUE, "triton")
    fused("gelu", x, ("none",), TRUE, "triton")
    assert seen == [("forward", "gelu_tanh", (), False), ("forward", "gelu", (), False)]


@pytest.mark.parametrize("dtype", [*kernels.DTYPES, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("transformed", [False, True])
def test_who_computes(dtype, on_gpu, installed, transformed, monkeypatch):
    class Stand:
        is_cuda, device = on_gpu, torch.device("cuda" if on_gpu else "cpu")

    Stand.dtype = dtype
    monkeypatch.setattr(kernels, "_installed", lambda: installed)
    can = on_gpu and installed and dtype in kernels.DTYPES
    assert wants_triton(Stand, "auto", transformed) == (can and not transformed)
    assert not wants_triton(Stand, "eager", transformed)
    if can and not transformed:
        assert wants_triton(Stand, "triton", False)
    elif transformed or on_gpu or dtype not in kernels.DTYPES or not installed:
        with pytest.raises((RuntimeError, TypeError, ImportError)):
            wants_triton(Stand, "triton", transformed)


INTERPRETED = """
import torch
from normprop.functional import Constants
from normprop.functional.fused import fused
from tests.functional.test_fused import CALLS, SEPARATE, gradient, points

for name, params in CALLS:
    for dtype in (torch.float32, torch.bfloat16):
        x = points(dtype).requires_grad_()
        eager = fused(name, x, params, SEPARATE, "eager")
        kernel = fused(name, x, params, SEPARATE, "triton")
        eps = torch.finfo(dtype).eps
        wide = 16 * torch.finfo(torch.float32).eps
        off = (eager - kernel).abs().double()
        assert (off <= eps * eager.abs() + wide * (1 + eager.abs())).all(), (name, dtype)
        dx = gradient(lambda x: fused(name, x, params, SEPARATE, "eager"), x)
        dk = gradient(lambda x: fused(name, x, params, SEPARATE, "triton"), x)
        off = (dx - dk).abs().double()
        assert (off <= eps * dx.abs() + 2 * wide * (1 + eager.abs())).all(), (name, dtype)
        if dtype == torch.float32:
            call = lambda x: fused(name, x, params, SEPARATE, "triton")
            twice = gradient(call, x, create_graph=True)
            assert ((dx - twice).abs() <= 2 * wide * (1 + eager.abs())).all(), name
"""


@pytest.mark.skipif(sys.platform != "linux", reason="triton is there on Linux")
def test_kernels_say_the_same(root):
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
