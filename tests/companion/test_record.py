"""Recording: only plain values pass, and what a page shows is what a test reads."""

import copy
import math
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from normprop.companion import record as module
from normprop.companion.record import is_record, read_records, record


@pytest.fixture(autouse=True)
def fresh_kernel(monkeypatch):
    monkeypatch.setattr(module, "_recorded", {})


def run(*sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    return notebook


@pytest.fixture(scope="module")
def executed():
    return run(
        "from normprop.companion.record import record",
        "record('std', 0.1 + 0.2)\nrecord('depth', 50)\nrecord('holds', True)",
        "record('verdict', \"it's right\")",
    )


@pytest.mark.slow
def test_numbers_come_back_bit_for_bit(executed, tmp_path):
    expected = {"std": 0.1 + 0.2, "depth": 50, "holds": True, "verdict": "it's right"}
    assert read_records(executed) == expected
    assert [type(value) for value in read_records(executed).values()] == [float, int, bool, str]
    path = tmp_path / "executed.ipynb"
    nbformat.write(executed, path)
    assert read_records(path) == read_records(str(path)) == expected


def test_the_mime_type_and_metadata_are_those_that_the_book_reads(executed):
    output = executed.cells[1].outputs[0]
    assert output.data[module.MIME_TYPE] == repr(0.1 + 0.2)
    assert output.metadata.scrapbook == {"name": "std", "mime_prefix": module.PREFIX}
    assert is_record(output)


def test_the_book_pastes_the_value_and_shows_no_output(executed):
    from myst_nb.ext.glue import extract_glue_data_cell

    cell = copy.deepcopy(executed.cells[1])
    pasted = {name: output.data["text/plain"] for name, output in extract_glue_data_cell(cell)}
    assert pasted == {"std": repr(0.1 + 0.2), "depth": "50", "holds": "True"}
    assert cell.outputs == []


@pytest.mark.parametrize(
    "value", [np.float64(1.0), np.float32(1.0), np.int64(1), np.bool_(True), np.array(1.0)]
)
def test_numpy_values_are_refused(value):
    with pytest.raises(TypeError, match="takes a Python bool, int, float or str, got numpy"):
        record("x", value)


@pytest.mark.parametrize("value", [torch.tensor(1.0), None, [1.0], 1j, {"a": 1}])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="takes a Python bool, int, float or str, got"):
        record("x", value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_numbers_are_refused(value):
    with pytest.raises(ValueError, match="takes a finite number, got"):
        record("x", value)


@pytest.mark.parametrize("value", ["", " ", "\n\t"])
def test_blank_strings_are_refused(value):
    with pytest.raises(ValueError, match="not blank"):
        record("x", value)


@pytest.mark.parametrize("name", ["", "two words", "1st", "a-b", "a:b", None, 3])
def test_names_are_identifiers(name):
    with pytest.raises(ValueError, match="must be a Python identifier, got"):
        record(name, 1.0)


def test_a_refused_value_leaves_no_trace():
    with pytest.raises(ValueError, match="finite"):
        record("x", math.nan)
    record("x", 1.0)


def test_one_name_stands_for_one_value(capsys):
    record("x", 1.0)
    record("x", 1.0)
    with pytest.raises(ValueError, match=r"'x' is 1\.0 already, got 2\.0"):
        record("x", 2.0)
    # Equal, yet not printed alike.
    with pytest.raises(ValueError, match=r"'x' is 1\.0 already, got 1"):
        record("x", 1)
    assert capsys.readouterr().out == "x = 1.0\nx = 1.0\n"


def test_a_cell_that_is_run_again_replaces_its_number(monkeypatch):
    monkeypatch.setattr(module, "_current_cell", lambda: "a")
    record("x", 1.0)
    record("x", 2.0)
    monkeypatch.setattr(module, "_current_cell", lambda: "b")
    with pytest.raises(ValueError, match="one number in a notebook"):
        record("x", 3.0)


def test_two_records_of_a_name_do_not_pass_as_one(executed):
    twice = nbformat.from_dict(executed)
    twice.cells = [*executed.cells, executed.cells[1]]
    with pytest.raises(ValueError, match="'std' came twice"):
        read_records(twice)


def test_something_else_under_the_same_mime_type_is_an_error():
    notebook = run("import numpy, myst_nb\nmyst_nb.glue('x', numpy.float64(1), display=False)")
    with pytest.raises(ValueError, match="'x' must hold a number"):
        read_records(notebook)


@pytest.mark.parametrize("before", ["pass", "import sys\nsys.modules['myst_nb'] = None"])
def test_any_front_end_shows_the_number(before):
    notebook = run(
        before, "from normprop.companion.record import record\nrecord('x', 2.5); record('s', 'a')"
    )
    shown = [output.data["text/plain"] for output in notebook.cells[1].outputs]
    assert shown == ["x = 2.5", "s = a"]
    assert read_records(notebook) == {"x": 2.5, "s": "a"}


def test_outside_a_notebook_the_number_is_printed():
    code = "from normprop.companion.record import record; record('x', 2.5)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "x = 2.5\n"
