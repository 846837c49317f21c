"""The committed results lie in the package, and one that is missing is named."""

import json

import pytest

from normprop.companion import results


def test_every_file_is_found_and_read():
    names = {path.name for path in results.FOLDER.iterdir() if path.suffix == ".json"}
    assert {"sweep_core.json", "sweep_variations.json", "wild.json", "bench_cpu.json"} <= names
    for name in names:
        assert json.loads(results.path(name).read_text("utf-8"))


def test_a_missing_file_is_named_with_its_place_and_its_neighbours(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"'bench_tpu.json' is missing; there: .*wild.json"):
        results.path("bench_tpu.json")
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'wild.json' is missing; there: none") as caught:
        results.path("wild.json")
    assert str(tmp_path) in str(caught.value)
