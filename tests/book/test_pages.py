"""The pages as a reader meets them: as HTML always, and in a browser where there is one."""

import importlib
import re
from collections import Counter
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from fontTools.ttLib import TTFont

from tests.book import browser
from tests.book.notebooks import PAGES

pytestmark = pytest.mark.slow

ANCHOR = re.compile(r'<[^>]*\sid="([^"]*)"')
POSTS = "https://github.com/happynear/happynear.github.io"
LINK = re.compile(r'<a\s[^>]*?href="([^"]*)"')
# Bytes, uncompressed, for a page with everything that it asks for.
LIGHT = 1_600_000
# Bytes, of one figure.
FIGURE = 200_000
HASH = re.compile(r"[0-9a-f]{16,}|\.(png|svg|jpg)$")


class Site:
    """The parsed pages of the book."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._pages: dict[Path, BeautifulSoup] = {}
        self._anchors: dict[Path, set[str]] = {}

    def parse(self, path: Path) -> BeautifulSoup:
        if path not in self._pages:
            self._pages[path] = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        return self._pages[path]

    def __getitem__(self, page: str) -> BeautifulSoup:
        return self.parse(self.folder / f"{page}.html")

    def anchors(self, path: Path) -> set[str]:
        """Return what a link into the page may name."""
        # Read from the text: the parsed source of the whole package would take a minute.
        if path not in self._anchors:
            found = ANCHOR.findall(path.read_text(encoding="utf-8"))
            self._anchors[path] = {unescape(name) for name in found}
        return self._anchors[path]

    def broken_links(self, page: str) -> list[str]:
        """Return the links of a page that lead nowhere in the site."""
        broken = []
        here = self.folder / f"{page}.html"
        for link in map(unescape, LINK.findall(here.read_text(encoding="utf-8"))):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (here.parent / unquote(parts.path)).resolve() if parts.path else here
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                broken.append(link)
            elif parts.fragment and target.suffix == ".html":
                fragment = unquote(parts.fragment)
                if fragment not in self.anchors(target) and fragment != "#":
                    broken.append(link)
        return broken


@pytest.fixture(scope="module")
def site(book_html) -> Site:
    return Site(book_html)


@pytest.mark.parametrize("page", PAGES)
class TestMarkup:
    """What can be read without a browser."""

    def test_links_and_anchors_lead_somewhere(self, site, page):
        assert site.broken_links(page) == []

    def test_images_say_what_they_show(self, site, page):
        for image in site[page].select("article img"):
            alt = image.get("alt", "").strip()
            assert alt, f"no alt text: {image}"
            assert not HASH.search(alt), f"a file's name is no alt text: {alt}"

    def test_no_pasted_number_is_blank(self, site, page):
        pasted = [span.get_text(strip=True) for span in site[page].select("span.pasted-text")]
        assert [text for text in pasted if not text or text in {"None", "nan", "inf"}] == []

    def test_no_reference_is_left_open(self, site, page):
        article = site[page].select_one("article")
        # A file to download keeps the class of a reference that has found its target.
        unresolved = ".problematic, .system-message, span.xref.myst:not(.download)"
        assert article.select(unresolved) == []
        assert "??" not in article.get_text()

    def test_figures_are_captioned_and_numbered(self, site, page):
        for figure in site[page].select("article figure"):
            number = figure.select_one("figcaption .caption-number")
            assert number, f"no number: {str(figure)[:200]}"
            assert len(figure.select_one("figcaption").get_text().split()) > 5

    def test_figures_are_light(self, site, page):
        folder = site.folder / Path(page).parent
        images = {folder / image["src"] for image in site[page].select("article img")}
        sizes = {path.name: path.stat().st_size for path in images}
        assert {name: size for name, size in sizes.items() if size > FIGURE} == {}

    def test_the_box_at_the_head_of_a_chapter_has_one_title(self, site, page):
        if "/chapters/" not in page:
            return
        box = site[page].select_one("article .admonition")
        assert box.select_one(".admonition-title").get_text(strip=True) == "In this chapter"
        assert "tip" in box["class"]

    def test_identifiers_are_unique(self, site, page):
        counted = Counter(tag["id"] for tag in site[page].select("article [id]"))
        assert [name for name, count in counted.items() if count > 1] == []

    def test_it_describes_itself(self, site, page):
        soup = site[page]
        assert soup.html["lang"] == "en"
        # A formula in a title shows as raw TeX in the sidebar of a page that has no other formula.
        assert re.search(r"\w", soup.title.get_text())
        assert not soup.select("article h1 .math")
        assert len(soup.select("article h1")) == 1
        for selector in ('meta[name="description"]', 'meta[property="og:title"]'):
            (tag,) = soup.select(selector)
            assert tag["content"].strip()

    def test_it_pretends_no_address(self, site, page):
        assert site[page].select('link[rel="canonical"], meta[property="og:url"]') == []


def test_each_page_has_a_description_of_its_own(site):
    described = {}
    for page in PAGES:
        (tag,) = site[page].select('meta[name="description"]')
        described.setdefault(tag["content"], []).append(page)
        (name,) = site[page].select('meta[property="og:site_name"]')
        assert name["content"] == "Normalizing all layers, executed"
    assert [pages for pages in described.values() if len(pages) > 2] == []


def test_no_link_of_any_page_is_dead(site):
    pages = (path.relative_to(site.folder) for path in site.folder.rglob("*.html"))
    names = [path.with_suffix("").as_posix() for path in pages]
    # The index of the source code, the search and the page of a lost reader among them.
    assert {"404", "search", "genindex", "_modules/index"} <= set(names)
    broken = {name: site.broken_links(name) for name in names}
    assert {name: links for name, links in broken.items() if links} == {}


def test_a_broken_link_is_seen(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html">b</a> <a href="#x">x</a> <a id="y" href="#y">y</a>'
    )
    assert Site(tmp_path).broken_links("a") == ["b.html", "#x"]


@pytest.fixture(scope="module")
def window(book_html, tmp_path_factory):
    """A browser, and the address at which it finds the pages."""
    if not (browser.CHROMIUM and browser.DRIVER):
        pytest.skip("no Chromium with its chromedriver is installed")
    profile = tmp_path_factory.mktemp("profile")
    with browser.served(book_html) as address, browser.chromium(profile) as driver:
        yield driver, address


# The first looks at everything, the second at what the other colours change.
AUDITS = {
    "laptop-light": {"rules": {"label-content-name-mismatch": {"enabled": True}}},
    "laptop-dark": {"runOnly": ["color-contrast", "link-in-text-block"]},
}


@pytest.fixture(scope="module")
def sights(window):
    """`sights(page, view)`, each looked at once."""
    driver, address = window
    seen = {}

    def sight(page, view):
        if (page, view) not in seen:
            place, rules = f"{address}/{page}.html", AUDITS.get(view)
            seen[page, view] = browser.look(driver, place, view, rules)
        return seen[page, view]

    return sight


@pytest.mark.parametrize("view", browser.VIEWS)
@pytest.mark.parametrize("page", [*PAGES, "search", "genindex"])
class TestView:
    """What a browser shows, at two widths, light and dark."""

    def test_the_console_is_silent(self, sights, page, view):
        assert sights(page, view).console == []

    def test_nothing_is_fetched_from_elsewhere(self, sights, page, view):
        assert sights(page, view).outside == []

    def test_every_formula_is_typeset(self, sights, page, view):
        seen = sights(page, view).page
        assert seen["wrong"] == []
        assert seen["untypeset"] == []
        assert seen["raw"] == []

    def test_every_image_has_loaded(self, sights, page, view):
        assert sights(page, view).page["broken"] == []

    def test_nothing_sticks_out(self, sights, page, view):
        seen = sights(page, view).page
        assert seen["wide"] == []
        assert seen["overflow"] <= 0

    def test_formulas_are_whole_and_figures_legible(self, sights, page, view):
        seen = sights(page, view).page
        assert seen["cut"] == []
        assert seen["small"] == []

    def test_a_first_visit_is_light(self, sights, book_html, page, view):
        files = [book_html / path.lstrip("/") for path in sights(page, view).inside]
        sizes = {path.name: path.stat().st_size for path in files if path.is_file()}
        assert len(sizes) > 5
        assert sum(sizes.values()) < LIGHT, sizes

    def test_the_colour_scheme_is_followed(self, sights, page, view):
        assert sights(page, view).page["theme"] == browser.VIEWS[view][2]

    def test_there_is_one_search_field_at_most(self, sights, page, view):
        limit = 2 if page == "search" else 1
        assert sights(page, view).page["searchFields"] <= limit


@pytest.mark.parametrize("view", AUDITS)
@pytest.mark.parametrize("page", [*PAGES, "search", "genindex", "404"])
def test_a_reader_who_hears_the_page_misses_nothing(sights, page, view):
    seen = sights(page, view)
    assert seen.console == []
    assert seen.faults == []


@pytest.mark.parametrize("number", ["0.2123", "0.2117"])
def test_a_search_finds_the_numbers_that_the_post_is_known_for(window, number):
    from selenium.webdriver.support.ui import WebDriverWait

    driver, address = window
    driver.get(f"{address}/search.html?q={number}")
    results = WebDriverWait(driver, 30).until(
        lambda here: here.find_elements("css selector", "#search-results li a")
    )
    assert any("03_activations" in link.get_attribute("href") for link in results)


def test_every_icon_of_the_style_sheet_is_in_its_font(book_html):
    static = book_html / "_static"
    style = (static / "styles" / "pydata-sphinx-theme.css").read_text(encoding="utf-8")
    font = TTFont(static / "vendor" / "fontawesome" / "webfonts" / "fa-solid-900.woff")
    solid = set(re.findall(r'--pst-icon-(?:lightbulb|circle-info|angle-left):"(.)"', style))
    assert solid
    assert {ord(icon) for icon in solid} <= set(font.getBestCmap())


BAD = r"""<!doctype html><html data-theme="light"><body><article class="bd-article">
<span class="math">\(x\)</span> \frac{1}{2} <img src="missing.png" alt="a">
<figure style="width: 3000px">wide</figure>
<script src="http://127.0.0.2:9/x.js"></script><script>throw new Error("thrown")</script>
</article></body></html>"""


def test_what_is_wrong_with_a_page_is_seen(tmp_path):
    if not (browser.CHROMIUM and browser.DRIVER):
        pytest.skip("no Chromium with its chromedriver is installed")
    (tmp_path / "bad.html").write_text(BAD)
    with browser.served(tmp_path) as address, browser.chromium(tmp_path / "profile") as driver:
        seen = browser.look(driver, f"{address}/bad.html", "phone-light")
    assert any("thrown" in line for line in seen.console)
    assert seen.outside == ["http://127.0.0.2:9/x.js"]
    assert len(seen.page["untypeset"]) == len(seen.page["broken"]) == len(seen.page["wide"]) == 1
    assert len(seen.page["raw"]) == 2
    assert seen.page["overflow"] > 0


def test_what_a_screen_reader_would_miss_is_seen(tmp_path):
    if not (browser.CHROMIUM and browser.DRIVER):
        pytest.skip("no Chromium with its chromedriver is installed")
    page = '<html lang="en"><title>t</title><body><main><h1>t</h1>{}</main></body></html>'
    bad = '<button></button><p style="color: #ccc">pale</p><input>'
    (tmp_path / "bad.html").write_text(page.format(bad))
    (tmp_path / "good.html").write_text(page.format("<p>plain</p>"))
    with browser.served(tmp_path) as address, browser.chromium(tmp_path / "profile") as driver:
        found = browser.look(driver, f"{address}/bad.html", "laptop-light", {})
        clean = browser.look(driver, f"{address}/good.html", "laptop-light", {})
    assert {fault["rule"] for fault in found.faults} >= {"button-name", "color-contrast", "label"}
    assert clean.faults == []


def test_a_visit_is_a_first_visit_whatever_was_open_before(tmp_path):
    if not (browser.CHROMIUM and browser.DRIVER):
        pytest.skip("no Chromium with its chromedriver is installed")
    # What has been loaded, as an audited page has, is not loaded lazily a second time.
    (tmp_path / "far.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    far = '<div style="height: 30000px">near</div><img loading="lazy" src="far.svg" alt="far">'
    (tmp_path / "page.html").write_text(f'<html lang="en"><title>t</title><body>{far}')
    with browser.served(tmp_path) as address, browser.chromium(tmp_path / "profile") as driver:
        for _ in range(3):
            seen = browser.look(driver, f"{address}/page.html", "laptop-light", {})
            assert seen.page["broken"] == []
            assert "/page.html" in seen.inside
            assert "/far.svg" not in seen.inside


def test_the_bibliography_leads_to_what_it_names(site):
    entries = site["book/bibliography"].select("article div.citation")
    assert len(entries) > 30
    for entry in entries:
        links = {link["href"] for link in entry.select("a.external")}
        for number in re.findall(r"arXiv:([\d.]+\d)", entry.get_text()):
            assert f"https://arxiv.org/abs/{number}" in links
        if "Blog post" in entry.get_text():
            assert any(link.startswith(f"{POSTS}/blob/") and link.endswith(".md") for link in links)
    text = " ".join(entry.get_text() for entry in entries)
    assert text.count("arXiv:") > 20
    assert all(day in text for day in ("22 March 2016", "28 March 2016", "19 April 2016"))


@pytest.mark.parametrize("module", ["normprop.nn", "normprop.functional"])
def test_every_public_name_is_documented_once(site, module):
    names = set(importlib.import_module(module).__all__) - {"init"}
    documented = Counter(
        tag["id"]
        for page in PAGES
        if page.startswith(("book/api", "book/reference"))
        for tag in site[page].select("dt[id]")
    )
    assert {name: documented[f"{module}.{name}"] for name in names} == dict.fromkeys(names, 1)


UNFOLDED = """
const done = arguments[arguments.length - 1];
window.dispatchEvent(new Event("beforeprint"));
const shown = (part) => part.checkVisibility({ opacityProperty: true, visibilityProperty: true });
const control = (part) => ["BUTTON", "SUMMARY"].includes(part.tagName);
// Boxes open with a transition.
setTimeout(() => {
  const parts = [...document.querySelectorAll(".admonition.dropdown > *, details > *")];
  done([parts.length, parts.filter((part) => !control(part) && !shown(part)).length]);
}, 1000);
"""


def test_on_paper_what_is_folded_is_there(window):
    driver, address = window
    browser.look(driver, f"{address}/book/chapters/04_pooling.html", "laptop-light")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        parts, hidden = driver.execute_async_script(UNFOLDED)
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert parts > 10
    assert hidden == 0
