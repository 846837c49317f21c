"""Reduce notebooks to their source, in place: no outputs, no counts, no trace of a machine.

Run as a hook before each commit, and by hand: ``python .ci/strip_notebooks.py book/*.ipynb``.
Needs the standard library only. Exits with 1 if it changed a file, so that the commit is looked at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

# A notebook is invalid without a display name, and the front ends write a machine's own.
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# What the book reads of a cell's metadata.
KEPT = ("mystnb", "tags")


def strip(notebook: dict) -> dict:
    """Return the notebook's source alone."""
    cells = []
    for cell in notebook["cells"]:
        metadata = {key: cell["metadata"][key] for key in KEPT if cell["metadata"].get(key)}
        bare = {key: cell[key] for key in ("cell_type", "id", "source") if key in cell}
        if cell["cell_type"] == "code":
            bare |= {"execution_count": None, "outputs": []}
        cells.append({**bare, "metadata": metadata})
    return {**notebook, "cells": cells, "metadata": {"kernelspec": KERNEL}}


def main(paths: list[str]) -> int:
    """Strip the files; return 1 if one of them changed."""
    changed = 0
    for path in map(Path, paths):
        before = path.read_text(encoding="utf-8")
        # As nbformat writes it, so that a front end and this script do not undo each other.
        after = json.dumps(strip(json.loads(before)), ensure_ascii=False, indent=1, sort_keys=True)
        if after + "\n" != before:
            path.write_text(after + "\n", encoding="utf-8")
            print(f"stripped {path}")
            changed = 1
    return changed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
