"""The page of all experiments: the committed files, counted anew."""

import json
import math

from normprop.companion import results
from tests.book.expectations import Equals

DOCUMENTS = [json.loads(path.read_text("utf-8")) for path in results.FOLDER.glob("*.json")]
FIELDS = ("data", "kind", "residual", "depth", "optimizer", "batch_size", "steps")
WAYS = (*FIELDS, "method", "activation", "orthogonal")
# Of a network in several files the latest counts.
CELLS = {
    tuple(cell[name] for name in WAYS): cell
    for document in sorted(DOCUMENTS, key=lambda one: one.get("date", ""))
    for cell in document.get("cells", ())
    if "runs" in cell and cell["growth"] == math.e and len(cell["runs"]) > 2
}.values()


def _at_an_end(cell):
    tried = [trial["lr"] for trial in cell["trials"]]
    learns = any((trial["validation"] or 0.0) > 0.2 for trial in cell["trials"])
    return learns and cell["lr"] in (min(tried), max(tried))


EXPECTED = {
    "settings": Equals(len({tuple(cell[name] for name in FIELDS) for cell in CELLS})),
    "networks": Equals(len(CELLS)),
    "runs": Equals(sum(len(cell["runs"]) for cell in CELLS)),
    "trials": Equals(sum(len(cell["trials"]) for cell in CELLS)),
    "ends": Equals(sum(map(_at_an_end, CELLS))),
    "against": Equals("calibrated"),
}
