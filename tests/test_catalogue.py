"""The table of all layers: none is missing, and what it claims is so."""

import csv
import inspect
import io
import json
import re

import numpy as np
import pytest
import torch
from torch import nn

import normprop
from normprop import coverage, moments
from normprop.__main__ import main
from normprop.catalogue import GRADES, GROUPS, Coverage
from tests.layers import CLASSES, figures, instance

every_class = pytest.mark.parametrize("name", CLASSES)


@pytest.fixture(scope="module")
def table() -> Coverage:
    return coverage()


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
    text, html = str(table), table._repr_html_().replace("<wbr>", "")
    for name in CLASSES:
        assert len(re.findall(rf"\b{name}\b", text)) >= 1
        assert html.count(f"<code>{name}</code>") == 1
        assert re.search(rf'<th scope="row">(?:(?!</th>).)*<code>{name}</code>', html)
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
