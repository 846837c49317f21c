"""Notebooks that run ahead of their pages: the pages are those that they would be without."""

import os
import subprocess
import sys

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from tests.book import expected
from tests.book.expectations import Measured
from tests.book.notebooks import NOTEBOOKS

pytestmark = pytest.mark.slow

# An extension that changes what a page says after its notebook has run.
EDIT = """
def edit(app, page, text):
    text[0] = text[0].replace("old", "new")

def setup(app):
    app.connect("source-read", edit)
"""
# Who runs, where, and on how many threads: in the page, and in a diary.
TELL = """\
import os, pathlib
said = " ".join(["{name}", pathlib.Path.cwd().name, os.environ.get("OMP_NUM_THREADS", "any")])
with open(os.environ["DIARY"], "a") as diary:
    print(said, file=diary)
print(said)"""


class Book:
    """A book of notebooks that say who they are, built by Sphinx in a process of its own."""

    def __init__(self, root, folder):
        self.folder, self.diary = folder, folder / "diary"
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        path = os.pathsep.join([str(root / "book/_ext"), str(folder)])
        self.environment = {k: text for k, text in os.environ.items() if k not in threads}
        self.environment |= {"PYTHONPATH": path, "DIARY": str(self.diary)}
        (folder / "edit.py").write_text(EDIT)
        (folder / "index.md").write_text("# Index\n")

    def write(self, page, *code):
        path = self.folder / f"{page}.ipynb"
        path.parent.mkdir(exist_ok=True)
        kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
        cells = [new_code_cell(source) for source in code]
        notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, path)

    def build(self, **options):
        options |= {"extensions": "myst_nb,edit,ahead", "nb_execution_mode": "force"}
        options = [f"-D{name}={value}" for name, value in options.items()]
        folders = [str(self.folder), str(self.folder / "html")]
        command = [sys.executable, "-m", "sphinx", "-q", "-C", *options, *folders]
        return subprocess.run(command, capture_output=True, text=True, env=self.environment)

    def executed(self, page):
        return nbformat.read(self.folder / "jupyter_execute" / f"{page}.ipynb", as_version=4)


@pytest.fixture
def book(root, tmp_path):
    return Book(root, tmp_path)


def test_each_page_has_what_its_own_notebook_put_out_ahead(book):
    # Two that differ in nothing but their folders, one that changes before its page is read, and
    # one, first in the order of the pages, that nothing runs beside.
    for page, name in (("x/twin", "twin"), ("y/twin", "twin"), ("edited", "old"), ("a", "alone")):
        book.write(page, "import os", TELL.format(name=name))
    done = book.build(executed_alone="a")
    assert done.returncode == 0, done.stderr
    here = book.folder.name
    pages = {
        "x/twin": "twin x 1",
        "y/twin": "twin y 1",
        "a": f"alone {here} any",
        "edited": f"new {here} any",
    }
    for page, said in pages.items():
        quiet, tells = book.executed(page).cells
        assert (quiet.execution_count, quiet.outputs) == (1, [])
        assert (tells.execution_count, tells.outputs[0].text) == (2, f"{said}\n")
        assert said in (book.folder / "html" / f"{page}.html").read_text("utf-8")
    *first, second, third = book.diary.read_text().splitlines()
    assert sorted(first) == sorted([pages["x/twin"], pages["y/twin"], f"old {here} 1"])
    assert [second, third] == [pages["a"], pages["edited"]]


def test_a_notebook_that_fails_fails_with_its_page(book):
    book.write("bad", "1 / 0")
    done = book.build(nb_execution_raise_on_error=1)
    assert done.returncode != 0
    assert f"ExecutionError: {book.folder / 'bad.ipynb'}" in done.stderr


def test_every_page_that_is_executed_alone_is_a_notebook_that_takes_times(root):
    config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    alone = config["sphinx"]["config"]["executed_alone"]
    timed = {
        name.removesuffix(".ipynb")
        for name in NOTEBOOKS
        if any(isinstance(kind, Measured) for kind in expected.registry(name).values())
    }
    assert set(alone) == timed
