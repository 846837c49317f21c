"""A site is looked at as it is only while all that it was built from is what it was."""

import os
import runpy
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

# A builder that writes a page, and a warning if it is told to.
BUILDER = """
import pathlib, sys
root = pathlib.Path(sys.argv[-1])
text = (root / "book" / "page.md").read_text()
(root / "_build").mkdir()
(root / "_build" / "page.html").write_text(text)
print("the builder says:", text, file=sys.stderr)
if "change" in text:
    (root / "book" / "page.md").write_text("changed")
sys.exit("fail" in text)
"""


@pytest.fixture
def book(root):
    return SimpleNamespace(**runpy.run_path(str(root / ".ci" / "build_book.py")))


@pytest.fixture
def tree(tmp_path):
    for name in ("_config.yml", "_toc.yml", "book/page.md", "normprop/nn/layer.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    return tmp_path


def build(book, tree):
    return book.build(tree, [sys.executable, "-c", BUILDER])


def test_it_is_kept_while_nothing_changes(book, tree):
    assert book.built(tree) is None
    assert build(book, tree) == (0, "the builder says: text\n")
    assert book.built(tree) == "the builder says: text\n"
    # What running leaves in the tree is no source.
    (tree / "normprop" / "__pycache__").mkdir()
    (tree / "normprop" / "__pycache__" / "layer.pyc").write_text("made")
    assert book.built(tree) is not None


@pytest.mark.parametrize(
    "name", ["_config.yml", "_toc.yml", "book/page.md", "normprop/nn/layer.py", "book/new.md"]
)
def test_any_other_source_makes_it_stale(book, tree, name):
    build(book, tree)
    (tree / name).write_text("another text")
    assert book.built(tree) is None


def test_a_source_that_is_gone_makes_it_stale(book, tree):
    build(book, tree)
    (tree / "normprop/nn/layer.py").unlink()
    assert book.built(tree) is None


def test_other_versions_make_it_stale(book, tree, monkeypatch):
    build(book, tree)
    one = next(iter(metadata.distributions()))
    other = SimpleNamespace(metadata=one.metadata, version=f"{one.version}.post1")
    monkeypatch.setattr(metadata, "distributions", lambda: [other])
    assert book.built(tree) is None


def test_another_address_makes_it_stale(book, tree, monkeypatch):
    monkeypatch.setenv("BOOK_URL", "https://example.org")
    build(book, tree)
    assert book.built(tree) is not None
    monkeypatch.delenv("BOOK_URL")
    assert book.built(tree) is None


@pytest.mark.parametrize(("text", "status"), [("fail", 1), ("change", 0)])
def test_a_build_that_failed_or_was_overtaken_is_not_kept(book, tree, text, status):
    build(book, tree)
    (tree / "book/page.md").write_text(text)
    assert build(book, tree) == (status, f"the builder says: {text}\n")
    assert os.listdir(tree / "_build") == ["page.html"]
    assert book.built(tree) is None
