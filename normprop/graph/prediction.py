"""The scale of every tensor and of its gradient, before anything runs."""

import copy
import linecache
import math
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map, tree_map_only

import normprop.graph.maps
import normprop.graph.moves
import normprop.graph.products  # noqa: F401
from normprop.graph import fields
from normprop.graph.anatomy import single_layers
from normprop.graph.calls import Call, Step, go_back, name_of, step_of
from normprop.graph.fields import Field, Gradient, Part, at_zero, dims_of, ones, total
from normprop.graph.kinds import is_twin
from normprop.graph.normalised import step_of_layer
from normprop.graph.rewrite import check_arguments
from normprop.graph.scales import Row, Scales
from normprop.graph.trace import Node, Trace, Value, in_place_of_values, trace, values_in
from normprop.graph.wrappers import (
    forked_dice,
    no_reentrant_checkpoints,
    other_dice_kept,
    tensors_in,
    unwrapped,
)
from normprop.nn.together import alone

__all__ = ["predict"]

# Of what is made of others, up to this many are computed.
_LARGEST = 2**26

UNFILLED = {
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided",
}  # fmt: skip
"""What these give is whatever is there."""

_DRAWN = "its weights have no numbers; taken for what its law draws"


def predict(model: nn.Module, /, *inputs: object, **keywords: object) -> Scales:
    """Mean, standard deviation and gradient of every tensor of a network, before it runs.

    A copy without numbers runs on the meta device, and shows which call follows which; laws then
    go forward through the calls, and gradients back.  Weights count by what they are, inputs by
    their mean, their variance and the correlations between their samples and places; of an input on
    the meta device, N(0, 1) is assumed, and of weights there, what the layer draws.  Every layer
    counts in the mode that it is in.

    This is mean field: layers are wide and their weights independent of what arrives, so that it
    holds at initialisation, up to fluctuations of the order of the depth over the width.  The
    first dimension of an input counts samples.  What is assumed beyond that is said in the row
    where it is.  Places along an axis are taken to be alike, on average over borders and phases of
    strides.

    Args:
        model: any module; it stays what it is.
        inputs: what it is called with; their numbers are looked at, and do not run through it.
        keywords: what else it is called with.

    Returns:
        :class:`Scales`, a row for each input and each tensor that a layer, or a function outside
        layers, puts out.

    Raises:
        TypeError: ``model`` is no module, cannot be looked into or copied, or returns no tensor.
        ValueError: the model asks for numbers in a tensor, as control flow that depends on data
            does, and the line is named; or a lazy layer has no shape yet.
    """
    check_arguments(model, inputs, keywords)
    model = unwrapped(model)
    # What is predicted is the model's, whatever mode the caller is in.
    with torch.inference_mode(False), torch.enable_grad():
        run, known = traced(model, inputs, keywords)
        flow = Flow(run, model, known)
        # Whatever the default is, laws are computed here.
        with torch.device("cpu"):
            given_laws(flow, (inputs, keywords))
            go_through(flow, run.nodes[1:], model.get_submodule)
            _backward(flow)
            return flow.scales()


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
        values = values_in(call)
        if not values or any(self.find(run, value.number) is None for value in values):
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
        copies = {v: self.tensors[v.number].detach().cpu().clone() for v in values_in(call)}
        args, kwargs = in_place_of_values(copies.get, call)
        kwargs = {k: v for k, v in kwargs.items() if k != "device"}
        try:
            with torch.device("cpu"), torch.no_grad(), forked_dice():
                return function(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            return None


def traced(model: nn.Module, inputs: tuple, keywords: Mapping[str, object]) -> tuple[Trace, Known]:
    """A run of a copy without numbers, on the meta device, and the numbers that are known.

    Raises:
        ValueError: the model asks for a number that is not known.
    """
    if any(is_lazy(p) for p in model.parameters()):
        raise ValueError(
            "layers must have their shapes; a lazy one has none before the model has run once"
        )
    given = tensors_in((inputs, keywords))
    empties, numbers = {}, {}
    for module in model.modules():
        for tensor in tensors_in([v for k, v in vars(module).items() if k != "_modules"]):
            if id(tensor) not in empties:
                empty = torch.empty_like(tensor, device="meta", requires_grad=False)
                if isinstance(tensor, nn.Parameter):
                    empty = nn.Parameter(empty, has_scale(empty))
                empties[id(tensor)], numbers[id(empty)] = empty, tensor
    drawn = {
        id(tensor): getattr(made, name)
        for module in model.modules()
        if (made := with_numbers(module)) is not module
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
    }
    known, seen = Known(numbers, given, drawn), copy.deepcopy(model, empties)
    # The model may write into an input, as it could not into a leaf.
    made = {
        id(t): torch.empty_like(t, device="meta", requires_grad=has_scale(t)).clone() for t in given
    }
    args, kwargs = copy.deepcopy((inputs, dict(keywords)), made)
    leaves = _leaves(seen)
    with other_dice_kept(), no_reentrant_checkpoints(), torch.device("meta"):
        try:
            run = trace(seen, args, leaves, keywords=kwargs, differentiable=True, known=known)
        except (RuntimeError, NotImplementedError) as problem:
            raise _explained(problem) from problem
    return run, known


def with_numbers(module: nn.Module) -> nn.Module:
    """The module, or where it has no numbers a copy that has drawn them."""
    own = [*module.parameters(), *module.buffers()]
    if _draw_of(module) is None or not any(t.is_meta for t in own):
        return module
    made = copy.deepcopy(module).to_empty(device="cpu")
    with forked_dice():
        torch.manual_seed(0)
        for draw in filter(None, map(_draw_of, made.modules())):
            draw()
    return made


def _draw_of(module: nn.Module) -> Callable[[], None] | None:
    return getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))


def _explained(problem: Exception) -> Exception:
    if "meta" not in str(problem):
        return problem
    inside = (torch.__path__[0], __file__.rpartition("/")[0])
    frames = traceback.extract_tb(problem.__traceback__)
    own = [f for f in frames if not f.filename.startswith(inside)] or frames
    line = linecache.getline(own[-1].filename, own[-1].lineno).strip()
    return ValueError(
        "model must not ask for the numbers in a tensor, which do not exist before it runs; it "
        f"does in {own[-1].filename}:{own[-1].lineno}: {line}"
    )


def _leaves(model: nn.Module) -> set[str]:
    """Paths of normalised layers, which here run as the plain ones: their shapes are the same."""
    found = set()
    for path, module in alone(model).named_modules():
        # Hooks may hand on what they get; those of torch.nn.utils make weights.
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in [*hooks.items()]:
                if not type(hook).__module__.startswith("torch."):
                    del hooks[key]
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
        if is_twin(module):
            found.add(path)
            if module.torch_type is not nn.Module:
                module.__dict__["forward"] = MethodType(module.torch_type.forward, module)
    return found


@dataclass
class Flow:
    """Laws of the values of a trace, and of the gradients at them.

    Attributes:
        run: the trace.
        laws: by value.
        gradients: by value; those that have none are missing.
        notes: by value, what its law or its gradient rests on that was not derived.
        steps: what was gone through, with the values that each gave.
        weights: as of a :class:`Call`.
        unfilled: values that hold whatever is there.
    """

    run: Trace
    model: nn.Module
    known: Known
    laws: dict[int, Field] = field(default_factory=dict)
    gradients: dict[int, Gradient] = field(default_factory=dict)
    notes: dict[int, list[str]] = field(default_factory=dict)
    steps: list[tuple[Sequence[int], Step]] = field(default_factory=list)
    weights: dict = field(default_factory=dict)
    unfilled: set[int] = field(default_factory=set)

    def scales(self) -> Scales:
        """The table."""
        leaves, shown = single_layers(self.model), []
        returned = defaultdict(list)
        for path, values, place in self.run.returned:
            if path in leaves:
                op = type(self.model.get_submodule(path)).__name__
                returned[place] += [(value, path, op) for value in values]
        for place, node in enumerate(self.run.nodes):
            shown += returned[place]
            if place == 0:
                inputs = enumerate(node.outputs)
                shown += [(value, f"input {i}" if i else "input", "input") for i, value in inputs]
            elif (node.name if node.module is not None else node.within) not in leaves:
                shown += [(value, node.path, node.op) for value in node.outputs]
        rows = tuple(row for row in starmap(self._row, shown) if row is not None)
        said = sum(len(row.assumed) > 0 for row in rows)
        notes = (f"rows with an assumption of their own: {said}",) if said else ()
        return Scales(rows, notes=notes)

    def _row(self, value: int, path: str, op: str) -> Row | None:
        """The row of a value; none for what is the same whatever is put in."""
        if value in self.unfilled or not (value in self.laws or value in self.known.looked):
            return None
        node, law = self.run.producer[value], self.laws.get(value)
        shape, _ = node.made[node.outputs.index(value)]
        notes = tuple(dict.fromkeys(self.notes.get(value, ())))
        if law is None or law.values is None or not math.prod(shape):
            return Row(path, op, shape, None, None, None, None, notes)
        std = None
        if value in self.gradients:
            std = math.sqrt(max(at_zero(total(self.gradients[value], law)), 0.0))
        return Row(path, op, shape, law.mean, math.sqrt(law.variance), law.sample_std, std, notes)


def go_through(flow: Flow, nodes: Sequence[Node], layer_at: Callable[[str], nn.Module]) -> None:
    """Go through calls, and add the laws of what they give; layers have their numbers."""
    run, known = flow.run, flow.known
    for node in nodes:
        shapes = [shape for shape, _ in node.made]
        if node.name in UNFILLED:
            laws = [Field.constant(dims_of(shape), 0.0) for shape in shapes]
            flow.laws.update(zip(node.outputs, laws, strict=True))
            flow.unfilled.update(node.outputs)
            continue
        found = [known.find(run, value) for value in (*node.inputs, *node.outputs)]
        if all(tensor is not None for tensor in found[len(node.inputs) :]):
            continue
        call = Call(
            name_of(node.name, node.function), *node.call, shapes, flow.laws, known.tensors,
            flow.weights, known.looked, node.function,
            [dtype.is_floating_point for _, dtype in node.made],
        )  # fmt: skip
        if node.module is not None:
            layer = layer_at(node.name)
            if any(t.is_meta for t in layer.parameters()):
                call.notes.append(_DRAWN)
            step = step_of_layer(call, with_numbers(layer), node)
        else:
            step = step_of(call)
        if any(v in known.drawn for v in node.inputs):
            call.notes.append(_DRAWN)
        flow.laws.update(zip(node.outputs, step.laws, strict=True))
        flow.steps.append((node.outputs, step))
        for value in node.outputs if call.notes else ():
            flow.notes.setdefault(value, []).extend(call.notes)


def given_laws(flow: Flow, given: object) -> None:
    """Add the laws of the tensors that the model is called with."""
    for value, tensor in zip(flow.run.nodes[0].outputs, tensors_in(given), strict=True):
        roots, dims = frozenset({value}), dims_of(tensor.shape, samples=True)
        if not tensor.is_meta:
            flow.laws[value] = fields.measured(tensor, samples=True, roots=roots)
        elif tensor.is_floating_point():
            flow.laws[value] = Field.standard(dims, roots)
            flow.notes[value] = ["it has no numbers; taken for independent N(0, 1)"]
        else:
            flow.laws[value] = Field.tokens(tensor.shape, samples=True)
            flow.notes[value] = ["it has no numbers; taken for tokens that all differ"]


def _backward(flow: Flow) -> None:
    """Gradients, for independent N(0, 1) at every output that holds real numbers."""
    end = flow.run.nodes[-1]
    tracked = {v for n in flow.run.nodes for v, t in zip(n.outputs, n.tracked, strict=True) if t}
    for number, value in enumerate(end.inputs):
        law = flow.laws.get(value)
        if value in tracked and law is not None and law.values is not None:
            flow.gradients[value] = flow.gradients.get(value, {})
            flow.gradients[value] |= {("output", number): Part(1.0, ones(law.dims))}
    go_back(flow.steps, flow.gradients, {v: law for v, law in flow.laws.items() if v in tracked})


# Of a run whose layers will be others.


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

    def law(self, value: int) -> Field | None:
        """That of a value; None where it holds no real numbers of finite variance."""
        law = self.flow.laws.get(value)
        known = law is not None and law.values is not None and math.isfinite(law.variance)
        return law if known else None

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
        for value, (mine,) in zip(run.nodes[0].outputs, values_in(node.call), strict=True):
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
