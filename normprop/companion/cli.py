"""What the command lines of all experiments have in common."""

import argparse
from pathlib import Path
from typing import Any

from normprop.companion import data, results
from normprop.companion.runs import Plan, SweepCell, experiment


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that every experiment has: where it runs, reads and writes.

    Args:
        name: of the module, without the package.
        description: the module's docstring, of which the second paragraph is shown.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m normprop.companion.{name}",
        description=description.split("\n\n")[1].replace("``", ""),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, names = parser.add_argument, ", ".join(data.FOLDERS)
    add("--processes", type=int, default=1, help="runs at a time, one thread each")
    add("--data", default="digits", help=f"one of digits, {names}, or a folder of IDX files")
    add("--device", default="cpu", help="torch device")
    add("--results", type=Path, default=results.FOLDER, help="folder of the results")
    add("--journal", type=Path, default=Path("build/companion"), help="folder of finished runs")
    return parser


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the named options that were given: the others have ``None``."""
    chosen = {name: getattr(options, name) for name in names}
    return {name: value for name, value in chosen.items() if value is not None}


def run(
    options: argparse.Namespace, name: str, cells: list[SweepCell], plan: Plan, source: dict
) -> None:
    """Carry out an experiment where the options say."""
    some(cells)
    experiment(name, cells, plan, source, options.journal, options.results, options.processes)


def some(cells: list[SweepCell]) -> list[SweepCell]:
    """The cells, of which there must be one."""
    if not cells:
        raise SystemExit("no cell is left: --methods must leave some of the grid's")
    return cells
