"""A headless Chromium that looks at a page and tells what it saw."""

from __future__ import annotations

import functools
import json
import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

# Width, height, colour scheme.
VIEWS = {
    "laptop-light": (1366, 900, "light"),
    "laptop-dark": (1366, 900, "dark"),
    "phone-light": (390, 844, "light"),
    "phone-dark": (390, 844, "dark"),
}

SCRIPTS = Path(__file__).parent
SETTLE = (SCRIPTS / "settle.js").read_text(encoding="utf-8")
UNROLL = (SCRIPTS / "unroll.js").read_text(encoding="utf-8")
LOOK = (SCRIPTS / "look.js").read_text(encoding="utf-8")
# axe-core 4.14.1 as its makers publish it, with its licence beside it.
AXE = (SCRIPTS / "axe" / "axe.min.js").read_text(encoding="utf-8")
AUDIT = (SCRIPTS / "audit.js").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Sight:
    """What a page looked like in a view."""

    # What the browser complained about, scripts included.
    console: list[str]
    # Requests to anything but the server of the pages.
    outside: list[str]
    # Paths on the server of the pages: what a first visit loads before it scrolls.
    inside: set[str]
    # The answers of look.js.
    page: dict
    # What axe-core finds serious or critical, if it was asked.
    faults: list[dict]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def served(folder: Path):
    """Serve a folder on a free port of this machine; yields the address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def chromium(profile: Path):
    """Start Chromium with an empty profile and nothing of its own to say to the network."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # The path is explicit: selenium would otherwise look for a driver to download.
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.set_page_load_timeout(60)
        driver.set_script_timeout(60)
        yield driver
    finally:
        driver.quit()


def set_view(driver, view: str) -> None:
    """Give the browser the size and the colour scheme of a view."""
    width, height, scheme = VIEWS[view]
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )


def look(driver, address: str, view: str, rules: dict | None = None) -> Sight:
    """Open a page in a view, wait until it has settled, and let axe-core run if it has rules."""
    # From elsewhere: a page that is opened again goes back to where the reader had scrolled.  And
    # before the view changes: the page that is left need not be laid out for it.
    driver.get("about:blank")
    set_view(driver, view)
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(address)
    failure = driver.execute_async_script(SETTLE)
    first = _asked(driver)
    failure = failure or driver.execute_async_script(UNROLL)
    page = driver.execute_script(LOOK)
    console = [
        entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"
    ]
    if failure:
        console.append(failure)
    here = urlsplit(address).netloc
    outside = [url for url in first + _asked(driver) if urlsplit(url).netloc != here]
    inside = {unquote(urlsplit(url).path) for url in first if urlsplit(url).netloc == here}
    # Last, because it leaves its traces in the page.
    faults = [] if rules is None else _audit(driver, rules)
    return Sight(console, outside, inside, page, faults)


def _asked(driver) -> list[str]:
    """Return the addresses that the page has asked for since this was called last."""
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    # A page may make addresses of its own; nothing is fetched from them.
    return [url for url in asked if urlsplit(url).scheme not in ("data", "blob")]


def _audit(driver, rules: dict) -> list[dict]:
    """Return what axe-core finds serious or critical in the page that is open."""
    driver.execute_script(AXE)
    found = driver.execute_async_script(AUDIT, rules)
    if isinstance(found, str):
        raise RuntimeError(f"{driver.current_url}: {found}")
    return found
