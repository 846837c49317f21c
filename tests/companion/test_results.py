"""The committed results lie in the package, and one that is missing is named."""

import json
import re

import pytest

from normprop.companion import results
from normprop.companion.benchmarks import Results


def test_every_file_is_found_and_read():
    names = {path.name for path in results.FOLDER.iterdir() if path.suffix == ".json"}
    assert {"sweep_core.json", "sweep_variations.json", "wild.json"} <= names
    assert {"bench_cpu.json", "bench_h100.json"} <= names
    for name in names:
        assert json.loads(results.path(name).read_text("utf-8"))


def test_a_missing_file_is_named_with_its_place_and_its_neighbours(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"'bench_tpu.json' is missing; there: .*wild.json"):
        results.path("bench_tpu.json")
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'wild.json' is missing; there: none") as caught:
        results.path("wild.json")
    assert str(tmp_path) in str(caught.value)


def test_the_readme_says_what_a_training_step_costs_on_a_gpu(root):
    found = Results(results.path("bench_h100.json"))

    def span(group, *names):
        seen = [
            entry.ratio[1]
            for entry in found
            if entry.case.startswith(f"{group}/") and entry.implementation in names
        ]
        return f"{min(seen):.2f} to {max(seen):.2f}"

    text = " ".join((root / "README.md").read_text("utf-8").split())
    number = r"(\d\S* to \S*\d)"
    said = re.search(
        rf"network took {number} times the plain network's on an H100, with BatchNorm {number}; "
        rf"as one CUDA graph {number} times, with BatchNorm {number}\.",
        text,
    )
    fused = ("normprop fused", "normprop fused, projected")
    assert said.groups() == (
        span("training", *fused),
        span("training", "batchnorm"),
        span("graphed-training", *fused),
        span("graphed-training", "batchnorm"),
    )
