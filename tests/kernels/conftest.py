"""Kernels run on the GPU where there is one, else in Triton's interpreter, on the CPU.

Whether a kernel is interpreted is decided when triton and the kernel are imported.  So both are
imported here, and the environment is changed for these tests alone: the rest of the suite, and
the processes that it starts, know nothing of the interpreter.
"""

import math
import sys
from importlib.util import find_spec

import pytest
import torch

GPU = torch.cuda.is_available()

if find_spec("triton") is not None and not GPU:
    if "triton" in sys.modules:
        raise pytest.UsageError(
            "triton must not be imported before the tests of the kernels are collected: without a "
            "GPU they need its interpreter, which is chosen at the first import"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import normprop.kernels.activation
        import normprop.kernels.dropout
        import normprop.kernels.montecarlo
        import normprop.kernels.weight  # noqa: F401


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Triton asks once more as it runs."""
    if not GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def poisoned(monkeypatch):
    """New memory is full of NaN, so that an element which no kernel wrote is seen."""

    def poison(make):
        def call(*arguments, **options):
            tensor = make(*arguments, **options)
            return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

        return call

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))


@pytest.fixture
def device() -> str:
    return "cuda" if GPU else "cpu"
