"""One training loop for every experiment."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from normprop.companion.data import Split
from normprop.companion.graphs import graphed_step
from normprop.nn import project_

OPTIMIZERS = ("sgd", "adam")
MOMENTUM = 0.9


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
        loss: cross-entropy over the training part at the end, in nats; ``None`` after a
            divergence, as are the accuracies.
        validation: share of the validation part that is classified rightly.
        test: the same of the test part, if it was asked for.
        diverged: whether a loss was not finite.
        steps: steps of the optimiser that were taken.
        seconds: wall-clock time of the steps.
    """

    loss: float | None
    validation: float | None
    test: float | None
    diverged: bool
    steps: int
    seconds: float


def train(
    model: nn.Module,
    split: Split,
    *,
    optimizer: str = "sgd",
    lr: float,
    steps: int,
    batch_size: int = 128,
    seed: int = 0,
    test: bool = False,
    seen: int | None = None,
    graph: bool = False,
) -> Result:
    """Train a classifier, in place.

    The learning rate falls from ``lr`` in a straight line to 0.  On one device and number of
    threads the same seed gives the same result, bit for bit.

    Args:
        model: gives one logit a class.
        split: the data, on the model's device.
        optimizer: ``"sgd"``, with momentum 0.9, or ``"adam"``.
        lr: learning rate at the first step.
        steps: number of steps.
        batch_size: number of samples in each step.
        seed: of the order of the samples.
        test: whether to look at the test part, once, at the end.
        seen: how many samples of the training part the loss at the end looks at, and how many of
            the validation part; all of them by default.  The test part is always whole.
        graph: whether the step is one CUDA graph: :func:`normprop.companion.graphs.graphed_step`.

    Returns:
        :class:`Result`.  A loss that is not finite ends the run and is recorded there.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check(optimizer, lr, steps, batch_size, len(split.train[1]), seen)
    model.train()
    if graph:
        # Of one address, which a captured step reads its rate from.
        rate = torch.tensor(lr, device=split.train[0].device)
        chosen = optimizer_of(model, optimizer, rate)
        example = (tensor[:batch_size] for tensor in split.train)
        take = graphed_step(model, chosen, *example)
    else:
        chosen = optimizer_of(model, optimizer, lr)
        take = partial(take_step, model, chosen)
    start = time.perf_counter()
    for step, (inputs, labels) in enumerate(_batches(split.train, steps, batch_size, seed)):
        now = lr * (1 - step / steps)
        for group in chosen.param_groups:
            group["lr"] = rate.fill_(now) if graph else now
        if not math.isfinite(take(inputs, labels)):
            return Result(None, None, None, True, step, time.perf_counter() - start)
    seconds = time.perf_counter() - start

    loss, _ = evaluate(model, *(tensor[:seen] for tensor in split.train))
    if not math.isfinite(loss):
        return Result(None, None, None, True, steps, seconds)
    validation = evaluate(model, *(tensor[:seen] for tensor in split.validation))[1]
    tested = evaluate(model, *split.test)[1] if test else None
    return Result(loss, validation, tested, False, steps, seconds)


def take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor
) -> float:
    """Take a step on a batch, unless its cross-entropy is not finite; return that."""
    loss = nn.functional.cross_entropy(model(inputs), labels)
    value = loss.item()
    if math.isfinite(value):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        project_(model)
    return value


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Cross-entropy in nats, and share classified rightly, in evaluation mode."""
    model.eval()
    losses, right = 0.0, 0
    # Parts that stay in a processor's cache.
    for part, truth in zip(inputs.split(256), labels.split(256), strict=True):
        logits = model(part)
        losses += nn.functional.cross_entropy(logits, truth, reduction="sum").item()
        right += (logits.argmax(1) == truth).sum().item()
    return losses / len(labels), right / len(labels)


def _batches(part: tuple[Tensor, Tensor], steps: int, size: int, seed: int) -> Iterator:
    """Random batches, epoch by epoch, without what is left of an epoch."""
    inputs, labels = part
    generator = torch.Generator().manual_seed(seed)
    chunks: list[Tensor] = []
    for _ in range(steps):
        if not chunks:
            order = torch.randperm(len(labels), generator=generator).to(labels.device)
            chunks = list(order[: len(order) // size * size].split(size))
        chosen = chunks.pop()
        yield inputs[chosen], labels[chosen]


def optimizer_of(model: nn.Module, name: str, lr: float | Tensor) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam, by its name; a rate that is a tensor makes it capturable."""
    # One call for all parameters: a deep, narrow network has thousands of small ones.
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr, momentum=MOMENTUM, fused=True)
    capturable = isinstance(lr, Tensor) and lr.is_cuda
    return torch.optim.Adam(model.parameters(), lr, fused=True, capturable=capturable)


def _check(
    optimizer: str, lr: float, steps: int, batch_size: int, samples: int, seen: int | None
) -> None:
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}; it was {optimizer!r}")
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr must be finite and greater than 0; it was {lr}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1; it was {steps}")
    if not 1 <= batch_size <= samples:
        raise ValueError(
            f"batch_size must lie between 1 and the {samples} training samples; it was {batch_size}"
        )
    if seen is not None and seen < 1:
        raise ValueError(f"seen must be at least 1, or None for all; it was {seen}")
