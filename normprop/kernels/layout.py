"""Which tensors a flat index serves; needs no triton."""

import torch
from torch import Tensor


def as_dense(tensor: Tensor) -> Tensor:
    """The tensor itself where its elements fill a range of memory in some order, else a copy.

    Then an index into that range serves, whatever the memory format.  A tensor with gaps
    costs one more pass, the copy.
    """
    return tensor if is_dense(tensor) else tensor.contiguous()


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a range of memory without gap or overlap."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True


def like(tensor: Tensor, layout: Tensor) -> Tensor:
    """The tensor in the memory order of another of its shape: itself, or a copy."""
    if tensor.stride() == layout.stride():
        return tensor
    # Where there is one index, its stride means nothing.
    strides = zip(tensor.shape, tensor.stride(), layout.stride(), strict=True)
    if all(own == other for size, own, other in strides if size > 1):
        return tensor
    return torch.empty_like(layout, dtype=tensor.dtype).copy_(tensor)
