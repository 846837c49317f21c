"""Measures what normalising costs, side by side with what others cost.

Each implementation has to pass a gate, against float64, before it is timed.  Cases that are done
are kept in a journal beside the results: a run that was stopped goes on where it was when its
command is given again.
"""

import argparse
import fnmatch
import math
import os
import shutil
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main(argv: list[str] | None = None) -> int:
    """The command line; returns 1 if an implementation was refused or broke."""
    options = _parser().parse_args(argv)
    # Before torch is loaded: its profiler would tell of itself on standard error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    import torch

    from benchmarks import gate, goals, machine, report
    from benchmarks.case import Context
    from benchmarks.cases import all_cases
    from benchmarks.runner import Journal, Options, by_importance, run_all
    from normprop.companion.benchmarks import keep_memory

    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        _parser().error(f"--device {name} needs CUDA, and torch finds none")
    device = torch.device(name)
    threads = options.threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    context = Context(device, options.seed, threads)
    scale = "quick" if options.quick else "full"
    measure = Options(
        rounds=options.rounds or (9 if options.quick else 30),
        seconds=options.seconds or (2.0 if options.quick else 4.0),
    )
    cases = [c for c in all_cases(scale) if _chosen(c.name, options.only)]
    cases = [c for c in cases if device.type == "cuda" or not c.graphed]
    if not cases:
        _parser().error(f"no case matches {' '.join(options.only)}; --list shows them")
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0

    origin = machine.origin(argv, device, threads)
    settings = {"scale": scale, "only": options.only, "seed": options.seed, **measure.as_dict()}
    parts = ("source", "benchmarks", "device", "device_name", "cores", "threads", "versions")
    journal = Journal(
        options.out / f"bench_{device.type}.jsonl",
        {**{k: origin[k] for k in parts}, **{k: v for k, v in settings.items() if k != "only"}},
    )
    # A GPU's allocator does so by itself.
    kept = keep_memory() if device.type == "cpu" else True
    settings["memory_kept"] = kept
    settings["products"] = gate.tf32(device)
    before = machine.load()
    budget = math.inf
    if options.budget is not None:
        settings["budget"] = budget = options.budget
        cases = by_importance(cases)
    results = list(run_all(cases, context, measure, journal, budget=budget))
    origin["load"] = {"before": before, "after": machine.load()}
    rows = goals.judge_all(results, device.type)
    found = report.content(origin, settings, results, rows)
    paths = report.write(options.out, f"bench_{device.type}", found)
    if options.book is not None and not options.only and options.budget is None:
        # What the book shows is never a choice of the cases.
        options.book.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths[0], options.book)
    print()
    print(goals.as_text(rows, device.type))
    problems = report.summary(found)
    print(f"\n{problems}" if problems else "\nEverything was measured.")
    print(f"\n{', '.join(path.name for path in paths)}")
    return int(any(e["status"] == "failed" for c in results for e in c["implementations"]))


def _chosen(name: str, patterns: list[str]) -> bool:
    return not patterns or any(fnmatch.fnmatch(name, p) or name.startswith(p) for p in patterns)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n\n")[0]
    )
    add = parser.add_argument
    add("--only", nargs="+", default=[], metavar="NAME", help="beginnings of names, or patterns")
    add("--quick", action="store_true", help="smaller sizes, fewer rounds")
    add("--device", help="cpu or cuda; without it, cuda where there is one")
    add("--threads", type=int, help="of torch; without it, one a core")
    add("--rounds", type=int, help="at most, for each case")
    add("--seconds", type=float, help="that the rounds of a case may take")
    add("--budget", type=float, help="seconds after which no case begins, the main ones first")
    add("--seed", type=int, default=0, help="of all random numbers")
    add("--out", type=Path, default=RESULTS, help="folder of the results and the journal")
    add("--book", type=Path, help="folder that gets a copy of the JSON when all cases were run")
    add("--list", action="store_true", help="show the names of the cases, and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
