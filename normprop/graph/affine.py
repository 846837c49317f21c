"""Layers for what could not be moved into weights, or moved only halfway."""

import inspect
import operator
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

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


def computing(function: Callable[[Tensor], Tensor]) -> fx.GraphModule:
    """A function that has a name, as a module of torch alone."""
    return _module("Function", lambda graph, x: graph.call_function(function, (x,)))


def gating(gate: Callable[[Tensor], Tensor], dim: int) -> fx.GraphModule:
    """a·g(b), of the halves a and b of the input, as a module of torch alone."""

    def gated(graph, x):
        halves = graph.call_method("chunk", (x, 2, dim))
        a, b = (graph.call_function(operator.getitem, (halves, i)) for i in range(2))
        return graph.call_function(torch.mul, (a, graph.call_function(gate, (b,))))

    return _module("Gated", gated)


def _module(name: str, compute: Callable[[fx.Graph, fx.Node], fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(compute(graph, graph.placeholder("input")))
    return fx.GraphModule(nn.Module(), graph, name)


def _line(graph: fx.Graph, x: fx.Node, scale: float, shift: float, inplace: bool) -> fx.Node:
    if scale != 1.0:
        # What was scaled is nobody else's.
        x, inplace = graph.call_function(torch.mul, (x, scale)), True
    if inplace:
        return graph.call_method("add_", (x, shift))
    return graph.call_function(torch.add, (x, shift))


def followed(layer: nn.Module, scale: float, shift: float, inplace: bool) -> nn.Module:
    """A layer and scale·x + shift behind it, of torch alone, unpickled without this package.

    Keys of the ``state_dict`` stay those of the layer; ``inplace`` overwrites what it gives.
    """
    inputs = inspect.signature(layer.forward).parameters.values()
    pair, learnt = getattr(layer, "return_indices", False), isinstance(layer, nn.PReLU)
    if len(inputs) == 1 and not pair and not learnt:
        line = _module("Line", lambda graph, x: _line(graph, x, scale, shift, inplace))
        return nn.Sequential(layer, line)
    graph, root = fx.Graph(), nn.Module()
    given = tuple(graph.placeholder(p.name, default_value=p.default) for p in inputs)
    if learnt:
        # Its slopes keep their key.
        root.weight = layer.weight
        y = graph.call_function(nn.functional.prelu, (*given, graph.get_attr("weight")))
    else:
        root.layer = layer
        y = graph.call_module("layer", given)
    if pair:
        value, indices = (graph.call_function(operator.getitem, (y, i)) for i in range(2))
        graph.output((_line(graph, value, scale, shift, False), indices))
    else:
        graph.output(_line(graph, y, scale, shift, False))
    return fx.GraphModule(root, graph, "Followed")


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
