"""Tables that kernels read, in the memory of a device."""

from functools import lru_cache

import torch
from torch import Tensor

_LEAST = 1 << 16
_SPARE: list[Tensor] = []
"""Page-locked memory for captures, in which none may be asked for."""
_CAPTURED: dict[int, Tensor] = {}
"""What captured graphs read, as often as they are replayed."""


class Numbers:
    """Whole numbers, copied to a device without waiting, once for each stream that reads them.

    In a CUDA graph under capture a copy that is there serves, as a capture begins when all streams
    have done their work; else the copy is a part of the graph.
    """

    def __init__(self, numbers: tuple[int, ...]) -> None:
        self.numbers, self.there = numbers, {}

    def on(self, device: torch.device) -> Tensor:
        """The numbers, in the memory of this device."""
        if device.type != "cuda":
            return self._copied(device, None)
        if not torch.cuda.is_current_stream_capturing():
            if _room() < 4 * len(self.numbers):
                _provide(len(self.numbers))
            return self._copied(device, torch._C._cuda_getCurrentRawStream(device.index))
        near = (copy for (where, _), copy in self.there.items() if where == device)
        found = next(near, None)
        found = captured(self.numbers, device) if found is None else found
        _CAPTURED[found.data_ptr()] = found
        return found

    def _copied(self, device, stream) -> Tensor:
        found = self.there.get((device, stream))
        if found is None:
            found = self.there[device, stream] = copied(self.numbers, device)
        return found


@lru_cache(maxsize=64)
def shared(numbers: tuple[int, ...]) -> Numbers:
    """These numbers, the same object while it is used."""
    return Numbers(numbers)


def copied(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """A copy on the device, which will be there for whatever its stream does next."""
    host = torch.tensor(numbers, dtype=torch.int64, device="cpu")
    return host if device.type != "cuda" else host.pin_memory().to(device, non_blocking=True)


def captured(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """A copy that is made by a graph, from memory that nobody else will write."""
    if _room() < len(numbers):
        raise RuntimeError(
            "weights must have been made outside of a capture before a CUDA graph makes them: "
            "page-locked memory for their addresses is set aside then, and none is left for "
            f"{len(numbers)} numbers"
        )
    place, _SPARE[0] = _SPARE[0].split([len(numbers), len(_SPARE[0]) - len(numbers)])
    _CAPTURED[place.data_ptr()] = place.copy_(
        torch.tensor(numbers, dtype=torch.int64, device="cpu")
    )
    return place.to(device, non_blocking=True)


def _room() -> int:
    """How many numbers the captures to come can have."""
    return _SPARE[0].numel() if _SPARE else 0


def _provide(count: int) -> None:
    """Set memory aside, for some captures of tables of that size."""
    size = max(_LEAST, 16 * count)
    _SPARE[:] = [torch.empty(size, dtype=torch.int64, device="cpu", pin_memory=True)]
