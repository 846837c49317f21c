"""The whole training step as one CUDA graph.

A step of a plain network of ten thousand narrow layers launches some hundred thousand kernels of a
few microseconds each, and in eager code Python takes longer over each launch than the GPU over its
work.  A graph is recorded once and launched by one call.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from normprop.nn import project_

WARM_UP = 3
"""Steps before the capture, in which libraries allocate what a capture must not; all are undone."""


def graphed_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor
) -> Callable[[Tensor, Tensor], float]:
    """A function that takes a step on a batch of that shape and returns its cross-entropy.

    Forward pass, backward pass, the optimiser and :func:`normprop.nn.project_` are captured.  A
    learning rate that is to change must be a tensor on the device, and be filled.

    Args:
        model: in training mode, on a CUDA device.
        optimizer: of its parameters; Adam must be ``capturable``.
        inputs: a batch, for its shape and for the steps of the warm-up.
        labels: its labels.

    Raises:
        ValueError: the batch is not on a CUDA device.
    """
    if not _on_gpu(inputs):
        raise ValueError(f"graph must be for a CUDA device; the data are on {inputs.device}")
    batch = inputs.clone(), labels.clone()

    def step() -> Tensor:
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        project_(model)
        return loss.detach()

    with _undone(model, optimizer):
        _warm_up(step)
    replay, loss = _captured(step)

    def take(inputs: Tensor, labels: Tensor) -> float:
        batch[0].copy_(inputs)
        batch[1].copy_(labels)
        replay()
        return loss.item()

    return take


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


@contextmanager
@torch.no_grad()
def _undone(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Put back, in place, what steps have written: a graph knows tensors by their addresses."""
    tensors = [*model.parameters(), *model.buffers()]
    saved = [tensor.clone() for tensor in tensors]
    yield
    for tensor, value in zip(tensors, saved, strict=True):
        tensor.copy_(value)
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                # Momenta and counts begin at 0, where a first step is what it is without them.
                value.zero_()
    # What is captured makes the gradients in the graph's own memory.
    optimizer.zero_grad()
    project_(model)


def _warm_up(step: Callable[[], Tensor]) -> None:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)


def _captured(step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    return graph.replay, loss
