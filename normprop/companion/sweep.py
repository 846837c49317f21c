"""Test accuracy of every method against depth, weights, activation, optimiser and kind of layer.

Each grid is one file of results: ``dense-10``, ``dense-40`` and ``dense-100`` are chains of that
many layers with ReLU and tanh under SGD, with normal and with orthogonal weights; the other grids
change one thing from there.  Data other than the digits have their name in the file's.  For every
cell of a grid the learning rate is chosen among the same ones on the validation part, and other
seeds are then run with it, which look at the test part once each.  A sweep that was killed
continues when its command is given again.

``python -m normprop.companion.sweep --help`` says what can be chosen.
"""

import argparse
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from normprop.companion import cli
from normprop.companion.methods import METHODS
from normprop.companion.runs import Plan, SweepCell, origin

LADDER = tuple(round(10 ** (k / 2), 8) for k in range(-10, 2))
"""Learning rates, a factor √10 apart, from 1e-5 to 3.16."""
CONV_WIDTH = 16
NORMALISED = tuple(m for m in METHODS if m.startswith("separate"))
NORMALISED += ("forward", "backward", "calibrated")
"""Methods whose networks are fused before they train, which changes nothing but the time."""


@dataclass(frozen=True)
class Grid:
    """Cells that are tuned alike.

    Attributes:
        depth: of all cells.
        first: place in ``LADDER`` of the lowest learning rate: deeper networks need lower ones.
        rates: number of rates.
        activations: of all methods.
        weights: whether they are orthogonal; one or both.
        optimizer: of all cells.
        kind: of layers.
        residual: whether there are skips.
        methods: that are compared.
        batches: samples in a step.
        steps: of the optimiser.
    """

    depth: int
    first: int
    rates: int = 8
    activations: tuple[str, ...] = ("relu", "tanh")
    weights: tuple[bool, ...] = (False, True)
    optimizer: str = "sgd"
    kind: str = "dense"
    residual: bool = False
    methods: tuple[str, ...] = tuple(METHODS)
    batches: tuple[int, ...] = (128,)
    steps: int = 150

    def plan(self, seeds: int) -> Plan:
        """The rates to try, and the seeds of the final runs."""
        rates = LADDER[self.first : self.first + self.rates]
        finals = tuple(range(1, seeds + 1))
        return Plan({self.optimizer: rates}, seeds=finals)

    def cells(self, **common) -> list[SweepCell]:
        """Every method that has a solution here, each network once."""
        common = {**common, "kind": self.kind, "residual": self.residual, "steps": self.steps}
        if self.kind == "conv":
            common["width"] = CONV_WIDTH
        choices = product(self.methods, self.weights, self.activations, self.batches)
        return [
            SweepCell(
                method,
                name,
                self.depth,
                self.optimizer,
                orthogonal=orthogonal,
                batch_size=batch,
                fused=method in NORMALISED,
                **common,
            )
            for method, orthogonal, name, batch in choices
            if self._new(method, orthogonal, name)
        ]

    def _new(self, method: str, orthogonal: bool, name: str) -> bool:
        facts = METHODS[method]
        if not (facts.skips if self.residual else facts.chain):
            return False
        # An activation of its own replaces whichever is named.
        if facts.own and name != self.activations[0]:
            return False
        # On a chain every layer is a bridge: separate there is separate per layer.
        if method == "separate-bridge" and not self.residual:
            return False
        # He's gain is ReLU's critical one.
        if method == "critical" and name == "relu":
            return False
        # No leaky ReLU does what TAT asks for in so few layers, or behind so many skips.
        return not (method == "tat" and name == "relu" and (self.depth <= 10 or self.residual))


GRIDS = {
    "dense-10": Grid(10, first=2, rates=10),
    "dense-40": Grid(40, first=0, rates=10),
    "dense-100": Grid(100, first=0, rates=9),
    "skips-40": Grid(40, first=1, rates=11, weights=(False,), residual=True),
    "adam-40": Grid(40, first=0, rates=10, optimizer="adam"),
    "conv-10": Grid(10, first=3, rates=9, kind="conv"),
    "activations-10": Grid(10, first=3, rates=9, activations=("sigmoid", "gelu"), weights=(False,)),
    "batches-40": Grid(
        40,
        first=1,
        rates=10,
        weights=(True,),
        methods=("critical", "batchnorm", "layernorm", "dks", "tat", "calibrated"),
        batches=(2, 8, 32, 512),
    ),
    "steps-40": Grid(
        40,
        first=2,
        rates=9,
        weights=(True,),
        methods=("critical", "batchnorm", "leaky", "dks", "tat", "calibrated"),
        steps=3000,
    ),
}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    source = origin("normprop.companion.sweep", argv, options.device)
    common = {name: getattr(options, name) for name in ("width", "data", "device")}
    grid = replace(GRIDS[options.grid], **cli.given(options, "methods", "batches", "steps"))
    cells = grid.cells(**common)
    name = f"sweep_{options.grid}"
    if options.data != "digits":
        # A folder of files has the name of its last part.
        name += f"_{Path(options.data).name}"
    cli.run(options, name.replace("-", "_"), cells, grid.plan(options.seeds), source)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("sweep", __doc__)
    add = parser.add_argument
    add("--grid", choices=GRIDS, default="dense-40", help="which cells")
    add("--methods", nargs="+", choices=METHODS, help="only these methods")
    add("--steps", type=int, help="steps of the optimiser; without it the grid's")
    add("--width", type=int, default=64, help="neurons of a fully connected layer")
    add("--batches", type=int, nargs="+", help="samples in a step; without it the grid's")
    add("--seeds", type=int, default=5, help="runs at the best learning rate")
    return parser


if __name__ == "__main__":
    main()
