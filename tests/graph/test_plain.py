"""After folding, what can be torch's is torch's; what others hold on to stays, and is named."""

import functools
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import normprop
import normprop.nn as nnp
from normprop.graph import fold, fuse
from normprop.graph.kinds import is_twin
from tests.nn.battery import ROWS

EPS = torch.finfo(torch.float64).eps


def own_modules(model):
    return [m for m in model.modules() if type(m).__module__.startswith("normprop")]


def assert_same(got, wanted, bound=1e3):
    for a, b in zip(leaves(got), leaves(wanted), strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= bound * EPS * max(1.0, b.abs().max())


def leaves(output):
    return [t for t in torch.utils._pytree.tree_leaves(output) if isinstance(t, torch.Tensor)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_no_layer_of_this_package_remains(row):
    x = row.input()
    for arguments in ({}, *row.changes):
        layer = (
            row.layer(**arguments, mean=0.3) if row.kind != "weights" else row.layer(**arguments)
        )
        folded = fold(layer, x)
        assert not own_modules(folded)
        assert list(folded.state_dict()) == list(layer.state_dict())
        torch.manual_seed(1)
        wanted = layer.eval()(x)
        torch.manual_seed(1)
        assert_same(folded(x), wanted, 64 + 8 * x[0].numel())


def halved(x):
    return x.sin() / 2


X, SEQUENCE = torch.randn(4, 6).double(), torch.randn(2, 5, 6).double()
MASK = torch.zeros(5, 5).bool().triu(1)
TARGET = torch.randint(0, 6, (4,))
OTHERS = {
    "Bilinear": (nnp.Bilinear(6, 6, 3), (X, X.exp()), {}),
    "Bilinear, projected": (nnp.Bilinear(6, 6, 3, method="project"), (X, X.exp()), {}),
    "Embedding": (nnp.Embedding(7, 6, padding_idx=0), (torch.arange(7),), {}),
    "Elementwise": (nnp.Elementwise(halved, mean=0.5), (X,), {}),
    "Elementwise, torch's": (nnp.Elementwise(torch.sin), (X,), {}),
    "GatedLinear": (nnp.GatedLinear("gelu", mean=0.5), (X,), {}),
    "GatedLinear, function": (nnp.GatedLinear(halved, 0), (X,), {}),
    "Calibrated": (nnp.Calibrated("tanh", depth=9), (X,), {}),
    "Calibrated, relu": (nnp.Calibrated("relu", depth=9, vary="mean"), (X,), {}),
    "PReLU": (nnp.PReLU(6, mean=0.5), (X,), {}),
    "FractionalMaxPool2d": (nnp.FractionalMaxPool2d(2, 3), (torch.randn(2, 3, 7, 7).double(),), {}),
    "MaxPool2d": (nnp.MaxPool2d(2, return_indices=True), (torch.randn(2, 3, 6, 6).double(),), {}),
    "MaxUnpool2d": (
        nnp.MaxUnpool2d(2, mean=0.5),
        nn.functional.max_pool2d(torch.randn(2, 3, 6, 6).double(), 2, return_indices=True),
        {},
    ),
    "CrossEntropyLoss": (nnp.CrossEntropyLoss(), (X, TARGET), {}),
    "MSELoss": (nnp.MSELoss(reduction="none"), (X, X.exp()), {}),
    "attention": (nnp.MultiheadAttention(6, 2, batch_first=True), (SEQUENCE,) * 3, {}),
    "attention, long first": (nnp.MultiheadAttention(6, 3, bias=False), (SEQUENCE,) * 3, {}),
    "attention, apart": (
        nnp.MultiheadAttention(6, 2, kdim=5, vdim=4, scaling="backward", per="layer"),
        (X, torch.randn(3, 5).double(), torch.randn(3, 4).double()),
        {"need_weights": False},
    ),
    "attention, causal": (
        nnp.MultiheadAttention(6, 2, batch_first=True, std=0.5),
        (SEQUENCE,) * 3,
        {"attn_mask": MASK, "is_causal": True, "need_weights": False},
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_nor_of_those_with_several_inputs_or_outputs(name):
    layer, inputs, keywords = OTHERS[name]
    layer = layer.double().eval()
    folded = fold(layer, *inputs, **keywords)
    if name == "Calibrated":
        # Nothing in front of it moves its input.
        assert normprop.report(folded).kept == {"": "nothing in front gives what it needs"}
        return
    assert not own_modules(folded)
    assert list(folded.state_dict()) == list(layer.state_dict())
    torch.manual_seed(1)
    wanted = layer(*inputs, **keywords)
    torch.manual_seed(1)
    assert_same(folded(*inputs, **keywords), wanted)


@pytest.mark.parametrize(
    "layer",
    [
        nnp.Elementwise(lambda x: x.sin()),
        nnp.Elementwise(functools.partial(torch.mul, other=2.0)),
        nnp.GatedLinear(lambda x: x.sin(), 0),
    ],
)
def test_a_function_without_a_name_stays_with_its_reason(layer):
    model = nn.Sequential(layer, nnp.Linear(6, 3)).double()
    report = normprop.report(fold(model, X))
    assert report.kept == {"0": "its function has no name that a file could hold"}


def test_constants_of_a_shape_are_those_of_the_example():
    model = nn.Sequential(nnp.AdaptiveAvgPool2d(2), nnp.Conv2d(3, 4, 1)).double()
    x = torch.randn(2, 3, 8, 8).double()
    folded = fold(model, x)
    assert_same(folded(x), model.eval()(x))
    notes = normprop.report(folded).runs
    assert "0: its constants are those of an input of shape (2, 3, 8, 8)" in notes
    assert normprop.report(folded).moved == ("0",)


def test_constants_that_change_with_the_shape_stay():
    pool = nnp.AdaptiveAvgPool2d(2)
    model = nn.Sequential(pool, nnp.ReLU(), nn.Upsample(scale_factor=8), pool).double()
    x = torch.randn(2, 3, 8, 8).double()
    folded = fold(model, x)
    assert_same(folded(x), model(x))
    # Each place has a pool of its own, as one without weights may part.
    assert not own_modules(folded)
    assert normprop.report(folded).moved == ("0", "1")
    assert normprop.report(folded).kept == {"3": "shift and scale, for outputs"}
    shared = nn.Sequential(pool, nnp.ReLU())
    twice = nn.Sequential(shared, nn.Upsample(scale_factor=8), shared).double()
    folded = fold(twice, x)
    assert_same(folded(x), twice(x))
    reason = "its constants change with the shapes that it gets"
    assert normprop.report(folded).kept["0.0"] == reason


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("padding", [0, 1])
def test_batchnorm_takes_the_shift(affine, padding):
    model = nn.Sequential(
        nnp.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=affine), nnp.ReLU(mean=0.2),
        nnp.Conv2d(4, 4, 3, padding=padding), nnp.GELU(), nn.Conv2d(4, 2, 1),
    ).double()  # fmt: skip
    x = torch.randn(8, 3, 9, 9).double()
    for _ in range(5):
        model(x)
    if affine:
        nn.init.normal_(model[1].weight)
        nn.init.normal_(model[1].bias)
    folded = fold(model, x)
    assert_same(folded(x), model.eval()(x))
    assert not own_modules(folded)
    assert not normprop.report(folded).kept
    assert list(folded.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.GroupNorm(2, 4)])
def test_a_norm_with_a_bias_takes_it_too(norm):
    layers = nnp.Linear(6, 4), norm, nnp.ReLU(mean=0.2), nn.Tanh()
    model = nn.Sequential(*layers).double().eval()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    folded = fold(model, X)
    assert_same(folded(X), model(X))
    assert not normprop.report(folded).kept


def test_it_is_unpickled_without_this_package(tmp_path):
    layers = nnp.GatedLinear("silu"), nnp.PReLU(3, mean=1.0), nnp.Softmax(-1), nnp.Tanh()
    model = nn.Sequential(nn.Linear(6, 6), *layers).double()
    folded = fold(model, X)
    wanted = folded(X)
    assert_same(pickle.loads(pickle.dumps(folded))(X), wanted)
    torch.save((folded, X, wanted), tmp_path / "model.pt")
    code = (
        "import sys, torch\n"
        f"model, x, y = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        "assert torch.equal(model(x), y)\n"
        "assert 'normprop' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# What somebody else holds on to.


class Lora(nnp.Linear):
    """A subclass that holds layers of its own."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.down, self.up = nnp.Linear(6, 2), nnp.Linear(2, 6)
        self.act = nnp.ReLU()

    def forward(self, x):
        return super().forward(x) + self.up(self.act(self.down(x)))


class Reads(nn.Module):
    """A parent that uses its child's weight past it."""

    def __init__(self):
        super().__init__()
        self.child = nnp.Linear(6, 6)
        self.act = nnp.ReLU()

    def forward(self, x):
        y = self.act(self.child(x))
        return nn.functional.linear(y, self.child.weight.T) + self.child.bias


class Watched(nn.TransformerEncoderLayer):
    """Keeps torch's forward, which hands raw weights to one kernel in evaluation."""


class Tied(nn.Module):
    """An embedding whose weight is its head's, once by assignment, once by a function."""

    def __init__(self, by_function):
        super().__init__()
        self.embedding = nnp.Embedding(9, 6, method="project")
        self.act, self.head = nnp.ReLU(), nnp.Linear(6, 9, bias=False, method="project")
        self.by_function = by_function
        if not by_function:
            self.head.weight = self.embedding.weight

    def forward(self, x):
        y = self.act(self.embedding(x))
        return y @ self.embedding.weight.T if self.by_function else self.head(y)


def between(layer):
    return nn.Sequential(nnp.Linear(6, 6), nnp.ReLU(), layer, nnp.Tanh(), nnp.Linear(6, 3))


def positive(layer):
    parametrize.register_parametrization(layer, "weight", nnp.Softplus())
    return layer


def hooked(layer):
    layer.register_forward_hook(lambda module, inputs, output: output)
    return layer


def patched(layer):
    forward = layer.forward
    layer.forward = lambda x: forward(x) * 2
    return layer


HELD = {
    "LoRA": lambda: Lora(6, 6),
    "a parent that reads": Reads,
    "softplus on a weight": lambda: positive(nnp.Linear(6, 6)),
    "weight_norm": lambda: parametrizations.weight_norm(nnp.Linear(6, 6)),
    "weight_norm, plain": lambda: parametrizations.weight_norm(nn.Linear(6, 6)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nnp.Linear(6, 6)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(6, 6)),
    "old spectral_norm": lambda: spectral_norm(nnp.Linear(6, 6)),
    "pruned": lambda: prune.l1_unstructured(nnp.Linear(6, 6), "weight", 0.5),
    "hooked": lambda: hooked(nnp.Linear(6, 6)),
    "patched": lambda: patched(nnp.Linear(6, 6)),
    "transformer": lambda: nn.TransformerEncoderLayer(6, 2, 8, 0.0, nnp.GELU(), batch_first=True),
    "transformer's child": lambda: Watched(6, 2, 8, 0.0, nnp.ReLU(), batch_first=True),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("verb", [fold, fuse])
@pytest.mark.parametrize("name", [*HELD, "old weight_norm"])
def test_what_others_hold_stays_what_it_is(name, verb):
    torch.manual_seed(2)
    layer = weight_norm(nn.Linear(6, 6)) if name == "old weight_norm" else HELD[name]()
    model = between(layer).double().eval()
    x = torch.randn(2, 5, 6).double()
    made = verb(model, x).eval()
    assert_same(made(x), model(x))
    with torch.no_grad():
        assert_same(made(x), model(x))
    # Its own keys hold what they held.
    state = made.state_dict()
    for key, value in model.state_dict().items():
        if key.startswith("2."):
            assert torch.equal(state[key], value), key
    report = normprop.report(made)
    for path, module in made.named_modules():
        if is_twin(module) and (verb is fold or hasattr(module, "constants")):
            assert path in report.kept, path


@pytest.mark.parametrize("verb", [fold, fuse])
@pytest.mark.parametrize("by_function", [True, False])
def test_tied_embeddings(by_function, verb):
    model, tokens = Tied(by_function).double().eval(), torch.arange(9)[None]
    made = verb(model, tokens)
    assert_same(made(tokens), model(tokens))
    tied = made.head.weight is made.embedding.weight
    if not by_function and not tied:
        names = {name for names in normprop.report(made).split for name in names}
        assert names == {"embedding.weight", "head.weight"}
