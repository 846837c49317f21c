"""Which layer's output reaches which layer, seen while a model runs.

A module of which the caller knows what it does is a leaf; everything else is seen as the
functions of torch, and of :mod:`normprop.functional`, that it calls.  Whatever Python does in
between is done as it is written: no code is rewritten, and a road that the run does not take is
not seen; :mod:`normprop.graph.roads` looks for those.

A value counts as an output wherever it leaves the model: by ``return``, by outliving the run (in
an attribute, a list, a closure, a buffer), through a hook, or as something of Python's.
"""

import gc
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import CodeType, FrameType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from normprop.functional.observed import observers, observers_here
from normprop.graph.wrappers import dice_of_its_own, held_by, put, run_as_written, tensors_in
from normprop.process import ALONE

_SAYS_NO_VALUE = {
    "__get__", "size", "dim", "ndimension", "numel", "nelement", "stride", "is_floating_point",
    "is_complex", "is_contiguous", "element_size", "storage_offset", "get_device", "__len__",
    "requires_grad_", "type", "is_same_size", "is_inference", "is_signed", "has_names",
    "__hash__", "is_shared", "is_pinned", "is_set_to", "is_conj", "is_neg", "is_coalesced",
    "result_type", "can_cast", "promote_types", "dense_dim", "sparse_dim", "__dlpack_device__",
    "__dir__", "__set__", "is_tensor", "is_storage", "is_nonzero_static", "is_distributed",
}  # fmt: skip
"""Of these, what is no tensor depends on no number in one."""

_SAYS_WHERE = {"data_ptr", "untyped_storage", "storage", "_typed_storage", "__dlpack__"}
"""Whoever is told this, a kernel, say, may read the numbers."""

# What a plain layer of these kinds gives may be its input itself, or a view of it.
_MAY_GIVE_BACK = (nn.modules.dropout._DropoutNd, nn.Identity, nn.Flatten, nn.Unflatten)
# The hooks of a module, and those of all modules.
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")
_NO_TENSOR = (bool, int, float, complex, str, slice, type(...), torch.dtype, torch.memory_format)


_numbers = itertools.count()


class Value(NamedTuple):
    """Stands for a tensor among arguments."""

    number: int


def is_value(leaf) -> bool:
    """Whether it stands for a tensor."""
    return isinstance(leaf, Value)


def in_place_of_values(made: Callable, call: tuple) -> tuple:
    """A call with something else in the place of every value."""
    return tree_map(lambda leaf: made(leaf) if is_value(leaf) else leaf, call, is_leaf=is_value)


def values_in(call: tuple) -> list[Value]:
    """Those of the tensors in a call, in order."""
    return [leaf for leaf in tree_leaves(call, is_leaf=is_value) if is_value(leaf)]


@dataclass(eq=False)
class Node:
    """A call, or something else that values go to."""

    # Path of the module, or name of the function.
    name: str
    # The leaf that was called; None for a function, and for the ends of the model.
    module: nn.Module | None = None
    function: Callable | None = None
    # Values of the tensors among the arguments, in order.
    inputs: list[int] = field(default_factory=list)
    # Whether more is read or written than inputs and outputs say.
    opaque: bool = False
    # Values of the tensors that came out, their shapes and types, and whether a gradient would
    # reach them.
    outputs: list[int] = field(default_factory=list)
    made: tuple[tuple[tuple[int, ...], torch.dtype], ...] = ()
    tracked: tuple[bool, ...] = ()
    # Positional and keyword arguments, a Value in the place of every tensor, and their shapes.
    call: tuple = ((), {})
    shapes: tuple[tuple[int, ...], ...] = ()
    # File and line that called; of a function, also the code that did, and its instruction there.
    where: str = ""
    site: tuple[CodeType, int] | None = None
    # Path of the module whose forward called.
    within: str = ""

    @cached_property
    def arguments(self) -> tuple:
        """Those of the call, None in the place of whatever is no number, truth or text."""

        def plain(leaf):
            return leaf if isinstance(leaf, bool | int | float | str) else None

        return tree_map(plain, self.call, is_leaf=is_value)

    def argument(self, place: int, name: str, default: object = None) -> object:
        """One that is given by place or by name."""
        args, kwargs = self.arguments
        return kwargs.get(name, args[place] if len(args) > place else default)

    @property
    def path(self) -> str:
        """Path of the layer, or of where a function was called with the function's name."""
        name = self.name
        return name if self.module is not None or not self.within else f"{self.within}.{name}"

    @property
    def op(self) -> str:
        """Class of the layer, or name of the function."""
        return self.name if self.module is None else type(self.module).__name__

    def __str__(self) -> str:
        place = f" ({os.path.basename(self.where)})" if self.function is not None else ""
        return f"{self.name}{place}"


@dataclass(frozen=True)
class Decision:
    """A truth that Python learnt from a tensor: at which line, and what it was told.

    The tensor depends on: ``"value"``, what a layer made of the model's input; ``"input"``, that
    alone; ``"chance"``, dice; ``"state"``, what earlier runs have left.
    """

    where: str
    answer: bool
    by: str


@dataclass
class Trace:
    """What was called, in order; the model's outputs are the inputs of the last call."""

    nodes: list[Node] = field(default_factory=list)
    # By value, the call that it came out of, or the model's own tensor.
    producer: dict[int, Node] = field(default_factory=dict)
    constants: dict[int, Tensor] = field(default_factory=dict)
    # Identities of the parameters and buffers that functions outside leaves read.
    read: set[int] = field(default_factory=set)
    # Paths of layers whose input or output is written in place, and whose plain twin would give
    # back its input itself.
    written: set[str] = field(default_factory=set)
    # Truths that Python learnt from tensors that are no constants, in order; numbers, and where.
    decisions: list[Decision] = field(default_factory=list)
    numbers: set[float] = field(default_factory=set)
    told: list[str] = field(default_factory=list)
    # Of each call of a module that ended, path, values that it gave, and how many nodes there were.
    returned: list[tuple[str, tuple[int, ...], int]] = field(default_factory=list)

    def origin(self, value: int, gives_on: Callable[[Node], bool]) -> Node | None:
        """The call that a value comes from, past those that give their first input on."""
        node = self.producer.get(value)
        while node is not None and node.inputs and not node.opaque and gives_on(node):
            node = self.producer.get(node.inputs[0])
        return node


def trace(
    model: nn.Module,
    inputs: tuple,
    leaves: Container[str],
    *,
    keywords: Mapping[str, object] | None = None,
    # What Python is told, whatever the tensors say, at its first decisions.
    answers: tuple[bool, ...] = (),
    # Identities of parameters and buffers that earlier runs have changed.
    changing: Container[int] = (),
    # Whether the numbers that it learns are others than those of the tensors.
    shifted: bool = False,
    # Of torch's dice, whose state stays what it was.
    seed: int = 0,
    # Whether it runs with gradients, so that it shows which tensors have one.
    differentiable: bool = False,
    # Of a model without numbers, who knows some: an object with ``stand_in(tensor)``, a tensor
    # without numbers for one with, and ``told(run, node, call)``, the result of a call that raised,
    # or None.
    known=None,
) -> Trace:
    """Run the model once, in the mode that it is in, and record it; leaves are given by path.

    Raises:
        TypeError: the model returns no tensor.
    """
    keywords = dict(keywords or {})
    recorder = _Recorder(model, Trace(), tuple(answers), changing, shifted, known)
    with _old_objects_apart():
        _record(recorder, model, inputs, keywords, leaves, differentiable, seed)
        recorder.outlived()
    return recorder.trace


def _record(recorder, model, inputs, keywords, leaves, differentiable, seed) -> None:
    """Run the model; of what it makes, nothing is held here afterwards."""
    held = held_by(model, inputs, keywords)
    with (
        _hooks_watched(model, recorder),
        # Which sets the mode of gradients, too.
        torch.inference_mode(False),
        torch.set_grad_enabled(differentiable),
        dice_of_its_own(held, seed),
    ):
        recorder.begin((inputs, keywords), {tensor.device for tensor in held if tensor.is_cuda})
        with watched(model, leaves, recorder):
            result = model(*inputs, **keywords)
        recorder.goes_to("outputs", returned(result))


@contextmanager
def _old_objects_apart():
    """A collection of garbage looks at what the run has made alone, which is quick."""
    already = gc.get_freeze_count()
    if not already:
        gc.freeze()
    try:
        yield
    finally:
        if not already:
            gc.unfreeze()


@contextmanager
def watched(model, leaves, watcher):
    """A context in which a :class:`Watcher` is shown the calls of a model; leaves have paths."""
    paths = {id(module): path for path, module in model.named_modules()}

    def begin(module, inputs):
        if id(module) in paths:
            watcher.within.append(paths[id(module)])

    def end(module, inputs, result):
        if id(module) in paths:
            watcher.gave(watcher.within.pop(), result)

    with ALONE, ExitStack() as stack:
        for path, module in model.named_modules():
            if path in leaves:
                leaf = watcher.seen_as(partial(Node, path, module), module.forward)
                put(stack, vars(module), "forward", leaf)
        stack.enter_context(torch_module.register_module_forward_pre_hook(begin))
        stack.enter_context(torch_module.register_module_forward_hook(end, always_call=True))
        stack.enter_context(run_as_written())
        observer = threading.get_ident(), watcher.observe
        observers.append(observer)
        stack.callback(observers.remove, observer)
        stack.enter_context(watcher)
        watcher.paused = False
        stack.callback(setattr, watcher, "paused", True)
        yield


@contextmanager
def _hooks_watched(model, recorder):
    """What a hook is called with goes to it; gradients say what a value is to a backward hook."""
    modules = [(path or "the model", module) for path, module in model.named_modules()]
    places = [(getattr(torch_module, f"_global{name}"), "all modules") for name in _HOOKS]
    places += [(getattr(module, name), path) for path, module in modules for name in _HOOKS]
    backward = any(getattr(torch_module, f"_global{name}") for name in _BACKWARD_HOOKS)

    def restore(hooks, before):
        hooks.update({key: hook for key, hook in before.items() if key in hooks})

    with ALONE, ExitStack() as stack:
        for hooks, path in places:
            stack.callback(restore, hooks, dict(hooks))
            hooks.update({key: recorder.hook(hook, path) for key, hook in hooks.items()})
        for path, module in modules:
            if backward or any(getattr(module, name) for name in _BACKWARD_HOOKS):
                see = recorder.hook(lambda *_: None, path)
                stack.enter_context(module.register_forward_pre_hook(see, with_kwargs=True))
                stack.enter_context(module.register_forward_hook(see, with_kwargs=True))
        yield


class Watcher(TorchFunctionMode):
    """Sees the calls of leaves, and those of functions outside them, one after the other.

    Attributes:
        paused: whether it sees none.
        within: paths of the modules whose call goes on, the outermost first.
    """

    def __init__(self):
        super().__init__()
        self.paused = True
        self.within: list[str] = []

    def called(self, node, args, kwargs, result, changed):
        """A call has ended, which has ``changed`` some of the tensors among its arguments."""
        raise NotImplementedError

    def gave(self, path, result):
        """A module has given something."""

    def said(self, result, name, args, kwargs):
        """What to tell Python where it asks for the result of a function."""
        return result

    def seen_as(self, node: Callable[[], Node], function):
        """A function that is seen as one call, and whose inside is not."""

        def call(*args, **kwargs):
            if self.paused:
                return function(*args, **kwargs)
            self.paused = True
            try:
                return self._call(node(), function, args, kwargs)
            finally:
                self.paused = False

        return call

    def observe(self, function, args, kwargs):
        """See a function of this package as one call."""
        node = partial(Node, f"functional.{function.__name__}", function=function)
        return self.seen_as(node, function)(*args, **kwargs)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name == "__iter__":
            return iter(self._call(Node("unbind", function=func), Tensor.unbind, args, kwargs))
        if name not in _SAYS_NO_VALUE:
            result = self._call(Node(name, function=func), func, args, kwargs)
            return self.said(result, name, args, kwargs)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            # A property that is a tensor, such as x.T.
            name = getattr(getattr(func, "__self__", None), "__name__", name)
            self._ended(Node(name, function=func, opaque=True), args, kwargs, result, ())
        return result

    def _call(self, node, function, args, kwargs):
        tensors = tensors_in((args, kwargs))
        versions = [version_of(t) for t in tensors]
        result = function(*args, **kwargs)
        changed = [t for t, v in zip(tensors, versions, strict=True) if version_of(t) != v]
        self._ended(node, args, kwargs, result, changed)
        return result

    def _ended(self, node, args, kwargs, result, changed):
        node.within = self.within[-1] if self.within else ""
        frame = _user_frame()
        node.where = _line_of(frame)
        if node.function is not None:
            node.site = frame.f_code, frame.f_lasti
        self.called(node, args, kwargs, result, changed)


class _Recorder(Watcher):
    def __init__(self, model, run, answers, changing, shifted, known):
        super().__init__()
        self.trace, self.known = run, known
        self.answers, self.changing, self.shifted = answers, changing, shifted
        # By identity of a tensor; those that have a value stay alive while the model runs.
        self.values: dict[int, int] = {}
        self.versions: dict[int, int] = {}
        self.alive: list[Tensor] = []
        # By memory, who shares it, and paths of the layers that have given back their input.
        self.shared: dict[int, set[int]] = {}
        self.quiet: dict[int, set[str]] = {}
        # By value, what it depends on that may be otherwise in another run.
        self.by: dict[int, str] = {}
        self.parameters = {id(t) for t in model.parameters()}
        self.owned = self.parameters | {id(t) for t in model.buffers()}
        self.constants = set(self.owned)
        for module in model.modules():
            own = [v for k, v in vars(module).items() if k not in ("_modules", "_parameters")]
            self.constants |= {id(t) for t in tensors_in(own)}

    # What the run calls

    def begin(self, inputs, devices):
        self.devices = devices
        self.dice = self._dice()
        self._add(Node("inputs"), tensors_in(inputs), "input")

    def goes_to(self, name, tensors):
        self._read(tensors)
        self._add(Node(name, inputs=[self._value(t) for t in tensors], opaque=True))

    def gave(self, path, result):
        """Note what a module gave that is seen."""
        known = (self.values.get(id(t)) for t in tensors_in(result))
        values = tuple(v for v in known if v is not None)
        self.trace.returned.append((path, values, len(self.trace.nodes)))

    def outlived(self):
        """Values that are still there go to whoever holds them."""
        source, producer = self.trace.nodes[0], self.trace.producer
        kept = {self.values[id(t)]: weakref.ref(t) for t in self.alive}
        kept = {v: ref for v, ref in kept.items() if producer.get(v, source) is not source}
        self.alive.clear()
        if any(reference() is not None for reference in kept.values()):
            gc.collect()
        left = [value for value, reference in kept.items() if reference() is not None]
        if left:
            node = Node("what outlives the run", inputs=left, opaque=True)
            self.trace.nodes.insert(-1, node)

    def hook(self, hook, path):
        def call(module, *arguments):
            if not self.paused:
                self.paused = True
                self.goes_to(f"a hook of {path}", tensors_in(arguments))
                self.paused = False
            return hook(module, *arguments)

        return call

    def said(self, result, name, args, kwargs):
        by = self._depends(self.values.get(id(t)) for t in tensors_in((args, kwargs)))
        silent = not by or name in _SAYS_WHERE
        return result if silent else self._told(result, by, name)

    def _call(self, node, function, args, kwargs):
        if self.known is not None:
            args, kwargs = tree_map(self._stand_in, (args, kwargs))
        for tensor in tensors_in((args, kwargs)):
            if version_of(tensor) != self.versions.get(id(tensor), version_of(tensor)):
                self._written_unseen(tensor)
        try:
            return super()._call(node, function, args, kwargs)
        except (RuntimeError, NotImplementedError):
            if self.known is None or node.module is not None:
                raise
            for tensor in tensors_in((args, kwargs)):
                self._value(tensor)
            result = self.known.told(self.trace, node, self._arguments(args, kwargs))
            if result is None:
                raise
        self._ended(node, args, kwargs, result, ())
        return result

    def called(self, node, args, kwargs, result, changed):
        tensors, results = tensors_in((args, kwargs)), tensors_in(result)
        node.inputs = [self._value(t) for t in tensors]
        node.call = self._arguments(args, kwargs)
        node.shapes = tuple(tuple(t.shape) for t in tensors)
        if node.module is None:
            self._read(tensors)
        for tensor in changed:
            others = self._others(tensor)
            self.versions.update(dict.fromkeys(others, version_of(tensor)))
            if others or len(changed) > 1:
                node.opaque = True
                node.inputs += [self.values[i] for i in others]
                self.trace.written |= self.quiet.get(_memory(tensor), set())
            if not any(tensor is r for r in results):
                results.append(tensor)
                node.opaque = node.opaque or node.module is None
        node.opaque = node.opaque or not results
        by = self._depends(node.inputs) or self._thrown()
        weights = any(id(t) in self.parameters for t in tensors)
        if by == "input" and (weights or node.module is not None):
            by = "value"
        self._add(node, results, by)
        if isinstance(node.module, _MAY_GIVE_BACK) and tensors and results:
            self._share(tensors[0], results[0], node.name)

    def _add(self, node, results=(), by=""):
        """Note a call, and that these tensors came out of it."""
        node.outputs = [self._fresh(t) for t in results]
        node.made = tuple((tuple(t.shape), t.dtype) for t in results)
        node.tracked = tuple(t.requires_grad for t in results)
        self.trace.nodes.append(node)
        self.trace.producer.update(dict.fromkeys(node.outputs, node))
        if by:
            self.by.update(dict.fromkeys(node.outputs, by))

    def _read(self, tensors):
        self.trace.read |= {id(t) for t in tensors} & self.owned

    def _arguments(self, args, kwargs):
        def kept(leaf):
            if isinstance(leaf, Tensor):
                return Value(self.values[id(leaf)])
            # Whatever held a tensor would keep it beyond the run.
            return leaf if isinstance(leaf, _NO_TENSOR) and not isinstance(leaf, _Told) else None

        return tree_map(kept, (tuple(args), dict(kwargs)))

    # What Python learns

    def _told(self, result, by, name):
        if isinstance(result, list):
            return [self._told(entry, by, name) for entry in result]
        if isinstance(result, bool):
            return self.decide(result, by)
        if not isinstance(result, int | float):
            return result
        self.trace.numbers.add(result)
        if not name.startswith("__"):
            return _Told.of(result, by)
        # Python wants a number of its own here, and nobody sees what becomes of it.
        self.trace.told.append(_user_line())
        if not self.shifted:
            return result
        return result + 1 if isinstance(result, int) else 1.37 * result + 0.11

    def decide(self, answer: bool, by: str) -> bool:
        """Note a truth that Python learns, and say it."""
        place = len(self.trace.decisions)
        answer = self.answers[place] if place < len(self.answers) else answer
        self.trace.decisions.append(Decision(_user_line(), answer, by))
        return answer

    def _depends(self, values: Iterable[int]) -> str:
        found = {self.by.get(v) for v in values}
        return next((by for by in ("value", "input", "chance", "state") if by in found), "")

    def _dice(self):
        cpu = [torch.default_generator.get_state()]
        return cpu + [torch.cuda.get_rng_state(d) for d in self.devices]

    def _thrown(self) -> str:
        before, self.dice = self.dice, self._dice()
        same = all(torch.equal(a, b) for a, b in zip(before, self.dice, strict=True))
        return "" if same else "chance"

    # Values

    def _stand_in(self, leaf):
        """For a tensor with numbers, which the model holds somewhere else, one without."""
        if not isinstance(leaf, Tensor) or leaf.is_meta:
            return leaf
        empty = self.known.stand_in(leaf)
        self.constants.add(id(empty))
        return empty

    def _fresh(self, tensor) -> int:
        value = next(_numbers)
        self.values[id(tensor)], self.versions[id(tensor)] = value, version_of(tensor)
        self.alive.append(tensor)
        self.shared.setdefault(_memory(tensor), set()).add(id(tensor))
        return value

    def _value(self, tensor) -> int:
        if id(tensor) not in self.values:
            if id(tensor) not in self.constants:
                self._from_unseen(tensor, [self.values[i] for i in self._others(tensor)])
                return self.values[id(tensor)]
            value = self._fresh(tensor)
            self.trace.constants[value] = tensor
            if id(tensor) in self.changing:
                self.by[value] = "state"
        return self.values[id(tensor)]

    def _from_unseen(self, tensor, sources=()):
        """It came from where nothing is seen, by default out of anything that was there before."""
        sources = list(sources or self.trace.producer)
        node = Node("something that is not seen", inputs=sources, opaque=True)
        self._add(node, [tensor], self._depends(sources))

    def _written_unseen(self, tensor):
        """What shares its memory was written, too."""
        for other in [t for t in self.alive if _memory(t) == _memory(tensor)]:
            if self.versions[id(other)] != version_of(other):
                self._from_unseen(other)

    def _others(self, tensor) -> list[int]:
        return [i for i in self.shared.get(_memory(tensor), ()) if i != id(tensor)]

    def _share(self, left, right, path):
        quiet = {path} | self.quiet.get(_memory(left), set())
        self.quiet[_memory(left)] = self.quiet[_memory(right)] = quiet
        together = self.shared[_memory(left)] | self.shared[_memory(right)]
        self.shared[_memory(left)] = self.shared[_memory(right)] = together


def returned(result: object) -> list[Tensor]:
    """The tensors that a model has returned.

    Raises:
        TypeError: there are none.
    """
    tensors = tensors_in(result)
    if not tensors:
        raise TypeError(
            "the model must return tensors, alone or in tuples, lists, dictionaries and "
            f"dataclasses; it returned {type(result).__name__}"
        )
    return tensors


def version_of(tensor) -> int:
    """How often it was written, where torch counts that."""
    return 0 if tensor.is_inference() else tensor._version


def _memory(tensor) -> int:
    storage = tensor.untyped_storage()
    # On the meta device there is no memory, and what views share is the storage itself.
    return storage.data_ptr() or (storage._cdata if tensor.is_meta else id(tensor))


def _user_frame() -> FrameType:
    """The code that called, past torch and what watches it."""
    frame = sys._getframe(1)
    inside = (os.path.dirname(torch.__file__), os.path.dirname(__file__))
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame = frame.f_back
    return frame


def _user_line() -> str:
    return _line_of(_user_frame())


def _line_of(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class _Told:
    """A number out of a tensor, which says what is asked of it."""

    @classmethod
    def of(cls, number, by):
        made = (_ToldInt if isinstance(number, int) else _ToldFloat)(number)
        made.depends_on = by
        return made

    def __reduce__(self):
        return self.plain, (self.plain(self),)

    def __deepcopy__(self, memo):
        return self.plain(self)


def _told_of(plain: type) -> type:
    """Numbers of Python's that note comparisons, and whose sums and products do."""

    def method(name):
        def call(self, *others):
            result = getattr(plain, name)(self, *others)
            watching = observers_here()
            if isinstance(result, bool) and watching:
                return watching[-1].__self__.decide(result, self.depends_on)
            number = isinstance(result, int | float) and not isinstance(result, bool)
            return _Told.of(result, self.depends_on) if number else result

        return call

    names = "lt le gt ge eq ne bool neg abs pos add sub mul truediv radd rsub rmul rtruediv"
    body = {f"__{name}__": method(f"__{name}__") for name in names.split()}
    body |= {"plain": plain, "__hash__": plain.__hash__}
    return type(f"Told{plain.__name__}", (_Told, plain), body)


_ToldFloat, _ToldInt = _told_of(float), _told_of(int)
