"""Timing side by side, and what ``make bench`` has measured.

A time depends on the machine and on what else it does; a ratio of two times taken one right
after the other depends on them much less.  So calls are measured in rounds, each call once a
round in random order, and compared round by round.
"""

import ctypes
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

SCHEMA = 1
"""Version of the layout of a file of results."""
QUANTILES = (0.2, 0.5, 0.8)
"""Which quantiles are kept of the rounds: a low one, the median, a high one."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Names of options in glibc's malloc.h."""

Clock = Callable[[Callable[[], object], int], float]


def cpu_clock(call: Callable[[], object], repetitions: int) -> float:
    """Seconds that so many calls in a row take."""
    start = time.perf_counter()
    for _ in range(repetitions):
        call()
    return time.perf_counter() - start


def keep_memory() -> bool:
    """Have the C library keep what this process frees, until the process ends.

    By default it gives large blocks back to the system, which hands out new pages, zeroed, for the
    next tensor: now and then, by the state of the heap, and then for several times the cost of an
    elementwise layer.  On a GPU torch keeps memory itself.

    Returns:
        Whether the library can; only glibc is known to.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # No block is a mapping of its own, and the end of the heap is never given back.
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    least: float = 2e-3,
    seconds: float = math.inf,
    seed: int = 0,
    clock: Clock = cpu_clock,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds a call, in rounds in which each call has its turn, in random order.

    A turn repeats its call until it lasts ``least`` seconds, by what the warm-up has shown, so
    that the clock's own grain does not count.

    Args:
        calls: what is measured, by name; nothing that is returned is kept.
        rounds: rounds at most.
        least: seconds a turn lasts at least.
        seconds: what all rounds together may take; five rounds are run in any case, or
            ``rounds`` if that is fewer.
        seed: of the order within the rounds.
        clock: seconds of a number of calls in a row.

    Returns:
        By name, seconds a call with one entry a round; and by name, calls a turn.

    Raises:
        ValueError: there is nothing to measure, or a number is out of its range.
    """
    if not calls:
        raise ValueError("at least one call is needed, got none")
    if rounds < 1 or not least > 0 or not seconds > 0:
        raise ValueError(
            "rounds must be at least 1, least and seconds greater than 0; "
            f"they were {rounds}, {least} and {seconds}"
        )
    repetitions = {name: _warmed(call, least, clock) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, dice = list(calls), random.Random(seed)
    start = time.perf_counter()
    for done in range(rounds):
        if done >= 5 and (time.perf_counter() - start) * (done + 1) / done > seconds:
            break
        dice.shuffle(order)
        for name in order:
            count = repetitions[name]
            times[name].append(clock(calls[name], count) / count)
    return times, repetitions


def _warmed(call, least: float, clock: Clock) -> int:
    """Warm a call up; how many of it last ``least`` seconds."""
    clock(call, 1)
    count = 1
    while (taken := clock(call, count)) < least:
        # At least twice as many, at most ten times: the first ones may still be warming up.
        count = math.ceil(count * min(10.0, max(2.0, 1.2 * least / max(taken, 1e-9))))
    return count


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """The 20, 50 and 80 per cent quantiles, interpolated between the values."""
    ordered = sorted(values)
    found = []
    for share in QUANTILES:
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        found.append(ordered[low] + (place - low) * (ordered[high] - ordered[low]))
    return tuple(found)


def ratios(times: Mapping[str, list[float]], baseline: str) -> dict[str, list[float]]:
    """Round by round, each call's time over the baseline's of the same round."""
    return {
        name: [a / b for a, b in zip(values, times[baseline], strict=True)]
        for name, values in times.items()
    }


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps from a forward pass, without parameters and buffers.

    A storage that several nodes keep counts once, and whole, even where a node keeps a part.

    Args:
        model: whose parameters and buffers do not count.
        forward: runs it, and returns the output.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    # The storages themselves, so that none is freed and its address used again.
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    total = sum(storage.nbytes() for storage in kept.values())
    del output
    return total


@dataclass(frozen=True)
class Entry:
    """An implementation of a case, as measured.

    Attributes:
        case: name of the case, such as ``"activation/relu/1000000"``.
        implementation: name of the implementation, such as ``"normprop"``.
        status: ``"measured"``, or why not: ``"failed"``, ``"skipped"``, ``"unavailable"``.
        reason: of a status other than ``"measured"``.
        seconds: quantiles of the time of a call.
        ratio: quantiles of that time over the baseline's.
        versus: quantiles of that time over another implementation's, by its name.
        figures: what was measured once, such as ``"saved_bytes"``.
    """

    case: str
    implementation: str
    status: str
    reason: str | None
    seconds: tuple[float, float, float] | None
    ratio: tuple[float, float, float] | None
    versus: dict[str, tuple[float, float, float]]
    figures: dict[str, float]


class Results:
    """A file that ``make bench`` has written.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another layout.
    """

    def __init__(self, path: str | Path) -> None:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content.get("schema") != SCHEMA:
            raise ValueError(
                f"results must have schema {SCHEMA}; {Path(path).name} has {content.get('schema')}"
            )
        self.origin = {k: v for k, v in content.items() if k not in ("cases", "goals")}
        self.goals: list[dict] = content["goals"]
        self.cases: list[dict] = content["cases"]

    def __iter__(self) -> Iterator[Entry]:
        for case in self.cases:
            for found in case["implementations"]:
                yield _entry(case["name"], found)

    def entry(self, case: str, implementation: str) -> Entry:
        """One implementation of one case.

        Raises:
            KeyError: the file has no such case or implementation, or it was not measured.
        """
        for entry in self:
            if (entry.case, entry.implementation) == (case, implementation):
                if entry.status != "measured":
                    raise KeyError(f"{case}, {implementation}: {entry.status}, {entry.reason}")
                return entry
        raise KeyError(f"no case {case!r} with an implementation {implementation!r}")

    def goal(self, name: str) -> dict:
        """A promise of the device that was measured: its bound, what came, and the verdict.

        Raises:
            KeyError: there is none of this name.
        """
        for row in self.goals:
            if (row["name"], row["device"]) == (name, self.origin["device"]):
                return row
        raise KeyError(f"no goal {name!r} for {self.origin['device']}")

    def names(self, group: str) -> list[str]:
        """Names of the measured cases of a group."""
        return [c["name"] for c in self.cases if c["group"] == group and c["status"] == "measured"]

    def parameters(self, case: str) -> dict:
        """Sizes and names that a case was built with."""
        return next(c["parameters"] for c in self.cases if c["name"] == case)

    def ratio(self, case: str, implementation: str, against: str | None = None) -> float:
        """Median of the time over the baseline's, or over another implementation's."""
        entry = self.entry(case, implementation)
        return (entry.ratio if against is None else entry.versus[against])[1]

    def median_ratio(self, group: str, implementation: str) -> float:
        """Median over the measured cases of a group of an implementation's ratio."""
        found = [
            entry.ratio[1]
            for name in self.names(group)
            for entry in self
            if entry.case == name
            and entry.implementation == implementation
            and entry.status == "measured"
        ]
        return statistics.median(found)


def _entry(case: str, found: dict) -> Entry:
    def triple(values):
        return None if values is None else tuple(values)

    return Entry(
        case,
        found["name"],
        found["status"],
        found.get("reason"),
        triple(found.get("seconds")),
        triple(found.get("ratio")),
        {name: tuple(values) for name, values in found.get("versus", {}).items()},
        found.get("figures", {}),
    )
