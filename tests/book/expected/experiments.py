"""The page of all experiments: the committed files, counted anew."""

import json
import math

from normprop.companion import results
from tests.book.expectations import Equals

DOCUMENTS = [json.loads(path.read_text("utf-8")) for path in results.FOLDER.glob("*.json")]
CELLS = [
    cell
    for document in DOCUMENTS
    for cell in document.get("cells", ())
    if "interior" in cell and cell["growth"] == math.e and len(cell["runs"]) > 2
]
FIELDS = ("data", "kind", "residual", "depth", "optimizer", "batch_size", "steps")


def _learns(cell):
    return any((trial["validation"] or 0.0) > 0.2 for trial in cell["trials"])


EXPECTED = {
    "settings": Equals(len({tuple(cell[name] for name in FIELDS) for cell in CELLS})),
    "networks": Equals(len(CELLS)),
    "runs": Equals(sum(len(cell["runs"]) for cell in CELLS)),
    "trials": Equals(sum(len(cell["trials"]) for cell in CELLS)),
    "ends": Equals(sum(not cell["interior"] and _learns(cell) for cell in CELLS)),
    "against": Equals("calibrated"),
}
