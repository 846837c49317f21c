"""What a training step holds: bytes saved for the backward pass, and the peak of all tensors."""

from collections.abc import Callable

import torch

from normprop.companion.benchmarks import saved_bytes

_MEASURED = "peak_bytes"

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


def peak_bytes(
    call: Callable[[], object],
    device: torch.device,
    ready: Callable[[], object] = lambda: None,
) -> int:
    """Highest sum of tensors allocated during a call, beyond those that were there before.

    Args:
        call: what is watched; it is run twice.
        device: where its tensors are.
        ready: run before each call and not watched, such as the dropping of old gradients.
    """
    if device.type == "cuda":
        ready()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        # The profiler does not see what is freed of earlier tensors.  In the second call they are
        # those of the first.
        ready()
        call()
        ready()
        with torch.profiler.record_function(_MEASURED):
            call()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    (start,) = (event.start_ns() for event in events if event.name() == _MEASURED)
    held = before = peak = 0
    for event in events:
        # One event an allocation, negative for what is freed.
        if event.name() == "[memory]":
            held += event.nbytes()
            if event.start_ns() < start:
                before = peak = held
            peak = max(peak, held)
    return peak - before
