"""Clocks, and the memory that a machine has."""

import ctypes
from collections.abc import Callable

import torch

from normprop.companion.benchmarks import Clock, cpu_clock


def clock_of(device: torch.device) -> Clock:
    """The clock that a device is measured by: ``perf_counter`` or a pair of CUDA events."""
    return cuda_clock if device.type == "cuda" else cpu_clock


def cuda_clock(call: Callable[[], object], repetitions: int) -> float:
    """Seconds between two events around so many calls, on the current stream."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repetitions):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def give_back(device: torch.device) -> None:
    """Give freed memory to the system: what ``keep_memory`` keeps is for one case."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated on the device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    # Not above: a machine with a GPU may lack it.
    import psutil

    return psutil.virtual_memory().available
