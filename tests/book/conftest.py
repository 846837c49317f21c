"""The book, executed with small parameters and looked at as it is built, for all tests here."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from tests.book.notebooks import ROOT, Execution, execute_all, install, of_the_site


@pytest.fixture(scope="session")
def package(tmp_path_factory) -> Path:
    """The folder that the package is installed in, from its wheel."""
    return install(tmp_path_factory.mktemp("install"))


@pytest.fixture(scope="session")
def build() -> SimpleNamespace:
    """How the build of the book ended: `returncode`, `stderr`, and `folder`, where its site is.

    It is the site that `make book` has built, if nothing has changed since, or else a new one.
    """
    book = SimpleNamespace(**runpy.run_path(str(ROOT / ".ci" / "build_book.py")))
    # What a page says of its own address is another test's matter.
    here = {name: text for name, text in os.environ.items() if not name.startswith("BOOK_")}
    with mock.patch.dict(os.environ, here, clear=True):
        said = book.built()
        returncode, stderr = book.build() if said is None else (0, said)
    return SimpleNamespace(returncode=returncode, stderr=stderr, folder=ROOT / "_build")


class Executions:
    """`executions[run][notebook]`, each run made when the first of its notebooks is asked for."""

    def __init__(self, request: pytest.FixtureRequest):
        self._fixture = request.getfixturevalue

    def __getitem__(self, run: str) -> dict[str, Execution]:
        return self._fixture(f"{run}_run")


@pytest.fixture(scope="session")
def executions(request) -> Executions:
    """The notebooks after both runs: "small", alone by papermill, and "own", as in the book."""
    return Executions(request)


@pytest.fixture(scope="session")
def small_run(package, tmp_path_factory) -> dict[str, Execution]:
    """All notebooks with small parameters."""
    return execute_all(tmp_path_factory.mktemp("small"), package)


@pytest.fixture(scope="session")
def own_run(build) -> dict[str, Execution]:
    """All notebooks with the parameters of their pages."""
    return of_the_site(build.folder)


@pytest.fixture(scope="session")
def book_html(build) -> Path:
    """The folder of the built pages."""
    if not (build.folder / "html" / "index.html").is_file():
        pytest.fail("the book was not built, see test_build.py")
    return build.folder / "html"
