"""A normalised network out of a plain one."""

import difflib
import inspect
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

from normprop import functional, rules
from normprop import nn as twins
from normprop.functional.parametric import check_method
from normprop.functional.scale import Scaling, check_scaling
from normprop.functional.weight import Method, Per
from normprop.graph.kinds import is_watched
from normprop.graph.passing import ADD, JOIN, SUB
from normprop.graph.report import kept_with_models, remember
from normprop.graph.rewrite import check_arguments, check_model, copied, remade
from normprop.graph.rewrite import replace as put_in
from normprop.graph.roads import roads_of
from normprop.graph.trace import Node, Trace, trace
from normprop.graph.wrappers import run_as_written, tensors_in, unwrapped
from normprop.nn.activation import Activation

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_PARAMETERS = (nn.ParameterList, nn.ParameterDict)
_OPTIONS = {"scaling": Scaling, "per": Per, "method": Method}

# What a class may say that computes nothing.
_SAYS_NOTHING = {
    "__init__", "extra_repr", "__repr__", "__doc__", "__module__", "__qualname__", "__dict__",
    "__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__",
    "__firstlineno__", "__static_attributes__", "__weakref__", "__parameters__",
    "__orig_bases__", "__abstractmethods__", "_abc_impl",
}  # fmt: skip

_KEEP_THEIR_OUTPUT = (nn.ReLU, nn.Sigmoid, nn.Tanh)
"""Activations of torch that no network writes behind, as their gradients need what they gave."""

_TWINS_OWN = {"absorbed", "backend", "constants", "method", "overwritten", "per", "scaling"}

_MOVES = {
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim",
    "squeeze", "unsqueeze", "contiguous", "clone", "detach", "__getitem__", "chunk", "split",
    "unbind", "narrow", "select", "expand", "expand_as", "view_as", "reshape_as", "repeat",
    "roll", "flip", "to", "float", "double", "half", "bfloat16", "type_as", "alias", "positive",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "t", "T", "mT",
}  # fmt: skip


@kept_with_models
@dataclass(frozen=True)
class Conversion:
    """What became of every layer; prints as a table.

    Attributes:
        converted: by path, the class that was exchanged for its twin.
        kept: by path, why a layer is what it was.  Every module that holds a parameter is in one
            of the two.
        functions: by name, what the model computes outside its layers, how often and what could
            stand there; ``None`` where no example was given, so that nobody looked.
        notes: by path, what is particular about a layer that was converted.
        runs: what the model was watched at, and what that rests on.
    """

    converted: dict[str, str]
    kept: dict[str, str]
    functions: dict[str, str] | None = None
    notes: dict[str, str] = field(default_factory=dict)
    runs: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = len(self.converted) + len(self.kept)
        counts = Counter(self.converted.values())
        names = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
        lines = [f"converted {len(self.converted)} of {total} layers{': ' * bool(names)}{names}"]
        lines += [f"kept      {path:<32}  {reason}" for path, reason in self.kept.items()]
        lines += [f"note      {path:<32}  {note}" for path, note in self.notes.items()]
        if self.functions is None:
            lines.append("functions outside layers: not looked for, as no example was given")
            lines.append("weights read past their layers: not looked for either")
            lines.append("writes in place: not looked for either; into outputs they may stay")
        else:
            lines += [f"function  {name:<32}  {note}" for name, note in self.functions.items()]
        lines += [f"seen      {note}" for note in self.runs]
        return "\n".join(lines)


def convert(
    model: nn.Module,
    /,
    *example_inputs,
    scaling: Scaling = "backward",
    per: Per = "neuron",
    method: Method = "normalize",
    **example_keywords,
) -> nn.Module:
    """A normalised copy of a plain network: every layer of torch that has a twin becomes it.

    Activations, linear maps, convolutions, pooling, dropout, embeddings, attention and resizing
    get their constants; parameters, keys of the ``state_dict`` and the code of the model stay.
    Each layer's constants are those of a normal input of mean 0 and variance 1, which is what the
    normalised layer in front of it is there to give; a pooling layer right behind an activation
    has those of what that gives, where an example shows that it is there.

    It is another function than the model's: convert before training, not after.

    What stays is in :func:`normprop.report` with its reason: layers that normalise by
    statistics already, a softmax, whose outputs have to sum to 1, losses, layers with hooks,
    which may compute anything, and so may a class from elsewhere, unless it is one of torch's
    with another constructor.  A layer whose weights somebody reads past it stays as well: a
    parametrised one, and whatever computes its weights; the parts of composed layers of torch,
    such as ``nn.TransformerEncoderLayer``, and of their subclasses; a layer whose weight
    the model is seen to use itself.  So does what the model computes by functions, and a sum of a
    branch and its skip path among them adds variances: :class:`normprop.nn.Residual` does not.

    Layers that share a weight each normalise it in the forward pass, whatever the method, where
    they want it on different balls.  Whatever the model writes into in place it may go on writing
    into: where an example shows that it does, and for outputs wherever torch allows it if there is
    none, the twin of an activation keeps for its gradient what torch's keeps; its attribute
    ``overwritten`` says so.  A layer whose own writing into its input shows, because the model
    reads that again, stays.  All of this is looked for on the roads that the example shows; where
    others depend on values, on Python's dice or on a count, the report says so.

    Args:
        model: is not changed.  Of a model that ``torch.compile``, ``nn.DataParallel``,
            ``nn.parallel.DistributedDataParallel`` or ``torch.optim.swa_utils.AveragedModel``
            wraps, what it wraps is converted, and so is a part of the model that is wrapped;
            wrap what is returned again.
        example_inputs: what it is called with.  It is watched on copies of them, for the
            functions that it calls, the weights that it reads, the tensors that it writes into and
            for what stands in front of pooling.  Without any, nothing of this is looked for.
        scaling: which standard deviation divides in which pass, for all layers.
        per: of weights, one factor a neuron or one for the layer, which is what a bilinear map
            always has.
        method: of weights, ``"normalize"`` in each forward pass or ``"project"`` after each step.
        example_keywords: what else it is called with.  Of an argument of the model that has the
            name of an option here, the option is meant: give it by position.

    Returns:
        A copy, in the mode of the model; :func:`normprop.report` has its :class:`Conversion`.

    Raises:
        TypeError: the model is no module, cannot be looked into or copied, does not take a
            keyword, or returns no tensor; or an option is given without its name.
        ValueError: an option is unknown, or the example holds no tensor.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        >>> type(normprop.convert(net)[1])
        <class 'normprop.nn.activation.ReLU'>
    """
    check_scaling(scaling)
    check_method(method, per)
    check_model(model)
    inner = unwrapped(model)
    _check_examples(inner, example_inputs, example_keywords)
    example = None
    options = {"scaling": scaling, "per": per, "method": method}
    # Tensors made for inference neither train nor say who wrote into them.
    with torch.inference_mode(False):
        if example_inputs or example_keywords:
            check_arguments(inner, example_inputs, example_keywords)
            example = _Example(inner, example_inputs, example_keywords)
        made = _Converter(copied(model), example, options)
        converted = made.convert()
    found = Conversion(made.converted, made.kept, notes=made.notes)
    if example is not None:
        found = replace(found, functions=_functions(example.traces), runs=example.runs)
    return remember(converted, found)


def _check_examples(model: nn.Module, inputs: tuple, keywords: Mapping[str, object]) -> None:
    """Refuse options without their names, and names that neither knows."""
    values = {value: name for name, kind in _OPTIONS.items() for value in get_args(kind)}
    for given in inputs:
        if isinstance(given, str) and given in values:
            raise TypeError(
                f"{values[given]} must be given by name, as {values[given]}={given!r}; it was "
                "among the example inputs"
            )
    taken = inspect.signature(model.forward).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    for name in keywords:
        near = difflib.get_close_matches(name, _OPTIONS, 1, 0.75)
        if name not in taken and (near or not anything):
            meant = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(
                f"a keyword must be one of {', '.join(_OPTIONS)}, or an argument of "
                f"{type(model).__name__}.forward; it was {name!r}{meant}"
            )


class _Example:
    """A model, watched on an example.

    Attributes:
        traces: one of each road that it takes.
        runs: what was run, in words.
        read: paths of the modules that hold parameters which functions outside layers read.
        reached: paths of the layers that it calls.
    """

    def __init__(self, model: nn.Module, inputs: tuple, keywords: Mapping[str, object]):
        self.model, self.inputs, self.keywords = model, inputs, keywords
        tensors = tensors_in((inputs, dict(keywords)))
        self.devices = {t.device for t in tensors if t.device.type == "cuda"}
        # Not run in the model itself: training would move its statistics.
        seen = copied(model)
        leaves = {path for path, _, _, leaf in _walk(seen) if leaf}
        # Layers inside what is foreign are layers, not functions.
        leaves |= {path for path, module in seen.named_modules() if _is_plain(module)}
        if any(is_lazy(p) for p in seen.parameters()):
            # Lazy layers make themselves in their first run, which is like no other.
            self._run(seen)
        args, kwargs = self._fresh()
        try:
            roads = roads_of(seen, args, kwargs, leaves)
            self.traces, self.runs = roads.traces, roads.notes
        except ValueError as problem:
            # No constant moves, so that the model may do otherwise for another input.
            args, kwargs = self._fresh()
            self.traces = (trace(seen, args, leaves, keywords=kwargs),)
            self.runs = (f"one run, and no other road: {problem}",)
        read = set().union(*(run.read for run in self.traces))
        self.read = {
            path
            for path, module in _paths(seen)
            if any(id(p) in read for p in module._parameters.values())
        }
        called = {id(node.module) for run in self.traces for node in run.nodes}
        self.reached = {path for path, module in _paths(seen) if id(module) in called}

    def _fresh(self):
        """The inputs, which a model may write into."""

        def copy_of(leaf):
            return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf

        return tree_map(copy_of, (self.inputs, dict(self.keywords)))

    def _run(self, model: nn.Module):
        args, kwargs = self._fresh()
        with torch.no_grad(), run_as_written(), torch.random.fork_rng(self.devices):
            torch.manual_seed(0)
            return model(*args, **kwargs)

    def overwritten(self, paths: Container[str], converted: Container[str]) -> dict[str, str]:
        """By path of a layer, whether the model writes into its "output" or its "input".

        Layers that were converted no longer write into their inputs.
        """
        seen = copied(self.model)
        calls = []

        def remember_call(path):
            def hook(module, args, output):
                for which, tensors in (("output", tensors_in(output)), ("input", args[:1])):
                    calls.extend(
                        (path, which, t, t._version) for t in tensors if isinstance(t, Tensor)
                    )

            return hook

        for path, module in _paths(seen):
            if path in converted:
                _not_in_place(module)
            if path in paths:
                module.register_forward_hook(remember_call(path))
        self._run(seen)
        found: dict[str, str] = {}
        for path, which, tensor, version in calls:
            if tensor._version != version and found.get(path) != "input":
                found[path] = which
        return found

    @cached_property
    def shown(self) -> set[str]:
        """Paths of layers whose writing into their inputs the outputs of the model show."""
        writing = [
            path
            for path, module, reason, _ in _walk(copied(self.model))
            if reason is None and getattr(module, "inplace", False)
        ]
        if not writing:
            return set()
        as_is = self._results(())
        if not _same(as_is, self._results(())):
            # Nobody can tell a difference from chance.
            return set()
        if _same(as_is, self._results(writing)):
            return set()
        alone = {path for path in writing if not _same(as_is, self._results([path]))}
        return alone or set(writing)

    def _results(self, quiet) -> list[Tensor]:
        model = copied(self.model)
        for path in quiet:
            _not_in_place(model.get_submodule(path))
        for module in model.modules():
            entry = rules.entry_that_applies(type(module))
            if self.devices and entry is not None and entry.draws(module):
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


# What a model is made of


def _walk(
    module: nn.Module, path: str = "", above: tuple[nn.Module, ...] = ()
) -> Iterator[tuple[str, nn.Module, str | None, bool]]:
    """Every layer, and whatever holds a parameter.

    Yields paths, modules, why the module stays, where its kind says so, and whether nothing
    inside it is looked at.
    """
    if any(module is parent for parent in above):
        return
    kind, base = type(module), _base(type(module))
    holds = any(p is not None for p in module._parameters.values())
    if parametrize.is_parametrized(module):
        whole = _is_whole(module)
        yield path, module, "has parametrizations, which compute its weights", whole
        yield from _parts(module, path, "computes a weight of {}")
        if whole:
            return
    elif _is_own(kind) and (base is not None or not module._modules):
        yield path, module, "is normalised already", True
        yield from _parts(module, path, "has a weight that {} normalises")
        return
    elif _is_whole(module):
        entry = rules.entry_of_type(base)
        if kind is not base and (module._modules or not _changes_nothing(kind, base)):
            yield path, module, _foreign(module, base), False
        elif holds or entry is None or not (entry.quiet or isinstance(module, _PARAMETERS)):
            has_twin = entry is not None and entry.converts and hasattr(twins, base.__name__)
            yield path, module, None if has_twin else _why_not(module, entry), True
        yield from _parts(module, path, "is a part of {}, which may read its weights past it")
        return
    elif not (module._modules or isinstance(module, _CONTAINERS) or kind is nn.Module):
        yield path, module, _foreign(module, None), False
    elif holds:
        yield path, module, "holds parameters of its own, with which it may do anything", False
    for name, child in module._modules.items():
        if child is not None and name != "parametrizations":
            yield from _walk(child, _under(path, name), (*above, module))


def _parts(module: nn.Module, path: str, reason: str):
    """What holds parameters inside a module that is judged as a whole."""
    whole = _is_whole(module)
    for name, part in _paths(module):
        inside = name and (whole or name.split(".")[0] == "parametrizations")
        if inside and any(p is not None for p in part._parameters.values()):
            yield _under(path, name), part, reason.format(path or "the model"), True


def _paths(module: nn.Module, path: str = "", above: tuple[nn.Module, ...] = ()):
    """Every path to every module, but round in circles."""
    if any(module is parent for parent in above):
        return
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _paths(child, _under(path, name), (*above, module))


def _under(path: str, name: str) -> str:
    return ".".join(part for part in (path, name) if part)


def _base(kind: type) -> type | None:
    """The class that ``torch.nn`` exports, of a layer, its subclass or its twin."""
    for parent in kind.__mro__:
        if parent is nn.Module:
            return None
        if getattr(nn, parent.__name__, None) is parent:
            return parent
    return None


def _is_whole(module: nn.Module) -> bool:
    """Whether it is a layer, whatever it holds."""
    return _base(type(module)) is not None and not isinstance(module, _CONTAINERS)


def _is_plain(module: nn.Module) -> bool:
    return _is_whole(module) and _base(type(module)) is type(module)


def _is_own(kind: type) -> bool:
    ours = ("normprop.nn.", "normprop.graph.")
    return any(parent.__module__.startswith(ours) for parent in kind.__mro__)


def _changes_nothing(kind: type, base: type) -> bool:
    """Whether a subclass computes what its base does."""
    own = [parent for parent in kind.__mro__ if parent not in base.__mro__]
    return all(name in _SAYS_NOTHING for parent in own for name in vars(parent))


def _foreign(module: nn.Module, base: type | None) -> str:
    name = type(module).__name__
    if base is not None and module._modules:
        return f"is a {name}, a {base.__name__} that holds layers, whose weights it may read"
    return f"is a {name}, not a layer of torch.nn, and may compute anything"


class _Converter:
    """A walk over a model, which it changes."""

    def __init__(self, model, example, options):
        self.model, self.options = model, options
        self.example: _Example | None = example
        self.converted: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self.made: dict[int, nn.Module] = {}
        # Why modules stay wherever else they are found.
        self.held: dict[int, str] = {}
        self.in_front = {} if example is None else _in_front(example.traces)

    def convert(self) -> nn.Module:
        found = {path: (layer, reason) for path, layer, reason, _ in _walk(self.model)}
        plain = {path: layer for path, (layer, _) in found.items()}
        for path, (layer, reason) in found.items():
            if reason is not None:
                self.kept[path] = reason
                self._hold(path, layer, reason)
        # What stands in front of a pooling layer has to be there before it.
        order = sorted((p for p in plain if p not in self.kept), key=lambda p: _is_pool(plain[p]))
        twins_of: dict[str, nn.Module] = {}
        for path in order:
            try:
                twins_of[path] = self._twin(path, plain[path], twins_of)
            except _KeptError as kept:
                self.kept[path] = str(kept)
            except (TypeError, ValueError) as problem:
                self.kept[path] = f"has no normalised form: {problem}"
            if path in self.kept:
                self.held.setdefault(id(plain[path]), self.kept[path])
        for path, layer in plain.items():
            if path in twins_of:
                self.converted[path] = _base(type(layer)).__name__
        if self.options["method"] == "project":
            self._project(plain, twins_of)
        self._allow_writes(twins_of)
        if self.example is not None:
            for path in twins_of:
                if path not in self.example.reached:
                    self.notes.setdefault(path, "is not reached by the example")
        for path, made in twins_of.items():
            for part in self.kept:
                if part.startswith(f"{path}." if path else ""):
                    self.kept[part] = f"has a weight that {path or 'the model'} normalises"
            self.model = put_in(self.model, path, plain[path], made)
        # In the order of the model again.
        self.kept = {path: self.kept[path] for path in plain if path in self.kept}
        self.notes = {path: self.notes[path] for path in plain if path in self.notes}
        return self.model

    def _hold(self, path: str, layer: nn.Module, reason: str) -> None:
        self.held.setdefault(id(layer), reason)
        inside = layer
        if not _is_whole(layer):
            inside = getattr(layer, "parametrizations", nn.ModuleDict())
        for part in inside.modules():
            self.held.setdefault(id(part), f"is a part of {path or 'the model'} too, which stays")

    def _twin(self, path: str, layer: nn.Module, twins_of) -> nn.Module:
        if id(layer) in self.made:
            return self.made[id(layer)]
        if id(layer) in self.held:
            raise _KeptError(self.held[id(layer)])
        base = _base(type(layer))
        twin_type = getattr(twins, base.__name__)
        _refuse_hooks(layer)
        if self.example is not None:
            if self.example.read & {_under(path, name) for name, _ in _paths(layer)}:
                raise _KeptError("has a parameter that the model reads past it")
            if path in self.example.shown:
                raise _KeptError("writes into its input, which the model reads again")
        taken = inspect.signature(twin_type).parameters
        options = {key: value for key, value in self.options.items() if key in taken}
        if base is nn.Bilinear:
            # No factor of a neuron serves both of its inputs.
            options["per"] = "layer"
        if "after" in taken:
            options |= self._after(path, twins_of)
        made = _made(layer, base, twin_type, options)
        self.made[id(layer)] = made
        return made

    def _after(self, path: str, twins_of) -> dict:
        sources = self.in_front.get(path, set())
        layers = {source: twins_of.get(source) for source in sources}
        activations = [
            layer
            for layer in layers.values()
            if layer is not None and rules.entry_that_applies(type(layer)).family == "activation"
        ]
        if not activations:
            return {}
        if len(sources) > 1:
            raise _KeptError(f"is called behind different layers, {', '.join(sorted(sources))}")
        return {"after": activations[0]}

    def _project(self, plain, twins_of) -> None:
        """Put weights on their balls, where all who hold them want the same."""
        holders: dict[int, list[str]] = {}
        for path, module in _paths(self.model):
            for parameter in module._parameters.values():
                if parameter is not None:
                    holders.setdefault(id(parameter), []).append(path)
        for path, made in twins_of.items():
            if getattr(made, "method", None) != "project":
                continue
            others = [p for p in holders[id(made.weight)] if p != path]
            same = all(_ball(twins_of.get(p)) == _ball(made) for p in others)
            if same:
                made.project_()
                continue
            made.method = "normalize"
            self.notes[path] = (
                f"normalises in the forward pass, as {', '.join(others)} has the same weight and "
                "wants it otherwise"
            )

    def _allow_writes(self, twins_of) -> None:
        layers = {p: made for p, made in twins_of.items() if isinstance(made, Activation)}
        written = {}
        if self.example is None:
            for made in layers.values():
                if made.keeps_output and not isinstance(made, _KEEP_THEIR_OUTPUT):
                    made.overwritten = "output"
        elif layers:
            written = self.example.overwritten(layers, self.converted)
        for path, which in written.items():
            layers[path].overwritten = which
            self.notes[path] = f"keeps for its gradient what torch's keeps: its {which} is written"


class _KeptError(Exception):
    """A layer stays, for the reason that is the message."""


def _ball(layer: nn.Module | None) -> object:
    """What a layer wants its weight to be."""
    if layer is None or not hasattr(layer, "project_"):
        return None
    geometry = getattr(layer, "_geometry", dict)()
    return type(layer), layer.scaling, layer.per, sorted(geometry.items())


def _is_pool(layer: nn.Module) -> bool:
    entry = rules.entry_that_applies(type(layer))
    return entry is not None and entry.family == "pool"


def _refuse_hooks(layer: nn.Module) -> None:
    """Refuse what would be lost, or changes the layer."""
    hooks = layer._forward_pre_hooks.values()
    by = [type(h).__name__ for h in hooks if type(h).__module__.startswith("torch.nn.utils.")]
    if by:
        raise _KeptError(f"has a weight that {', '.join(by)} computes before each pass")
    held = any(value for name, value in vars(layer).items() if name.endswith("_hooks"))
    if held or is_watched(layer):
        raise _KeptError("has hooks, or a forward of its own, which may do anything")


def _made(layer: nn.Module, base: type, twin_type: type, options: dict) -> nn.Module:
    if hasattr(layer, "inplace"):
        # The same outputs; a twin keeps what it needs where the plain layer overwrote it.
        options = options | {"inplace": False}
    if options.get("method") == "project":
        # Its weight is not its own before it is known who else holds it.
        made = remade(layer, base, twin_type, **(options | {"method": "normalize"}))
        made.method = "project"
    else:
        made = remade(layer, base, twin_type, **options)
    # What somebody has written on the layer.
    for name, value in vars(layer).items():
        if name in _TWINS_OWN:
            raise _KeptError(f"has an attribute {name}, which its twin needs")
        vars(made).setdefault(name, value)
    return made


def _why_not(layer: nn.Module, entry: rules.Entry | None) -> str:
    family = None if entry is None else entry.family
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return "has no weights yet; run the model once before it is converted"
    if isinstance(layer, _PARAMETERS):
        return "holds parameters, with which its owner may do anything"
    if family == "statistics":
        return "normalises by statistics of its own"
    if family == "softmax":
        return "has outputs that sum to 1"
    if family == "loss" or isinstance(layer, nn.modules.loss._Loss):
        return "is a loss"
    if layer._modules:
        return "is composed of layers whose weights it may read past them"
    return "has no normalised form"


# What the example shows


def _in_front(runs: tuple[Trace, ...]) -> dict[str, set[str]]:
    """By path of a layer, the layers or functions whose outputs it was called with."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for node in run.nodes:
            if node.module is not None and node.inputs:
                found.setdefault(node.name, set()).add(_source(run, node.inputs[0]))
    return found


def _source(run: Trace, value: int) -> str:
    """What a value comes from, past whatever only moves numbers."""
    node = run.producer.get(value)
    while node is not None and node.inputs and not node.opaque and _moves(node):
        node = run.producer.get(node.inputs[0])
    if node is None:
        return "a constant"
    return node.name if node.module is not None else f"the function {node.name}"


def _moves(node: Node) -> bool:
    if node.module is None:
        return node.name in _MOVES
    entry = rules.entry_of_type(type(node.module))
    return entry is not None and entry.quiet


def _functions(runs: tuple[Trace, ...]) -> dict[str, str]:
    counts: Counter[str] = Counter()
    for run in runs:
        counts |= Counter(
            node.name
            for node in run.nodes
            if node.function is not None and node.inputs and node.outputs
            if node.name not in _MOVES
        )
    return {name: f"{_times(n)}; {_instead(name)}" for name, n in counts.items()}


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _instead(name: str) -> str:
    if name.startswith("functional."):
        return "is normalised already"
    if name in ADD | SUB:
        return "variances add up: nn.Residual keeps them"
    if name in JOIN:
        return "parts should have one scale: nn.Concat gives it to them"
    plain = name.rstrip("_")
    if plain in functional.__all__ and not plain.startswith("normalize"):
        return f"functional.{plain} is its twin"
    return "stays as it is"
