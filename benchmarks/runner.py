"""Runs cases: memory, gate, clock; and a journal, so that a run that was killed goes on."""

import gc
import json
import math
import os
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from benchmarks import gate, inputs, timing
from benchmarks.case import Case, Context, Prepared, UnavailableError
from normprop.companion.benchmarks import interleaved, quantiles, ratios

PACKAGE = "normprop"
"""Implementations whose name begins so are the package's: others are compared with them too."""


class Options:
    """How long is measured.

    Args:
        rounds: rounds at most.
        seconds: that all rounds of a case may take; five are run in any case.
        least: seconds a turn lasts at least.
    """

    def __init__(self, rounds: int = 30, seconds: float = 20.0, least: float = 2e-3) -> None:
        self.rounds, self.seconds, self.least = rounds, seconds, least

    def as_dict(self) -> dict:
        """For the results."""
        return {"rounds": self.rounds, "seconds": self.seconds, "least": self.least}


def run_case(case: Case, context: Context, options: Options) -> dict:
    """Results of a case, ready for JSON.

    An implementation that the gate refuses is reported as failed and never timed; a case whose
    baseline has no time is failed as a whole; a case that the memory has no room for is skipped.
    """
    head = _head(case, context)
    room = timing.free_memory(context.device)
    if case.memory > 0.8 * room:
        reason = f"needs about {_gib(case.memory)} GiB of memory, {_gib(room)} GiB are free"
        return {**head, "status": "skipped", "reason": reason, "implementations": []}
    threads = torch.get_num_threads()
    torch.set_num_threads(case.threads or context.threads)
    if case.compiled:
        # Every implementation is one more version of the few functions that call modules.  Dynamo
        # is imported here and not above: it brings triton, of which the kernels' tests choose how
        # it starts.
        torch._dynamo.config.recompile_limit = 8 * len(case.implementations)
    try:
        found, ready = _prepared(case, context)
        times, counts = {}, {}
        if case.baseline in ready:
            times, counts = interleaved(
                {name: prepared.call for name, prepared in ready.items()},
                rounds=options.rounds,
                seconds=options.seconds,
                least=options.least,
                seed=context.seed,
                clock=timing.clock_of(context.device),
            )
            times = {name: [t / ready[name].passes for t in own] for name, own in times.items()}
    finally:
        torch.set_num_threads(threads)
        ready = None
        inputs.forget()
        # Compiled code and what it was compiled for go with the case.
        if case.compiled:
            torch.compiler.reset()
        gc.collect()
        timing.give_back(context.device)
    for name in times:
        found[name] |= _figures(name, times, counts[name], case.baseline)
    status = {"status": "measured"}
    if not times:
        status = {"status": "failed", "reason": f"the baseline, {case.baseline}, has no time"}
        for entry in found.values():
            if entry["status"] == "measured":
                entry |= {"status": "skipped", "reason": "the baseline has no time"}
    return {**head, **status, "implementations": list(found.values())}


def _head(case: Case, context: Context) -> dict:
    head = {"name": case.name, "group": case.group, "parameters": dict(case.parameters)}
    return head | {"baseline": case.baseline, "threads": case.threads or context.threads}


def _prepared(case: Case, context: Context) -> tuple[dict[str, dict], dict[str, Prepared]]:
    """What is known of each implementation before the clock runs, and those that are right."""
    found, ready = {}, {}
    for name, make in case.implementations.items():
        entry = found[name] = {"name": name}
        try:
            prepared = make(context)
            with gate.true_float32():
                complaint = prepared.gate()
        except UnavailableError as problem:
            entry |= {"status": "unavailable", "reason": str(problem)}
            continue
        except Exception as problem:
            # One implementation that breaks must not take the others' results with it.
            line = traceback.extract_tb(problem.__traceback__)[-1]
            where = f"{Path(line.filename).name}, line {line.lineno}"
            text = " ".join(str(problem).split())[:300]
            entry |= {
                "status": "failed",
                "reason": f"{type(problem).__name__} at {where}: {text}",
            }
            continue
        if complaint is not None:
            entry |= {"status": "failed", "reason": complaint}
            continue
        entry |= {"status": "measured", "figures": dict(prepared.figures())}
        ready[name] = prepared
    return found, ready


def _figures(name: str, times: dict[str, list[float]], count: int, baseline: str) -> dict:
    def against(other: str) -> list[float]:
        return _rounded(quantiles(ratios(times, other)[name]))

    ours = [n for n in times if n.startswith(PACKAGE) and n not in (name, baseline)]
    return {
        "seconds": _rounded(quantiles(times[name])),
        "ratio": against(baseline),
        "versus": {other: against(other) for other in ours},
        "rounds": len(times[name]),
        "repetitions": count,
    }


def _rounded(values: Iterable[float]) -> list[float]:
    # Four digits are more than a clock on a busy machine knows.
    return [float(f"{value:.4g}") for value in values]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"


class Journal:
    """Cases that are done, one line of JSON each, under the settings that they were run with.

    Args:
        path: the file; it and its folder are made when the first case is added.
        settings: what the results depend on.  Lines of other settings do not count.
    """

    def __init__(self, path: Path, settings: dict) -> None:
        self.path = path
        self.settings = json.dumps(settings, sort_keys=True)

    def read(self) -> dict[str, dict]:
        """Results by name of the case; a line that a kill has cut off does not count."""
        found = {}
        for line in self._lines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry["settings"] == self.settings:
                found[entry["case"]["name"]] = entry["case"]
        return found

    def add(self, result: dict) -> None:
        """Append a case that is done."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        line = json.dumps({"settings": self.settings, "case": result}, ensure_ascii=False) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + line if torn and self.path.stat().st_size else line)
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        return self.path.read_text(encoding="utf-8", errors="replace").splitlines()


FIRST = ("training", "graphed-training", "inference", "activation", "block", "simulate", "depth")
"""Groups in the order in which a run of little time takes them; others come last."""


def by_importance(cases: Iterable[Case]) -> list[Case]:
    """What a user pays most often first, and of a group what there is of each kind."""
    rank = {group: place for place, group in enumerate(FIRST)}
    return sorted(cases, key=lambda case: rank.get(case.group, len(FIRST)))


def run_all(
    cases: Iterable[Case],
    context: Context,
    options: Options,
    journal: Journal,
    say=print,
    budget: float = math.inf,
) -> Iterator[dict]:
    """Results of all cases, in order; what the journal has is not run again.

    No case begins once ``budget`` seconds are over, or would be before it ends: those that are left
    are skipped, and the next run goes on with them.
    """
    done, end = journal.read(), time.monotonic() + budget
    for case in cases:
        result = done.get(case.name)
        if result is None and time.monotonic() + case.seconds >= end:
            reason = f"not reached in {budget:.0f} seconds"
            result = {
                **_head(case, context),
                "status": "skipped",
                "reason": reason,
                "implementations": [],
            }
        elif result is None:
            result = run_case(case, context, options)
            journal.add(result)
        say(line(result))
        yield result


def line(result: dict) -> str:
    """A case in one line: its name, and the median ratio of each implementation."""
    if result["status"] == "skipped":
        return f"{result['name']}: skipped, {result['reason']}"
    parts = []
    for entry in result["implementations"]:
        if "ratio" in entry:
            count = entry.get("figures", {}).get("operators")
            parts.append(f"{entry['name']} {entry['ratio'][1]:.2f}")
            if count is not None:
                parts[-1] += f" ({count} operators)"
        else:
            parts.append(f"{entry['name']} {entry['status'].upper()}")
    head = f"{result['name']}"
    base = next((e for e in result["implementations"] if e["name"] == result["baseline"]), None)
    if base and "seconds" in base:
        head += f" [{_time(base['seconds'][1])}]"
    return f"{head}: " + ", ".join(parts)


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
