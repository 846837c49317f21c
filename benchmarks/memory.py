"""What a training step holds: bytes saved for the backward pass, and the peak of all tensors."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps from a forward pass, without parameters and buffers.

    A storage that several nodes keep counts once, and whole, even where a node keeps a part.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    # The storages themselves, so that none is freed and its address used again.
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    total = sum(storage.nbytes() for storage in kept.values())
    del output
    return total


def by_batch(at_one: int, at_two: int) -> tuple[int, int]:
    """Split bytes into what grows with the batch, and what does not.

    What a step keeps is a + b·batch: activations grow with the batch; normalised weights, and
    statistics that normalisation layers keep, do not.

    Args:
        at_one: bytes at the batch of the case.
        at_two: bytes at twice that batch.

    Returns:
        Bytes of activations at the batch of the case, and bytes of the rest.
    """
    activations = at_two - at_one
    return activations, at_one - activations


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Highest sum of tensors allocated during a call, beyond those that were there before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        call()
    # One event an allocation, negative for what is freed.
    events = (e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]")
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
