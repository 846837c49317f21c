"""The last look at each page: what it loads, what a screen reader says of it, where its links lead.

The theme loads every script on every page. Three are large: all icons of Font Awesome drawn by a
script, though the style sheet draws the few in use from its font; the search index, which only the
search page reads; and MathJax with its menu. Here pages lose what they do not use, the font keeps
the icons in use, and MathJax is put together from the parts that the book's formulas need.

A few attributes of the theme's markup tell a screen reader something else than the eye sees, or
nothing. They are mended here, since no option of the theme does.
"""

from __future__ import annotations

import re
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError
from sphinx.util.osutil import relative_uri

# Loaded one by one by MathJax's own starter: TeX in, HTML and MathML for screen readers out. The
# output loads its fonts itself.
MATHJAX = [
    "core",
    "input/tex-base",
    "[tex]/ams",
    "[tex]/configmacros",
    "output/chtml",
    "a11y/assistive-mml",
]
# What of MathJax's folder these parts are read from.
KEPT = ("startup.js", "core.js", "input/tex-base.js", "output/chtml.js", "a11y/assistive-mml.js")
KEPT_FOLDERS = ("input/tex/extensions/", "output/chtml/fonts/")

SCRIPT = r'<script[^>]*\bsrc="[^"]*{name}[^"]*"[^>]*></script>\n?'
ICONS = re.compile(SCRIPT.format(name=r"scripts/fontawesome\.js"))
SEARCH = re.compile(SCRIPT.format(name=r"(?:searchtools|language_data|searchindex)\.js"))
FORMULAS = re.compile(
    SCRIPT.format(name=r"mathjax/") + r"|<script>window\.MathJax = .*?</script>\n?"
)
DESIGN = re.compile(
    r'<link[^>]*href="[^"]*sphinx-design[^"]*"[^>]*>\n?|' + SCRIPT.format(name=r"design-tabs\.js")
)
# Names and punctuation in code have the colour of all text: a third of a chapter is these marks.
PLAIN = re.compile(
    r'<span class="[nwp]">([^<]*)</span>'
    r'|<span class="[nop]"><span class="pre">([^<]*)</span></span>'
)
VIEWPORT = re.compile(r'(?<=initial-scale=1.0" />)(.*?)<meta name="viewport"[^>]*>', re.DOTALL)

MENDED = (
    # The visible text, "Search" and its keys, is the button's name.
    (re.compile(r' title="Search" aria-label="Search"'), ""),
    # Children of a list are its items.
    (re.compile(r' role="doc-biblioentry"'), ' role="listitem"'),
    # A corner of a table is no header of anything.
    (re.compile(r'<th class="head">(?:<p></p>)?</th>'), '<td class="head"></td>'),
    # A file to download is saved; a blank tab says nothing.
    (
        re.compile(r'target="_blank"(?=\s+class="[^"]*btn-download-(?:source|notebook)-button)'),
        "download",
    ),
    # The logo stands beside the navigation, outside all landmarks.
    (re.compile(r'(<div id="pst-primary-sidebar")'), r'\1 role="region" aria-label="Sidebar"'),
)
# The search leaves out words of digits alone; in this book they are what one looks for.
DIGITS = re.compile(r"\|\|\s*queryTerm\.match\(/\^\\d\+\$/\)")
RULE = re.compile(r"(?<=[{}])(?P<selectors>[^{}@]*\.[^{}@]*)\{[^{}]*\}")
WORD = re.compile(r"-?[A-Za-z_][\w-]*")
BACK = re.compile(r'(<a class="viewcode-back" href=")([^"#]*)#([^"]+)"')


def choose_mathjax(app: Sphinx, config: Config) -> None:
    """Have MathJax start from its parts."""
    config.mathjax_path = "mathjax/startup.js"
    settings = config.mathjax3_config
    settings["loader"] = {"load": MATHJAX}
    settings["tex"]["packages"] = {"[+]": ["ams", "configmacros"]}


def slim(page: str, html: str) -> str:
    """Return a page without what it does not use."""
    html = ICONS.sub("", html)
    if page != "search":
        html = SEARCH.sub("", html)
    if 'class="math' not in html:
        html = FORMULAS.sub("", html)
    if 'class="sd-' not in html:
        html = DESIGN.sub("", html)
    html = PLAIN.sub(r"\1\2", html)
    # What lies below the screen is loaded when a reader comes near it.
    html = html.replace('<img alt="', '<img loading="lazy" alt="')
    # The theme declares the viewport three times.
    while VIEWPORT.search(html):
        html = VIEWPORT.sub(r"\1", html)
    return html


def mend(html: str) -> str:
    """Return a page whose markup says to a screen reader what the eye sees."""
    for pattern, replacement in MENDED:
        html = pattern.sub(replacement, html)
    return html


def lead_back(app: Sphinx, page: str, html: str) -> str:
    """Return a page of source code whose links lead to where the objects are documented.

    Viewcode takes the first documented name of a module for the prefix of all its names.
    """
    objects = app.env.get_domain("py").objects
    package = page.removeprefix("_modules/").replace("/", ".").rpartition(".")[0]

    def mended(match: re.Match) -> str:
        name = match[3]
        if name in objects:
            return match[0]
        # The name of the package around the module, or the module's own.
        last = name.rpartition(".")[2]
        named = [full for full in objects if full.rpartition(".")[2] == last]
        found = max(named, key=lambda full: full.startswith(f"{package}."))
        here, there = (app.builder.get_target_uri(doc) for doc in (page, objects[found].docname))
        return f'{match[1]}{relative_uri(here, there)}#{objects[found].node_id}"'

    return BACK.sub(mended, html)


def purge(style: str, words: set[str]) -> str:
    """Return a style sheet without the rules for classes that are not among the words."""

    def dead(selector: str) -> bool:
        # What is negated, or one of several, may be missing from the pages.
        bare = re.sub(r":(?:not|is|where|has)\([^()]*(?:\([^()]*\)[^()]*)*\)", "", selector)
        return any(name not in words for name in re.findall(r"\.(-?[A-Za-z_][\w-]*)", bare))

    def kept(rule: re.Match) -> str:
        selectors = re.split(r",(?![^()]*\))", rule["selectors"])
        return "" if all(map(dead, selectors)) else rule[0]

    # Licences stay, at the head; other comments would be taken for selectors.
    licences = "\n".join(dict.fromkeys(re.findall(r"/\*!.*?\*/", style, re.DOTALL)))
    return licences + RULE.sub(kept, re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL))


def keep_style(static: Path, pages: list[str]) -> None:
    """Reduce the theme's style sheet and its icons to what pages and scripts may show.

    Raises:
        ExtensionError: the theme keeps its icons elsewhere than is known here.
    """
    sheet = static / "styles" / "pydata-sphinx-theme.css"
    fonts = static / "vendor" / "fontawesome" / "webfonts"
    scripts = [path.read_text(encoding="utf-8") for path in static.rglob("*.js")]
    words = {word for text in [*pages, *scripts] for word in WORD.findall(text)}
    style = purge(sheet.read_text(encoding="utf-8"), words)
    # Written as a code, or as the character itself, of the area for private use.
    drawn = {int(code, 16) for code in re.findall(r'"\\([0-9a-f]{4})', style)}
    drawn |= {ord(character) for character in re.findall("[\ue000-\uf8ff]", style)}
    old = 'fa-solid-900.woff2) format("woff2")'
    if old not in style or not drawn:
        raise ExtensionError("the theme's style sheet must draw its icons from fa-solid-900.woff2")
    sheet.write_text(style.replace(old, 'fa-solid-900.woff) format("woff")'), encoding="utf-8")

    font = TTFont(fonts / "fa-solid-900.ttf")
    subsetter = Subsetter(Options(layout_features=[]))
    subsetter.populate(unicodes=drawn)
    subsetter.subset(font)
    font.flavor = "woff"
    font.save(fonts / "fa-solid-900.woff")
    for name in ("fa-solid-900.ttf", "fa-solid-900.woff2"):
        (fonts / name).unlink()


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Rewrite the pages, and drop the files that no page asks for."""
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    pages = []
    for path in out.rglob("*.html"):
        page = path.relative_to(out).with_suffix("").as_posix()
        before = path.read_text(encoding="utf-8")
        after = mend(slim(page, before))
        if page.startswith("_modules/"):
            after = lead_back(app, page, after)
        if page == "404":
            # A server shows it under any address, so that links from here need a fixed start.
            base = app.config.html_baseurl or "/"
            after = after.replace("<head>", f'<head>\n    <base href="{base}" />', 1)
        pages.append(after)
        if after != before:
            path.write_text(after, encoding="utf-8")
    static = out / "_static"
    search = static / "searchtools.js"
    words = DIGITS.sub("", search.read_text(encoding="utf-8"))
    if "queryTerm.match" in words:
        raise ExtensionError("searchtools.js leaves out numbers in a way that is not known here")
    search.write_text(words, encoding="utf-8")
    mathjax = static / "mathjax"
    unused = [*static.rglob("*.map"), *static.glob("scripts/fontawesome.js*")]
    for path in mathjax.rglob("*"):
        name = path.relative_to(mathjax).as_posix()
        if path.is_file() and name not in KEPT and not name.startswith(KEPT_FOLDERS):
            unused.append(path)
    for path in set(unused):
        path.unlink()
    keep_style(static, pages)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    # After the extension that names MathJax's copy has been set up.
    app.connect("config-inited", choose_mathjax)
    # After the extensions that write files.
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
