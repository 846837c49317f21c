"""What a training step holds: bytes saved for the backward pass, and the peak of all tensors."""

from collections.abc import Callable

import torch

from normprop.companion.benchmarks import saved_bytes

__all__ = ["by_batch", "peak_bytes", "saved_bytes"]


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
