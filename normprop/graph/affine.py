"""Layers for what could not be moved into weights, or moved only halfway."""

import torch
from torch import Tensor, nn

from normprop.functional.fused import affine
from normprop.functional.scale import transforms_active


class Affine(nn.Module):
    """scale·x + shift.

    Args:
        scale: a float.
        shift: a float.
        inplace: whether to overwrite the input where the scale is 1; the layer in front must
            not need it.
    """

    def __init__(self, scale: float = 1.0, shift: float = 0.0, inplace: bool = False) -> None:
        super().__init__()
        self.scale, self.shift, self.inplace = scale, shift, inplace

    def forward(self, input: Tensor) -> Tensor:
        """Scale and shift."""
        if self.scale == 1.0:
            return input.add_(self.shift) if self.inplace else input + self.shift
        return affine(input, self.scale, self.shift)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"scale={self.scale:.6g}, shift={self.shift:.6g}"


class Clamp(nn.Module):
    r"""min(max(x, low), high), which keeps its output for the backward pass.

    With x = z - c it is max(z, 0) - c for low = -c: a rectifier whose input and output have
    been shifted alike, so that a convolution behind it pads with true zeros.  It costs what a
    ReLU costs, and keeps what a ReLU keeps.  In half precision an input closer to ``low`` than
    a unit of rounding of ``low`` counts as lying on it.

    Args:
        low: the smallest output.
        high: the largest output.
    """

    def __init__(self, low: float, high: float = float("inf")) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, input: Tensor) -> Tensor:
        """Clamp."""
        if torch.compiler.is_compiling() and transforms_active():
            return torch.clamp(input, self.low, self.high)
        function = _Plain if torch.compiler.is_compiling() else _Clamp
        return function.apply(input, self.low, self.high)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"low={self.low:.6g}, high={self.high:.6g}"


class _Plain(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input, low, high):
        return torch.clamp_min(input, low) if high == float("inf") else input.clamp(low, high)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.low, ctx.high = inputs
        ctx.gradient_factors = (1.0,)
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx, gradient):
        return _inside(gradient, *ctx.saved_tensors, ctx.low, ctx.high), None, None


class _Clamp(_Plain):
    # Dynamo traces no Function that has one.
    @staticmethod
    def jvp(ctx, tangent, *_):
        return _inside(tangent, *ctx.saved_tensors, ctx.low, ctx.high)


def _inside(gradient, output, low, high):
    if high == float("inf"):
        return torch.ops.aten.threshold_backward(gradient, output, low)
    return torch.ops.aten.hardtanh_backward(gradient, output, low, high)
