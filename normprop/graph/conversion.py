"""A normalised network out of a plain one."""

import copy
import inspect
from collections import Counter
from dataclasses import dataclass

from torch import nn

from normprop import functional
from normprop import nn as twins
from normprop.functional.parametric import check_method
from normprop.functional.scale import Scaling, check_scaling
from normprop.functional.weight import Method, Per
from normprop.graph.kinds import is_watched
from normprop.graph.plan import ADD, JOIN, SUB
from normprop.graph.report import kept_with_models, remember
from normprop.graph.rewrite import check_arguments, check_model, remade, replace
from normprop.graph.roads import roads_of
from normprop.graph.trace import Node, Trace

_MAPS = {
    "Linear", "Bilinear", "Embedding", "MultiheadAttention",
    "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
}  # fmt: skip
_ACTIVATIONS = {
    "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh",
    "LeakyReLU", "LogSigmoid", "Mish", "PReLU", "ReLU", "ReLU6", "RReLU", "SELU", "SiLU",
    "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Threshold",
}  # fmt: skip
_DROPOUTS = {
    "AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout",
}  # fmt: skip
_POOLS = {
    f"{kind}{dims}d"
    for kind in (
        "AdaptiveAvgPool", "AdaptiveMaxPool", "AvgPool", "FractionalMaxPool", "LPPool", "MaxPool",
    )
    for dims in (1, 2, 3)
}  # fmt: skip
_RESIZING = {
    "Fold", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "Unfold", "Upsample",
    "UpsamplingBilinear2d", "UpsamplingNearest2d",
}  # fmt: skip
_CONVERTED = _MAPS | _ACTIVATIONS | _DROPOUTS | _POOLS | _RESIZING

_QUIET = {
    "ChannelShuffle", "Flatten", "Identity", "PixelShuffle", "PixelUnshuffle", "Unflatten",
} | {
    f"{kind}Pad{dims}d"
    for kind in ("Circular", "Constant", "Reflection", "Replication", "Zero")
    for dims in (1, 2, 3)
}  # fmt: skip
"""What moves numbers and changes none but at a border: there is nothing to normalise."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_STATISTICS = (
    nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm,
    nn.LocalResponseNorm, nn.CrossMapLRN2d,
)  # fmt: skip

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
        kept: by path, why a layer is what it was.
        functions: by name, what the model computes outside its layers, how often and what could
            stand there; ``None`` where no example was given, so that nobody looked.
    """

    converted: dict[str, str]
    kept: dict[str, str]
    functions: dict[str, str] | None = None

    def __str__(self) -> str:
        total = len(self.converted) + len(self.kept)
        counts = Counter(self.converted.values())
        names = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
        lines = [f"converted {len(self.converted)} of {total} layers{': ' * bool(names)}{names}"]
        lines += [f"kept      {path:<32}  {reason}" for path, reason in self.kept.items()]
        if self.functions is None:
            lines.append("functions outside layers: not looked for, as no example was given")
        else:
            lines += [f"function  {name:<32}  {note}" for name, note in self.functions.items()]
        return "\n".join(lines)


def convert(
    model: nn.Module,
    *example_inputs,
    scaling: Scaling = "backward",
    per: Per = "neuron",
    method: Method = "normalize",
) -> nn.Module:
    """A normalised copy of a plain network: every layer of torch that has a twin becomes it.

    Activations, linear maps, convolutions, pooling, dropout, embeddings, attention and resizing
    get their constants; parameters, keys of the ``state_dict`` and the code of the model stay.
    Each layer's constants are those of a normal input of mean 0 and variance 1, which is what the
    normalised layer in front of it is there to give; a pooling layer right behind an activation
    has those of what that gives, where an example shows that it is there.

    It is another function than the model's: convert before training, not after.

    What stays is in :func:`normprop.report` with its reason: layers that normalise by
    statistics already, a softmax, whose outputs have to sum to 1, losses, subclasses from
    elsewhere and layers with hooks, which may compute anything, and composed layers of torch such
    as ``nn.TransformerEncoderLayer``, which read the weights of their parts past them.  So does
    what the model computes by functions, and a sum of a branch and its skip path among them adds
    variances: :class:`normprop.nn.Residual` does not.

    Args:
        model: is not changed.
        example_inputs: what it is called with.  It is watched on them, for the functions that it
            calls and for what stands in front of pooling.  Without any, neither is looked for.
        scaling: which standard deviation divides in which pass, for all layers.
        per: of weights, one factor a neuron or one for the layer, which is what a bilinear map
            always has.
        method: of weights, ``"normalize"`` in each forward pass or ``"project"`` after each step.

    Returns:
        A copy, in the mode of the model; :func:`normprop.report` has its :class:`Conversion`.

    Raises:
        TypeError: the model is no module, or returns no tensor.
        ValueError: an option is unknown, or the model decides by a value that it computes.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        >>> type(normprop.convert(net)[1])
        <class 'normprop.nn.activation.ReLU'>
    """
    check_scaling(scaling)
    check_method(method, per)
    check_model(model)
    run = None
    if example_inputs:
        check_arguments(model, example_inputs)
        run = _watched(model, example_inputs)
    options = {"scaling": scaling}
    weights = {**options, "per": per, "method": method}
    made = _Converter(copy.deepcopy(model), run, options, weights)
    converted = made.convert()
    found = Conversion(made.converted, made.kept, None if run is None else _functions(run))
    return remember(converted, found)


def _watched(model: nn.Module, inputs: tuple) -> Trace:
    # Not run in the model itself: training would move its statistics.
    seen = copy.deepcopy(model)
    leaves = {path for path, module in seen.named_modules() if _is_leaf(module)}
    return roads_of(seen, inputs, {}, leaves).traces[0]


def _is_leaf(module: nn.Module) -> bool:
    return _of_torch(module) and not isinstance(module, _CONTAINERS)


def _of_torch(module: nn.Module) -> bool:
    """Whether the class is one that ``torch.nn`` exports, or a twin."""
    kind = type(module)
    own = kind.__module__.startswith("normprop.nn.")
    return own or getattr(nn, kind.__name__, None) is kind


class _Converter:
    """A walk over a model, which it changes."""

    def __init__(self, model, run, options, weights):
        self.model, self.options, self.weights = model, options, weights
        self.converted: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        self.made: dict[int, nn.Module] = {}
        self.in_front = {} if run is None else _in_front(run)

    def convert(self) -> nn.Module:
        # What stands in front of a pooling layer has to be there before it.
        plain = dict(self._layers(self.model, ""))
        order = sorted(plain, key=lambda path: type(plain[path]).__name__ in _POOLS)
        twins_of: dict[str, nn.Module] = {}
        for path in order:
            layer = plain[path]
            try:
                twins_of[path] = self._twin(path, layer, twins_of)
            except _KeptError as kept:
                self.kept[path] = str(kept)
            except (TypeError, ValueError) as problem:
                self.kept[path] = f"has no normalised form: {problem}"
        # In the order of the model again.
        self.kept = {path: self.kept[path] for path in plain if path in self.kept}
        for path in plain:
            if path in twins_of:
                self.converted[path] = type(plain[path]).__name__
                self.model = replace(self.model, path, plain[path], twins_of[path])
        return self.model

    def _layers(self, module: nn.Module, path: str):
        """Paths and layers that are judged as wholes."""
        if not isinstance(module, _CONTAINERS) and (_of_torch(module) or not module._modules):
            kind = type(module)
            if kind.__name__ not in _QUIET or not _of_torch(module):
                yield path, module
            return
        for name, child in module._modules.items():
            if child is not None:
                yield from self._layers(child, f"{path}.{name}" if path else name)

    def _twin(self, path: str, layer: nn.Module, twins_of) -> nn.Module:
        if id(layer) in self.made:
            return self.made[id(layer)]
        kind, name = type(layer), type(layer).__name__
        if kind.__module__.startswith("normprop.nn."):
            raise _KeptError("is normalised already")
        if not _of_torch(layer):
            raise _KeptError(f"is a {name}, not a layer of torch.nn, and may compute anything")
        if isinstance(layer, _STATISTICS):
            raise _KeptError("normalises by statistics of its own")
        if name not in _CONVERTED:
            raise _KeptError(_why_not(layer))
        if is_watched(layer) or layer._backward_hooks or layer._backward_pre_hooks:
            raise _KeptError("has hooks, or a forward of its own, which may do anything")
        options = dict(self.weights if name in _MAPS else self.options)
        twin_type = getattr(twins, name)
        taken = inspect.signature(twin_type).parameters
        options = {key: value for key, value in options.items() if key in taken}
        if name == "Bilinear":
            # No factor of a neuron serves both of its inputs.
            options["per"] = "layer"
        if "after" in taken:
            options |= self._after(path, twins_of)
        made = _made(layer, twin_type, options)
        self.made[id(layer)] = made
        return made

    def _after(self, path: str, twins_of) -> dict:
        sources = self.in_front.get(path, set())
        layers = {source: twins_of.get(source) for source in sources}
        activations = {
            source: layer
            for source, layer in layers.items()
            if layer is not None and type(layer).__name__ in _ACTIVATIONS
        }
        if not activations:
            return {}
        if len(sources) > 1:
            raise _KeptError(f"is called behind different layers, {', '.join(sorted(sources))}")
        return {"after": next(iter(activations.values()))}


class _KeptError(Exception):
    """A layer stays, for the reason that is the message."""


def _made(layer: nn.Module, twin_type: type[nn.Module], options: dict) -> nn.Module:
    if hasattr(layer, "inplace"):
        # The same outputs; a twin keeps what it needs where the plain layer overwrote it.
        options = options | {"inplace": False}
    made = remade(layer, type(layer), twin_type, **options)
    if options.get("method") == "project":
        made.project_()
    return made


def _why_not(layer: nn.Module) -> str:
    name = type(layer).__name__
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return "has no weights yet; run the model once before it is converted"
    if "Softmax" in name or name == "Softmin":
        return "has outputs that sum to 1"
    if isinstance(layer, nn.modules.loss._Loss):
        return "is a loss"
    if layer._modules:
        return "is composed of layers whose weights it may read past them"
    return "has no normalised form"


def _in_front(run: Trace) -> dict[str, set[str]]:
    """By path of a layer, the layers or functions whose outputs it was called with."""
    found: dict[str, set[str]] = {}
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
    return type(node.module).__name__ in _QUIET


def _functions(run: Trace) -> dict[str, str]:
    counts = Counter(
        node.name
        for node in run.nodes
        if node.function is not None and node.name not in _MOVES and node.inputs
    )
    return {name: f"{_times(n)}; {_instead(name)}" for name, n in counts.items()}


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _instead(name: str) -> str:
    if name in ADD | SUB:
        return "variances add up: nn.Residual keeps them"
    if name in JOIN:
        return "parts should have one scale: nn.Concat gives it to them"
    plain = name.rstrip("_")
    if plain in functional.__all__ and not plain.startswith("normalize"):
        return f"functional.{plain} is its twin"
    return "stays as it is"
