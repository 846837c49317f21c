"""A normalised network out of a plain one."""

import dataclasses
import difflib
import inspect
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import nn

from normprop import nn as twins
from normprop.checks import finite
from normprop.functional.parametric import check_method
from normprop.functional.scale import Scaling, check_scaling
from normprop.functional.weight import Method, Per
from normprop.graph.anatomy import is_layer, joined, layers_of, paths_of, torch_type
from normprop.graph.composition import Composition, calibrated, lengthen_, outside, span
from normprop.graph.example import Example, functions_of, in_front
from normprop.graph.exchange import Factory, check_replace, drop_normalization, exchange
from normprop.graph.kinds import constants_at, is_watched
from normprop.graph.prediction import predict, varied
from normprop.graph.report import remember
from normprop.graph.rewrite import check_arguments, copied, is_fused, remade
from normprop.graph.rewrite import replace as put_in
from normprop.graph.roles import family_of, is_curve, mixes
from normprop.graph.scales import Scales
from normprop.graph.sites import StaysError, exchange_functions
from normprop.graph.wrappers import unwrapped
from normprop.nn.parametric import MapFromWeight
from normprop.nn.together import alone, batch_weights_

Normalization = Literal["keep", "drop"]
_OPTIONS = {
    "scaling": Scaling,
    "per": Per,
    "method": Method,
    "growth": float,
    "logits": float,
    "orthogonal": bool,
    "normalization": Normalization,
    "replace": dict,
}

_KEEP_THEIR_OUTPUT = (nn.ReLU, nn.Sigmoid, nn.Tanh)
"""Activations of torch that no network writes behind, as their gradients need what they gave."""

_UNFORESEEN = (
    ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What a prediction may raise of a call that nobody thought of."""

_TWINS_OWN = {"absorbed", "backend", "constants", "gain", "method", "overwritten", "per", "scaling"}


@dataclass(frozen=True)
class Conversion:
    """What became of every layer; prints as a table.

    Attributes:
        converted: by path, the class that was exchanged for its twin, or for ``Calibrated``.
        kept: by path, why a layer is what it was.  Every module that holds a parameter is in one
            of the two.
        functions: by name, what the model computes outside its layers, how often, what could
            stand there, and where and why it does not; ``None`` where no example was given, so
            that nobody looked.
        notes: by path, what is particular about a layer that was converted.
        runs: what the model was watched at, and what that rests on.
        plan: what the constants were chosen for.
        exchanged: by path, what another module, or the call of a function, became before.
        before: scales of the model, predicted; ``None`` where nothing was.
        after: those of the network.
        outside: by path, what is predicted of a value on the trunk that is not within a factor of
            1.5 of a standard deviation of 1, or of the norm of its gradient that the growth gives.
            Gates, probabilities, heads and branches are not on the trunk.
    """

    converted: dict[str, str]
    kept: dict[str, str]
    functions: dict[str, str] | None = None
    notes: dict[str, str] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    exchanged: dict[str, str] = field(default_factory=dict)
    before: Scales | None = None
    after: Scales | None = None
    outside: dict[str, str] = field(default_factory=dict)
    plan: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = len(self.converted) + len(self.kept)
        counts = Counter(self.converted.values())
        names = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
        lines = [f"converted {len(self.converted)} of {total} layers{': ' * bool(names)}{names}"]
        lines += [f"exchanged {path:<32}  {what}" for path, what in self.exchanged.items()]
        lines += [f"kept      {path:<32}  {reason}" for path, reason in self.kept.items()]
        lines += [f"note      {path:<32}  {note}" for path, note in self.notes.items()]
        if self.functions is None:
            lines.append("functions outside layers: not looked for, as no example was given")
            lines.append("weights read past their layers: not looked for either")
            lines.append("writes in place: not looked for either; into outputs they may stay")
            lines.append("plan: none; every layer has the constants of an input N(0, 1), and all")
            lines.append("activations count as one behind the other")
        else:
            lines += [f"function  {name:<32}  {note}" for name, note in self.functions.items()]
        lines += [f"seen      {note}" for note in self.runs]
        lines += [f"plan      {note}" for note in self.plan]
        lines += [f"outside   {path:<32}  {what}" for path, what in self.outside.items()]
        return "\n".join(lines)


def convert(
    model: nn.Module,
    /,
    *example_inputs,
    scaling: Scaling = "forward",
    per: Per = "neuron",
    method: Method = "normalize",
    growth: float = math.e,
    logits: float = 1.0,
    orthogonal: bool = False,
    normalization: Normalization = "keep",
    replace: Mapping[type[nn.Module], Factory] | None = None,
    **example_keywords,
) -> nn.Module:
    r"""A normalised copy of a plain network, whose scales hold from its input to its output.

    Every layer of torch that has a twin becomes it: activations, linear maps, convolutions,
    pooling, dropout, embeddings, attention and resizing; biases, keys of the ``state_dict`` and the
    code of the model stay, but for functions that are layers too, and weights but for their norms.
    It is another function than the model's: convert before training.

    With an example and forward scaling, constants are planned for the whole network, by the laws
    that :func:`normprop.predict` finds:

    - what a map gives has standard deviation 1, by its ``gain``, and mean 0;
    - activations are :class:`normprop.nn.Calibrated`, at the law that arrives, for the number of
      activations L on the longest way through the network, so that the squared gradient
      grows by ``growth`` on it; where L of them grow by less than that as they are, they stay so;
    - at a sum with a trunk, the last map or activation of the branch has a share: g² = 1/k at the
      k-th sum of a stage whose trunk goes through an activation, which takes the sum back to 1, and
      1/K at each of K sums in a row with nothing between them, which end at √2; where both parts
      end in maps, as where the skip path has a convolution, the sum has standard deviation 1;
    - pooling and attention give standard deviation 1, whatever their places have in common;
    - maps in front of outputs give logits of standard deviation ``logits``;
    - sigmoid, tanh, softplus and the like that reach an output or a product stay as they are;
    - a map that divides its weight by its norm stores it with a norm r, which no output sees and
      by which a learning rate is divided twice: r² is what a step of all maps moves an output
      by, over what the last one moves it by, so that a rate means the same at any depth.

    On the trunk, what every way from input to output goes through, each value then has a
    standard deviation within 1.5 of 1, and the norm of its gradient is within 1.5 of the profile
    of the growth, but for what the report names.  Without an example, or under another scaling,
    each layer has the constants of an input N(0, 1), as in the post; activations are calibrated
    without one as if they all stood behind one another, and under another scaling not at all.  A
    pooling layer right behind an activation has the constants of what that gives, where an example
    shows that it is there.

    A function of torch that a layer computes too, ``F.relu(x)`` or ``x.relu()``, becomes that
    layer before, where an example shows the call: the module gets it under the function's name,
    and a class of its own whose method calls it there, a subclass with the rest of the method as
    it was.  The call has to stand in a method of the module, whose source is there, with arguments
    that are numbers or attributes; those are read once.  Dropout has to follow ``self.training``,
    and ``x.mean((2, 3))`` is a pooling layer in front of another layer.
    ``F.scaled_dot_product_attention`` becomes :class:`normprop.nn.ScaledDotProductAttention`, which
    is called with whatever the function was.
    Others stay, and the report names their lines and the reasons.

    What stays is in :func:`normprop.report` with its reason: layers that normalise by
    statistics already, a softmax, whose outputs have to sum to 1, losses, layers with hooks,
    which may compute anything, and so may a class from elsewhere, unless it is one of torch's
    with another constructor.  A layer whose weights somebody reads past it stays as well: a
    parametrised one, and whatever computes its weights; the parts of composed layers of torch,
    such as ``nn.TransformerEncoderLayer``, and of their subclasses; a layer whose weight
    the model is seen to use itself.

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
            for what stands in front of pooling; their law is that of the plan, N(0, 1) where all
            numbers are one.  Without any, nothing of this is looked for.
        scaling: which standard deviation divides in which pass, for all layers.
        per: of weights, one factor a neuron or one for the layer, which is what a bilinear map
            always has.
        method: of weights, ``"normalize"`` in each forward pass or ``"project"`` after each step.
        growth: of the squared gradient from output to input, by the activations alone, greater
            than 1: how far from a straight line the network begins.
        logits: standard deviation of what a map in front of an output gives, greater than 0.
        orthogonal: whether the weights of maps are drawn anew, with orthogonal rows, or columns
            where there are fewer.
        normalization: ``"keep"`` leaves layers that normalise by statistics where they are;
            ``"drop"`` puts the identity there, and a bias of 0 for their shift into the map in
            front, where that has none and gives to nobody else.  A subclass of such a layer, whose
            forward takes one tensor, counts as one.
        replace: by class of the model's own, what makes of each such layer the one to be
            converted: ``{Swish: lambda layer: nn.SiLU()}``.  Activations of Hugging Face's
            transformers are known, their layers that divide by the root mean square, and their
            ``Conv1D``, a linear map with its weight the other way round.
        example_keywords: what else it is called with.  Of an argument of the model that has the
            name of an option here, the option is meant: give it by position.

    The weights of all maps are made in one call when the network is called, as
    :func:`normprop.nn.batch_weights_` has it.

    Returns:
        A copy, in the mode of the model; :func:`normprop.report` has its :class:`Conversion`.

    Raises:
        TypeError: the model is no module, cannot be looked into or copied, does not take a
            keyword, or returns no tensor; or an option is given without its name.
        ValueError: an option is unknown or out of its range, the example holds no tensor,
            normalization is to be dropped without one, or the model is fused.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        >>> type(normprop.convert(net)[1])
        <class 'normprop.nn.activation.ReLU'>
    """
    check_scaling(scaling)
    check_method(method, per)
    inner = unwrapped(model)
    _check_examples(inner, example_inputs, example_keywords)
    _check_wishes(growth, logits, orthogonal, normalization)
    check_replace(replace)
    if is_fused(inner):
        raise ValueError(
            "model must not be fused: its activations are torch's own, and their constants are in "
            "the maps around them; convert it before it is fused"
        )
    example, stays = None, {}
    options = {"scaling": scaling, "per": per, "method": method}
    # Tensors made for inference neither train nor say who wrote into them.
    with torch.inference_mode(False):
        network, exchanged = exchange(alone(copied(model)), replace)
        if example_inputs or example_keywords:
            check_arguments(inner, example_inputs, example_keywords)
            example = Example(network, example_inputs, example_keywords)
            network, example, called, stays = exchange_functions(network, example)
            exchanged |= called
        if normalization == "drop":
            if example is None:
                raise ValueError(
                    "an example input must be given where normalization='drop', to see what "
                    "stands in front of each layer that is dropped; none was"
                )
            network, dropped = drop_normalization(network, example)
            exchanged |= dropped
            example = Example(network, example_inputs, example_keywords)
        made = _Converter(network, example, options, growth, logits, orthogonal)
        converted = made.convert()
    batch_weights_(converted)
    found = Conversion(made.converted, made.kept, notes=made.notes, exchanged=exchanged)
    if example is not None:
        functions = functions_of(example.traces)
        for name, why in stays.items():
            functions[name] = f"{functions[name]}; {why}" if name in functions else why
        found = dataclasses.replace(found, functions=functions, runs=example.runs, plan=made.plan)
        if made.composition is not None:
            given = example_inputs, example_keywords
            found = _with_prediction(found, inner, converted, made.composition, given)
    return remember(converted, found)


def _with_prediction(found, model, network, composition, given) -> Conversion:
    """The report, with what is predicted of both; weights have the norm that follows then."""
    (inputs, keywords), constant = varied(given)
    plan = composition.said()
    if constant:
        plan = (*plan, "an input of the example is constant, and taken for N(0, 1)")
    try:
        before, after = (predict(m, *inputs, **keywords) for m in (model, network))
    except _UNFORESEEN as problem:
        plan = (*plan, f"nothing is predicted of the whole: {type(problem).__name__}: {problem}")
        return dataclasses.replace(found, plan=plan)
    sizes = [span(composition, scales) for scales in (before, after)]
    if None not in sizes:
        (low, high), (least, most) = sizes
        plan = (
            *plan,
            f"std on the trunk, predicted: {low:.3g} to {high:.3g} before, {least:.3g} to "
            f"{most:.3g} now",
        )
    length = lengthen_(network, found.converted, after)
    if length is not None:
        stored = f"weights are stored with norm {length:.3g}, as a step moves what "
        plan = (*plan, f"{stored}{length**2:.3g} maps do")
    beyond = outside(composition, after)
    return dataclasses.replace(found, before=before, after=after, outside=beyond, plan=plan)


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


def _check_wishes(growth, logits, orthogonal, normalization) -> None:
    for name, value, least in (("growth", growth, 1.0), ("logits", logits, 0.0)):
        finite(name, value, least, f" and greater than {least:g}")
    if not isinstance(orthogonal, bool):
        raise TypeError(f"orthogonal must be True or False; it was {orthogonal!r}")
    if normalization not in get_args(Normalization):
        raise ValueError(f"normalization must be 'keep' or 'drop'; it was {normalization!r}")


class _Converter:
    """A walk over a model, which it changes; a layer at several paths is known by its first."""

    def __init__(self, model, example, options, growth, logits, orthogonal):
        self.model, self.example, self.options = model, example, options
        self.growth, self.logits, self.orthogonal = growth, logits, orthogonal
        self.composition: Composition | None = None
        self.plan: tuple[str, ...] = ()
        self.converted: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        # By path, all paths of a layer, the layers that may have a twin, and their twins.
        self.paths: dict[str, list[str]] = {}
        self.plain: dict[str, nn.Module] = {}
        self.made: dict[str, nn.Module] = {}
        # By identity, why modules stay wherever they are found.
        self.held: dict[int, str] = {}
        self.in_front = {} if example is None else in_front(example.traces)

    def convert(self) -> nn.Module:
        found = [(path, layer, reason) for path, layer, reason, _ in layers_of(self.model)]
        for path, layer, reason in found:
            if reason is not None:
                self._hold(path, layer, reason)
        first: dict[int, str] = {}
        for path, layer, _ in found:
            own = first.setdefault(id(layer), path)
            self.paths.setdefault(own, []).append(path)
            if own == path and id(layer) not in self.held:
                self.plain[path] = layer
        self._make_twins()
        if self.orthogonal:
            _draw_orthogonal(self.made.values())
        if self.options["scaling"] == "forward":
            self._calibrate() if self.example is None else self._compose()
        self._without_constants()
        if self.options["method"] == "project":
            self._project()
        self._allow_writes()
        for path in self.made:
            if self.example is not None and path not in self.example.reached:
                self.notes.setdefault(path, "is not reached by the example")
        for path, layer, reason in found:
            owners = [p for p in self.converted if path.startswith(f"{p}." if p else "")]
            if first[id(layer)] in self.made:
                self.converted[path] = torch_type(type(layer)).__name__
            elif owners:
                self.kept[path] = f"has a weight that {owners[-1] or 'the model'} normalises"
            else:
                self.kept[path] = reason or self.held[id(layer)]
        self.notes = {path: self.notes[path] for path, *_ in found if path in self.notes}
        for path, made in self.made.items():
            self.model = put_in(self.model, path, self.plain[path], made)
        return self.model

    def _make_twins(self) -> None:
        # What stands in front of a pooling layer has to be there before it.
        for path in sorted(self.plain, key=lambda p: family_of(self.plain[p]) == "pool"):
            try:
                self.made[path] = self._twin(path)
            except (TypeError, ValueError) as problem:
                self._keep(path, f"has no normalised form: {problem}")
            except StaysError as kept:
                self._keep(path, str(kept))

    def _compose(self) -> None:
        """Give the twins the constants of the laws that arrive."""
        example = self.example
        try:
            found = Composition(
                example.traces, self.made, self.plain, self.growth, self.logits, example.steps
            )
        except _UNFORESEEN as problem:
            # Whatever was chosen up to there goes.
            self.made.clear()
            self._make_twins()
            self.plan = (f"none, as the laws were lost: {type(problem).__name__}: {problem}",)
            return
        self.composition = found
        self.notes |= found.notes
        for path, reason in found.kept.items():
            self._keep(path, reason)

    def _without_constants(self) -> None:
        """Leave attention as it is where it has none for what it is called with."""
        traces = () if self.example is None else self.example.traces
        for node in (node for trace in traces for node in trace.nodes):
            made = None if node.module is None else self.made.get(node.name)
            if mixes(made):
                try:
                    constants_at(made, node)
                except ValueError as problem:
                    self._keep(node.name, f"has no normalised form: {problem}")

    def _calibrate(self) -> None:
        """Without an example: as if all activations stood behind one another."""
        curves = [path for path, made in self.made.items() if is_curve(made)]
        depth = sum(len(self.paths[path]) for path in curves)
        for path in curves:
            self.made[path], note = calibrated(
                self.made[path], self.plain[path], 0.0, 1.0, depth, self.growth
            )
            self.notes |= {path: note} if note else {}

    def _keep(self, path: str, reason: str) -> None:
        self.held[id(self.plain[path])] = reason
        self.made.pop(path, None)

    def _hold(self, path: str, layer: nn.Module, reason: str) -> None:
        self.held.setdefault(id(layer), reason)
        inside = layer
        if not is_layer(layer):
            inside = getattr(layer, "parametrizations", nn.ModuleDict())
        for part in inside.modules():
            self.held.setdefault(id(part), f"is a part of {path or 'the model'} too, which stays")

    def _twin(self, path: str) -> nn.Module:
        layer = self.plain[path]
        base = torch_type(type(layer))
        twin_type = getattr(twins, base.__name__)
        _refuse_hooks(layer)
        if self.example is not None:
            if self.example.read & {joined(path, name) for name, _ in paths_of(layer)}:
                raise StaysError("has a parameter that the model reads past it")
            if path in self.example.shown:
                raise StaysError("writes into its input, which the model reads again")
        taken = inspect.signature(twin_type).parameters
        options = {key: value for key, value in self.options.items() if key in taken}
        if "after" in taken:
            options |= self._after(path)
        return _made(layer, base, twin_type, options | twin_type._only)

    def _after(self, path: str) -> dict:
        sources = self.in_front.get(path, set())
        layers = [self.made[source] for source in sources if source in self.made]
        activations = [layer for layer in layers if family_of(layer) == "activation"]
        if activations and len(sources) > 1:
            raise StaysError(f"is called behind different layers, {', '.join(sorted(sources))}")
        return {"after": activations[0]} if activations else {}

    def _project(self) -> None:
        """Put weights on their balls, where all who hold them want the same."""
        holders: dict[int, list[str]] = {}
        for path, module in self.model.named_modules():
            for parameter in module._parameters.values():
                if parameter is not None:
                    holders.setdefault(id(parameter), []).append(path)
        for path, made in self.made.items():
            if getattr(made, "method", None) != "project":
                continue
            others = [p for p in holders[id(made.weight)] if p != path]
            if all(_ball(self.made.get(p)) == _ball(made) for p in others):
                made.project_()
                continue
            made.method = "normalize"
            self.notes[path] = (
                f"normalises in the forward pass, as {', '.join(others)} has the same weight and "
                "wants it otherwise"
            )

    def _allow_writes(self) -> None:
        layers = {p: made for p, made in self.made.items() if hasattr(made, "overwritten")}
        if self.example is None:
            for made in layers.values():
                own = made.plain if isinstance(made, twins.Calibrated) else made
                if made.keeps_output and not isinstance(own, _KEEP_THEIR_OUTPUT):
                    made.overwritten = "output"
        elif layers:
            for path, which in self.example.overwritten(layers, self.made).items():
                layers[path].overwritten = which
                self.notes[path] = (
                    f"keeps for its gradient what torch's keeps: its {which} is written"
                )


def _ball(layer: nn.Module | None) -> object:
    """What a layer wants its weight to be."""
    if layer is None or not hasattr(layer, "project_"):
        return None
    geometry = getattr(layer, "_geometry", dict)()
    return type(layer), layer.scaling, layer.per, sorted(geometry.items())


@torch.no_grad()
def _draw_orthogonal(layers: Iterable[nn.Module]) -> None:
    """Draw the weights of maps anew: rows, or columns where there are fewer, are orthogonal."""
    weights = {id(m.weight): m.weight for m in layers if isinstance(m, MapFromWeight)}
    for weight in weights.values():
        if not weight.is_meta and weight.numel():
            wide = weight.new_empty(weight.shape, dtype=torch.float32)
            weight.copy_(nn.init.orthogonal_(wide))


def _refuse_hooks(layer: nn.Module) -> None:
    """Refuse what would be lost, or changes the layer."""
    hooks = layer._forward_pre_hooks.values()
    by = [type(h).__name__ for h in hooks if type(h).__module__.startswith("torch.nn.utils.")]
    if by:
        raise StaysError(f"has a weight that {', '.join(by)} computes before each pass")
    held = any(value for name, value in vars(layer).items() if name.endswith("_hooks"))
    if held or is_watched(layer):
        raise StaysError("has hooks, or a forward of its own, which may do anything")


def _made(layer: nn.Module, base: type, twin_type: type, options: dict) -> nn.Module:
    if hasattr(layer, "inplace"):
        # The same outputs; a twin keeps what it needs where the plain layer overwrote it.
        options = options | {"inplace": False}
    if options.get("method") == "project":
        # Its weight is not its own before it is known who else holds it.
        made = remade(layer, base, twin_type, **(options | {"method": "normalize"}))
        # Set as it is, which projects nothing yet.
        vars(made)["method"] = "project"
    else:
        made = remade(layer, base, twin_type, **options)
    # What somebody has written on the layer.
    for name, value in vars(layer).items():
        if name in _TWINS_OWN:
            raise StaysError(f"has an attribute {name}, which its twin needs")
        vars(made).setdefault(name, value)
    return made
