"""Verbs in several threads, each on a network of its own, say what they say one after another."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import normprop

VERBS = {
    "predict": lambda net, x: str(normprop.predict(net, x)),
    "probe": lambda net, x: str(normprop.probe(net, x)),
    "check": lambda net, x: str(normprop.check(normprop.convert(net), x)),
    "convert": lambda net, x: str(normprop.report(normprop.convert(net, x))),
    "fold": lambda net, x: str(normprop.report(normprop.fold(normprop.convert(net), x))),
    "simulate": lambda net, _: str(normprop.simulate(nn.Dropout(0.3), 2000, seed=len(net))),
}


@pytest.fixture(autouse=True)
def many_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("verb", ["predict", "probe", "check"])
def test_a_simulation_beside_it_changes_neither(verb):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    x, state = torch.randn(4, 8), torch.get_rng_state()
    calls = [VERBS[verb], VERBS["simulate"]]
    wanted = [call(net, x) for call in calls]
    for _ in range(6):
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda call: call(net, x), calls)) == wanted
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("verb", VERBS)
def test_each_is_what_it_is_alone(verb):
    torch.manual_seed(0)
    nets = [
        nn.Sequential(nn.Linear(8, 8), *(nn.ReLU() for _ in range(n)), nn.Linear(8, 3))
        for n in range(1, 6)
    ]
    x, state = torch.randn(4, 8), torch.get_rng_state()
    wanted = [VERBS[verb](net, x) for net in nets]
    for _ in range(3):
        with ThreadPoolExecutor(5) as pool:
            assert list(pool.map(lambda net: VERBS[verb](net, x), nets)) == wanted
    assert torch.equal(torch.get_rng_state(), state)
