"""Tables that kernels read, in the memory of a device."""

from functools import lru_cache

import torch
from torch import Tensor

_SPARE_NUMBERS = 1 << 16
_SPARE: list[Tensor] = []
"""Page-locked memory for captures, in which none may be asked for."""
_CAPTURED: list[Tensor] = []
"""What captured graphs read, as often as they are replayed."""


class Table:
    """Whole numbers, copied to a device without waiting, once for each stream that reads them.

    In a CUDA graph under capture a copy that is there serves, as a capture begins when all streams
    have done their work; else the copy is a part of the graph.
    """

    def __init__(self, numbers: tuple[int, ...]) -> None:
        self.numbers, self.there = numbers, {}

    def on(self, device: torch.device) -> Tensor:
        """The numbers, in the memory of this device."""
        if device.type != "cuda":
            key, capturing = device, False
        else:
            key = torch.cuda.current_stream(device)
            capturing = torch.cuda.is_current_stream_capturing()
        found = self.there.get(key)
        if capturing:
            near = (copy for copy in self.there.values() if copy.device == device)
            found = next(near, None)
            found = captured(self.numbers, device) if found is None else found
            _CAPTURED.append(found)
        elif found is None:
            found = self.there[key] = copied(self.numbers, device)
        return found


@lru_cache(maxsize=256)
def table(numbers: tuple[int, ...]) -> Table:
    """A table of these numbers, the same while it is used."""
    return Table(numbers)


def copied(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """A copy on the device, which will be there for whatever its stream does next."""
    host = torch.tensor(numbers, dtype=torch.int64)
    if device.type != "cuda":
        return host
    if not _SPARE:
        _SPARE.append(torch.empty(_SPARE_NUMBERS, dtype=torch.int64, pin_memory=True))
    return host.pin_memory().to(device, non_blocking=True)


def captured(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """A copy that is made by a graph, from memory that nobody else will write."""
    if not _SPARE or len(_SPARE[0]) < len(numbers):
        raise RuntimeError(
            "a CUDA graph needs addresses of weights in page-locked memory, which is set aside as "
            f"weights are first made outside of a capture, for {_SPARE_NUMBERS} numbers in all "
            f"graphs; {len(_SPARE[0]) if _SPARE else 0} were left, and {len(numbers)} wanted"
        )
    place, _SPARE[0] = _SPARE[0].split([len(numbers), len(_SPARE[0]) - len(numbers)])
    _CAPTURED.append(place.copy_(torch.tensor(numbers, dtype=torch.int64)))
    return place.to(device, non_blocking=True)
