"""Numbers that are known before a model runs: its own, tokens, masks, what is made of them."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from normprop.graph.trace import Node, Trace, is_value
from normprop.graph.wrappers import tensors_in

# Of what is made of others, up to this many are computed.
_LARGEST = 2**26

UNFILLED = {
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided",
}  # fmt: skip
"""What these give is whatever is there."""


def has_scale(tensor: Tensor) -> bool:
    """Whether it holds real or complex numbers, and may have a gradient."""
    return tensor.is_floating_point() or tensor.is_complex()


class Known:
    """Numbers by value of a trace.

    Attributes:
        tensors: all that are known.
        looked: values of those that follow from the inputs: tokens, masks, and what no parameter
            has a part in.
        weights: values of parameters, and of what is made of them.
        drawn: values of the model's own that have no numbers, for which some were drawn.
    """

    def __init__(
        self,
        own: Mapping[int, Tensor],
        inputs: Sequence[Tensor],
        drawn: Mapping[int, Tensor] | None = None,
    ):
        self.tensors: dict[int, Tensor] = {}
        self.looked: set[int] = set()
        self.drawn: set[int] = set()
        self.weights: set[int] = set()
        self._unknown: set[int] = set()
        self._stand_ins: dict[int, Tensor] = {}
        self._own, self._inputs, self._drawn = dict(own), inputs, drawn or {}

    def stand_in(self, tensor: Tensor) -> Tensor:
        """A tensor without numbers for one with, the same each time."""
        if id(tensor) not in self._stand_ins:
            empty = torch.empty_like(tensor, device="meta", requires_grad=False)
            self._own[id(empty)], self._stand_ins[id(tensor)] = tensor, empty
        return self._stand_ins[id(tensor)]

    def told(self, run: Trace, node: Node, call: tuple) -> object:
        """The result of a call, in which tensors have no numbers; None where it is not known."""
        values = tensor_values(call)
        if not values or any(self.find(run, value) is None for value in values):
            return None
        result = self._run(node.function, call)
        return tree_map_only(Tensor, lambda t: torch.empty_like(t, device="meta"), result)

    def find(self, run: Trace, value: int) -> Tensor | None:
        """The numbers of a value."""
        if value not in self.tensors and value not in self._unknown:
            node = run.producer.get(value)
            if node is None:
                self._keep_own(run, value)
            elif node is run.nodes[0]:
                tensor = self._inputs[node.outputs.index(value)]
                if not (tensor.is_meta or has_scale(tensor)):
                    self.tensors[value] = tensor
                    self.looked.add(value)
            else:
                self._compute(run, node)
            if value not in self.tensors:
                self._unknown.add(value)
        return self.tensors.get(value)

    def _keep_own(self, run: Trace, value: int) -> None:
        tensor = self._own.get(id(run.constants.get(value)))
        if isinstance(tensor, nn.Parameter):
            self.weights.add(value)
        if tensor is not None and tensor.is_meta:
            self.drawn.add(value)
            tensor = self._drawn.get(id(tensor))
            if tensor is None:
                tensor = torch.randn(run.constants[value].shape, device="cpu")
        if tensor is not None:
            self.tensors[value] = tensor

    def _compute(self, run: Trace, node: Node) -> None:
        """What a function makes of what is known, unless it puts parameters to work on inputs."""
        if node.function is None or node.opaque or node.name in UNFILLED:
            return
        if any(self.find(run, value) is None for value in node.inputs):
            return
        looked = any(v in self.looked for v in node.inputs)
        at_work = looked and any(v in self.weights for v in node.inputs)
        shapes = [shape for shape, _ in node.made]
        if at_work or sum(map(math.prod, (*node.shapes, *shapes))) > _LARGEST:
            return
        results = tensors_in(self._run(node.function, node.call))
        if results and [tuple(r.shape) for r in results] == shapes:
            self.tensors.update(zip(node.outputs, results, strict=True))
            for kind in (self.looked, self.drawn, self.weights):
                if any(v in kind for v in node.inputs):
                    kind.update(node.outputs)

    def _run(self, function, call: tuple):
        """What a function gives; None where it cannot run."""
        # A function may write into what it gets.
        copies = {v: self.tensors[v].detach().cpu().clone() for v in tensor_values(call)}
        args, kwargs = in_place_of_values(lambda value: copies[value.number], call)
        kwargs = {k: v for k, v in kwargs.items() if k != "device"}
        try:
            with torch.device("cpu"), torch.no_grad(), torch.random.fork_rng(()):
                return function(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            return None


def in_place_of_values(made: Callable, call: tuple) -> tuple:
    """A call with something else in the place of every value."""
    return tree_map(lambda leaf: made(leaf) if is_value(leaf) else leaf, call, is_leaf=is_value)


def tensor_values(call: tuple) -> list[int]:
    """Values of the tensors in a call."""
    return [leaf.number for leaf in tree_leaves(call, is_leaf=is_value) if is_value(leaf)]
