"""How a kernel is started: what has been compiled is kept, and started as it is.

Triton looks up a kernel by all of its arguments at each call, which takes longer than many kernels
run.  Here the look-up is by what a kernel is compiled for and no more: its constants, and of its
arguments the types, whether an address or a size is a multiple of 16, and whether a size is 1.
"""

import torch
import triton
from torch import Tensor

from normprop.kernels import scalar

_BLOCK = 1 << 11
# The interpreter pays for programs, not for elements.
_BLOCK_INTERPRETED = 1 << 16
_WIDE = 1 << 31
# Before 3.3 a compiled kernel took its constants no more.
_WITH_CONSTANTS = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 3)
_KEPT: dict[tuple, object] = {}
_SPECIALISED: dict[int, tuple[bool, ...]] = {}


def launch(
    kernel, grid: tuple[int, ...], arguments: tuple, constants: dict, device, warps: int = 4
) -> None:
    """Run a kernel, its constants by name behind its arguments by place, in the order it has them.

    The device is that of the tensors, which need not be the current one; a kernel has one number of
    warps.
    """
    if scalar.INTERPRETED:
        kernel[grid](*arguments, **constants)
    elif _is_current(device):
        _start(kernel, grid, arguments, constants, device, warps)
    else:
        with torch.cuda.device(device):
            _start(kernel, grid, arguments, constants, device, warps)


def _start(kernel, grid, arguments, constants, device, warps) -> None:
    # An address is a number, of which nobody has to be asked again whose it is.
    given, key = list(arguments), [device, id(kernel)]
    for place, special in enumerate(_specialised(kernel)):
        value = given[place]
        # What a kernel is compiled for of an argument.
        if isinstance(value, Tensor):
            given[place] = address = value.data_ptr()
            key += value.dtype, special and address % 16 == 0
        elif value is None:
            key.append(None)
        elif special:
            key += value == 1, value % 16 == 0, -_WIDE <= value < _WIDE
    key += [id(value) if callable(value) else value for value in constants.values()]
    key = tuple(key)
    compiled = _KEPT.get(key)
    if compiled is None:
        _KEPT[key] = kernel[grid](*arguments, **constants, num_warps=warps)
        return
    if _WITH_CONSTANTS:
        given += constants.values()
    options = {}
    if device.type == "cuda":
        options["stream"] = torch._C._cuda_getCurrentRawStream(device.index)
    compiled[(*grid, 1, 1)[:3]](*given, **options)


def over_elements(
    kernel, tensor: Tensor, arguments: tuple, constants: dict, block: int | None = None
) -> None:
    """Run a flat kernel over the elements of a dense tensor."""
    numel, block = tensor.numel(), block or block_size()
    if numel == 0:
        return
    # The last program reaches past the end, and its indices must not overflow either.
    constants = {**constants, "WIDE": numel + block > _WIDE, "BLOCK": block}
    launch(kernel, (-(-numel // block),), arguments, constants, tensor.device)


def block_size() -> int:
    """Elements of a program of a flat kernel."""
    return _BLOCK_INTERPRETED if scalar.INTERPRETED else _BLOCK


def _is_current(device: torch.device) -> bool:
    """Triton launches on the current device, which need not be the tensors'."""
    return device.type != "cuda" or device.index == torch.cuda.current_device()


def _specialised(kernel) -> tuple[bool, ...]:
    """Of each argument, whether a kernel is compiled for what a size or an address is."""
    # A kernel lives as long as its module, and its hash is one of its source.
    found = _SPECIALISED.get(id(kernel))
    if found is None:
        given = [parameter for parameter in kernel.params if not parameter.is_constexpr]
        found = tuple([not parameter.do_not_specialize for parameter in given])
        _SPECIALISED[id(kernel)] = found
    return found
