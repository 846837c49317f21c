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
from torch import nn
from torch.nn.parameter import is_lazy

import normprop.graph.maps
import normprop.graph.moves
import normprop.graph.products  # noqa: F401
from normprop.graph import fields
from normprop.graph.anatomy import single_layers
from normprop.graph.calls import Call, Step, go_back, name_of, step_of
from normprop.graph.fields import Field, Gradient, Part, at_zero, dims_of, ones, total
from normprop.graph.kinds import is_twin
from normprop.graph.known import UNFILLED, Known, has_scale
from normprop.graph.normalised import step_of_layer
from normprop.graph.rewrite import check_arguments
from normprop.graph.scales import Row, Scales
from normprop.graph.trace import Node, Trace, trace
from normprop.graph.wrappers import (
    no_reentrant_checkpoints,
    other_dice_kept,
    tensors_in,
    unwrapped,
)
from normprop.nn.together import alone

__all__ = ["predict"]

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
    with torch.random.fork_rng(()):
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
