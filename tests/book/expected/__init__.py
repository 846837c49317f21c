"""What each notebook of the book is expected to record, one file for each notebook.

The file bears the notebook's name, ``03_activations.py`` for ``03_activations.ipynb``, and defines
``EXPECTED``, a dictionary from record name to expectation, and, if the general rule does not suit
it, ``SMALL``, the parameters of its quick run. A notebook that records nothing needs no file.
See ``tests/book/expectations.py`` for the kinds of expectation, with an example.
"""

from __future__ import annotations

import functools
import runpy
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from normprop.companion.record import Value
    from tests.book.expectations import Expectation

FOLDER = Path(__file__).parent

# How much smaller the quick run is where a notebook does not say.
SCALE = 20


def registry(name: str) -> dict[str, Expectation]:
    """Return the expectations of a notebook by record name."""
    return _module(name).get("EXPECTED", {})


def small_parameters(name: str, own: dict[str, Value]) -> dict[str, Value]:
    """Return the parameters of a notebook's quick run that differ from the page's own."""
    given = _module(name).get("SMALL")
    if given is None:
        return {"samples": max(own["samples"] // SCALE, 1)} if "samples" in own else {}
    if unknown := set(given) - set(own):
        raise ValueError(f"{name}: SMALL names {sorted(unknown)}, the page has {sorted(own)}")
    return given


def files() -> set[str]:
    """Return the names of the notebooks that have a file here, without suffix."""
    return {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}


@functools.cache
def _module(name: str) -> dict:
    # runpy, since a chapter's name begins with a digit and cannot be imported.
    path = FOLDER / f"{Path(name).stem}.py"
    return runpy.run_path(str(path)) if path.is_file() else {}
