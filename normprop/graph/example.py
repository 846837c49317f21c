"""A model, watched while it runs on an example."""

import os
from collections import Counter
from collections.abc import Container, Mapping
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map

from normprop import functional, rules
from normprop.graph.anatomy import layers_of, leaves_of, paths_of
from normprop.graph.passing import ADD, JOIN, MOVES, SUB, moves
from normprop.graph.prediction import Steps, varied
from normprop.graph.rewrite import copied
from normprop.graph.roads import roads_of
from normprop.graph.trace import Trace, trace
from normprop.graph.wrappers import dice_of_its_own, held_by, run_as_written, tensors_in


class Example:
    """A model, watched on an example.

    Attributes:
        traces: one of each road that it takes.
        runs: what was run, in words.
        read: paths of the modules that hold parameters which functions outside layers read.
        reached: paths of the layers that it calls.
    """

    def __init__(self, model: nn.Module, inputs: tuple, keywords: Mapping[str, object]):
        self.model, self.inputs, self.keywords = model, inputs, keywords
        self.on_gpu = any(t.is_cuda for t in held_by(model, inputs, dict(keywords)))
        # Not run in the model itself: training would move its statistics.
        seen = copied(model)
        leaves = leaves_of(seen)
        if any(is_lazy(p) for p in seen.parameters()):
            # Lazy layers make themselves in their first run, which is like no other.
            self._run(seen)
        args, kwargs = self._fresh()
        try:
            self.traces, self.runs = roads_of(seen, args, kwargs, leaves)
        except ValueError as problem:
            # No constant moves, so that the model may do otherwise for another input.
            args, kwargs = self._fresh()
            self.traces = (trace(seen, args, leaves, keywords=kwargs),)
            self.runs = (f"one run, and no other road: {problem}",)
        read = set().union(*(run.read for run in self.traces))
        self.read = {
            path
            for path, module in paths_of(seen)
            if any(id(p) in read for p in module._parameters.values())
        }
        called = {id(node.module) for run in self.traces for node in run.nodes}
        self.reached = {path for path, module in paths_of(seen) if id(module) in called}

    def _fresh(self):
        """The inputs, which a model may write into."""

        def copy_of(leaf):
            return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf

        return tree_map(copy_of, (self.inputs, dict(self.keywords)))

    def _run(self, model: nn.Module):
        args, kwargs = self._fresh()
        held = held_by(model, args, kwargs)
        with torch.no_grad(), run_as_written(), dice_of_its_own(held, 0):
            return model(*args, **kwargs)

    def overwritten(self, paths: Container[str], converted: Container[str]) -> dict[str, str]:
        """By path of a layer, whether the model writes into its "output" or its "input".

        Layers that were converted no longer write into their inputs.
        """
        seen = copied(self.model)
        calls = []

        def remember(path, module, args, output):
            found = [("output", t) for t in tensors_in(output)]
            found += [("input", t) for t in args[:1] if isinstance(t, Tensor)]
            calls.extend((path, which, tensor, tensor._version) for which, tensor in found)

        for path, module in paths_of(seen):
            if path in converted:
                _not_in_place(module)
            if path in paths:
                module.register_forward_hook(partial(remember, path))
        self._run(seen)
        found: dict[str, str] = {}
        for path, which, tensor, version in calls:
            if tensor._version != version and found.get(path) != "input":
                found[path] = which
        return found

    def steps(self, run: Trace) -> Steps:
        """Laws of the values of a run, call by call."""
        return Steps(run, varied((self.inputs, dict(self.keywords)))[0])

    @cached_property
    def shown(self) -> set[str]:
        """Paths of layers whose writing into their inputs the outputs of the model show."""
        writing = [
            path
            for path, module, reason, _ in layers_of(copied(self.model))
            if reason is None and getattr(module, "inplace", False)
        ]
        if not writing:
            return set()
        as_is = self._results(())
        # Nobody can tell a difference from chance.
        by_chance = not _same(as_is, self._results(()))
        if by_chance or _same(as_is, self._results(writing)):
            return set()
        alone = {path for path in writing if not _same(as_is, self._results([path]))}
        return alone or set(writing)

    def computes_as(self, other: "Example") -> bool:
        """Whether another model gives the same, or chance decides what this one gives."""
        own = self._results(())
        return _same(own, other._results(())) or not _same(own, self._results(()))

    def _results(self, quiet) -> list[Tensor]:
        model = copied(self.model)
        for path in quiet:
            _not_in_place(model.get_submodule(path))
        for module in model.modules():
            entry = rules.entry_that_applies(type(module))
            if self.on_gpu and entry is not None and entry.draws(module):
                # On a GPU torch draws other numbers where it writes in place.
                module.eval()
        return tensors_in(self._run(model))


def _not_in_place(module: nn.Module) -> None:
    if getattr(module, "inplace", False) is True:
        module.inplace = False


def _same(left: list[Tensor], right: list[Tensor]) -> bool:
    def equal(a, b):
        same = a.shape == b.shape and a.dtype == b.dtype
        return same and bool(torch.isclose(a, b, rtol=0.0, atol=0.0, equal_nan=True).all())

    return len(left) == len(right) and all(map(equal, left, right))


def in_front(runs: tuple[Trace, ...]) -> dict[str, set[str]]:
    """By path of a layer, the layers or functions whose outputs it was called with."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for node in run.nodes:
            if node.module is not None and node.inputs:
                found.setdefault(node.name, set()).add(_source(run, node.inputs[0]))
    return found


def _source(run: Trace, value: int) -> str:
    """What a value comes from, past whatever only moves numbers."""
    node = run.origin(value, moves)
    if node is None:
        return "a constant"
    return node.name if node.module is not None else f"the function {node.name}"


_SHOWN = 3


def functions_of(runs: tuple[Trace, ...]) -> dict[str, str]:
    """By name, how often functions outside layers are called, where, and what could stand there."""
    counts: Counter[str] = Counter()
    places: dict[str, dict[str, None]] = {}
    for run in runs:
        calls = [n for n in run.nodes if n.function is not None and n.inputs and n.outputs]
        calls = [node for node in calls if node.name not in MOVES]
        counts |= Counter(node.name for node in calls)
        for node in calls:
            places.setdefault(node.name, {})[os.path.basename(node.where)] = None
    often = {name: f"{_times(n)}{_at(name, *places[name])}" for name, n in counts.items()}
    return {name: f"{said}; {_instead(name)}" for name, said in often.items()}


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _at(name: str, *places: str) -> str:
    """Where a function is called that has no part in the plan."""
    if name in ADD | SUB | JOIN or name.startswith("functional."):
        return ""
    return f" at {', '.join(places[:_SHOWN])}" + ", …" * (len(places) > _SHOWN)


def _instead(name: str) -> str:
    if name.startswith("functional."):
        return "is normalised already"
    if name in ADD | SUB:
        return "variances add up; branches that can be scaled have their share"
    if name in JOIN:
        return "parts should have one scale: nn.Concat gives it to them"
    plain = name.rstrip("_")
    if plain in functional.__all__ and not plain.startswith("normalize"):
        return f"functional.{plain} is its twin"
    return "stays as it is"
