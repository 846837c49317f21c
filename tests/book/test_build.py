"""The book builds from nothing, with warnings as errors and every reference resolved."""

import pytest

from tests.book.notebooks import PAGES


@pytest.mark.slow
def test_it_builds_without_a_warning(build):
    report = build.stderr[-6000:]
    assert build.returncode == 0, report
    # A kernel has warnings of its own, about its sockets, and writes them otherwise.
    assert "WARNING:" not in build.stderr, report


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_there(book_html, page):
    assert (book_html / f"{page}.html").is_file()
