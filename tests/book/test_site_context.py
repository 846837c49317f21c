"""What a page says of its own address: what the environment of the build says, or nothing."""

import runpy
from types import SimpleNamespace

import pytest


@pytest.fixture
def extension(root):
    return runpy.run_path(str(root / "book" / "_ext" / "site_context.py"))


@pytest.fixture
def config():
    return SimpleNamespace(
        html_baseurl="",
        html_theme_options={"repository_url": "https://example.org/someone/else"},
        html_title="Title",
        project="Project name not set",
        site_description='Says "what"\n it is.',
    )


def metadata(extension, config, page="book/index"):
    builder = SimpleNamespace(get_target_uri=lambda name: f"{name}.html")
    context = {"title": "A &amp; <em>B</em>"}
    app = SimpleNamespace(config=config, builder=builder)
    extension["add_metadata"](app, page, "page.html", context, None)
    return context["metatags"]


def test_without_an_environment_there_is_no_address(extension, config, monkeypatch):
    for name in ("BOOK_URL", "BOOK_REPOSITORY", "BOOK_BRANCH"):
        monkeypatch.delenv(name, raising=False)
    extension["read_environment"](None, config)
    assert config.html_baseurl == ""
    assert config.html_theme_options["repository_url"] == ""
    assert config.html_theme_options["launch_buttons"] == {}
    assert "http" not in metadata(extension, config)


def test_the_environment_gives_address_and_buttons(extension, config, monkeypatch):
    monkeypatch.setenv("BOOK_URL", "https://example.org/book")
    monkeypatch.setenv("BOOK_REPOSITORY", "https://example.org/us/book/")
    monkeypatch.setenv("BOOK_BRANCH", "trunk")
    extension["read_environment"](None, config)
    assert config.html_baseurl == "https://example.org/book/"
    assert config.html_theme_options["repository_url"] == "https://example.org/us/book"
    assert config.html_theme_options["repository_branch"] == "trunk"
    assert config.html_theme_options["launch_buttons"]["binderhub_url"]
    assert (
        '<meta property="og:url" content="https://example.org/book/book/index.html" />'
        in metadata(extension, config)
    )


def test_metadata_is_escaped(extension, config):
    tags = metadata(extension, config)
    assert 'content="A &amp; B"' in tags
    assert 'content="Says &quot;what&quot; it is."' in tags


def page(*paragraphs):
    from docutils.utils import new_document

    document = new_document("page")
    document.extend(paragraphs)
    return document


def test_a_page_is_described_by_its_first_plain_paragraph(extension):
    from docutils import nodes

    boxed = nodes.admonition(
        "", nodes.paragraph(text="In the box stands what the reader gets. " * 3)
    )
    formula = nodes.paragraph("", "", nodes.Text("A layer maps x to y, " * 4), nodes.math(text="x"))
    sentence = "Divide each layer by the right constant, and the gradient keeps its size."
    plain = nodes.paragraph(text=f"{sentence} " + "Another sentence of the page. " * 9)
    said = extension["describe"](page(boxed, formula, nodes.paragraph(text="Short."), plain))
    assert said.startswith(sentence)
    assert len(said) <= 200
    assert said.endswith(".")
    assert extension["describe"](page(formula)) == extension["describe"](None) == ""


def test_the_site_and_its_picture_are_named(extension, config):
    assert 'property="og:site_name" content="Title"' in metadata(extension, config)
    assert "og:image" not in metadata(extension, config)
    config.html_baseurl = "https://example.org/book/"
    assert 'content="https://example.org/book/_static/card.png"' in metadata(extension, config)
