"""All cases, at the sizes of a scale."""

from collections.abc import Iterator

from benchmarks.case import Case
from benchmarks.cases import activation, constants, depth, network, simulation

SCALES = ("full", "quick", "tiny")


def all_cases(scale: str = "full") -> Iterator[Case]:
    """Cases in the order in which they run.

    Args:
        scale: ``"full"``; ``"quick"``, with smaller sizes where time grows with them; ``"tiny"``,
            for tests of the cases themselves, whose times mean nothing.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}; it was {scale!r}")
    full = scale == "full"
    sizes = tuple(activation.SHAPES)
    if scale == "tiny":
        yield from activation.cases(sizes[:1], (), sizes[0])
    else:
        yield from activation.cases(
            sizes if full else sizes[:4], activation.COMPILED if full else sizes[3:4]
        )
    if scale == "tiny":
        blocks = network.blocks(8, 6, 2, 16, 4)
    else:
        blocks = network.blocks(64, 28, 16, 512, 256)
    yield from network.block_cases(blocks)
    if scale != "tiny":
        yield from network.block_cases(blocks, compile=True)
    training = _training(scale)
    yield from network.training_cases(training)
    yield from network.graphed_cases(training)
    yield from network.inference_cases(training)
    yield from depth.cases({"full": (10, 100, 1000, 10_000), "quick": (10, 1000)}.get(scale, (10,)))
    yield from constants.cases()
    yield from simulation.cases(
        {"full": (1_000_000, 10_000_000), "quick": (1_000_000,)}.get(scale, (200_000,))
    )


def _training(scale: str) -> tuple[network.Task, ...]:
    if scale == "full":
        return network.training()
    if scale == "quick":
        return network.training(
            width=32, sides=(32, 96), batch=8, depth=16, dense=128, rows=64, blocks=2, model=64
        )
    return network.training(
        width=8, sides=(16,), batch=2, depth=4, dense=16, rows=4, blocks=1, model=16, length=8
    )
