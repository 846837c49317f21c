import csv
import json

import pytest
import torch

import benchmarks.cases
import normprop.companion.benchmarks
from benchmarks import __main__ as command
from benchmarks import machine, report
from benchmarks.cases import constants
from normprop.companion.benchmarks import Results


@pytest.fixture
def small(monkeypatch):
    """Two cases of a few microseconds in place of all."""

    def cases(scale):
        assert scale == "quick"
        yield from constants.cases(("relu",), ("tanh",))

    monkeypatch.setattr(benchmarks.cases, "all_cases", cases)
    # It would last as long as the process of the tests.
    monkeypatch.setattr(normprop.companion.benchmarks, "keep_memory", lambda: False)


@pytest.fixture
def run(tmp_path, small):
    def run(*arguments):
        base = ["--quick", "--rounds", "2", "--seconds", "1", "--threads", "1", "--device", "cpu"]
        folder = tmp_path / "out"
        threads = torch.get_num_threads()
        try:
            return command.main([*base, "--out", str(folder), *arguments]), folder
        finally:
            torch.set_num_threads(threads)

    return run


@pytest.mark.slow
def test_a_run_writes_its_results(run, tmp_path, capsys):
    code, folder = run("--book", str(tmp_path / "book"))
    assert code == 0
    out = capsys.readouterr().out
    assert "moments in closed form, one core: ≤ 100 µs; " in out
    assert "Goals of cuda: not measured in this run." in out

    found = json.loads((folder / "bench_cpu.json").read_text())
    assert found["schema"] == 1
    for name in ("command", "commit", "date", "source", "benchmarks", "settings", "goals"):
        assert found[name], name
    assert found["device"] == "cpu"
    assert found["device_name"]
    assert (found["threads"], found["settings"]["scale"]) == (1, "quick")
    assert found["settings"]["memory_kept"] is False
    assert set(found["load"]) == {"before", "after"}
    assert {"python", "torch", "numpy", "normprop", "scipy"} <= set(found["versions"])
    # Neither where it ran nor for whom.
    assert "--out" not in found["command"]
    assert str(tmp_path) not in (folder / "bench_cpu.json").read_text()

    results = Results(tmp_path / "book" / "bench_cpu.json")
    entry = results.entry("moments-closed/relu", "scipy")
    assert entry.seconds[1] > 0
    assert entry.versus == {}
    assert results.ratio("moments-closed/relu", "normprop") == 1.0

    with (folder / "bench_cpu.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == report.COLUMNS
    assert len(rows) == 9
    (row,) = [r for r in rows if (r["case"], r["implementation"]) == (entry.case, "scipy")]
    assert float(row["ratio_50"]) == entry.ratio[1]


def test_a_choice_of_cases_does_not_reach_the_book(run, tmp_path):
    code, folder = run("--only", "moments-closed", "--book", str(tmp_path / "book"))
    assert code == 0
    found = json.loads((folder / "bench_cpu.json").read_text())
    assert [case["name"] for case in found["cases"]] == ["moments-closed/relu"]
    assert not (tmp_path / "book").exists()


def test_a_refusal_ends_with_1(run, monkeypatch, capsys):
    monkeypatch.setattr(constants, "_off", lambda figures, reference, bound: "μ is off")
    code, _ = run("--only", "moments-closed")
    assert code == 1
    assert "moments-closed/relu, normprop: failed, μ is off" in capsys.readouterr().out


def test_cases_can_be_listed_and_unknown_ones_are_refused(run, capsys):
    assert run("--list")[0] == 0
    assert capsys.readouterr().out.splitlines()[0] == "moments-closed/relu"
    with pytest.raises(SystemExit):
        run("--only", "nothing")
    assert "no case matches nothing" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused(run, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        run("--device", "cuda")
    assert "--device cuda needs CUDA" in capsys.readouterr().err


def test_folders_are_no_part_of_the_command():
    kept = machine._without_folders(["--quick", "--out", "x", "--book=y", "--only", "z"])
    assert kept == ["--quick", "--only", "z"]
