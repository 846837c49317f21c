"""convert() where a network writes in place: what trained trains, what was seen stays seen."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normprop
from normprop import report
from tests.nn.battery import ROWS, same_up_to_order

# As in the post, so that an activation at an output is normalised, too.
convert = partial(normprop.convert, scaling="backward")

ACTIVATIONS = [
    row for row in ROWS
    if getattr(row.layer(), "keeps_output", False) and row.name not in ("ReLU", "Sigmoid", "Tanh")
]  # fmt: skip
KINDS = ("map", "pool", "dropout", "weights", "fitted", "resized", "moved", "border")
LAYERS = [row for row in ROWS if row.kind in KINDS and row.name != "Identity"]

WRITES = {
    "out += c": (lambda out: out.add_(0.5), lambda out: out + 0.5),
    "out *= c": (lambda out: out.mul_(1.5), lambda out: out * 1.5),
    # No method calls it, so that it stays a function.
    "relu_": (lambda out: torch.relu_(out), torch.relu),
    "functional relu": (lambda out: F.relu(out, inplace=True), F.relu),
    "a part": (lambda out: _part(out), lambda out: _part(out.clone())),
    "a view": (lambda out: (out.view(-1).add_(0.5), out)[1], lambda out: out + 0.5),
}


def _part(out):
    out[:1] *= 2.0
    return out


class Block(nn.Module):
    """A layer, and a write into what it gives."""

    def __init__(self, layer, write):
        super().__init__()
        self.layer, self.write = layer, write

    def forward(self, x):
        return self.write(self.layer(x))


def _gradients(model, x):
    torch.manual_seed(0)
    x = x.clone().requires_grad_()
    loss = (model(x * 1.0) ** 2).sum()
    return torch.autograd.grad(loss, (x, *model.parameters()))


@pytest.mark.parametrize("row", LAYERS, ids=lambda row: row.name)
def test_what_trained_trains(row):
    x = row.input()
    for write, pure in WRITES.values():
        model = Block(row.plain(), write)
        try:
            _gradients(model, x)
        except RuntimeError:
            # Nor did the plain network train.
            continue
        for example in ((x,), ()):
            made = convert(model, *example, scaling="separate", per="layer")
            reference = Block(copy.deepcopy(made.layer), pure)
            if hasattr(reference.layer, "overwritten"):
                reference.layer.overwritten = None
            terms = 4 * x.numel() if row.kind == "weights" else 16
            assert same_up_to_order(_gradients(made, x), _gradients(reference, x), terms)


@pytest.mark.parametrize("row", ACTIVATIONS, ids=lambda row: row.name)
def test_more_is_kept_only_where_something_is_written(row):
    layer, x = row.plain(), row.input()
    calm = convert(Block(layer, lambda out: out * 2.0), x)
    assert calm.layer.overwritten is None
    assert report(calm).notes == {}
    written = convert(Block(layer, lambda out: out.mul_(2.0)), x)
    assert written.layer.overwritten == "output"
    assert "output is written" in report(written).notes["layer"]
    # An in-place activation behind it becomes a twin, which writes nothing.
    behind = convert(nn.Sequential(layer, nn.ReLU(inplace=True)), x)
    assert behind[0].overwritten is None
    # One that stays writes.
    stays = nn.ReLU(inplace=True)
    stays.register_forward_hook(lambda *_: None)
    assert convert(nn.Sequential(layer, stays), x)[0].overwritten == "output"


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh", "Tanhshrink"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_what_wrote_into_an_input_trains(name, dtype):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.map, self.gate = nn.Linear(4, 4), getattr(nn, name)()

        def forward(self, x):
            h = self.map(x)
            gate = self.gate(h)
            h += 1.0
            return torch.cat([h, gate], 1)

    model, x = Gated().to(dtype), torch.randn(3, 4, dtype=dtype)
    model(x).sum().backward()
    made = convert(model, x)
    made(x).sum().backward()
    assert made.gate.overwritten == "input"


def test_the_example_is_not_written_into():
    x = torch.randn(3, 4)
    before = x.clone()
    convert(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)), x)
    convert(Block(nn.Flatten(), lambda out: out.mul_(2.0)), x=x)
    assert torch.equal(x, before)


class PreActivation(nn.Module):
    """Its shortcut takes what the first activation wrote."""

    def __init__(self, act, discards=False):
        super().__init__()
        self.act, self.last, self.map = act, nn.Tanh(), nn.Linear(4, 4)
        self.discards = discards

    def forward(self, x):
        x = self.map(x)
        if self.discards:
            self.act(x)
            return self.last(x)
        return x + self.last(self.map(self.act(x)))


IN_PLACE = [
    "CELU", "ELU", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "Mish", "ReLU", "ReLU6",
    "RReLU", "SELU", "SiLU", "Dropout", "Dropout1d",
]  # fmt: skip


@pytest.mark.parametrize("discards", [False, True])
@pytest.mark.parametrize("name", IN_PLACE)
def test_a_layer_whose_writing_shows_stays(name, discards):
    torch.manual_seed(0)
    model, x = PreActivation(getattr(nn, name)(inplace=True), discards), torch.randn(64, 4)
    found = report(convert(model, x))
    assert set(found.converted) == {"map", "last"}
    assert "writes into its input" in found.kept["act"]
    # Where the result is what is used, nobody can tell.
    usual = nn.Sequential(nn.Linear(4, 4), getattr(nn, name)(inplace=True), nn.Linear(4, 4))
    assert len(report(convert(usual, x)).converted) == 3
