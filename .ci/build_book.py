"""Build the book from nothing, warnings being errors, and keep what it was built from.

    python .ci/build_book.py

A build that ends well leaves ``_build/sources.json``: the hash of every source, the package's
included, and the versions of all that is installed.  As long as these are what they were, the tests
look at the site as it is instead of building it once more.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("_config.yml", "_toc.yml", "book", "normprop")
MADE = {"__pycache__", ".ipynb_checkpoints"}
COMMAND = [
    *(sys.executable, "-c", "from jupyter_book.cli.main import main; main()"),
    *("build", "-W", "-n", "--keep-going"),
]


def sources(root: Path = ROOT) -> dict[str, str]:
    """Return everything that a page may depend on, by name."""
    found = {}
    for name in SOURCES:
        tree = root / name
        for path in [tree, *tree.rglob("*")]:
            if path.is_file() and not MADE & set(path.parts):
                content = path.read_bytes()
                found[path.relative_to(root).as_posix()] = hashlib.sha256(content).hexdigest()
    installed = {item.metadata["Name"]: item.version for item in metadata.distributions()}
    address = {name: text for name, text in os.environ.items() if name.startswith("BOOK_")}
    return {**found, **installed, **address, "Python": sys.version}


def built(root: Path = ROOT) -> str | None:
    """Return what the build of the site said on stderr, or None if it has to be built (again)."""
    try:
        kept = json.loads((root / "_build" / "sources.json").read_text("utf-8"))
    except FileNotFoundError:
        return None
    return kept["stderr"] if kept["sources"] == sources(root) else None


def build(root: Path = ROOT, command: Sequence[str] = COMMAND) -> tuple[int, str]:
    """Build the site; return the builder's exit status, and what it said on stderr."""
    # A second build of a broken book is silent about pages that it does not revisit.
    shutil.rmtree(root / "_build", ignore_errors=True)
    before = sources(root)
    said = []
    command = [*command, str(root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as process:
        for line in process.stderr:
            sys.stderr.write(line)
            said.append(line)
    stderr = "".join(said)
    if process.returncode == 0 and sources(root) == before:
        kept = json.dumps({"sources": before, "stderr": stderr}, indent=1)
        (root / "_build" / "sources.json").write_text(kept, "utf-8")
    return process.returncode, stderr


if __name__ == "__main__":
    sys.exit(build()[0])
