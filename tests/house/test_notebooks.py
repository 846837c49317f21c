"""Chapters are stored as source: no outputs, no trace of a machine, one set of parameters."""

import copy
import json
import subprocess
import sys

import nbformat
import pytest

from tests.book.notebooks import NOTEBOOKS, ROOT

KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def faults(notebook) -> list[str]:
    """Return what keeps a notebook from being plain source."""
    found = []
    if notebook.nbformat != 4:
        found.append("nbformat must be 4")
    kernel = notebook.metadata.get("kernelspec", {})
    if kernel.get("name") != "python3":
        found.append(f"the kernel must be python3, got {kernel.get('name')!r}")
    if extra := set(notebook.metadata) - {"kernelspec"}:
        found.append(f"metadata must hold the kernel's name alone, got {sorted(extra)}")
    if extra := {key for key, value in kernel.items() if KERNEL["kernelspec"].get(key) != value}:
        found.append(f"the kernel's {sorted(extra)} must be those of python3")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if any(cell.outputs for cell in code):
        found.append("outputs must be stripped")
    if any(cell.execution_count is not None for cell in code):
        found.append("execution counts must be stripped")
    for cell in notebook.cells:
        if extra := set(cell.metadata) - {"tags", "mystnb"}:
            found.append(f"a cell's metadata may hold tags and mystnb, got {sorted(extra)}")
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        found.append(f"one cell must be tagged parameters, got {len(tagged)}")
    ids = [cell.get("id") for cell in notebook.cells]
    if None in ids or len(set(ids)) < len(ids):
        found.append("every cell needs an id of its own")
    return found


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_stored_notebook_is_source(name):
    assert faults(nbformat.read(ROOT / name, as_version=4)) == []


def test_every_notebook_of_the_tree_is_in_the_book():
    stored = {path.relative_to(ROOT).as_posix() for path in (ROOT / "book").rglob("*.ipynb")}
    assert {name for name in stored if ".ipynb_checkpoints" not in name} == set(NOTEBOOKS)


@pytest.fixture
def clean():
    cells = [
        nbformat.v4.new_markdown_cell("# A claim"),
        nbformat.v4.new_code_cell("samples = 10", metadata={"tags": ["parameters"]}),
    ]
    return nbformat.v4.new_notebook(cells=cells, metadata=copy.deepcopy(KERNEL))


def test_a_clean_notebook_has_no_faults(clean):
    assert faults(clean) == []


def _output(notebook):
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="1")]


def _count(notebook):
    notebook.cells[1].execution_count = 3


def _kernel(notebook):
    notebook.metadata.kernelspec.name = "my-env"


def _display_name(notebook):
    notebook.metadata.kernelspec.display_name = "Python 3.11 (my-env)"


def _language_info(notebook):
    notebook.metadata.language_info = {"version": "3.11.7"}


def _no_parameters(notebook):
    notebook.cells[1].metadata.tags = []


def _collapsed(notebook):
    notebook.cells[1].metadata.collapsed = True


@pytest.mark.parametrize(
    "spoil", [_output, _count, _display_name, _language_info, _no_parameters, _collapsed]
)
def test_a_fault_is_seen(clean, spoil):
    spoil(clean)
    assert len(faults(clean)) == 1


def test_another_kernel_is_seen(clean):
    _kernel(clean)
    assert "the kernel must be python3, got 'my-env'" in faults(clean)


def strip(path):
    command = [sys.executable, str(ROOT / ".ci" / "strip_notebooks.py"), str(path)]
    return subprocess.run(command, check=False, capture_output=True).returncode


def test_the_hook_removes_every_fault(clean, tmp_path):
    for spoil in (_output, _count, _kernel, _display_name, _language_info, _collapsed):
        spoil(clean)
    path = tmp_path / "spoiled.ipynb"
    path.write_text(json.dumps(clean))
    assert strip(path) == 1
    assert faults(nbformat.read(path, as_version=4)) == []
    assert strip(path) == 0


def test_the_hook_and_nbformat_agree_on_the_bytes(clean, tmp_path):
    path = tmp_path / "clean.ipynb"
    nbformat.write(clean, path)
    assert strip(path) == 0
