"""Every notebook runs to its end, alone with small parameters and in the book with its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.book.notebooks import NOTEBOOKS, ROOT, alone

RUNS = ["small", "own"]


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs(executions, name, run):
    assert executions[run][name].failure == ""


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_says_nothing_on_stderr(executions, name, run):
    outputs = [
        output
        for cell in executions[run][name].notebook.cells
        for output in cell.get("outputs", ())
    ]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_picture_says_what_it_shows(executions, name):
    for cell in executions["own"][name].notebook.cells:
        pictures = [
            output
            for output in cell.get("outputs", ())
            if any(mime.startswith("image/") for mime in output.get("data", {}))
        ]
        if pictures:
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt.split()) >= 5, (
                f"mystnb.image.alt must describe the figure of\n{cell.source}"
            )
            assert len(pictures) == 1, f"one figure for one alt text, in\n{cell.source}"


@pytest.mark.slow
def test_it_is_the_installed_package_that_runs(package, tmp_path):
    command = [sys.executable, "-c", "import normprop; print(normprop.__file__)"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=tmp_path, env=alone(package)
    )
    assert Path(done.stdout.strip()).parent == package / "normprop"


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(package):
    def files(folder):
        return {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    assert files(package / "normprop") == files(ROOT / "normprop")
