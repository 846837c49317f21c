"""Whoever watches sees every public function as one call."""

import inspect
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from normprop import functional
from normprop.functional.observed import observers

NAMES = [name for name in functional.__all__ if name != "Constants"]


@pytest.fixture
def calls():
    found = []

    def observe(function, arguments, keywords):
        found.append((function.__name__, arguments, keywords))
        return "seen"

    observers.append((threading.get_ident(), observe))
    yield found
    observers.remove((threading.get_ident(), observe))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_seen_with_its_arguments(name, calls):
    assert getattr(functional, name)(1, 2, three=3) == "seen"
    assert calls == [(name, (1, 2), {"three": 3})]


def test_another_thread_is_not_seen(calls):
    x = torch.ones(3)
    with ThreadPoolExecutor(1) as pool:
        y = pool.submit(functional.relu, x).result()
    assert calls == []
    assert y.shape == x.shape


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_it_was(name):
    function = getattr(functional, name)
    assert pickle.loads(pickle.dumps(function)) is function
    assert function.__doc__
    assert "kwargs" not in str(inspect.signature(function))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
def test_it_compiles_in_one_piece():
    torch.compiler.reset()
    x = torch.randn(9, dtype=torch.float64)
    compiled = torch.compile(functional.relu, backend="eager", fullgraph=True)
    got, wanted = (call(x, scaling="forward") for call in (compiled, functional.relu))
    assert (got - wanted).abs().max() <= 8 * torch.finfo(x.dtype).eps * wanted.abs().max()
