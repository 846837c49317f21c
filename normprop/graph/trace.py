"""Which layer's output reaches which layer, seen while a model runs.

A module of which the caller knows what it does is a leaf; everything else is seen as the
functions of torch that it calls.  Whatever Python does in between is done as it is written: no
code is rewritten, and a road that the example does not take is not seen.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

_SAYS_NO_VALUE = {
    "__get__", "size", "dim", "ndimension", "numel", "nelement", "stride", "is_floating_point",
    "is_complex", "is_contiguous", "element_size", "storage_offset", "get_device", "data_ptr",
    "__len__", "requires_grad_", "type", "is_same_size", "untyped_storage", "is_inference",
    "is_signed", "has_names", "__hash__", "__repr__", "__format__",
}  # fmt: skip
_BECOMES_PYTHON = {"__bool__", "__int__", "__float__", "__index__", "item", "tolist", "is_nonzero"}


# What a plain layer of these kinds gives may be its input itself, or a view of it.
_MAY_GIVE_BACK = ("Dropout", "Identity", "Flatten", "Unflatten")


@dataclass(eq=False)
class Node:
    """A call.

    Attributes:
        name: path of the module, or name of the function.
        module: the leaf that was called; None for a function, and for the ends of the model.
        function: the function that was called.
        inputs: values of the tensors among the arguments, in order.
        outputs: values of the tensors that came out.
        arguments: positional and keyword arguments.
        opaque: whether more is read or written than inputs and outputs say.
    """

    name: str
    module: nn.Module | None = None
    function: Callable | None = None
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    arguments: tuple = ((), {})
    opaque: bool = False


@dataclass
class Trace:
    """What was called, in order.

    Attributes:
        nodes: the calls; the model's outputs are the inputs of the last one.
        producer: by value, the call that it came out of; constants have none.
        read: identities of the parameters and buffers that functions outside leaves read.
        written: paths of layers whose input or output is written in place, and whose plain
            twin would give back its input itself.
        next: the first number that no value has.
    """

    nodes: list[Node] = field(default_factory=list)
    producer: dict[int, Node] = field(default_factory=dict)
    read: set[int] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    next: int = 0


def trace(model: nn.Module, inputs: tuple, leaves: Container[str], first: int = 0) -> Trace:
    """Run the model and record it.

    Args:
        model: is run once, without gradients, in the mode that it is in.
        inputs: what it is called with.
        leaves: paths of the modules that are leaves.
        first: the smallest number to give to a value.

    Raises:
        TypeError: the model returns no tensor.
        ValueError: the model decides by a value that it computed.
    """
    recorder = _Recorder(model, first)
    wrapped = []
    for path, module in model.named_modules():
        if path in leaves:
            module.__dict__["forward"] = recorder.leaf(path, module, module.forward)
            wrapped.append(module)
    devices = {t.device for t in tree_flatten(inputs)[0] if isinstance(t, Tensor)}
    try:
        with (
            torch.no_grad(),
            torch.random.fork_rng([d for d in devices if d.type == "cuda"]),
            recorder,
        ):
            recorder.paused = True
            recorder.begin(inputs)
            recorder.paused = False
            result = model(*inputs)
            recorder.paused = True
            recorder.end(result)
    finally:
        for module in wrapped:
            del module.__dict__["forward"]
    recorder.trace.next = recorder.next
    return recorder.trace


class _Recorder(TorchFunctionMode):
    def __init__(self, model, first):
        super().__init__()
        self.trace = Trace()
        self.next, self.paused = first, True
        self.values: dict[int, int] = {}
        self.alive: list[Tensor] = []
        self.shared: dict[int, set[int]] = {}
        self.quiet: dict[int, set[str]] = {}
        self.computed: set[int] = set()
        self.owned = {id(t) for t in (*model.parameters(), *model.buffers())}
        self.constants = set(self.owned)
        for module in model.modules():
            own = [v for k, v in vars(module).items() if k not in ("_modules", "_parameters")]
            self.constants |= {id(t) for t in tree_flatten(own)[0] if isinstance(t, Tensor)}

    def begin(self, inputs):
        node = Node("inputs")
        node.outputs = [self._fresh(t) for t in self._tensors(inputs)]
        self.computed |= set(node.outputs)
        self._add(node)

    def end(self, result):
        tensors = self._tensors(result)
        if not tensors:
            raise TypeError(
                "the model must return tensors, alone or in tuples, lists and dictionaries; "
                f"it returned {type(result).__name__}"
            )
        self._add(Node("outputs", inputs=[self._value(t) for t in tensors], opaque=True))

    def leaf(self, path, module, forward):
        def call(*args, **kwargs):
            if self.paused:
                return forward(*args, **kwargs)
            self.paused = True
            try:
                return self._call(Node(path, module), forward, args, kwargs)
            finally:
                self.paused = False

        return call

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if self.paused:
            return func(*args, **kwargs)
        if name in _SAYS_NO_VALUE:
            result = func(*args, **kwargs)
            if not isinstance(result, Tensor):
                return result
            # A property that is a tensor, such as x.T.
            self._called(Node(name, function=func, opaque=True), args, kwargs, result)
            return result
        if name in _BECOMES_PYTHON and self._computed(args):
            raise ValueError(
                "what the model does must not depend on values that it computes; "
                f"it made a Python value of a tensor, by {name}"
            )
        return self._call(Node(name, function=func), func, args, kwargs)

    def _call(self, node, function, args, kwargs):
        tensors = self._tensors((args, kwargs))
        versions = [t._version for t in tensors]
        result = function(*args, **kwargs)
        changed = [t for t, v in zip(tensors, versions, strict=True) if t._version != v]
        self._called(node, args, kwargs, result, changed)
        return result

    def _called(self, node, args, kwargs, result, changed=()):
        tensors = self._tensors((args, kwargs))
        node.inputs = [self._value(t, node) for t in tensors]
        node.arguments = (args, kwargs)
        if node.module is None:
            self.trace.read |= {id(t) for t in tensors if id(t) in self.owned}
        results = self._tensors(result)
        for tensor in changed:
            others = self._others(tensor)
            if others or len(changed) > 1:
                node.opaque = True
                node.inputs += [self.values[i] for i in others]
                self.trace.written |= self.quiet.get(_memory(tensor), set())
            if not any(tensor is r for r in results):
                results.append(tensor)
                node.opaque = node.opaque or node.module is None
        computed = any(v in self.computed for v in node.inputs)
        node.outputs = [self._fresh(t) for t in results]
        if computed:
            self.computed |= set(node.outputs)
        if type(node.module).__name__.startswith(_MAY_GIVE_BACK) and tensors and results:
            self._share(tensors[0], results[0], node.name)
        self._add(node)

    def _add(self, node):
        self.trace.nodes.append(node)
        for value in node.outputs:
            self.trace.producer[value] = node

    @staticmethod
    def _tensors(tree) -> list[Tensor]:
        return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]

    def _computed(self, tree):
        return any(self.values.get(id(t)) in self.computed for t in self._tensors(tree))

    def _fresh(self, tensor) -> int:
        value = self.next
        self.next += 1
        self.values[id(tensor)] = value
        self.alive.append(tensor)
        self.shared.setdefault(_memory(tensor), set()).add(id(tensor))
        return value

    def _value(self, tensor, node=None) -> int:
        if id(tensor) in self.values:
            return self.values[id(tensor)]
        if id(tensor) not in self.constants:
            # It came from where nothing is seen, out of anything that was there before.
            sources = [self.values[i] for i in self._others(tensor)] or list(self.trace.producer)
            unseen = Node("something that is not seen", inputs=sources, opaque=True)
            unseen.outputs = [self._fresh(tensor)]
            if any(v in self.computed for v in sources):
                self.computed |= set(unseen.outputs)
            self._add(unseen)
            return unseen.outputs[0]
        return self._fresh(tensor)

    def _others(self, tensor) -> list[int]:
        return [i for i in self.shared.get(_memory(tensor), ()) if i != id(tensor)]

    def _share(self, left, right, path):
        quiet = {path} | self.quiet.get(_memory(left), set())
        self.quiet[_memory(left)] = self.quiet[_memory(right)] = quiet
        together = self.shared[_memory(left)] | self.shared[_memory(right)]
        self.shared[_memory(left)] = self.shared[_memory(right)] = together


def _memory(tensor) -> int:
    return tensor.untyped_storage().data_ptr() or id(tensor)
