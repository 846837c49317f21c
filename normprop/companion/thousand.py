"""A plain network of a thousand layers: no normalisation layers, no skips.

Trains tanh networks of depth 1000, with orthogonal weights, on the digits: one whose activations
stand at the input scale that suits the depth, and its peers at the same number of steps; some of
them with normal weights too.  The learning rate of each is chosen among the same ones on the
validation part, by shorter trials; the best one is run with other seeds, which look at the test
part once each.  A run that was killed continues when its command is given again.

``python -m normprop.companion.thousand --help`` says what can be chosen.
"""

import argparse
import math

from normprop.companion import cli
from normprop.companion.methods import METHODS
from normprop.companion.runs import Plan, SweepCell, origin
from normprop.companion.training import OPTIMIZERS

ORTHOGONAL = ("calibrated", "critical", "dks", "tat", "leaky", "selu", "lsuv", "he")
ORTHOGONAL += ("batchnorm", "layernorm", "scaled-ws", "forward", "separate-layer")
NORMAL = ("calibrated", "critical")
RATES = {
    "sgd": (1e-4, 1e-3, 1e-2, 1e-1),
    "adam": (1e-5, 1e-4, 1e-3, 1e-2),
}
"""Learning rates to try.  A step moves a thousand layers at once, so they begin low."""


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    source = origin("normprop.companion.thousand", argv, options.device)
    cells = [
        SweepCell(
            method,
            "tanh",
            options.depth,
            options.optimizer,
            options.width,
            options.batch_size,
            options.steps,
            growth=options.growth,
            orthogonal=orthogonal,
            # Projecting after the step is half the work of normalising in the forward pass.
            ball="project",
            data=options.data,
            device=options.device,
        )
        for orthogonal, methods in ((True, options.methods), (False, options.normal))
        for method in methods
    ]
    rates = {options.optimizer: tuple(options.rates or RATES[options.optimizer])}
    seeds = tuple(range(1, options.seeds + 1))
    plan = Plan(rates, seeds=seeds, tuning_steps=options.tuning_steps, graph=options.graph)
    name = "_".join(["depth", str(options.depth), options.optimizer, *options.name])
    cli.run(options, name, cells, plan, source)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("thousand", __doc__)
    add = parser.add_argument
    add("--methods", nargs="*", choices=METHODS, default=ORTHOGONAL, help="with orthogonal weights")
    add("--normal", nargs="*", choices=METHODS, default=NORMAL, help="methods with normal weights")
    add("--name", nargs="*", default=(), help="words to add to the name of the file of results")
    add("--depth", type=int, default=1000, help="layers")
    add("--width", type=int, default=64, help="neurons of a layer")
    add("--growth", type=float, default=math.e, help="of the squared gradient over the whole stack")
    add("--optimizer", choices=OPTIMIZERS, default="sgd", help="for all methods")
    add("--steps", type=int, default=150, help="steps of the optimiser")
    add("--tuning-steps", type=int, default=50, help="steps of a trial")
    add("--rates", type=float, nargs="+", help=f"learning rates to try; without it {RATES}")
    add("--batch-size", type=int, default=128, help="samples in a step")
    add("--seeds", type=int, default=3, help="runs at the best learning rate")
    add("--graph", action="store_true", help="a step as one CUDA graph; needs --device cuda")
    return parser


if __name__ == "__main__":
    main()
