"""No road mixes devices: only addition and multiplication take a CPU scalar beside a tensor.

CUDA's addcmul, for one, refuses it.  Tensors on the meta device stand in for those on a GPU.
Where torch makes tensors by default is for the user's own.
"""

import ast
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import normprop
from normprop.functional import Constants
from normprop.functional.activation import with_draws, with_slopes
from normprop.functional.dropout import DropoutConstants, with_mask
from normprop.functional.fused import MAPS, fused
from normprop.functional.scale import normalized
from tests.functional.test_fused import CALLS, SEPARATE, TRUE
from tests.nn.battery import ROWS, run

META = torch.device("meta")
TAKES_A_SCALAR = {"add", "sub", "rsub", "mul", "div", "add_", "sub_", "mul_", "div_"}
MOVES = {"_to_copy", "copy_", "lift_fresh"}
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


class Devices(TorchDispatchMode):
    """Notes every operator that gets tensors of more than one device, and may not."""

    def __init__(self):
        super().__init__()
        self.seen, self.mixed = set(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        name = func.overloadpacket.__name__
        self.seen.add(name)
        if len({t.device for t in tensors}) > 1 and name not in MOVES:
            numbers = all(t.device == META or t.ndim == 0 for t in tensors)
            if not (numbers and name in TAKES_A_SCALAR):
                self.mixed.append(name)
            if "out" in kwargs:
                # Of the meta device alone: there it is refused.
                return kwargs["out"]
        return func(*args, **kwargs)


def everything(function, x, true, strict=True):
    """Forward, backward, twice backward, and forward mode where there is one."""
    with Devices() as devices:
        with torch.no_grad():
            function(x)
        y = function(x)
        dy = torch.empty_like(y)
        if y.requires_grad:
            torch.autograd.grad(y, x, dy, retain_graph=True)
            (dx,) = torch.autograd.grad(y, x, dy.requires_grad_(), create_graph=True)
            if dx.requires_grad:
                torch.autograd.grad(dx, (x, dy), torch.empty_like(dx), allow_unused=True)
        if true:
            with torch.autograd.forward_ad.dual_level():
                function(torch.autograd.forward_ad.make_dual(x.detach(), torch.empty_like(x)))
    return devices


@forward_mode
@dtypes
@pytest.mark.parametrize("constants", [TRUE, SEPARATE], ids=["true", "separate"])
@pytest.mark.parametrize(("name", "params"), CALLS, ids=str)
def test_no_activation_mixes_devices(name, params, constants, dtype):
    x = torch.empty(300, 7, dtype=dtype, device=META, requires_grad=True)
    for kept in (None, "input", "output"):
        found = everything(
            lambda x, k=kept: fused(name, x, params, constants, "eager", k),
            x,
            constants is TRUE,
        )
        assert found.mixed == []
    found = everything(
        lambda x: normalized(lambda x: MAPS[name].plain(x, *params), x, constants), x, False
    )
    assert found.mixed == []


@forward_mode
@dtypes
@pytest.mark.parametrize("constants", [TRUE, SEPARATE], ids=["true", "separate"])
def test_no_function_of_its_own_mixes_devices(constants, dtype):
    x = torch.empty(4, 3, 5, dtype=dtype, device=META, requires_grad=True)
    slope = torch.empty(3, dtype=dtype, device=META)
    drops = DropoutConstants(constants, 1.0)
    for function in (
        lambda x: with_slopes(x, slope, constants, "eager"),
        lambda x: with_draws(x, 0.1, 0.3, True, constants, "eager"),
        lambda x: with_mask(torch.nn.functional.dropout, 0, x, 0.3, True, drops, "eager"),
    ):
        assert everything(function, x, constants is TRUE).mixed == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("scaling", ["forward", "separate"])
def test_no_layer_mixes_devices(row, scaling):
    layer = row.layer(scaling=scaling).to(META)
    x = row.input().to(META)
    if x.is_floating_point():
        x.requires_grad_()
    with Devices() as devices:
        y = layer(x)
        y = y[0] if isinstance(y, tuple) else y
        if y.requires_grad:
            y.backward(torch.empty_like(y))
    assert devices.seen
    assert devices.mixed == []


def test_the_watch_sees_what_it_is_for():
    x, number = torch.empty(3, device=META), torch.tensor(0.5)
    with Devices() as devices:
        torch.add(number, x, alpha=2.0)
        assert devices.mixed == []
        torch.addcmul(number, x, x)
    assert devices.mixed == ["addcmul"]


@pytest.mark.parametrize("name", ["hardsigmoid", "hardswish"])
@pytest.mark.parametrize("constants", [TRUE, Constants(0.0, 0.5, 0.5)])
def test_float64_never_meets_a_sixth_in_float32(name, constants):
    # ATen's kernels on CUDA, and one on the CPU, multiply by a sixth in single precision.
    inexact = {"hardsigmoid", "hardsigmoid_backward", "hardswish"}
    x = torch.empty(9, dtype=torch.float64, device=META, requires_grad=True)
    found = everything(lambda x: fused(name, x, (), constants, "eager"), x, False)
    assert not found.seen & inexact
    plain = everything(lambda x: normalized(MAPS[name].plain, x, constants), x, False)
    assert not plain.seen & inexact


def test_hardswish_has_torch_s_slopes_at_its_kinks():
    x = torch.tensor([-3.0, 3.0, 0.0, -4.0, 4.0], dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(torch.nn.functional.hardswish(x).sum(), x)
    (plain,) = torch.autograd.grad(MAPS["hardswish"].plain(x).sum(), x)
    assert torch.allclose(plain, wanted, rtol=1e-15, atol=0)
    assert normprop.functional.hardswish(x).dtype == torch.float64


FACTORIES = {
    "arange", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "normal", "ones",
    "rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "zeros",
}  # fmt: skip


def test_what_makes_a_tensor_says_where():
    package, unsaid, seen = Path(normprop.__file__).parent, [], 0
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called, by = node.func.attr, node.func.value
            if called not in FACTORIES or not (isinstance(by, ast.Name) and by.id == "torch"):
                continue
            seen += 1
            # Two stars may hold it.
            if not {"device", None} & {keyword.arg for keyword in node.keywords}:
                unsaid.append(f"{path.relative_to(package)}:{node.lineno}")
    assert seen > 20
    # Experiments run on the device that a reader chooses.
    assert [where for where in unsaid if not where.startswith("companion")] == []


@pytest.fixture
def elsewhere():
    """A default device other than that of any tensor here."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("scaling", ["forward", "separate"])
def test_the_default_device_is_nothing_to_a_layer(row, scaling, request):
    options = {"scaling": scaling} if row.kind == "weights" else {"scaling": scaling, "mean": 0.5}
    layer, x = row.layer(**options), row.input()
    y = layer(x)
    dy = torch.ones_like(y[0] if isinstance(y, tuple) else y)
    wanted = run(layer, x, dy)
    request.getfixturevalue("elsewhere")
    for a, b in zip(run(layer, x, dy), wanted, strict=True):
        assert torch.equal(a, b)


def test_the_default_device_is_nothing_to_a_loss(elsewhere):
    x = torch.zeros(4, 3, device="cpu")
    for name, target in (("CrossEntropyLoss", x[:, 0].long()), ("MSELoss", x), ("HuberLoss", x)):
        assert getattr(normprop.nn, name)()(x, target).device == x.device


def test_the_default_device_is_nothing_to_a_network(elsewhere):
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1, device="cpu"), torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3, padding=1, bias=False, device="cpu"), torch.nn.GELU(),
        torch.nn.BatchNorm2d(4, affine=False, device="cpu"), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(16, 5, device="cpu"), torch.nn.PReLU(device="cpu"),
    )  # fmt: skip
    x = torch.arange(96.0, device="cpu").sin().view(2, 3, 4, 4)
    found = {}
    for device in ("meta", None):
        torch.set_default_device(device)
        net = normprop.convert(plain, x)
        fused = normprop.fuse(net, x)
        folded = normprop.fold(fused, x)
        fused(x).sum().backward()
        found[device] = [
            fused(x), *(p.grad for p in fused.parameters()), folded(x),
            str(normprop.predict(plain, x)), str(normprop.probe(net, x)),
            str(normprop.check(net, x)), str(normprop.report(fused)),
        ]  # fmt: skip
    for a, b in zip(*found.values(), strict=True):
        assert torch.equal(a, b) if isinstance(b, torch.Tensor) else a == b
