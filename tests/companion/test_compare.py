"""The comparison on images: it runs, continues, and its file says what was done with which data."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from normprop.companion import cli, compare, data, results, runs
from normprop.companion.images import LAYERS, METHODS

TINY = ["--steps", "2", "--rates", "0.01", "0.1", "0.3", "--seeds", "1", "--width", "2"]
FEW = ["--methods", "batchnorm", "calibrated", "--seen", "20"]


def comparison(folder, *more):
    compare.main([*TINY, *FEW, "--results", str(folder), "--journal", str(folder), *more])
    return json.loads((folder / "images_few.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    return folder, comparison(folder, "--data", "digits")


def test_both_networks_train_at_the_same_budget(finished):
    _, document = finished
    cells = document["cells"]
    assert [(cell["kind"], cell["method"]) for cell in cells] == [
        (kind, method) for kind in LAYERS for method in ("calibrated", "batchnorm")
    ]
    for cell in cells:
        assert [trial["lr"] for trial in cell["trials"]] == [0.01, 0.1, 0.3]
        assert all(run["steps"] == 2 or run["diverged"] for run in cell["trials"] + cell["runs"])
        assert all("test" in run for run in cell["runs"])
        assert (cell["data"], cell["side"], cell["seen"]) == ("digits", 16, 20)
        assert cell["depth"] == LAYERS[cell["kind"]]
        assert cell["fused"] == (cell["method"] == "calibrated")
        assert cell["interior"] == (cell["lr"] == 0.1)
    assert document["command"].startswith("python -m normprop.companion.compare --steps 2")
    assert "fallback" not in document


def test_what_is_finished_is_not_run_again(finished, capsys):
    folder, document = finished
    before = (folder / "images_few.jsonl").read_text()
    again = comparison(folder, "--data", "digits")
    assert "4 cells, 4 of them finished before" in capsys.readouterr().out
    assert again["cells"] == document["cells"]
    assert (folder / "images_few.jsonl").read_text() == before


def test_other_data_are_never_taken_in_silence(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(data.FOLDERS, "fashion-mnist", tmp_path / "nowhere")
    monkeypatch.setattr(cli, "experiment", lambda *given: seen.append(given))
    seen = []
    compare.main(TINY)
    ((_, cells, _, origin, *_),) = seen
    assert {cell.data for cell in cells} == {"digits"}
    assert origin["fallback"] == f"digits, as fashion-mnist is not in {tmp_path / 'nowhere'}"
    assert origin["fallback"] in capsys.readouterr().out
    # Asked for by its name, it is that or nothing.
    monkeypatch.undo()
    monkeypatch.setitem(data.FOLDERS, "fashion-mnist", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="package dataset-fashion-mnist"):
        comparison(tmp_path, "--data", "fashion-mnist")


def test_what_is_installed_is_taken(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setitem(data.FOLDERS, "fashion-mnist", tmp_path)
    monkeypatch.setattr(cli, "experiment", lambda *given: seen.append(given))
    compare.main(TINY)
    assert {(cell.data, cell.side) for cell in seen[0][1]} == {("fashion-mnist", 14)}
    assert "fallback" not in seen[0][3]


@pytest.mark.parametrize("name", compare.GRIDS)
def test_a_grid_has_every_method_at_one_budget(name):
    grid = compare.GRIDS[name]
    cells = grid.cells(tuple(LAYERS), width=4)
    assert len(set(cells)) == len(cells)
    assert {cell.steps for cell in cells} == {grid.steps}
    assert {cell.kind for cell in cells} == set(LAYERS)
    assert len(grid.rates) >= 5
    for kind in LAYERS:
        for batch in grid.batches:
            chosen = [c for c in cells if (c.kind, c.batch_size) == (kind, batch)]
            assert {(c.method, c.activation, c.growth) for c in chosen} == set(grid.contenders)
    assert {method for method, *_ in grid.contenders} <= set(METHODS)


def test_weights_follow_from_the_seed():
    cell = compare.GRIDS["few"].cells(("vgg",), width=2, data="digits", side=16, seen=20)[0]
    split = data.load("digits", images=True, side=16)
    runs_ = [runs.Run(runs.replace(cell, steps=1), 0.1, seed, test=False) for seed in (0, 0, 1)]
    losses = [asdict(runs.execute(run))["loss"] for run in runs_]
    assert losses[0] == losses[1] != losses[2]
    assert split.pixels == 256


@pytest.mark.slow
def test_steps_are_timed_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "TURNS", compare.Turns(rounds=3, least=1e-6))
    sizes = ["--width", "2", "--data", "digits", "--kinds", "vgg"]
    compare.main(["--grid", "time", *sizes, "--results", str(tmp_path)])
    document = json.loads((tmp_path / "images_time.json").read_text())
    assert document["plan"] == {"rounds": 3, "least": 1e-6}
    found = [(cell["batch_size"], cell["method"], cell["fused"]) for cell in document["cells"]]
    methods = [("plain", False), ("batchnorm", False), ("converted", True), ("converted", False)]
    assert found == [(batch, *method) for batch in (64, 2) for method in methods]
    for cell in document["cells"]:
        low, median, high = cell["seconds"]
        assert 0 < low <= median <= high
        assert cell["method"] != "plain" or cell["ratio"] == [1, 1, 1]


def test_long_runs_are_tuned_by_short_ones(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(cli, "experiment", lambda *given: seen.append(given))
    places = ["--data", "digits", "--journal", str(tmp_path)]
    changed = ["--grid", "long", "--seeds", "2", "--batches", "8", "16"]
    for given in (["--grid", "few"], ["--grid", "long"], changed):
        compare.main([*given, *places])
    (few, long, fewer) = [(cells, plan) for _, cells, plan, *_ in seen]
    trials = {run.key for cell in few[0] for run in runs.trials(cell, few[1])}
    assert {run.key for cell in long[0] for run in runs.trials(cell, long[1])} < trials
    assert {cell.steps for cell in long[0]} == {1500}
    assert {cell.batch_size for cell in fewer[0]} == {8, 16}
    assert [len(plan.seeds) for _, plan in (few, long, fewer)] == [5, 3, 2]


def test_a_residual_chain_is_refused():
    cell = compare.GRIDS["few"].cells(("vgg",), width=2, data="digits", side=16, residual=True)[0]
    with pytest.raises(ValueError, match="residual must be False for kind 'vgg'; it was True"):
        runs.network(cell, runs.split_of(cell), 0)


def test_a_filter_that_leaves_nothing_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no cell is left"):
        compare.main(["--grid", "small", "--methods", "plain", "--journal", str(tmp_path)])


def test_no_command_names_a_place_of_one_machine():
    parsed = compare._parser().parse_args([])
    assert parsed.data is None
    assert parsed.journal == Path("build/companion")


COMMITTED = sorted(path.name for path in results.FOLDER.glob("images_*.json"))


@pytest.mark.parametrize("name", [name for name in COMMITTED if name != "images_time.json"])
def test_committed_results_have_one_budget_and_their_best_rates_inside(name):
    document = json.loads(results.path(name).read_text("utf-8"))
    rates, seeds = document["plan"]["rates"]["sgd"], document["plan"]["seeds"]
    assert document["cells"]
    for cell in document["cells"]:
        assert [trial["lr"] for trial in cell["trials"]] == rates
        assert [run["seed"] for run in cell["runs"]] == seeds
        best = max(trial["validation"] or 0.0 for trial in cell["trials"])
        assert cell["interior"] == (rates[0] < cell["lr"] < rates[-1])
        # What learns nothing at any rate has no best one.
        assert cell["interior"] or best < 0.2
        assert cell["depth"] == LAYERS[cell["kind"]]
    contenders = {}
    for cell in document["cells"]:
        group = contenders.setdefault((cell["kind"], cell["batch_size"], cell["steps"]), [])
        group.append((cell["method"], cell["activation"], cell["growth"]))
    first, *others = contenders.values()
    assert len(set(first)) == len(first)
    assert all(group == first for group in others)


def test_committed_times_are_of_one_machine_side_by_side():
    assert COMMITTED
    document = json.loads(results.path("images_time.json").read_text("utf-8"))
    found = {(c["kind"], c["batch_size"], c["method"], c["fused"]) for c in document["cells"]}
    for kind, batch in {(c["kind"], c["batch_size"]) for c in document["cells"]}:
        assert {method for k, b, method, _ in found if (k, b) == (kind, batch)} == {
            "plain",
            "batchnorm",
            "converted",
        }
        assert (kind, batch, "converted", True) in found
