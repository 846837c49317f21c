"""The table of all layers: none is missing, and what it claims is so."""

import csv
import inspect
import io
import json
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import normprop
from normprop import coverage, moments, rules
from normprop.__main__ import main
from normprop.catalogue import GRADES, GROUPS, Coverage

CLASSES = sorted(
    name
    for name, found in vars(nn).items()
    if inspect.isclass(found) and issubclass(found, nn.Module)
)
every_class = pytest.mark.parametrize("name", CLASSES)

# What a constructor cannot do without, by the name without its dimension, and the shape of a
# sample where the figures depend on it.
ARGUMENTS = {
    "AdaptiveAvgPool": (2,),
    "AdaptiveMaxPool": (2,),
    "AdaptiveLogSoftmaxWithLoss": (4, 10, [5]),
    "AvgPool": (2,),
    "BatchNorm": (4,),
    "Bilinear": (3, 4, 5),
    "ChannelShuffle": (2,),
    "CircularPad": (1,),
    "ConstantPad": (1, 0.5),
    "Conv": (4, 6, 3),
    "ConvTranspose": (4, 6, 3),
    "CrossMapLRN": (3,),
    "DataParallel": (nn.ReLU(),),
    "Embedding": (7, 3),
    "EmbeddingBag": (7, 3),
    "Fold": ((4, 4), 2),
    "FractionalMaxPool": (2, 3),
    "GRU": (2, 3),
    "GRUCell": (2, 3),
    "GroupNorm": (2, 4),
    "InstanceNorm": (4,),
    "LPPool": (2, 2),
    "LSTM": (2, 3),
    "LSTMCell": (2, 3),
    "LayerNorm": (6,),
    "LazyConv": (6, 3),
    "LazyConvTranspose": (6, 3),
    "LazyLinear": (5,),
    "Linear": (4, 5),
    "LinearCrossEntropyLoss": (4, 5),
    "LocalResponseNorm": (3,),
    "LogSoftmax": (1,),
    "MaxPool": (2,),
    "MaxUnpool": (2,),
    "MultiheadAttention": (8, 2),
    "PixelShuffle": (2,),
    "PixelUnshuffle": (2,),
    "RMSNorm": (6,),
    "RNN": (2, 3),
    "RNNBase": ("LSTM", 2, 3),
    "RNNCell": (2, 3),
    "RNNCellBase": (2, 3, True, 4),
    "ReflectionPad": (1,),
    "ReplicationPad": (1,),
    "Softmax": (1,),
    "Softmin": (1,),
    "SyncBatchNorm": (4,),
    "Threshold": (0.1, 0.2),
    "TransformerDecoder": (nn.TransformerDecoderLayer(8, 2), 1),
    "TransformerDecoderLayer": (8, 2),
    "TransformerEncoder": (nn.TransformerEncoderLayer(8, 2), 1),
    "TransformerEncoderLayer": (8, 2),
    "Transformer": (8, 2, 1, 1, 8),
    "Unflatten": (1, (2, 2)),
    "Unfold": (2,),
    "Upsample": (None, 2),
    "UpsamplingBilinear": (None, 2),
    "UpsamplingNearest": (None, 2),
    "ZeroPad": (1,),
}
SHAPES = {"EmbeddingBag": (5,), "Fold": (8, 9), "MultiheadAttention": (6, 8), "Unfold": (4, 6, 6)}
# Softmax2d is no Softmax in two dimensions.
ALONE = {"Softmax2d": ()}


@pytest.fixture(scope="module")
def table() -> Coverage:
    return coverage()


def instance(module, name):
    """An instance of a class, and the shape of a sample if its moments ask for one."""
    family = re.sub(r"\dd$", "", name)
    arguments = ALONE.get(name, ARGUMENTS.get(family, ()))
    with warnings.catch_warnings():
        # Deprecated names and nested tensors; neither is what is tested.
        warnings.simplefilter("ignore")
        layer = getattr(module, name)(*arguments)
        if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
            dims = int(name[-2]) if family != name else 0
            layer(torch.randn(2, 4, *(6,) * dims) if dims else torch.randn(2, 4))
    entry = rules.lookup(layer)
    shape = None
    if entry is not None and entry.shaped:
        dims = int(name[-2]) if family != name else 1
        shape = SHAPES.get(family, (4, 6, 6, 6)[: dims + 1])
    if name == "RReLU":
        # In training it is no function.
        layer.eval()
    return layer, shape


def figures(layer, shape):
    found = moments(layer) if shape is None else moments(layer, shape=shape)
    return found, (found.fwd_mean, found.fwd_std, found.bwd_std)


def test_every_class_has_a_row(table):
    assert sorted(layer.name for layer in table.layers) == CLASSES
    assert {layer.group for layer in table.layers} == set(GROUPS)
    assert table.torch == torch.__version__.split("+")[0]


@every_class
def test_every_class_is_known(table, name):
    layer = table.layer(name)
    assert layer.moments != "unknown", f"{name} is neither registered nor refused"
    if layer.moments == "not defined":
        assert len(layer.note.split()) >= 5, layer.note
        assert layer.note[0].islower()
        assert layer.note[-1] != "."
    if layer.moments == "asymptotic":
        assert "O(" in layer.note


@every_class
def test_the_moments_are_what_the_row_says(table, name):
    row = table.layer(name)
    if name in ("Module", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict"):
        layer, shape = getattr(nn, name)(), None
    else:
        layer, shape = instance(nn, name)
    if row.moments == "not defined":
        with pytest.raises(TypeError, match=re.escape(f"{name} has no constants: {row.note}")):
            moments(layer)
        return
    found, values = figures(layer, shape)
    for value in values:
        assert np.isfinite(value).all()
    if row.moments == "exact":
        assert found.error <= 1e-7
        assert found.method in ("closed form", "quadrature")
    else:
        assert found.method.startswith("asymptotic, O(")


@every_class
def test_a_twin_is_a_twin(table, name):
    twin, plain = getattr(normprop.nn, name, None), getattr(nn, name)
    row = table.layer(name)
    assert row.twin == (twin is not None)
    if row.twin:
        assert issubclass(twin, plain)
        assert twin is not plain
        assert twin.__module__.startswith("normprop.")
        _, values = figures(*instance(normprop.nn, name))
        for value in values:
            assert np.isfinite(value).all()


def test_every_layer_of_ours_with_a_name_of_torch_is_in_the_table(table):
    ours = {n for n in normprop.nn.__all__ if inspect.isclass(getattr(nn, n, None))}
    assert ours == {layer.name for layer in table.layers if layer.twin}


def test_a_class_that_nobody_knows_is_seen(monkeypatch):
    class New(nn.Module):
        def forward(self, x):
            return x

    class Derived(nn.NLLLoss):
        pass

    monkeypatch.setattr(nn, "New", New, raising=False)
    monkeypatch.setattr(nn, "Derived", Derived, raising=False)
    found = coverage()
    assert found.layer("New").moments == "unknown"
    assert found.layer("New").group == "others"
    assert found.layers[-1].group == "others"
    assert f"{coverage().count('unknown')} unknown" in str(found)
    # What keeps its parent's forward is its parent.
    assert found.layer("Derived").moments == "exact"
    assert found.layer("Derived").note.startswith("as NLLLoss")
    assert not found.layer("Derived").twin


def test_the_reason_against_cross_map_normalisation_is_true():
    layer, x = nn.CrossMapLRN2d(3), torch.randn(1, 12, 1, 1)
    before = layer(x)
    x[0, 0] = 50.0
    # A window of 3 has left the first channel behind long before the last.
    assert (layer(x)[0, -1] != before[0, -1]).all()


def test_counts(table):
    for twin in (None, True, False):
        assert table.count(twin=twin) == sum(table.count(g, twin=twin) for g in GRADES)
    assert table.count() == len(CLASSES)
    assert table.count("unknown") == 0
    with pytest.raises(ValueError, match=r"moments must be one of exact, .* it was 'right'"):
        table.count("right")
    with pytest.raises(KeyError, match=r"name must be that of a module of torch\.nn .* 'Tensor'"):
        table.layer("Tensor")


def test_other_programs_get_all_of_it(table, capsys):
    content = json.loads(table.to_json())
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert content["torch"] == table.torch
    assert len(content["layers"]) == len(rows) == len(table.layers)
    for layer, from_json, from_csv in zip(table.layers, content["layers"], rows, strict=True):
        assert from_json == vars(layer)
        assert from_csv == {name: str(value) for name, value in vars(layer).items()}
    assert main(["--coverage", "--json"]) == 0
    assert capsys.readouterr().out == table.to_json() + "\n"
    assert main(["--coverage", "--csv"]) == 0
    assert capsys.readouterr().out == table.to_csv()


def test_text_and_html_show_every_class(table, capsys):
    text, html = str(table), table._repr_html_()
    for name in CLASSES:
        assert len(re.findall(rf"\b{name}\b", text)) >= 1
        assert html.count(f"<code>{name}</code>") == 1
    for group in GROUPS:
        assert f"\n{group}\n" in text
        assert html.count(f'scope="rowgroup">{group}<') == 1
    assert max(map(len, text.splitlines())) <= 110
    assert html.count("<tbody>") == html.count("</tbody>") == len(GROUPS)
    assert f"{len(CLASSES)} layers of torch.nn {table.torch}" in text
    assert main(["--coverage"]) == 0
    assert capsys.readouterr().out == text + "\n"


@pytest.mark.parametrize("option", [["--samples", "9"], ["--seed", "1"], ["--device", "cuda"]])
def test_the_command_line_refuses_what_has_no_say(option, capsys):
    with pytest.raises(SystemExit):
        main(["--coverage", *option])
    assert "--coverage simulates nothing" in capsys.readouterr().err
