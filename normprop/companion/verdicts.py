"""What a page says of two methods, held against the committed results.

A sentence that compares pastes the record that :func:`said` leaves: the difference with its
interval.  The boolean beside it says whether the sentence is true of the results that are committed
now, and a test asks for it, so that new results cannot leave an old sentence standing.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from normprop.companion import results
from normprop.companion.record import record

__all__ = ["Difference", "cells", "difference", "said", "tested"]

CLAIMS = ("above", "below", "level")
"""Of the first method beside the second; level is a difference whose interval contains 0."""
# Student's t at 97.5 % by degrees of freedom.
_QUANTILES = {2: 4.302652729749464, 3: 3.182446305283710, 4: 2.776445105197794}


@dataclass(frozen=True)
class Difference:
    """Difference of two mean test accuracies, in per cent of the images, and a 95 % interval.

    The interval is about the seeds: that of Student's t for the standard error of the difference
    and the degrees of freedom of the smaller sample, which makes it too wide rather than too
    narrow.  All methods see the same test images, whose choice is not in it.
    """

    mean: float
    low: float
    high: float

    @property
    def claim(self) -> str:
        """One of ``CLAIMS``."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "level"

    def __str__(self) -> str:
        return f"{_signed(self.mean)} ({_signed(self.low)} to {_signed(self.high)})"


def difference(one: Sequence[float], other: Sequence[float]) -> Difference:
    """The difference of two samples of accuracies, one minus other.

    Raises:
        ValueError: a sample has fewer than three or more than five values.
    """
    for sample in (one, other):
        if len(sample) - 1 not in _QUANTILES:
            raise ValueError(f"a sample must have three to five values; it had {len(sample)}")
    mean = statistics.mean(one) - statistics.mean(other)
    error = math.sqrt(sum(statistics.variance(s) / len(s) for s in (one, other)))
    half = _QUANTILES[min(len(one), len(other)) - 1] * error
    return Difference(*(100 * value for value in (mean, mean - half, mean + half)))


def said(name: str, claim: str, one: Sequence[float], other: Sequence[float]) -> None:
    """Record a comparison, and whether what is claimed of it is true.

    The record ``name`` is the difference as text, and ``name`` with ``_holds`` behind it a bool.

    Args:
        name: of the record that the sentence pastes.
        claim: one of ``CLAIMS``: what the sentence says of ``one`` beside ``other``.
        one: test accuracies of one method.
        other: test accuracies of the other.
    """
    if claim not in CLAIMS:
        raise ValueError(f"claim must be one of {', '.join(CLAIMS)}; it was {claim!r}")
    found = difference(one, other)
    record(name, str(found))
    record(f"{name}_holds", found.claim == claim)


def cells(name: str) -> dict[tuple[str, bool, str], dict]:
    """The cells of a file of results, by method, orthogonality and activation."""
    document = json.loads(results.path(name).read_text(encoding="utf-8"))
    return {
        (cell["method"], cell["orthogonal"], cell["activation"]): cell for cell in document["cells"]
    }


def tested(cell: dict) -> list[float]:
    """Test accuracies of a cell's runs, in rising order; one that diverged classifies nothing."""
    return sorted(run["test"] or 0.0 for run in cell["runs"])


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
