"""Triton kernels: every normalised layer in one pass over its tensors each way.

The only part of the package that imports triton, and only once a kernel is used: importing
this package loads nothing.  :func:`usable` says whether they can serve a tensor.  The functions
of :mod:`normprop.functional` call them and give them their gradients; their eager operations are
the specification, and a kernel computes the same to the rounding of the type.

==============================  =========================================================
:mod:`~.activation`             shift and both scales fused with any activation of torch
:mod:`~.dropout`                the mask recomputed from its seed in the backward pass
:mod:`~.weight`                 weights on the unit ball, all layers' in three launches each way
:mod:`~.montecarlo`             normals drawn, mapped and summed without leaving registers
:mod:`~.launch`                 what was compiled is kept, and started as it is
:mod:`~.table`                  tables that kernels read; needs no triton
:mod:`~.kinks`                  what a stored output must keep apart; needs no triton
:mod:`~.layer`                  what is asked of the weights of a layer; needs no triton
:mod:`~.layout`                 which tensors a flat index serves; needs no triton
==============================  =========================================================

Pooling has no kernel of its own.  Its normalisation is an affine map of its output, the smaller
tensor, and one with a positive slope commutes with the maximum and the average of a window: so
torch's pooling runs as it is, and the map follows, or is folded into what precedes or follows.
"""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["DTYPES", "check_usable", "usable"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What a kernel reads and writes.  The first three are computed in float32."""


def usable(tensor: Tensor) -> bool:
    """Whether the kernels can serve this tensor: on CUDA, of a type they know, with triton."""
    return tensor.is_cuda and tensor.dtype in DTYPES and _installed()


def check_usable(tensor: Tensor) -> None:
    """Refuse a tensor that the kernels were asked by name to serve, and cannot.

    Under ``TRITON_INTERPRET=1``, set before triton is imported, tensors on the CPU are
    served too, slowly: for tests.

    Raises:
        ImportError: triton is not installed.
        TypeError: the tensor's type is none of :data:`DTYPES`.
        ValueError: the tensor is not on CUDA.
    """
    if tensor.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"a Triton kernel takes a tensor of {names}; it was {tensor.dtype}")
    if not _installed():
        raise ImportError("a Triton kernel needs triton, which CUDA builds of torch bring along")
    if tensor.is_cuda:
        return
    from normprop.kernels.scalar import INTERPRETED

    if not (INTERPRETED and tensor.device.type == "cpu"):
        raise ValueError(f"a Triton kernel takes a tensor on CUDA; it was on {tensor.device}")


@cache
def _installed() -> bool:
    return find_spec("triton") is not None
