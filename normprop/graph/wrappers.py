"""What stands around a model, and what its results are wrapped in."""

import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from itertools import count
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import checkpoint
from torch.utils._pytree import tree_leaves

from normprop.process import ALONE

# Module and name of a class, and where it holds the model. A class whose module nobody has imported
# has no objects: torch's compiler alone would take a second to import.
_WRAPPERS = (
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("torch.nn.parallel", "DataParallel", "module"),
    ("torch.nn.parallel", "DistributedDataParallel", "module"),
    ("torch.optim.swa_utils", "AveragedModel", "module"),
)
_OPAQUE = (
    ("torch.jit", "ScriptModule", "a model of TorchScript, whose layers are no longer Python's"),
    (
        "torch.distributed.fsdp",
        "FullyShardedDataParallel",
        "sharded, so that its layers do not hold their weights",
    ),
)


def check_model(model: nn.Module) -> None:
    """Refuse what is no module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; it was {type(model).__name__}")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, not copied, out of what compiling, data parallelism or averaging put there.

    Raises:
        TypeError: it is no module; or it, or a part of it, cannot be looked into: a module of
            TorchScript, or one that is sharded.
    """
    check_model(model)
    for path, module in model.named_modules():
        for home, name, reason in _OPAQUE:
            if _is(module, home, name):
                where = f"its {path}" if path else f"this {name}"
                raise TypeError(
                    f"model must be made of layers that can be seen; {where} is {reason}"
                )
    while inside := next((i for home, name, i in _WRAPPERS if _is(model, home, name)), None):
        model = getattr(model, inside)
    return model


def _is(model: nn.Module, home: str, name: str) -> bool:
    kind = getattr(sys.modules.get(home), name, None)
    return kind is not None and isinstance(model, kind)


def run_as_written() -> AbstractContextManager:
    """A context in which whatever ``torch.compile`` made runs as the Python that it was made of."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextmanager
def forked_dice(devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """A context behind which torch's dice are what they were."""
    with ALONE, torch.random.fork_rng(devices):
        yield


@contextmanager
def dice_of_its_own(tensors: Iterable[Tensor], seed: int) -> Iterator[None]:
    """A context in which torch's dice are seeded; behind it they are what they were.

    ``torch.manual_seed`` would seed those of every GPU, and of those that nobody has used yet;
    here it is those of the GPUs that a tensor is on.
    """
    devices = {tensor.device for tensor in tensors if tensor.is_cuda}
    with forked_dice(devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def held_by(model: nn.Module, *given: object) -> list[Tensor]:
    """The tensors that a model is called with, and its parameters and buffers."""
    return [*tensors_in(given), *model.parameters(), *model.buffers()]


def put(stack: ExitStack, place: dict, key: str, value: object) -> None:
    """Have something in a place until the stack is left."""
    if key in place:
        stack.callback(place.__setitem__, key, place[key])
    else:
        stack.callback(place.pop, key)
    place[key] = value


def tensors_in(result: object) -> list[Tensor]:
    """The tensors that a result holds, in their order, wherever they are in it.

    Looks into tuples, lists, sets, mappings, dataclasses, whatever torch knows as a tree, and
    the attributes of other objects, such as a distribution; not into modules.
    """
    found: list[Tensor] = []
    # Whatever was looked at stays alive, so that its id remains its own.
    seen: dict[int, object] = {}
    waiting = [result]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            found.append(item)
        elif id(item) not in seen:
            seen[id(item)] = item
            waiting += reversed(list(_parts(item)))
    return found


def _parts(item: object) -> Iterable:
    # One storey at a time: the first that is asked for is the item itself.
    asked = count()
    parts = tree_leaves(item, is_leaf=lambda _: next(asked) > 0)
    if not (len(parts) == 1 and parts[0] is item):
        return parts
    if isinstance(item, str | bytes | type | ModuleType | nn.Module):
        return ()
    if isinstance(item, Mapping):
        return item.values()
    if isinstance(item, tuple | list | set | frozenset):
        return item
    if is_dataclass(item):
        return [getattr(item, field.name, None) for field in fields(item)]
    return getattr(item, "__dict__", {}).values()


@contextmanager
def other_dice_kept():
    """A context behind which Python's dice and NumPy's are what they were."""
    with ALONE:
        python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(of_numpy)  # noqa: NPY002


@contextmanager
def no_reentrant_checkpoints():
    """A reentrant checkpoint has no graph, and its tensors no gradients, until it runs again."""

    class AsTheOther:
        @staticmethod
        def apply(function, preserve, *args):
            return checkpoint.checkpoint(
                function, *args, use_reentrant=False, preserve_rng_state=preserve
            )

    with ALONE, ExitStack() as stack:
        put(stack, vars(checkpoint), "CheckpointFunction", AsTheOther)
        yield
