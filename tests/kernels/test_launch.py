"""What was compiled is kept and started as it is, and never for arguments of another kind."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from normprop.kernels import launch as module
from normprop.kernels import scalar
from tests.kernels.functions import forward

DEVICE = torch.device("cpu")


class Compiled:
    """Stands for a compiled kernel: what it is started with."""

    def __init__(self):
        self.started = []

    def __getitem__(self, grid):
        return lambda *arguments: self.started.append((grid, arguments))


PARAMETERS = [
    SimpleNamespace(is_constexpr=False, do_not_specialize=False),
    SimpleNamespace(is_constexpr=False, do_not_specialize=False),
    SimpleNamespace(is_constexpr=False, do_not_specialize=True),
    SimpleNamespace(is_constexpr=True, do_not_specialize=False),
]


class Kernel:
    """Stands for a kernel: two arguments of which it is compiled for what they are, one not."""

    def __init__(self):
        self.params, self.compiled = PARAMETERS, []

    def __getitem__(self, grid):
        def compile_(*arguments, num_warps, **constants):
            self.compiled.append(Compiled())
            return self.compiled[-1]

        return compile_


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(scalar, "INTERPRETED", False)
    monkeypatch.setattr(module, "_KEPT", {})
    monkeypatch.setattr(module, "_SPECIALISED", {})
    return Kernel()


@pytest.mark.parametrize("with_constants", [True, False])
def test_the_second_call_starts_what_the_first_compiled(with_constants, kernel, monkeypatch):
    monkeypatch.setattr(module, "_WITH_CONSTANTS", with_constants)
    x = torch.zeros(8)
    for number in (5, 6):
        module.launch(kernel, (3,), (x, 32, number), {"BLOCK": 8}, DEVICE)
    (compiled,) = kernel.compiled
    own = (x.data_ptr(), 32, 6)
    assert compiled.started == [((3, 1, 1), (*own, 8) if with_constants else own)]


# One that Triton compiles anew for each of these.
OTHERS = {
    "type": (torch.zeros(8, dtype=torch.float64), 32, 5, 8),
    "alignment": (torch.zeros(9)[1:], 32, 5, 8),
    "nothing there": (None, 32, 5, 8),
    "a size that is no multiple": (torch.zeros(8), 33, 5, 8),
    "a size of one": (torch.zeros(8), 1, 5, 8),
    "a wide size": (torch.zeros(8), 2**40, 5, 8),
    "constant": (torch.zeros(8), 32, 5, 16),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_kind_of_argument_is_compiled_for(other, kernel):
    for x, size, number, block in ((torch.zeros(8), 32, 5, 8), OTHERS[other]):
        module.launch(kernel, (1,), (x, size, number), {"BLOCK": block}, DEVICE)
    assert [compiled.started for compiled in kernel.compiled] == [[], []]


def test_constants_are_named_in_the_order_of_the_kernels(monkeypatch, device):
    """A compiled kernel takes them by place."""
    from normprop.kernels import activation, dropout, montecarlo, weight

    seen = []

    def check(kernel, grid, arguments, constants, *rest):
        names = kernel.arg_names
        assert list(constants) == names[len(arguments) :]
        seen.append(names)

    for where in (module, montecarlo, weight):
        monkeypatch.setattr(where, "launch", check)
    x = torch.zeros(4, 3, 2, device=device)
    activation.forward("relu", (), x, 0.3, 0.7)
    activation.backward("relu", (), x, x, 0.3, 0.7, 0.9, from_output=False)
    dropout.forward(x, 0.3, 0.1, 0.9)
    dropout.forward(x, 0.3, 0.1, 0.9, leading=2)
    montecarlo.figures("relu", (), 0.0, 1.0, 1, range(2), 8, torch.float32, x.device)
    many = torch.zeros(400, 128, device=device)
    forward([weight.Layer("all", 1.0)], [many], [None])
    assert len(seen) == 9
