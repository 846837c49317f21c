"""The book's notebooks: which there are, with what parameters they run, and running them."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
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
IGNORED = shutil.ignore_patterns("__pycache__")


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
    # Why it did not run to its end, empty if it did.
    failure: str

    @cached_property
    def notebook(self) -> nbformat.NotebookNode:
        """The executed notebook."""
        return nbformat.read(self.path, as_version=4)

    @cached_property
    def records(self) -> dict[str, Value]:
        """The numbers that it has recorded."""
        # The book takes them out of the notebook, and puts them beside it.
        glued = self.path.with_suffix(".glue.json")
        if not glued.is_file():
            return read_records(self.notebook)
        outputs = json.loads(glued.read_text("utf-8"))
        return {
            name: ast.literal_eval(output["data"]["text/plain"]) for name, output in outputs.items()
        }


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


def of_the_site(build: Path) -> dict[str, Execution]:
    """Return every notebook as the book's build in this folder has executed it."""
    found = {}
    for name in NOTEBOOKS:
        path = build / "jupyter_execute" / name
        failure = "" if path.is_file() else "the build of the book ended before it"
        found[name] = Execution(name, path, run_parameters(name, "own"), failure)
    return found


def execute(name: str, directory: Path, package: Path) -> Execution:
    """Execute a notebook with small parameters through papermill, alone in an empty folder.

    Args:
        name: the notebook.
        directory: where the executed one is written.
        package: the folder that the package is installed in.
    """
    output = directory / name
    output.parent.mkdir(parents=True, exist_ok=True)
    own, parameters = page_parameters(name), run_parameters(name, "small")
    changed = {key: value for key, value in parameters.items() if own.get(key) != value}
    command = [sys.executable, "-m", "papermill", str(ROOT / name), str(output)]
    command += ["--kernel", "python3", "--no-progress-bar"]
    if changed:
        command += ["--parameters_yaml", yaml.safe_dump(changed)]
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=TIME_LIMIT,
                cwd=empty,
                env=alone(package),
            )
            failure = "" if done.returncode == 0 else done.stderr[-4000:]
        except subprocess.TimeoutExpired:
            failure = f"still running after {TIME_LIMIT:.0f} s"
    return Execution(name, output, parameters, failure)


def execute_all(directory: Path, package: Path) -> dict[str, Execution]:
    """Execute every notebook with small parameters, two at a time, each on one core."""
    # A third of a notebook's time is starting a kernel and importing, which uses one core only:
    # two notebooks on a core each end sooner than one after the other on both.
    with ThreadPoolExecutor(max_workers=2) as pool:
        done = pool.map(lambda name: execute(name, directory, package), NOTEBOOKS)
    return {execution.name: execution for execution in done}


def install(directory: Path) -> Path:
    """Build the package's wheel and install it in a folder of its own; return that folder."""
    source, wheels, package = (directory / name for name in ("source", "wheels", "package"))
    # In a copy, because a build leaves its traces in the tree.
    shutil.copytree(ROOT / "normprop", source / "normprop", ignore=IGNORED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = wheels.glob("*.whl")
    put = ["install", "--no-deps", "--no-index", "--target", str(package), str(wheel)]
    subprocess.run([*pip, *put], check=True)
    return package


def alone(package: Path) -> dict[str, str]:
    """Return an environment with one thread and this package, whatever else is installed."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return {**os.environ, **threads, **quiet, "PYTHONPATH": str(package)}
