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
from urllib.parse import urljoin

from sphinx.application import Sphinx
from sphinx.config import Config


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
    entries = [
        ("name", "description", app.config.site_description),
        ("property", "og:type", "article" if doctree is not None else "website"),
        ("property", "og:site_name", app.config.project),
        ("property", "og:title", _plain(title)),
        ("property", "og:description", app.config.site_description),
        ("property", "og:locale", "en"),
    ]
    if app.config.html_baseurl:
        target = app.builder.get_target_uri(pagename)
        entries.append(("property", "og:url", urljoin(app.config.html_baseurl, target)))
    context["metatags"] = context.get("metatags", "") + "".join(
        f'<meta {kind}="{key}" content="{escape(" ".join(text.split()))}" />\n'
        for kind, key, text in entries
    )


def _plain(title: str) -> str:
    """Drop the markup that a title may carry."""
    return unescape(re.sub(r"<[^>]+>", "", title))


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_config_value("site_description", "", "html")
    # Before the theme reads its options.
    app.connect("config-inited", read_environment, priority=100)
    app.connect("html-page-context", add_metadata)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
