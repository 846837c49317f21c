"""Laws of a trace whose calls are gone through one by one, layers as they will be."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from normprop.graph.kinds import is_twin
from normprop.graph.known import Known, in_place_of_values, tensor_values
from normprop.graph.prediction import Flow, given_laws, go_through, traced
from normprop.graph.trace import Node, Trace, Value
from normprop.graph.wrappers import tensors_in


@dataclass(frozen=True)
class Size:
    """Mean and standard deviation of a value."""

    mean: float
    std: float


def varied(given: object) -> tuple[object, bool]:
    """What a model is called with, without tensors of one number throughout; whether there were.

    An example of zeros shows what a model does, and says nothing of a law: it counts as N(0, 1).
    """
    found = []

    def emptied(leaf):
        real = isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() > 1
        if not real or leaf.is_meta or (leaf != leaf.flatten()[0]).any():
            return leaf
        found.append(leaf)
        return torch.empty_like(leaf, device="meta")

    return tree_map(emptied, given), bool(found)


class Steps:
    """Laws of the values of a trace of layers as leaves, as far as it has been gone through."""

    def __init__(self, run: Trace, given: object) -> None:
        own = {id(tensor): tensor for tensor in run.constants.values()}
        self.flow = Flow(run, nn.Module(), Known(own, tensors_in(given)))
        given_laws(self.flow, given)

    def law(self, value: int) -> Size | None:
        """What is known of a value; None where it holds no real numbers of finite variance."""
        law = self.flow.laws.get(value)
        if law is None or law.values is None or not math.isfinite(law.variance):
            return None
        return Size(law.mean, math.sqrt(law.variance))

    def step(self, node: Node, layer: nn.Module | None) -> None:
        """Go through a call of a layer; None for what was called."""
        if not node.outputs:
            return
        layer = node.module if layer is None else layer
        if layer is None or is_twin(layer):
            go_through(self.flow, [node], lambda _: layer)
        else:
            self._inside(node, layer)

    def _inside(self, node: Node, layer: nn.Module) -> None:
        """By what a layer of torch calls."""
        args, kwargs = in_place_of_values(self._empty, node.call)
        run, known = traced(layer, args, kwargs)
        inner, own = Flow(run, layer, known), self.flow.known
        for value, mine in zip(run.nodes[0].outputs, tensor_values(node.call), strict=True):
            if mine in self.flow.laws:
                inner.laws[value] = self.flow.laws[mine]
            else:
                known.tensors[value] = own.find(self.flow.run, mine)
        go_through(inner, run.nodes[1:], layer.get_submodule)
        for value, found in zip(node.outputs, run.nodes[-1].inputs, strict=False):
            if found in inner.laws:
                self.flow.laws[value] = inner.laws[found]
            elif found in known.tensors:
                own.tensors[value] = known.tensors[found]

    def _empty(self, leaf: Value) -> Tensor:
        tensor = self.flow.known.find(self.flow.run, leaf.number)
        if tensor is not None:
            return torch.empty_like(tensor, device="meta")
        node = self.flow.run.producer[leaf.number]
        shape, dtype = node.made[node.outputs.index(leaf.number)]
        return torch.empty(shape, dtype=dtype, device="meta")
