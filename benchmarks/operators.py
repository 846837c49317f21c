"""How many operators a call dispatches: the same on every machine, where times are not."""

from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def operators(call: Callable[[], object]) -> int:
    """ATen's operators in a call; views, and ``detach`` among them, launch nothing."""
    with _Counter() as counter:
        call()
    return counter.count
