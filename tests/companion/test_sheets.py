"""Sheets: every committed network is on the one of its setting, and what was not run is named."""

import json
import math

import matplotlib
import pytest

from normprop.companion import results, sheets
from normprop.companion.methods import METHODS
from normprop.companion.sheets import Setting, Way

RATES = (0.01, 0.1, 1.0)
BASE = {
    "data": "digits",
    "kind": "dense",
    "residual": False,
    "depth": 10,
    "optimizer": "sgd",
    "batch_size": 128,
    "steps": 150,
    "growth": math.e,
    "orthogonal": False,
    "activation": "relu",
}
SETTING = Setting("digits", "dense", False, 10, "sgd", 128, 150)


def cell(method, tests=(0.5, 0.6, 0.7), validations=(0.4, 0.6, 0.5), **changed):
    best = max(range(3), key=lambda k: validations[k] or 0.0)
    trials = [
        {"lr": lr, "validation": value, "diverged": value is None}
        for lr, value in zip(RATES, validations, strict=True)
    ]
    runs = [{"test": value, "diverged": value is None} for value in tests]
    entry = {**BASE, "method": method, "lr": RATES[best]}
    return {**entry, "trials": trials, "runs": runs, **changed}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    return tmp_path


def commit(folder, name, *cells, date="2026-01-02T03:04"):
    document = {"command": name, "date": date, "commit": "0123456789abcdef"}
    (folder / f"{name}.json").write_text(json.dumps({**document, "cells": cells}))


def test_networks_of_one_setting_share_a_sheet_whatever_file_they_are_in(folder):
    commit(folder, "one", cell("he"), cell("he", depth=40))
    commit(folder, "two", cell("calibrated"), cell("calibrated", orthogonal=True))
    found = sheets.read()
    assert set(found) == {SETTING, SETTING._replace(depth=40)}
    sheet = found[SETTING]
    assert [source["command"] for source in sheet.sources] == ["one", "two"]
    assert set(sheet.cells) == {
        Way("he", False, "relu"),
        Way("calibrated", False, "relu"),
        Way("calibrated", True, "relu"),
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"data": "fashion-mnist"},
        {"kind": "conv"},
        {"residual": True},
        {"optimizer": "adam"},
        {"batch_size": 2},
        {"steps": 3000},
    ],
)
def test_what_differs_in_anything_but_the_method_is_on_another_sheet(folder, changed):
    commit(folder, "one", cell("he"), cell("he", **changed))
    assert set(sheets.read()) == {SETTING, SETTING._replace(**changed)}


def test_another_growth_too_few_runs_and_what_is_no_sweep_are_on_none(folder):
    commit(folder, "one", cell("he", growth=math.exp(3)), cell("he", tests=(0.5, 0.6)))
    (folder / "times.json").write_text('{"cells": [{"method": "he", "seconds": [1, 2, 3]}]}')
    (folder / "plain.json").write_text('{"networks": []}')
    assert sheets.read() == {}


@pytest.mark.parametrize(
    ("first", "second"), [("2026-01-01", "2026-02-01"), ("2026-03-01", "2026-02-01")]
)
def test_of_a_network_in_two_files_the_later_counts(folder, first, second):
    commit(folder, "one", cell("he", tests=(0.1, 0.1, 0.1)), cell("lsuv"), date=first)
    commit(folder, "two", cell("he", tests=(0.2, 0.2, 0.2)), date=second)
    sheet = sheets.read()[SETTING]
    assert sheet.tests(("he", False, "relu")) == [0.1 if first > second else 0.2] * 3
    assert ("lsuv", False, "relu") in sheet.cells


def test_a_mean_has_its_error_its_losses_and_its_dagger(folder):
    commit(
        folder,
        "one",
        cell("he"),
        cell("lsuv", tests=(0.6, None, 0.6)),
        cell("dks", validations=(0.9, 0.6, 0.5)),
        cell("tat", validations=(0.1, 0.1, None)),
    )
    sheet = sheets.read()[SETTING]
    assert sheet.text(("he", False, "relu")) == "60.0\u00a0±\u00a05.8"
    assert sheet.text(("lsuv", False, "relu")) == "40.0\u00a0±\u00a020.0, 1 diverged"
    assert sheet.text(("dks", False, "relu")).endswith("†")
    # What learns nothing at any rate has no best one.
    assert not sheet.at_end(("tat", False, "relu"))
    assert sheet.rates(("tat", False, "relu")) == (list(RATES), [0.1, 0.1, 0.0])


def test_a_table_has_every_network_and_its_distance_from_one(folder):
    commit(
        folder,
        "one",
        cell("calibrated", tests=(0.9, 0.91, 0.92)),
        cell("he"),
        cell("calibrated", activation="tanh", orthogonal=True),
    )
    shown = sheets.table(sheets.read()[SETTING])
    assert shown.count("<tr>") == 3
    assert "ReLU, normal" in shown
    assert "tanh, orthogonal" in shown
    assert "<small>+31.0 (" in shown
    assert "–" in shown
    assert str(SETTING) in shown


def test_a_leaky_relu_under_hes_weights_is_one_method_in_both_kinds_of_network(folder):
    images = {"kind": "vgg", "data": "fashion-mnist", "depth": 21}
    commit(folder, "one", cell("he", activation="leaky_relu", **images), cell("leaky"))
    assert [list(sheet.cells) for sheet in sheets.read().values()] == [
        [Way("leaky", False, "relu")]
    ] * 2


def test_what_was_not_run_is_named_with_its_command(folder):
    commit(folder, "one", cell("he"))
    shown = sheets.origins(sheets.read())
    assert "<code>sweep --grid dense-10</code></th><td>1 of " in shown
    assert "2026-01-02, 0123456789" in shown
    for command in ("sweep --grid dense-40", "sweep --grid conv-10 --data fashion-mnist"):
        assert f"<code>{command}</code></th><td>0 of " in shown
    assert shown.count("not run") > 10


def test_figures_have_a_line_for_every_method(folder):
    matplotlib.use("agg")
    methods = [name for name, facts in METHODS.items() if facts.chain or facts.skips]
    for depth in (10, 40):
        for name in ("relu", "tanh"):
            chosen = [cell(m, depth=depth, activation=name) for m in methods]
            commit(folder, f"{name}_{depth}", *chosen)
    found = sheets.read()
    for figure, points in (
        (sheets.rates(found[SETTING], False), 3),
        (sheets.along("depth", found.values(), False), 2),
    ):
        lines = [line for part in figure.subfigs for ax in part.axes for line in ax.lines]
        assert len(lines) == 2 * len(methods)
        assert {len(line.get_xdata()) for line in lines} == {points}
        labels = [
            text.get_text()
            for part in figure.subfigs
            for legend in part.legends
            for text in legend.get_texts()
        ]
        assert sorted(labels) == sorted(METHODS[method].label for method in methods)
        for part in figure.subfigs:
            looks = [
                (line.get_color(), line.get_marker(), line.get_linestyle())
                for line in part.axes[0].lines
            ]
            assert len(set(looks)) == len(looks)
    with pytest.raises(ValueError, match=r"networks with orthogonal weights and one of relu, tanh"):
        sheets.rates(found[SETTING], True)
