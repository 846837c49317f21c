"""Runs that survive being killed: what a run is, its log, and the file of results.

A run is a frozen set of settings; its result follows from them.  Each finished run is one line
of JSON in a log, so that an experiment that was killed continues where it was.
"""

import hashlib
import json
import math
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import normprop
from normprop.companion import data, images
from normprop.companion.networks import build, rate_unit
from normprop.companion.peers import lsuv_
from normprop.companion.training import Result, train


@dataclass(frozen=True)
class SweepCell:
    """A network and how it is trained, but for learning rate and seed.

    Attributes are the arguments of :func:`normprop.companion.networks.build`, or of
    :func:`normprop.companion.images.build` for its kinds, and of
    :func:`normprop.companion.training.train`; ``data`` and ``side`` are those of
    :func:`normprop.companion.data.load`, ``growth`` serves the methods that calibrate, and
    ``fused`` says whether the network goes through :func:`normprop.fuse` before it trains.
    """

    method: str
    activation: str
    depth: int
    optimizer: str
    width: int
    batch_size: int
    steps: int
    kind: str = "dense"
    residual: bool = False
    growth: float = math.e
    orthogonal: bool = False
    ball: str = "normalize"
    data: str = "digits"
    device: str = "cpu"
    side: int | None = None
    seen: int | None = None
    fused: bool = False


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        cell: what is trained.
        lr: learning rate, in the unit of :func:`normprop.companion.networks.rate_unit`.
        seed: of weights and batches; the split of the data is always the same.
        test: whether the test part is looked at.
    """

    cell: SweepCell
    lr: float
    seed: int
    test: bool

    @property
    def key(self) -> str:
        """The settings as text, by which a log knows the run."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Plan:
    """How the learning rate of a cell is found, and what is run with it.

    Attributes:
        rates: learning rates to try, by optimiser.
        tuning_seed: seed of these trials; the best is that with the highest validation
            accuracy, then with the lowest training loss.
        seeds: seeds of the runs at the best rate, which look at the test part once each.
        tuning_steps: steps of a trial, where they are not those of the cell.
        graph: whether a step is one CUDA graph, which changes nothing but the time.
    """

    rates: dict[str, tuple[float, ...]]
    tuning_seed: int = 0
    seeds: tuple[int, ...] = (1, 2, 3)
    tuning_steps: int | None = None
    graph: bool = False


class Log:
    """Finished runs, one line of JSON each.

    Lines are appended whole, by one call of the system, so that several processes of a machine
    may write to one file.

    Args:
        path: the file; it and its folder are made when the first run is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Result]:
        """Results by the runs' keys; a last line without its end does not count.

        Raises:
            ValueError: a line is no run.
        """
        results = {}
        for number, line in enumerate(self._whole().decode().splitlines(), start=1):
            try:
                entry = json.loads(line)
                results[entry["run"]] = Result(**entry["result"])
            except (ValueError, KeyError, TypeError) as problem:
                raise ValueError(
                    f"{self.path}, line {number}, must be a run in JSON; it was {line[:80]!r}"
                ) from problem
        return results

    def add(self, run: Run, result: Result) -> None:
        """Append a finished run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"run": run.key, "result": asdict(result)}) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode())
            os.fsync(file)
        finally:
            os.close(file)

    def mend(self) -> None:
        """Drop a last line that a kill has cut off, before anything is added behind it."""
        whole = len(self._whole())
        if self.path.exists() and whole < self.path.stat().st_size:
            os.truncate(self.path, whole)

    def _whole(self) -> bytes:
        content = self.path.read_bytes() if self.path.exists() else b""
        return content[: content.rfind(b"\n") + 1]


def execute(run: Run, graph: bool = False) -> Result:
    """Carry out a run, on the thread that it is called on; ``graph`` is that of :class:`Plan`."""
    cell = run.cell
    split = split_of(cell)
    return train(
        network(cell, split, run.seed),
        split,
        optimizer=cell.optimizer,
        lr=run.lr * _unit(cell, split.pixels),
        steps=cell.steps,
        batch_size=cell.batch_size,
        seed=run.seed,
        test=run.test,
        seen=cell.seen,
        graph=graph,
    )


def network(cell: SweepCell, split: data.Split, seed: int) -> nn.Module:
    """The network of a cell, on its device, with the weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _built(cell, split).to(cell.device)


def split_of(cell: SweepCell) -> data.Split:
    """The data of a cell, on its device."""
    return _data(cell.data, cell.kind != "dense", cell.device, cell.side)


def trials(cell: SweepCell, plan: Plan) -> list[Run]:
    """The runs that tune a cell's learning rate."""
    tuned = replace(cell, steps=plan.tuning_steps or cell.steps)
    return [Run(tuned, lr, plan.tuning_seed, test=False) for lr in plan.rates[cell.optimizer]]


def finals(cell: SweepCell, plan: Plan, results: dict[str, Result]) -> list[Run]:
    """The runs at the best learning rate, by the trials' results."""

    def merit(run: Run) -> tuple[float, float]:
        result = results[run.key]
        return (-1.0, 0.0) if result.diverged else (result.validation, -result.loss)

    # The first of equals is the smallest rate.
    best = max(trials(cell, plan), key=merit).lr
    return [Run(cell, best, seed, test=True) for seed in plan.seeds]


def experiment(
    name: str,
    cells: list[SweepCell],
    plan: Plan,
    origin: dict,
    log: Path,
    results: Path,
    processes: int,
) -> None:
    """Carry out what is left of an experiment, and write its file of results.

    Args:
        name: of the log and of the file of results.
        cells: what is trained.
        plan: how.
        origin: what :func:`origin` gave when the experiment started.
        log: folder of the log.
        results: folder of the results.
        processes: runs at a time, with one thread each.
    """
    found = carry_out(cells, plan, log / f"{name}.jsonl", processes)
    if _rank() == 0:
        path = results / f"{name}.json"
        write(path, origin, plan, summary(cells, plan, found))
        print(f"results are in {path}")


def carry_out(
    cells: list[SweepCell], plan: Plan, log: Path, processes: int = 1
) -> dict[str, Result]:
    """Every run of the cells that the log does not hold yet; all results, by the runs' keys.

    Under ``torchrun``, the process of rank r takes every world-size-th cell and writes to a log
    of its own, ``log`` with the rank before its suffix; each waits for all and reads all logs.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    own = log if world == 1 else log.with_suffix(f".rank{_rank()}{log.suffix}")
    Log(own).mend()
    known = _merged(log)
    mine = cells[_rank() :: world]
    jobs = [(cell, plan, own, known) for cell in mine if not _finished(cell, plan, known)]
    print(f"{len(mine)} cells, {len(mine) - len(jobs)} of them finished before", flush=True)
    # disable=None: the bar is for a terminal only.
    for _ in tqdm(_mapped(_complete, jobs, processes), total=len(jobs), unit="cell", disable=None):
        pass
    if world > 1:
        _wait_for_all()
    return _merged(log)


def summary(cells: Iterable[SweepCell], plan: Plan, results: dict[str, Result]) -> list[dict]:
    """One entry a cell: its settings, its trials, the rate that won and its final runs.

    ``interior`` says whether there were trials at smaller and at larger rates than the best.
    """
    entries = []
    for cell in cells:
        tuning, last = trials(cell, plan), finals(cell, plan, results)
        entries.append(
            {
                **asdict(cell),
                "lr": last[0].lr,
                "interior": tuning[0].lr < last[0].lr < tuning[-1].lr,
                "trials": [{"lr": run.lr, **_plain(run, results)} for run in tuning],
                "runs": [{"seed": run.seed, **_plain(run, results)} for run in last],
            }
        )
    return entries


def origin(module: str, argv: list[str] | None, device: str) -> dict:
    """Command, commit, machine, versions and date, to be taken when an experiment starts.

    ``commit`` is that of the repository that the package lies in, with ``changed`` where the
    package differs from it, or ``None``; ``source`` is a digest of the package's files.

    Args:
        module: the module that is run.
        argv: its arguments, or ``None`` for those of the process.
        device: torch device of the runs.
    """
    arguments = sys.argv[1:] if argv is None else argv
    return {
        "command": shlex.join(["python", "-m", module, *_lasting(arguments)]),
        **_commit(),
        "source": _digest(),
        "device": _device(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "normprop": normprop.__version__,
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _lasting(arguments: Iterable[str]) -> Iterator[str]:
    """The arguments but for where files lie, which belongs to one machine and changes no figure."""
    arguments = iter(arguments)
    for argument in arguments:
        name, joined, _ = argument.partition("=")
        if name not in ("--journal", "--results"):
            yield argument
        elif not joined:
            next(arguments, None)


def write(path: Path, origin: dict, plan: Plan, cells: list[dict]) -> None:
    """The file of results: where they come from, the plan, and one line a cell."""
    head = json.dumps({**origin, "plan": asdict(plan)}, indent=1)[:-2]
    # One line a cell: a person can read it, and a difference between two files is small.
    body = ",\n".join("  " + json.dumps(cell) for cell in cells)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(f'{head},\n "cells": [\n{body}\n ]\n}}\n', encoding="utf-8")
    part.replace(path)


def _complete(job) -> None:
    """A cell's trials, then its final runs, each added to the log when it is done."""
    cell, plan, path, known = job
    results = dict(known)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for choose in (lambda: trials(cell, plan), lambda: finals(cell, plan, results)):
            for run in choose():
                if run.key not in results:
                    results[run.key] = execute(run, plan.graph)
                    _leave_if_orphaned()
                    Log(path).add(run, results[run.key])
    finally:
        torch.set_num_threads(threads)


def _leave_if_orphaned() -> None:
    """End a worker whose sweep was killed: another may have taken up its work already."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise SystemExit


def _finished(cell: SweepCell, plan: Plan, results: dict[str, Result]) -> bool:
    if any(run.key not in results for run in trials(cell, plan)):
        return False
    return all(run.key in results for run in finals(cell, plan, results))


def _mapped(function: Callable, jobs: list, processes: int) -> Iterator:
    if processes == 1:
        yield from map(function, jobs)
        return
    # Spawned, not forked: a fork of a process whose torch has threads may hang.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(function, jobs)


def _merged(log: Path) -> dict[str, Result]:
    results = {}
    for path in [log, *sorted(log.parent.glob(f"{log.stem}.rank*{log.suffix}"))]:
        results |= Log(path).read()
    return results


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


def _wait_for_all() -> None:
    from datetime import timedelta

    from torch import distributed

    distributed.init_process_group("gloo", timeout=timedelta(days=1))
    distributed.barrier()
    distributed.destroy_process_group()


@lru_cache(maxsize=2)
def _data(name: str, images: bool, device: str, side: int | None) -> data.Split:
    return data.load(name, images=images, side=side).to(device)


def _built(cell: SweepCell, split: data.Split) -> nn.Module:
    example = split.train[0][: cell.batch_size]
    if cell.kind not in images.LAYERS:
        model = build(
            cell.method,
            cell.activation,
            cell.depth,
            cell.width,
            split.classes,
            split.pixels,
            cell.kind,
            cell.residual,
            growth=cell.growth,
            orthogonal=cell.orthogonal,
            ball=cell.ball,
        ).to(cell.device)
        if cell.method == "lsuv":
            lsuv_(model, example)
    elif cell.residual:
        raise ValueError(f"residual must be False for kind {cell.kind!r}; it was True")
    else:
        model = images.build(
            cell.method,
            cell.activation,
            cell.kind,
            example.cpu(),
            split.classes,
            cell.width,
            growth=cell.growth,
            orthogonal=cell.orthogonal,
            ball=cell.ball,
        ).to(cell.device)
    return normprop.fuse(model, example) if cell.fused else model


def _unit(cell: SweepCell, pixels: int) -> float:
    """The unit of a cell's learning rates."""
    taps, positions = 1, 1
    if cell.kind == "conv":
        # All layers but the first see the positions that its stride of 2 leaves.
        taps, positions = 9, ((math.isqrt(pixels) + 1) // 2) ** 2
    samples = cell.batch_size * positions
    return rate_unit(cell.method, cell.optimizer, cell.width * taps, samples)


def _plain(run: Run, results: dict[str, Result]) -> dict:
    """The result, without the test accuracy of a run that was not to have one."""
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in asdict(results[run.key]).items()
        if name != "test" or run.test
    }


def _commit() -> dict:
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--", "..")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None}


def _digest() -> str:
    package = Path(normprop.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _device(name: str) -> str:
    if name.startswith("cuda"):
        return torch.cuda.get_device_name(name)
    return f"CPU, {platform.machine()}, {os.cpu_count()} cores, 1 thread a run"
