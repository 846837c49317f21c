"""Kinds of expectation for a recorded number. None has a tolerance that could be tuned.

A file of ``tests/book/expected`` combines them::

    EXPECTED = {
        # Exact: an independent reference and a bound of the error, both with their origin.
        "relu_fwd_std": Exact(math.sqrt(0.5 - 0.5 / math.pi), 1e-15),
        # Estimate: judged by the standard error that the same notebook records beside it ...
        "sigmoid_bwd_std": Estimate(0.21174569974, "sigmoid_bwd_std_se"),
        # ... which therefore needs an expectation of its own, or a wide one would pass anything.
        "sigmoid_bwd_std_se": Within(1e-5, 1e-3, "0.16/√samples, and 20 times fewer samples"),
        "samples": Parameter("samples"),
        "verdict": Equals("confirmed"),
        # A time that the page has taken while it was built.
        "live_ratio": Measured(),
    }

An expectation holds in both runs, the small one and the page's own. Where that cannot be, because
the number is a property of the size, ``PerRun(own=..., small=...)`` takes one for each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from normprop.companion.record import Value

Records = Mapping[str, Value]


class Expectation(Protocol):
    """What a recorded value is held against."""

    def complaint(
        self, value: Value, records: Records, parameters: Records, run: str
    ) -> str | None:
        """Return what is wrong with the value, or None."""


@dataclass(frozen=True)
class Exact:
    """The reference, up to the error that the computation admits."""

    reference: float
    error: float

    def __post_init__(self):
        if not (math.isfinite(self.reference) and 0 <= self.error < math.inf):
            raise ValueError(f"a finite reference and a bound of the error are needed, got {self}")

    def complaint(self, value, records, parameters, run):
        """See `Expectation`."""
        if not _is_number(value):
            return f"must be a number, got {value!r}"
        off = abs(value - self.reference)
        if off <= self.error:
            return None
        return f"must be {self.reference!r} ± {self.error:.1e}, got {value!r}, off by {off:.2e}"


@dataclass(frozen=True)
class Estimate:
    """A simulated number: within z standard errors of the reference.

    At the default of 4.5 a right number fails once in 150 000 runs.
    """

    reference: float
    standard_error_record: str
    z: float = 4.5

    def score(self, value: float, records: Records) -> float:
        """Return how many standard errors the value is off."""
        return (value - self.reference) / records[self.standard_error_record]

    def complaint(self, value, records, parameters, run):
        """See `Expectation`."""
        name = self.standard_error_record
        if name not in records:
            return f"its standard error must be recorded as {name!r}"
        if not _is_number(value) or not _is_number(records[name]) or not records[name] > 0:
            got = f"{value!r} and {records[name]!r}"
            return f"a number and a positive standard error are needed, got {got}"
        score = self.score(value, records)
        if abs(score) <= self.z:
            return None
        return f"must be {self.reference!r}, got {value!r}, off by {score:.1f} standard errors"


@dataclass(frozen=True)
class Within:
    """A number between two bounds, with the reason why these are the bounds."""

    low: float
    high: float
    why: str

    def __post_init__(self):
        if not (self.low < self.high and self.why.strip()):
            raise ValueError(f"low < high and a reason are needed, got {self}")

    def complaint(self, value, records, parameters, run):
        """See `Expectation`."""
        if _is_number(value) and self.low <= value <= self.high:
            return None
        return f"must lie in [{self.low}, {self.high}] ({self.why}), got {value!r}"


@dataclass(frozen=True)
class Measured:
    """A time, or a ratio of times: positive, and finite as every record is.

    How long something takes is no property of the book: nothing else can be asked of it.
    """

    def complaint(self, value, records, parameters, run):
        """See `Expectation`."""
        if _is_number(value) and value > 0:
            return None
        return f"must be a positive number, got {value!r}"


@dataclass(frozen=True)
class Equals:
    """This very string, truth value or integer."""

    expected: str | bool | int

    def __post_init__(self):
        if type(self.expected) not in (str, bool, int):
            raise TypeError(f"a string, a bool or an int is needed, got {self.expected!r}")

    def complaint(self, value, records, parameters, run):
        """See `Expectation`."""
        if type(value) is type(self.expected) and value == self.expected:
            return None
        return f"must be {self.expected!r}, got {value!r}"


@dataclass(frozen=True)
class Parameter:
    """The value of a parameter that the notebook ran with."""

    name: str

    def complaint(self, value, records, parameters, run):
        """See `Expectation`."""
        if self.name not in parameters:
            return f"the notebook has no parameter {self.name!r}"
        if value == parameters[self.name]:
            return None
        return f"must be the parameter {self.name} = {parameters[self.name]!r}, got {value!r}"


@dataclass(frozen=True)
class PerRun:
    """One expectation for the page's own parameters, another for the small ones."""

    own: Expectation
    small: Expectation

    def complaint(self, value, records, parameters, run):
        """See `Expectation`."""
        chosen = self.own if run == "own" else self.small
        return chosen.complaint(value, records, parameters, run)


def _is_number(value: Value) -> bool:
    # True is an int in Python, and no number here.
    return type(value) in (int, float)


def better_than_chance(images=359, chance=Fraction(1, 10), level=Fraction(1, 10**6)):
    """The smallest accuracy that guessing reaches with probability below the level."""
    tail, right = Fraction(1), 0
    while tail >= level:
        tail -= math.comb(images, right) * chance**right * (1 - chance) ** (images - right)
        right += 1
    return right / images
