"""The kernels as operators: registered right, compiled without a break, and with their gradient."""

import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from normprop.kernels import ops
from normprop.kernels.ops import draw_seed

SHIFT, FORWARD, BACKWARD = 0.3, 0.7, 0.9


def gelu(x):
    return ops.activation(x, "gelu", (), SHIFT, FORWARD, BACKWARD)


def tanh(x):
    return ops.activation(x, "tanh", (), SHIFT, FORWARD, BACKWARD, from_output=True)


def slope(x):
    """What the backward pass makes of tanh: not the derivative of the forward pass."""
    return (1 - x.tanh() ** 2) / BACKWARD


@pytest.fixture
def x(device):
    return torch.randn(3, 5, dtype=torch.float64, device=device, requires_grad=True)


OPERATORS = [
    (ops._activation, lambda x: (x, "gelu", [], SHIFT, FORWARD, FORWARD, False)),
    (ops._activation, lambda x: (x, "elu", [0.7], SHIFT, FORWARD, FORWARD, True)),
    (ops._prelu, lambda x: (x, x[0, :1].detach().abs() + 0.1, SHIFT, FORWARD, FORWARD, True)),
    (ops._dropout, lambda x: (x, draw_seed(x.device), 0.3, SHIFT, FORWARD, FORWARD, 0)),
    (ops._dropout, lambda x: (x, draw_seed(x.device), 0.3, SHIFT, FORWARD, FORWARD, 2)),
    (ops._weight, lambda x: (x, "fan-in", 1, 1.5)),
    (ops._weight, lambda x: (x, "fan-out", 1, 1.5)),
    (ops._weight, lambda x: (x, "all", 1, 1.5)),
]
IDS = [op.eager.__name__ for op, _ in OPERATORS]


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x.mT, lambda x: x[:, ::2]])
@pytest.mark.parametrize(("op", "arguments"), OPERATORS, ids=IDS)
def test_the_operator_is_registered_as_it_runs(op, arguments, make, x):
    leaf = make(x.detach()).requires_grad_()
    torch.library.opcheck(op.compiled, arguments(leaf))


@pytest.mark.parametrize(("op", "arguments"), OPERATORS, ids=IDS)
def test_gradcheck_and_the_same_compiled(op, arguments, x):
    _, *rest = arguments(x)

    def call(x):
        out = op(x, *rest)
        return out[0] if isinstance(out, tuple) else out

    assert torch.autograd.gradcheck(call, (x,))
    torch.compiler.reset()
    compiled = torch.compile(lambda x: call(x.sin()).cos(), backend="aot_eager", fullgraph=True)
    got, wanted = compiled(x), call(x.sin()).cos()
    assert torch.equal(got, wanted)
    (first,), (second,) = (torch.autograd.grad(y.sum(), x) for y in (got, wanted))
    assert torch.allclose(first, second, rtol=1e-14, atol=1e-14)


def test_the_slope_of_prelu_has_a_gradient(x):
    slope = torch.full((1,), 0.3, dtype=x.dtype, device=x.device, requires_grad=True)
    for read in (False, True):
        assert torch.autograd.gradcheck(
            lambda x, a, f=read: ops.prelu(x, a, SHIFT, FORWARD, FORWARD, from_output=f), (x, slope)
        )


def test_the_gradient_is_what_the_kernel_says(x):
    (dx,) = torch.autograd.grad(tanh(x).sum(), x)
    assert torch.allclose(dx, slope(x), rtol=1e-13, atol=1e-13)


def test_the_gradient_is_not_dropped_by_transforms(x):
    x = x.detach()

    def gradient(x):
        return torch.func.grad(lambda x: tanh(x).sum())(x)

    assert torch.allclose(gradient(x), slope(x), rtol=1e-13, atol=1e-13)
    # Under torch.compile a custom backward would be dropped here without a word (pytorch issue
    # 193279); the operator refuses.
    torch.compiler.reset()
    with pytest.raises(Exception, match="setup_context"):
        torch.compile(gradient, backend="aot_eager")(x)


def test_vmap(x):
    x = x.detach()
    assert torch.equal(torch.func.vmap(tanh)(x), tanh(x))
    assert torch.equal(torch.func.vmap(tanh, 1, 1)(x), tanh(x))
    rows = torch.func.vmap(torch.func.grad(lambda row: tanh(row).sum()))(x)
    assert torch.allclose(rows, slope(x), rtol=1e-13, atol=1e-13)
    # Different gradients at the same point.
    _, pull = torch.func.vjp(tanh, x[0])
    several = torch.func.vmap(pull)(x)[0]
    assert torch.allclose(several, x * slope(x[0]), rtol=1e-13, atol=1e-13)


def test_a_second_derivative_is_refused(x):
    (first,) = torch.autograd.grad(tanh(x).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(first.sum(), x)


# torch's own decompositions, which it loads for forward mode.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_forward_mode_is_refused(x):
    with pytest.raises((NotImplementedError, RuntimeError), match=r"jvp|forward.mode"):
        torch.func.jvp(tanh, (x.detach(),), (torch.ones_like(x),))


def test_importing_loads_no_triton(root):
    modules = "normprop.kernels.ops, normprop.kernels.kinks"
    code = f"import sys, {modules}; assert 'triton' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
