"""The committed results: what chapters show of runs that take longer than a page may.

They are a part of the package, so that a chapter finds them wherever it is opened, and the commands
that make them write here: :mod:`normprop.companion.sweep`, :mod:`normprop.companion.thousand`,
:mod:`normprop.companion.compare`, ``make bench``, ``scripts/collect_wild.py``
and ``scripts/real_networks.py``.
"""

from pathlib import Path

__all__ = ["FOLDER", "path"]

FOLDER = Path(__file__).parent
"""Where the files lie."""


def path(name: str) -> Path:
    """The path of a file of results, such as ``"sweep_core.json"``.

    Raises:
        FileNotFoundError: there is no such file.
    """
    found = FOLDER / name
    if not found.is_file():
        there = ", ".join(sorted(file.name for file in FOLDER.glob("*.json"))) or "none"
        raise FileNotFoundError(
            f"results must lie in {FOLDER}, where {name!r} is missing; there: {there}"
        )
    return found
