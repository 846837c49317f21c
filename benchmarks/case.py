"""What a benchmark is: a case, and the implementations that it sets side by side."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch


class UnavailableError(Exception):
    """An implementation that cannot run here, with the reason."""


@dataclass(frozen=True)
class Context:
    """Where a case runs.

    Attributes:
        device: of all tensors.
        seed: of all random numbers.
        count: how many threads torch uses.
    """

    device: torch.device
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Prepared:
    """An implementation that is ready to be timed.

    Attributes:
        call: what is timed.
        gate: compares with the float64 reference; says what is wrong, or ``None``.
        figures: what is measured once, untimed: bytes, samples.
        passes: how often ``call`` does what the baseline does once.
    """

    call: Callable[[], object]
    gate: Callable[[], str | None]
    figures: Callable[[], Mapping[str, float]] = dict
    passes: int = 1


Implementation = Callable[[Context], Prepared]


@dataclass(frozen=True)
class Case:
    """One task and everybody's way of doing it.

    Attributes:
        name: ``group/…``, unique.
        baseline: the implementation that all are divided by.
        implementations: by name, each a function that makes it ready.
        parameters: sizes and names, for the results.
        memory: bytes that the largest implementation needs, roughly.
        threads: of torch, where the case does not take what the run was given.
        compiled: whether everything in it goes through ``torch.compile``.
        graphed: whether everything in it is captured, and needs CUDA.
        seconds: how long it takes at least, for a run with little time left.
    """

    name: str
    baseline: str
    implementations: Mapping[str, Implementation]
    parameters: Mapping[str, object] = field(default_factory=dict)
    memory: int = 0
    threads: int | None = None
    compiled: bool = False
    graphed: bool = False
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.baseline not in self.implementations:
            raise ValueError(
                f"{self.name}: the baseline must be one of {', '.join(self.implementations)}; "
                f"it was {self.baseline!r}"
            )

    @property
    def group(self) -> str:
        """What stands before the first slash of the name."""
        return self.name.partition("/")[0]
