"""The book's notebooks: which there are, with what parameters they run, and running them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
import yaml

from normprop.companion.record import Value, read_records
from tests.book.expected import small_parameters

ROOT = Path(__file__).resolve().parents[2]

# A notebook that hangs must not hang the tests.
TIME_LIMIT = 300.0


def pages() -> list[str]:
    """Return the pages of the table of contents, without suffix, in reading order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [toc["root"], *chapters]


PAGES = pages()
NOTEBOOKS = [f"{page}.ipynb" for page in PAGES if (ROOT / f"{page}.ipynb").is_file()]


@dataclass(frozen=True)
class Execution:
    """A notebook that has run: where it lies, what it was given, what became of it."""

    name: str
    path: Path
    parameters: dict[str, Value]
    seconds: float
    # The end of papermill's report, empty if the notebook ran to its end.
    failure: str

    @cached_property
    def notebook(self) -> nbformat.NotebookNode:
        """The executed notebook."""
        return nbformat.read(self.path, as_version=4)

    @cached_property
    def records(self) -> dict[str, Value]:
        """The numbers that it has recorded."""
        return read_records(self.notebook)


def page_parameters(name: str) -> dict[str, Value]:
    """Return the literals that a notebook's `parameters` cell assigns."""
    for cell in nbformat.read(ROOT / name, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            return {
                node.targets[0].id: ast.literal_eval(node.value)
                for node in ast.parse(cell.source).body
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            }
    return {}


def run_parameters(name: str, run: str) -> dict[str, Value]:
    """Return all parameters of a notebook in the "small" run or in the page's "own"."""
    own = page_parameters(name)
    return own if run == "own" else {**own, **small_parameters(name, own)}


def execute(name: str, run: str, directory: Path) -> Execution:
    """Execute a notebook through papermill, in a process of its own."""
    output = directory / name
    output.parent.mkdir(parents=True, exist_ok=True)
    own, parameters = page_parameters(name), run_parameters(name, run)
    # Only what differs is passed: the page's own run executes the very cells of the page.
    changed = {key: value for key, value in parameters.items() if own.get(key) != value}
    # Papermill changes the working directory of its process, hence a process for each notebook.
    command = [sys.executable, "-m", "papermill", str(ROOT / name), str(output)]
    command += ["--cwd", str((ROOT / name).parent), "--kernel", "python3", "--no-progress-bar"]
    if changed:
        command += ["--parameters_yaml", yaml.safe_dump(changed)]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIME_LIMIT, env=_environment()
        )
        failure = "" if done.returncode == 0 else done.stderr[-4000:]
    except subprocess.TimeoutExpired:
        failure = f"still running after {TIME_LIMIT:.0f} s"
    return Execution(name, output, parameters, time.perf_counter() - start, failure)


def execute_all(run: str, directory: Path) -> dict[str, Execution]:
    """Execute every notebook, two at a time, each on one core."""
    # A third of a notebook's time is starting a kernel and importing, which uses one core only:
    # two notebooks on a core each end sooner than one after the other on both.
    with ThreadPoolExecutor(max_workers=2) as pool:
        done = pool.map(lambda name: execute(name, run, directory), NOTEBOOKS)
    return {execution.name: execution for execution in done}


def _environment() -> dict[str, str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    # The tree under test, whatever is installed.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **threads, "PYTHONPATH": path, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
