"""Two networks for images, trained by each method with the same budget.

The chain of 21 convolutions and ResNet-26 of :mod:`normprop.companion.images`: plain, with He's
weights, with a leaky ReLU, with BatchNorm, and normalised.  The grid ``few`` has 250 steps at
batches of 64, ``small`` batches of 4 and 2, ``long`` 1500 steps; ``time`` times a step.  For every
cell the learning rate is chosen among the same ones on the validation part, and other seeds are
then run with it, which look at the test part once each.  What was killed continues when its
command is given again.

``python -m normprop.companion.compare --help`` says what can be chosen.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product

import torch

from normprop.companion import cli, data
from normprop.companion.benchmarks import interleaved, quantiles, ratios
from normprop.companion.images import LAYERS, METHODS
from normprop.companion.runs import (
    Plan,
    SweepCell,
    network,
    origin,
    split_of,
    write,
)
from normprop.companion.training import optimizer_of, take_step

PREFERRED = "fashion-mnist"
SIDES = {"fashion-mnist": 14, "digits": 16}
"""To which images are brought: every second pixel each way, or each pixel twice each way."""
WIDTHS = {"vgg": 16, "resnet": 8}
"""Channels of the first stage."""
CONTENDERS = (
    ("plain", "relu", math.e),
    ("he", "relu", math.e),
    ("calibrated", "relu", math.e),
    ("he", "leaky_relu", math.e),
    ("batchnorm", "relu", math.e),
    ("converted", "relu", math.e),
)
"""Methods, activations and the growth that normalised networks are calibrated for."""
VARIANTS = (("converted", "relu", math.exp(3)), ("dropped", "relu", math.e))
"""Another growth, and BatchNorm taken out of a network that was written with it."""
STRONGEST = CONTENDERS[3:]
"""Those that stay for small batches and for many steps."""
NORMALISED = ("calibrated", "converted", "dropped")
"""Methods whose networks are fused before they train, which changes nothing but the time."""


@dataclass(frozen=True)
class Grid:
    """What a grid trains, and how.

    Attributes:
        batches: samples in a step.
        steps: of the optimiser.
        rates: learning rates to try.
        contenders: methods with activations and growths.
        tuning_steps: of the trials, where they are not ``steps``.
        seeds: how many runs at the best rate.
    """

    batches: tuple[int, ...]
    steps: int
    rates: tuple[float, ...]
    contenders: tuple[tuple[str, str, float], ...] = CONTENDERS
    tuning_steps: int | None = None
    seeds: int = 5

    def cells(self, kinds: tuple[str, ...], width: int | None = None, **common) -> list[SweepCell]:
        """The cells, network by network; without a width each has that of ``WIDTHS``."""
        return [
            SweepCell(
                method,
                activation,
                LAYERS[kind],
                "sgd",
                width or WIDTHS[kind],
                batch_size=batch,
                steps=self.steps,
                kind=kind,
                growth=growth,
                fused=method in NORMALISED,
                **common,
            )
            for kind, batch, contender in product(kinds, self.batches, self.contenders)
            for method, activation, growth in [contender]
        ]


@dataclass(frozen=True)
class Turns:
    """How steps are timed, see :func:`normprop.companion.benchmarks.interleaved`."""

    rounds: int = 30
    least: float = 0.05


def _rates(first: int, last: int) -> tuple[float, ...]:
    return tuple(round(10 ** (k / 2), 8) for k in range(first, last + 1))


GRIDS = {
    "few": Grid((64,), 250, _rates(-6, -1), contenders=CONTENDERS),
    "small": Grid((4, 2), 600, _rates(-8, -2), contenders=STRONGEST),
    "variants": Grid((64,), 250, _rates(-6, -1), contenders=VARIANTS),
    "long": Grid((64,), 1500, _rates(-6, -1), contenders=STRONGEST, tuning_steps=250, seeds=3),
}
TIMED = Grid((64, 2), 1, (), contenders=(CONTENDERS[0], *CONTENDERS[4:]))
"""What is timed; the first is what the others are compared with."""
TURNS = Turns()


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    source = origin("normprop.companion.compare", argv, options.device)
    if options.data is None and not data.FOLDERS[PREFERRED].is_dir():
        source["fallback"] = f"digits, as {PREFERRED} is not in {data.FOLDERS[PREFERRED]}"
        print(f"data: {source['fallback']}", flush=True)
    chosen = options.data or ("digits" if "fallback" in source else PREFERRED)

    common = {
        "width": options.width,
        "data": chosen,
        "side": options.side or SIDES.get(chosen),
        "seen": options.seen,
        "device": options.device,
    }
    if options.grid == "time":
        cells = _chosen(TIMED.cells(options.kinds, **common), options.methods)
        path = options.results / "images_time.json"
        write(path, source, TURNS, times(cells, TURNS))
        print(f"results are in {path}")
        return

    changed = cli.given(options, "batches", "steps", "rates", "seeds")
    grid = replace(GRIDS[options.grid], **changed)
    cells = _chosen(grid.cells(options.kinds, **common), options.methods)
    plan = Plan(
        {"sgd": tuple(grid.rates)},
        seeds=tuple(range(1, grid.seeds + 1)),
        tuning_steps=grid.tuning_steps,
    )
    cli.run(options, f"images_{options.grid}", cells, plan, source)


def times(cells: list[SweepCell], turns: Turns) -> list[dict]:
    """One entry a cell: its settings, and quantiles of its step's seconds and ratio to plain.

    Networks of one kind and batch are measured side by side, in turns; a normalised network both
    fused and as it is.
    """
    entries = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for batch, kind in dict.fromkeys((cell.batch_size, cell.kind) for cell in cells):
            group = [cell for cell in cells if (cell.batch_size, cell.kind) == (batch, kind)]
            group += [replace(cell, fused=False) for cell in group if cell.fused]
            steps = {json.dumps(asdict(cell)): _step(cell) for cell in group}
            seconds, _ = interleaved(steps, rounds=turns.rounds, least=turns.least)
            against = ratios(seconds, next(iter(steps)))
            entries += [
                {
                    **json.loads(name),
                    "seconds": quantiles(seconds[name]),
                    "ratio": quantiles(against[name]),
                }
                for name in steps
            ]
    finally:
        torch.set_num_threads(threads)
    return entries


def _step(cell: SweepCell) -> Callable[[], None]:
    """A step of training, at a rate that leaves the weights where they are."""
    split = split_of(cell)
    model = network(cell, split, 0).train()
    optimizer = optimizer_of(model, cell.optimizer, 1e-12)
    inputs, labels = (tensor[: cell.batch_size] for tensor in split.train)

    def step() -> None:
        take_step(model, optimizer, inputs, labels)

    return step


def _chosen(cells: list[SweepCell], methods: list[str] | None) -> list[SweepCell]:
    return cli.some([cell for cell in cells if methods is None or cell.method in methods])


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("compare", __doc__)
    add = parser.add_argument
    add("--grid", choices=(*GRIDS, "time"), default="few", help="which cells")
    add("--kinds", nargs="+", choices=LAYERS, default=tuple(LAYERS), help="which networks")
    add("--methods", nargs="+", choices=METHODS, help="only these methods")
    add("--batches", type=int, nargs="+", help="samples in a step; without it the grid's")
    add("--steps", type=int, help="steps of the optimiser; without it the grid's")
    add("--rates", type=float, nargs="+", help="learning rates to try; without it the grid's")
    add("--width", type=int, help=f"channels of the first stage; without it {WIDTHS}")
    add("--side", type=int, help=f"pixels to which images are brought; without it {SIDES}")
    add("--seen", type=int, default=5000, help="images that the choice of a rate looks at")
    add("--seeds", type=int, help="runs at the best learning rate; without it the grid's")
    # Not the same for all: where it is not given, it is what is installed.
    parser.set_defaults(data=None)
    return parser


if __name__ == "__main__":
    main()
