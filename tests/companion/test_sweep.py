"""Sweeps: killed ones continue and lose nothing, and the files say where results come from."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from normprop.companion import cli, runs, sweep, thousand
from normprop.companion.methods import METHODS
from normprop.companion.networks import build
from normprop.companion.runs import Log, Plan, Run, SweepCell
from normprop.companion.training import Result

TINY = ["--grid", "dense-10", "--methods", "he", "forward", "--steps", "4"]
TINY += ["--seeds", "1", "--width", "8"]
# Two methods, two activations, two kinds of weights; ten rates and a final run.
RUNS = 8 * 11


def command(folder, *more):
    places = ["--results", str(folder), "--journal", str(folder)]
    return [sys.executable, "-m", "normprop.companion.sweep", *TINY, *places, *more]


def cells(path):
    """The results, without the times that no two sweeps share."""
    document = json.loads(path.read_text())
    for cell in document["cells"]:
        for run in cell["trials"] + cell["runs"]:
            del run["seconds"]
    return document["cells"]


def lines(folder):
    path = folder / "sweep_dense_10.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_other_data_have_a_file_of_their_own(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(cli, "experiment", lambda name, *rest: names.append(name))
    for data in ("digits", "fashion-mnist", str(tmp_path / "mine")):
        sweep.main(["--grid", "dense-10", "--data", data])
    assert names == ["sweep_dense_10", "sweep_dense_10_fashion_mnist", "sweep_dense_10_mine"]


@pytest.mark.parametrize("name", sweep.GRIDS)
def test_every_cell_of_a_grid_is_another_network(name):
    found = sweep.GRIDS[name].cells(width=64, data="digits", device="cpu")
    assert len(set(found)) == len(found)
    assert {cell.batch_size for cell in found} == set(sweep.GRIDS[name].batches)


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unkilled")
    subprocess.run(command(folder), check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_a_killed_sweep_continues_and_loses_nothing(tmp_path, root, unkilled):
    sweeping = subprocess.Popen(
        command(tmp_path, "--processes", "2"), cwd=root, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(lines(tmp_path)) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(sweeping.pid, signal.SIGKILL)
    assert sweeping.wait() == -signal.SIGKILL
    kept = lines(tmp_path)
    assert 5 <= len(kept) < RUNS
    assert not (tmp_path / "sweep_dense_10.json").exists()

    # The kill may also have come in the middle of a line.
    with (tmp_path / "sweep_dense_10.jsonl").open("a") as file:
        file.write('{"run": "{\\"cell\\":')
    done = subprocess.run(
        command(tmp_path, "--processes", "2"), cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    found = lines(tmp_path)
    assert found[: len(kept)] == kept
    counted = Counter(json.loads(line)["run"] for line in found)
    assert set(counted.values()) == {1}
    assert len(counted) == RUNS
    assert cells(tmp_path / "sweep_dense_10.json") == cells(unkilled / "sweep_dense_10.json")


def test_a_finished_sweep_runs_nothing_again(unkilled):
    before = (lines(unkilled), cells(unkilled / "sweep_dense_10.json"))
    done = subprocess.run(command(unkilled), check=True, capture_output=True, text=True)
    assert "8 cells, 8 of them finished before" in done.stdout
    # The progress bar keeps off what is no terminal.
    assert done.stderr == ""
    assert (lines(unkilled), cells(unkilled / "sweep_dense_10.json")) == before


@pytest.mark.slow
def test_torchrun_shares_the_cells(tmp_path, root, unkilled):
    # --standalone finds a port of its own.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2"]
    # One of the two methods: two cells for each process are enough to be shared.
    sweeping = torchrun + command(tmp_path, "--methods", "he")[1:]
    done = subprocess.run(sweeping, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logs = [Log(tmp_path / f"sweep_dense_10.rank{rank}.jsonl").read() for rank in (0, 1)]
    assert [len(log) for log in logs] == [RUNS // 4] * 2
    assert not set(logs[0]) & set(logs[1])
    alone = [cell for cell in cells(unkilled / "sweep_dense_10.json") if cell["method"] == "he"]
    assert len(alone) == 4
    assert cells(tmp_path / "sweep_dense_10.json") == alone


def test_the_file_says_where_it_comes_from(unkilled):
    document = json.loads((unkilled / "sweep_dense_10.json").read_text())
    assert document["command"].startswith("python -m normprop.companion.sweep --grid dense-10")
    assert {"commit", "source", "device", "date", "plan"} <= set(document)
    assert {"python", "torch", "numpy", "normprop"} == set(document["versions"])
    assert document["plan"]["rates"]["sgd"] == list(sweep.LADDER[2:])


def test_the_command_leaves_out_where_files_lie():
    given = ["--journal", "one/here", "--grid", "dense-10", "--results=two", "--seeds", "3"]
    found = runs.origin("normprop.companion.sweep", given, "cpu")["command"]
    assert found == "python -m normprop.companion.sweep --grid dense-10 --seeds 3"


def test_the_test_part_is_touched_by_final_runs_alone(unkilled):
    for cell in cells(unkilled / "sweep_dense_10.json"):
        assert all("test" not in run for run in cell["trials"])
        assert all("test" in run for run in cell["runs"])


CELL = SweepCell("he", "relu", 2, "sgd", width=4, batch_size=8, steps=3)
PLAN = Plan({"sgd": (0.01, 0.1, 1.0)}, seeds=(1, 2))


def results(*figures):
    return {
        run.key: Result(loss, accuracy, None, loss is None, 3, 0.0)
        for run, (accuracy, loss) in zip(runs.trials(CELL, PLAN), figures, strict=True)
    }


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        (((0.5, 1.0), (0.7, 2.0), (0.6, 0.1)), 0.1),
        (((0.7, 1.0), (0.7, 0.9), (0.6, 0.1)), 0.1),
        (((0.7, 1.0), (0.7, 1.0), (None, None)), 0.01),
        (((None, None), (None, None), (0.1, 3.0)), 1.0),
        (((None, None), (None, None), (None, None)), 0.01),
    ],
)
def test_the_best_rate_wins(figures, best):
    final = runs.finals(CELL, PLAN, results(*figures))
    assert {run.lr for run in final} == {best}
    assert [run.seed for run in final] == [1, 2]
    assert all(run.test for run in final)


def test_a_diverged_final_run_has_a_test_accuracy_of_none():
    figures = results(*[(None, None)] * 3)
    last = runs.finals(CELL, PLAN, figures)
    figures |= {run.key: Result(None, None, None, True, 1, 0.0) for run in last}
    (entry,) = runs.summary([CELL], PLAN, figures)
    assert [run["test"] for run in entry["runs"]] == [None, None]
    assert all("test" not in run for run in entry["trials"])


def test_trials_may_be_shorter():
    plan = Plan({"sgd": (0.1,)}, tuning_steps=2)
    (trial,) = runs.trials(CELL, plan)
    assert (trial.cell.steps, trial.test) == (2, False)


def test_a_log_drops_a_half_line_and_keeps_the_rest(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    assert log.read() == {}
    log.mend()
    first, second = (Run(CELL, lr, 0, test=False) for lr in (0.1, 0.2))
    result = Result(1.0, 0.5, None, False, 3, 0.25)
    log.add(first, result)
    with log.path.open("a") as file:
        file.write('{"run": "')
    assert log.read() == {first.key: result}
    log.mend()
    log.add(second, result)
    assert list(log.read()) == [first.key, second.key]


def test_a_broken_line_in_the_middle_is_refused(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"run": "x"}\n{"run"\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 1, must be a run in JSON"):
        Log(path).read()


def test_a_run_is_known_by_all_its_settings():
    base = Run(CELL, 0.1, 0, test=False)
    changed = [
        Run(SweepCell("he", "relu", 2, "sgd", width=4, batch_size=8, steps=4), 0.1, 0, test=False),
        Run(CELL, 0.2, 0, test=False),
        Run(CELL, 0.1, 1, test=False),
        Run(CELL, 0.1, 0, test=True),
    ]
    assert len({run.key for run in (base, *changed)}) == 5


def grid(name):
    cells = sweep.GRIDS[name].cells(width=4)
    assert len(cells) == len(set(cells))
    return cells


def networks(cells):
    return {(cell.method, cell.activation, cell.orthogonal) for cell in cells}


@pytest.mark.parametrize("depth", [10, 40, 100])
def test_a_grid_of_chains_has_every_method_with_both_kinds_of_weights(depth):
    cells = networks(grid(f"dense-{depth}"))
    chains = {name for name, method in METHODS.items() if method.chain} - {"separate-bridge"}
    assert {method for method, _, _ in cells} == chains
    for method, name, orthogonal in cells:
        assert (method, name, not orthogonal) in cells
    # What another cell is already, and what has no solution.
    assert ("critical", "relu", True) not in cells
    assert ("selu", "tanh", True) not in cells
    assert (("tat", "relu", True) in cells) == (depth > 10)


def test_a_grid_with_skips_has_the_methods_that_need_them():
    found = {method for method, _, _ in networks(grid("skips-40"))}
    assert found == {name for name, method in METHODS.items() if method.skips}


@pytest.mark.parametrize("name", sweep.GRIDS)
def test_every_cell_of_a_grid_can_be_built(name):
    """At a small width: what has no solution depends on depth, activation and skips."""
    for cell in grid(name):
        build(
            cell.method,
            cell.activation,
            cell.depth,
            2,
            2,
            4,
            cell.kind,
            cell.residual,
            orthogonal=cell.orthogonal,
        )


def test_what_a_grid_leaves_out_for_want_of_a_solution_has_none():
    for depth, residual in ((10, False), (40, True)):
        with pytest.raises(ValueError, match="floor must be below"):
            build("tat", "relu", depth, 4, 3, 4, residual=residual)


def test_deeper_grids_try_lower_rates():
    tops = [sweep.GRIDS[f"dense-{depth}"].plan(1).rates["sgd"][-1] for depth in (10, 40, 100)]
    assert tops == sorted(tops, reverse=True)
    counts = {len(*grid.plan(1).rates.values()) for grid in sweep.GRIDS.values()}
    assert min(counts) >= 8


def test_a_filter_that_leaves_nothing_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no cell is left"):
        sweep.main(["--methods", "fixup", "--journal", str(tmp_path)])


def test_the_deep_network_runs(tmp_path):
    places = ["--results", str(tmp_path), "--journal", str(tmp_path)]
    sizes = ["--depth", "12", "--width", "8", "--steps", "3", "--tuning-steps", "2"]
    chosen = ["--methods", "calibrated", "he", "--normal", "he", "--rates", "0.01"]
    chosen += ["--name", "some", "more"]
    thousand.main([*sizes, *chosen, "--seeds", "1", *places])
    document = json.loads((tmp_path / "depth_12_sgd_some_more.json").read_text())
    found = [(cell["method"], cell["orthogonal"]) for cell in document["cells"]]
    assert found == [("calibrated", True), ("he", True), ("he", False)]
    assert all(cell["runs"][0]["steps"] == 3 for cell in document["cells"])


@pytest.mark.parametrize("experiment", [sweep, thousand])
def test_help_is_there(experiment, capsys):
    with pytest.raises(SystemExit, match="0"):
        experiment.main(["--help"])
    assert "--processes" in capsys.readouterr().out
