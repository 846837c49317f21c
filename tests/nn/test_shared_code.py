"""Layers of one class share the code that is compiled of them, and nothing else."""

import copy
import pickle

import pytest
import torch
from torch import nn

import normprop
from normprop import functional
from tests.nn.battery import LAW, ROWS, first

# Dynamo makes an instance of torch.autograd.Function to trace one, which torch warns of.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated")

# Each has another law or scaling than all others, so that none may run what another left.
LAWS = ({}, {"scaling": "separate", **LAW}, {"scaling": "forward", "std": 3.0})
BALLS = ({}, {"scaling": "separate", "gain": 2.0}, {"scaling": "forward", "gain": 3.0})
BEHIND = ("relu", nn.LeakyReLU(0.1), nn.LeakyReLU(0.9), normprop.nn.ReLU(std=2.0))


@pytest.fixture(autouse=True)
def forgotten():
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=64):
        yield
    torch.compiler.reset()


def results(layer, *inputs):
    """The output of a layer and the gradients of its inputs."""
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    torch.manual_seed(0)
    y = first(layer(*inputs))
    learns = [x for x in inputs if x.requires_grad]
    return [y, *torch.autograd.grad(y, learns, torch.ones_like(y))]


def check(layers, *inputs):
    """Compile one after another, and hold each against itself, uncompiled."""
    for layer in layers:
        wanted = results(layer, *inputs)
        got = results(torch.compile(layer, backend="eager", fullgraph=True), *inputs)
        for mine, own in zip(got, wanted, strict=True):
            assert torch.allclose(mine, own, rtol=1e-9, atol=1e-11), layer


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_layer_runs_with_its_own_constants(row):
    chosen = BALLS if row.kind == "weights" else LAWS
    check([row.layer(**own) for own in chosen[:2]], row.input())


@pytest.mark.parametrize("name", ["MaxPool1d", "AdaptiveAvgPool1d"])
def test_so_do_layers_behind_another(name):
    (row,) = (row for row in ROWS if row.name == name)
    check([row.layer(after=activation) for activation in BEHIND], row.input())


def made(layer_type, *arguments, **options):
    return [getattr(normprop.nn, layer_type)(*arguments, **options, **law) for law in LAWS]


X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OTHERS = {
    "Elementwise": made("Elementwise", torch.sin) + made("Elementwise", torch.cos),
    "GatedLinear": made("GatedLinear", "relu") + made("GatedLinear", torch.tanh),
    "Calibrated": [
        normprop.nn.Calibrated(name, depth=depth, **law)
        for name in ("tanh", "silu")
        for depth in (5, 50)
        for law in LAWS
    ],
    "MSELoss": made("MSELoss") + made("MSELoss", target_std=3.0) + made("MSELoss", reduction="sum"),
    "HuberLoss": made("HuberLoss") + made("HuberLoss", delta=2.0),
}


@pytest.mark.parametrize("name", OTHERS)
def test_so_do_layers_that_have_no_row(name):
    check(OTHERS[name], *[X, X.flip(0)][: 2 if name.endswith("Loss") else 1])


class Calling(nn.Module):
    """Calls a function of the package."""

    def __init__(self, function, *arguments, **options):
        super().__init__()
        self.function, self.arguments, self.options = function, arguments, options

    def forward(self, x):
        return self.function(x, *self.arguments, **self.options)


def test_so_do_functions():
    check([Calling(functional.gelu, **law) for law in LAWS], X)
    check([Calling(functional.softmax, -1, **law) for law in LAWS], X)
    pooled = [Calling(functional.max_pool1d, 2, after=activation) for activation in BEHIND]
    check([*pooled, *(Calling(functional.max_pool1d, 2, **law) for law in LAWS)], X)


def test_so_do_whole_networks():
    def network(activation, **law):
        maps = (normprop.nn.Linear(8, 8).double() for _ in range(2))
        return nn.Sequential(next(maps), getattr(normprop.nn, activation)(**law), next(maps))

    plain = [network(name, **law) for name in ("ReLU", "Tanh") for law in LAWS]
    check(plain, X)
    check([normprop.fuse(each, X) for each in plain], X)


def test_what_is_set_later_is_seen_and_so_are_copies_and_files():
    pool = normprop.nn.AdaptiveAvgPool1d(2, after=nn.LeakyReLU(0.1))
    copies = [copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))]
    for layer in copies:
        layer.after = nn.LeakyReLU(0.9)
    relus = made("ReLU")
    relus[0].std = 5.0
    check([pool, *copies], X.unsqueeze(0))
    check(relus, X)
    relus[0].constants = normprop.functional.Constants(0.25, 2.0, 4.0)
    check(relus, X)


def test_alike_layers_are_compiled_once():
    layers, graphs = [*made("ReLU"), *made("ReLU"), *made("ReLU")], []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    for layer in layers:
        torch.compile(layer, backend=backend)(X)
    assert len(graphs) == len(LAWS)
