"""What the pages say about their own address, taken from the environment of the build.

A Jupyter Book configuration cannot read the environment, and the tree must not pretend an address.
Three variables are read, each optional:

``BOOK_URL``         where the site is served: canonical links and Open Graph addresses
``BOOK_REPOSITORY``  the repository's web address: source link, Binder and Colab buttons
``BOOK_BRANCH``      the branch that those buttons open (``main`` unless given)

Without them a page carries its description and title, and no address at all.
"""

from __future__ import annotations

import os
import re
from html import escape, unescape
from pathlib import Path
from urllib.parse import urljoin

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

CARD = "_static/card.png"
CARD_ALT = "Three lines over fifty layers: two gradients that vanish and explode, one that stays."
# Characters of a description: a search engine shows about as many.
SHORTEST, LONGEST = 60, 200


def read_environment(app: Sphinx, config: Config) -> None:
    """Fill the settings that depend on where the site is published."""
    url = os.environ.get("BOOK_URL", "").strip()
    if url:
        config.html_baseurl = url.rstrip("/") + "/"

    options = config.html_theme_options
    # The default configuration of Jupyter Book names its own repository.
    options["repository_url"] = os.environ.get("BOOK_REPOSITORY", "").strip().rstrip("/")
    options["repository_branch"] = os.environ.get("BOOK_BRANCH", "").strip() or "main"
    options["use_repository_button"] = bool(options["repository_url"])
    options["launch_buttons"] = (
        {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        }
        if options["repository_url"]
        else {}
    )


def add_metadata(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Describe the page to search engines and link previews."""
    title = context.get("title") or app.config.html_title
    description = describe(doctree) or app.config.site_description
    entries = [
        ("name", "description", description),
        ("property", "og:type", "article" if doctree is not None else "website"),
        ("property", "og:site_name", app.config.html_title),
        ("property", "og:title", _plain(title)),
        ("property", "og:description", description),
        ("property", "og:locale", "en"),
    ]
    if app.config.html_baseurl:
        target = app.builder.get_target_uri(pagename)
        entries += [
            ("property", "og:url", urljoin(app.config.html_baseurl, target)),
            # A preview needs the whole address of its picture.
            ("property", "og:image", urljoin(app.config.html_baseurl, CARD)),
            ("property", "og:image:alt", CARD_ALT),
            ("name", "twitter:card", "summary_large_image"),
        ]
    context["metatags"] = context.get("metatags", "") + "".join(
        f'<meta {kind}="{key}" content="{escape(" ".join(text.split()))}" />\n'
        for kind, key, text in entries
    )


def describe(doctree: nodes.document | None) -> str:
    """Return the first sentences of a page that can be read without formulas, or nothing."""
    if doctree is None:
        return ""
    for paragraph in doctree.findall(nodes.paragraph):
        boxed = isinstance(paragraph.parent, nodes.Admonition | nodes.list_item | nodes.entry)
        if boxed or next(paragraph.findall(nodes.math), None):
            continue
        text = " ".join(paragraph.astext().split())
        if len(text) < SHORTEST:
            continue
        said = ""
        for sentence in re.split(r"(?<=[.!?]) ", text):
            if said and len(said) + len(sentence) > LONGEST:
                break
            said = f"{said} {sentence}".strip()
        return said
    return ""


def draw_card(app: Sphinx, exception: Exception | None) -> None:
    """Draw the picture that a link to the book shows: the gradient over depth, three ways."""
    if exception is not None or app.builder.format != "html":
        return
    from matplotlib.figure import Figure

    # 1200 × 630 pixels, what previews expect.
    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor="white")
    figure.text(0.06, 0.86, app.config.html_title, fontsize=34, weight="bold")
    figure.text(0.06, 0.77, "What keeps a gradient from vanishing, layer by layer", fontsize=22)
    axes = figure.add_axes((0.1, 0.12, 0.84, 0.58))
    layers = range(51)
    # The factor of a ReLU layer on the gradient's variance: PyTorch's weights, large ones, ours.
    for factor, colour, style in (
        (1 / 6, "#767676", ":"),
        (2, "#767676", "--"),
        (1, "#D55E00", "-"),
    ):
        heights = [factor ** ((50 - layer) / 2) for layer in layers]
        axes.semilogy(layers, heights, color=colour, linestyle=style, linewidth=5)
    axes.set_xlabel("layer", fontsize=20)
    axes.set_ylabel("gradient", fontsize=20)
    axes.tick_params(labelsize=16)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(app.outdir) / CARD, metadata={"Software": None})


def _plain(title: str) -> str:
    """Drop the markup that a title may carry."""
    return unescape(re.sub(r"<[^>]+>", "", title))


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_config_value("site_description", "", "html")
    # Before the theme reads its options.
    app.connect("config-inited", read_environment, priority=100)
    app.connect("html-page-context", add_metadata)
    app.connect("build-finished", draw_card)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
