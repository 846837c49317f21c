"""The command for a GPU, tried without one."""

import itertools
import json
from collections import Counter

import pytest
import torch

from benchmarks import gpu
from tests.nn.battery import ROWS

CPU = torch.device("cpu")


@pytest.fixture
def log(tmp_path):
    return gpu.Log(tmp_path, {"device": "cpu"})


def lines(folder):
    return [json.loads(line) for line in (folder / "gpu.jsonl").read_text().splitlines()]


def test_a_line_is_written_as_it_is_done(log, tmp_path):
    def broken():
        raise ValueError("no\nkernel")

    checks = [("a", "good", lambda: 0.5), ("a", "off", lambda: 2.0), ("b", "broken", broken)]
    gpu.run_checks(log, iter([*checks, ("b", "nothing", lambda: float("nan"))]), 60.0)
    found = lines(tmp_path)
    assert found[0] == {"origin": {"device": "cpu"}}
    assert [e["status"] for e in found[1:]] == ["passed", "failed", "failed", "failed"]
    assert found[3]["reason"] == "ValueError: no kernel"
    assert (log.parts["a"]["done"], log.parts["a"]["failed"]) == (2, 1)
    assert log.parts["a"]["at"] == "off"
    assert "2 off" in log.table()


def test_what_was_not_reached_is_said(log, tmp_path):
    gpu.run_checks(log, iter([("a", "late", lambda: 0.0)]), 0.0)
    (entry,) = lines(tmp_path)[1:]
    assert (entry["status"], entry["name"]) == ("skipped", "late and 0 more")
    assert (log.parts["a"]["done"], log.parts["a"]["skipped"]) == (0, 1)


def test_processes_share_the_checks(log):
    # No time for any of them: what is not reached is counted.
    gpu.share_checks(log, CPU, 0.0, jobs=1)
    counts = Counter(part for part, _, _ in gpu.all_checks(CPU))
    assert {name: figures["skipped"] for name, figures in log.parts.items()} == counts
    assert sum(figures["done"] for figures in log.parts.values()) == 0


def test_a_process_runs_the_check_of_its_number(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    gpu._begin("cpu")
    names = [(part, name) for part, name, _ in gpu.all_checks(CPU)]
    number = names.index(("layers, autocast", "ReLU"))
    found = gpu._run_at(number, float("inf"))
    assert (found["part"], found["name"], found["status"]) == (*names[number], "passed")


def test_every_row_is_looked_at_in_every_way():
    found = list(gpu.layer_checks(CPU))
    parts = {part for part, _, _ in found}
    assert parts == {
        *(f"layers, {dtype}" for dtype in gpu.TYPES),
        *(f"layers, {how}" for how in ("strided", "channels_last", "double backward")),
        *(f"layers, {how}" for how in ("forward mode", "autocast", "check")),
    }
    still = [row.name for row in ROWS if row.kind != "dropout"]
    for part in parts:
        assert {name.partition(",")[0] for p, name, _ in found if p == part} == set(still), part


# Forward mode makes torch load decompositions that it wrote in its own deprecated TorchScript.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("row", ["GELU", "Hardswish", "PReLU", "Softmax", "MaxPool2d", "Conv2d"])
def test_the_checks_hold_without_a_gpu(row, log):
    own = [entry for entry in gpu.layer_checks(CPU) if entry[1].partition(",")[0] == row]
    gpu.run_checks(log, iter(own), 600.0)
    assert {
        name: figures["failed"] for name, figures in log.parts.items() if figures["failed"]
    } == {}


def test_dropout_and_weights_hold_without_a_gpu(log):
    some = itertools.chain(gpu.dropout_checks(CPU), itertools.islice(gpu.weight_checks(CPU), 48))
    gpu.run_checks(log, some, 600.0)
    assert [figures["failed"] for figures in log.parts.values()] == [0, 0]


def test_a_wrong_result_is_found(monkeypatch, log):
    right = gpu.results
    monkeypatch.setattr(
        gpu, "results", lambda layer, x, dtype: [r * (1 + 1e-4 * (x.dtype == torch.float32))
                                                 for r in right(layer, x, dtype)]
    )  # fmt: skip
    own = [e for e in gpu.layer_checks(CPU) if e[1] == "GELU, forward, eager, torch.float32"]
    assert len(own) == 1
    gpu.run_checks(log, iter(own), 60.0)
    assert log.parts["layers, torch.float32"]["failed"] == 1
