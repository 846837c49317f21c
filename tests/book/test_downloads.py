"""The notebooks that a reader downloads: plain Markdown, the page's numbers, the chapter's code."""

import re

import nbformat
import pytest

from tests.book.notebooks import NOTEBOOKS, ROOT, page_parameters

pytestmark = pytest.mark.slow

MYST = re.compile(
    r"\{[a-z:]+\}`"  # a role
    r"|^:{3,}|^`{3}\{"  # a directive
    r"|^\([\w-]+\)=$|\]\((?!https?:)"  # a label, or a link that leads nowhere from elsewhere
    r"|\\(?:E|Var|Std|Cov|sigf|sigb)(?![A-Za-z])"  # a macro
    r"|\$ *\(eq-"
    r"|<script|<link",  # what lives on the page
    re.MULTILINE,
)


@pytest.fixture(scope="module", params=NOTEBOOKS)
def copies(book_html, request):
    """A stored notebook, as it is executed, and what is offered for download."""
    stored = nbformat.read(ROOT / request.param, as_version=4)
    path = book_html / "_sources" / request.param
    return stored, nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_nothing_is_left_that_only_this_book_understands(copies):
    _, offered = copies
    nbformat.validate(offered)
    text = "\n".join(cell.source for cell in offered.cells if cell.cell_type == "markdown")
    assert MYST.findall(text) == []


def test_the_code_is_the_chapters_behind_one_cell_that_installs(copies):
    stored, offered = copies
    install, *rest = code(offered)
    assert [cell.source for cell in rest] == [cell.source for cell in code(stored)]
    assert install.source.index("import normprop") < install.source.index("ModuleNotFoundError")
    # Where the package is, the cell does nothing at all.
    exec(install.source, {})


def test_it_was_executed_and_shows_its_figures(copies):
    stored, offered = copies
    figures = [c for c in stored.cells if "figure" in c.metadata.get("mystnb", {})]
    shown = [
        output
        for cell in code(offered)
        for output in cell.outputs
        if "image/svg+xml" in output.get("data", {})
    ]
    assert len(shown) >= len(figures)
    # Jupyter shows no SVG in a notebook from elsewhere.
    assert all("image/png" in output["data"] for output in shown)
    captions = [cell for cell in offered.cells if re.match(r"\*\*Figure [\d.]+\.\*\*", cell.source)]
    assert len(captions) == len(figures)
    assert all(cell.execution_count for cell in code(offered)[1:])


def test_the_numbers_are_those_that_the_page_pastes(executions, book_html):
    offered = nbformat.read(
        book_html / "_sources" / "book/chapters/03_activations.ipynb", as_version=4
    )
    text = "\n".join(cell.source for cell in offered.cells if cell.cell_type == "markdown")
    records = executions["own"]["book/chapters/03_activations.ipynb"].records
    for name, form in (("relu_bwd_std", ".8f"), ("rerun_mean", ".6f"), ("chi_tanh", ".7f")):
        assert format(records[name], form) in text


def test_the_button_saves_and_opens_no_tab(book_html):
    from bs4 import BeautifulSoup

    page = (book_html / "book/chapters/03_activations.html").read_text(encoding="utf-8")
    (button,) = BeautifulSoup(page, "html.parser").select("a.btn-download-source-button")
    assert button["href"].endswith("_sources/book/chapters/03_activations.ipynb")
    assert button.has_attr("download")
    assert not button.has_attr("target")


def test_a_device_is_promised_for_the_chapters_that_take_one():
    page = (ROOT / "book/running.md").read_text(encoding="utf-8")
    (promised,) = re.findall(r"Chapters ([\d, and]+) have a parameter `device`", page)
    numbers = {int(number) for number in re.findall(r"\d+", promised)}
    takes = {name for name in NOTEBOOKS if "device" in page_parameters(name)}
    assert {int(re.search(r"/(\d+)_", name)[1]) for name in takes} == numbers
