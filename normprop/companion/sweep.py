"""Test accuracy of every method against depth, activation, optimiser and kind of network.

The grid ``core`` has every method at depths 10 and 40 with ReLU and tanh under both optimisers;
the grid ``variations`` changes one thing at a time from there.  For every cell the learning rate
is chosen among the same ones on the validation part, and three other seeds are then run with it,
which look at the test part once each.  A sweep that was killed continues when its command is given
again.

``python -m normprop.companion.sweep --help`` says what can be chosen.
"""

import argparse
from itertools import product
from pathlib import Path

from normprop.companion import data, results
from normprop.companion.networks import METHODS
from normprop.companion.runs import Plan, SweepCell, experiment, origin
from normprop.companion.training import OPTIMIZERS

RATES = {
    "sgd": tuple(round(10 ** (k / 2), 8) for k in range(-8, 0)),
    "adam": tuple(round(10 ** (k / 2), 8) for k in range(-8, -1)),
}
"""Learning rates for each optimiser, a factor √10 apart: wide enough that the best one of nearly
every cell has worse ones on both sides."""
CONV_WIDTH = 16


def core(**common) -> list[SweepCell]:
    """Depths 10 and 40, ReLU and tanh, both optimisers, fully connected."""
    return [
        SweepCell(method, activation, depth, optimizer, **common)
        for depth, optimizer in product((10, 40), OPTIMIZERS)
        for method, activation in pairs(("relu", "tanh"))
    ]


def variations(**common) -> list[SweepCell]:
    """One thing changed at a time: activation, residual, convolution, depth; all with SGD."""

    def cells(activations, depth, residual=False, **changed) -> list[SweepCell]:
        settings = {**common, **changed, "residual": residual}
        return [
            SweepCell(method, activation, depth, "sgd", **settings)
            for method, activation in pairs(activations, residual)
        ]

    both = ("relu", "tanh")
    return [
        *cells(("sigmoid", "gelu"), 10),
        *cells(both, 10, kind="conv", width=CONV_WIDTH),
        *cells(both, 4),
        *cells(both, 20),
        *cells(both, 40, residual=True),
        *cells(both, 80),
    ]


GRIDS = {"core": core, "variations": variations}


def pairs(activations: tuple[str, ...], residual: bool = False) -> list[tuple[str, str]]:
    """Methods with activations, without those that would build the same network twice.

    SELU has one activation, its own.  On a chain every layer is a bridge, so that separate only
    at bridges is separate per layer.
    """
    skipped = {"selu", "critical"} if residual else {"selu", "critical", "separate-bridge"}
    methods = [method for method in METHODS if method not in skipped]
    # SELU replaces whichever activation is named.
    return [*product(methods, activations), ("selu", activations[0])]


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    source = origin("normprop.companion.sweep", argv, options.device)
    common = {
        name: getattr(options, name) for name in ("width", "batch_size", "steps", "data", "device")
    }
    cells = GRIDS[options.grid](**common)
    if options.depths:
        cells = [cell for cell in cells if cell.depth in options.depths]
    if options.methods:
        cells = [cell for cell in cells if cell.method in options.methods]
    if not cells:
        raise SystemExit("no cell is left: --depths and --methods must leave some")
    plan = Plan(
        {name: rates[-options.rates :] for name, rates in RATES.items()},
        seeds=tuple(range(1, options.seeds + 1)),
    )
    name = f"sweep_{options.grid}"
    experiment(name, cells, plan, source, options.journal, options.results, options.processes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m normprop.companion.sweep",
        description=__doc__.split("\n\n")[1].replace("``", ""),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--grid", choices=GRIDS, default="core", help="which cells")
    add("--depths", type=int, nargs="+", help="only these depths of the grid")
    add("--methods", nargs="+", choices=METHODS, help="only these methods")
    add("--steps", type=int, default=150, help="steps of the optimiser")
    add("--width", type=int, default=64, help="neurons of a fully connected layer")
    add("--batch-size", type=int, default=128, help="samples in a step")
    add("--rates", type=int, default=8, help="how many learning rates, the largest ones")
    add("--seeds", type=int, default=3, help="runs at the best learning rate")
    add_places(parser)
    return parser


def add_places(parser: argparse.ArgumentParser) -> None:
    """Options that every experiment has: where it runs, reads and writes."""
    add, names = parser.add_argument, ", ".join(data.FOLDERS)
    add("--processes", type=int, default=1, help="runs at a time, one thread each")
    add("--data", default="digits", help=f"one of digits, {names}, or a folder of IDX files")
    add("--device", default="cpu", help="torch device")
    add("--results", type=Path, default=results.FOLDER, help="folder of the results")
    add("--journal", type=Path, default=Path("build/companion"), help="folder of finished runs")


if __name__ == "__main__":
    main()
