"""The book, executed twice and built once, for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.book.notebooks import NOTEBOOKS, ROOT, Execution, execute_all

# Seconds that all notebooks together should take on two cores. Reported, not asserted: a test that
# fails because the machine is busy says nothing about the book.
BUDGET = {"small": 60, "own": 180}

_finished: dict[str, tuple[float, dict[str, Execution]]] = {}


class Executions:
    """All notebooks after a run, executed when the first of them is asked for."""

    def __init__(self, factory: pytest.TempPathFactory):
        self._factory = factory

    def __getitem__(self, run: str) -> dict[str, Execution]:
        if run not in _finished:
            start = time.perf_counter()
            done = execute_all(run, self._factory.mktemp(run))
            _finished[run] = (time.perf_counter() - start, done)
        return _finished[run][1]


@pytest.fixture(scope="session")
def executions(tmp_path_factory) -> Executions:
    """`executions[run][notebook]`, for the runs "small" and "own"."""
    return Executions(tmp_path_factory)


@pytest.fixture(scope="session")
def build(executions, tmp_path_factory) -> subprocess.CompletedProcess:
    """The result of building the book, from nothing, out of the notebooks of the "own" run.

    The pages thus show the very numbers that the tests have read.
    """
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(
        ROOT / "book", source / "book", ignore=shutil.ignore_patterns(".ipynb_checkpoints")
    )
    shutil.copy(ROOT / "_toc.yml", source)
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["execute"]["execute_notebooks"] = "off"
    (source / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    for name in NOTEBOOKS:
        shutil.copy(executions["own"][name].path, source / name)

    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command += ["build", "-W", "-n", "--keep-going", str(source)]
    environment = {key: text for key, text in os.environ.items() if not key.startswith("BOOK_")}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    done.html = source / "_build" / "html"
    return done


@pytest.fixture(scope="session")
def book_html(build) -> Path:
    """The folder of the built pages."""
    if not (build.html / "index.html").is_file():
        pytest.fail("the book was not built, see test_build.py")
    return build.html


def pytest_terminal_summary(terminalreporter):
    """Say how long the notebooks took, against their budget."""
    for run, (wall, done) in _finished.items():
        total = sum(execution.seconds for execution in done.values())
        terminalreporter.section(f"notebooks, {run} parameters")
        for name, execution in done.items():
            terminalreporter.line(f"{execution.seconds:7.1f} s  {name}")
        terminalreporter.line(
            f"{total:7.1f} s  in all, {wall:.1f} s on the clock, budget {BUDGET[run]} s"
        )
