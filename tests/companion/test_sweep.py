"""Sweeps: killed ones continue and lose nothing, and the files say where results come from."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from normprop.companion import runs, sweep, thousand
from normprop.companion.runs import Log, Plan, Run, SweepCell
from normprop.companion.training import Result

TINY = ["--methods", "he", "forward", "--depths", "10", "--steps", "10", "--rates", "2"]
TINY += ["--seeds", "1", "--width", "8"]
RUNS = 8 * 3


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
    path = folder / "sweep_core.jsonl"
    return path.read_text().splitlines() if path.exists() else []


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
    assert not (tmp_path / "sweep_core.json").exists()

    # The kill may also have come in the middle of a line.
    with (tmp_path / "sweep_core.jsonl").open("a") as file:
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
    assert cells(tmp_path / "sweep_core.json") == cells(unkilled / "sweep_core.json")


def test_a_finished_sweep_runs_nothing_again(unkilled):
    before = (lines(unkilled), cells(unkilled / "sweep_core.json"))
    done = subprocess.run(command(unkilled), check=True, capture_output=True, text=True)
    assert "8 cells, 8 of them finished before" in done.stdout
    # The progress bar keeps off what is no terminal.
    assert done.stderr == ""
    assert (lines(unkilled), cells(unkilled / "sweep_core.json")) == before


@pytest.mark.slow
def test_torchrun_shares_the_cells(tmp_path, root, unkilled):
    # --standalone finds a port of its own.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2"]
    done = subprocess.run(
        torchrun + command(tmp_path)[1:], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    logs = [Log(tmp_path / f"sweep_core.rank{rank}.jsonl").read() for rank in (0, 1)]
    assert [len(log) for log in logs] == [RUNS // 2] * 2
    assert not set(logs[0]) & set(logs[1])
    assert cells(tmp_path / "sweep_core.json") == cells(unkilled / "sweep_core.json")


def test_the_file_says_where_it_comes_from(unkilled):
    document = json.loads((unkilled / "sweep_core.json").read_text())
    assert document["command"].startswith("python -m normprop.companion.sweep --methods he forward")
    assert {"commit", "source", "device", "date", "plan"} <= set(document)
    assert {"python", "torch", "numpy", "normprop"} == set(document["versions"])
    assert document["plan"]["rates"]["sgd"] == [0.1, 0.31622777]


def test_the_test_part_is_touched_by_final_runs_alone(unkilled):
    for cell in cells(unkilled / "sweep_core.json"):
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


def test_the_grids_are_what_they_say():
    common = {"width": 4, "batch_size": 8, "steps": 3}
    core = sweep.core(**common)
    assert len(core) == len(set(core)) == 2 * 2 * (9 * 2 + 1)
    assert {cell.depth for cell in core} == {10, 40}
    variations = sweep.variations(**common)
    assert len(set(variations)) == len(variations)
    assert not set(core) & set(variations)
    bridged = {cell.residual for cell in variations if cell.method == "separate-bridge"}
    assert bridged == {True}


def test_a_filter_that_leaves_nothing_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no cell is left"):
        sweep.main(["--depths", "3", "--journal", str(tmp_path)])


def test_the_deep_network_runs(tmp_path):
    places = ["--results", str(tmp_path), "--journal", str(tmp_path)]
    sizes = ["--depth", "12", "--width", "8", "--steps", "3", "--tuning-steps", "2"]
    chosen = ["--methods", "calibrated", "he", "--rates", "0.01", "--seeds", "1"]
    thousand.main([*sizes, *chosen, *places])
    document = json.loads((tmp_path / "depth_12_sgd.json").read_text())
    assert [cell["method"] for cell in document["cells"]] == ["calibrated", "he"]
    assert all(cell["runs"][0]["steps"] == 3 for cell in document["cells"])


@pytest.mark.parametrize("experiment", [sweep, thousand])
def test_help_is_there(experiment, capsys):
    with pytest.raises(SystemExit, match="0"):
        experiment.main(["--help"])
    assert "--processes" in capsys.readouterr().out
