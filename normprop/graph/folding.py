"""Constants folded into weights: a network that costs what a plain one costs."""

import dataclasses
from collections.abc import Iterator
from functools import partial

import torch
from torch import fx, nn

from normprop.functional.activation import gate_function
from normprop.functional.parametric import Absorbed, Meaning, absorbing_bias
from normprop.graph import affine, rewrite
from normprop.graph.kinds import Kind, constants_at, kinds_of
from normprop.graph.plan import Choice, Plan
from normprop.graph.report import remember
from normprop.graph.roads import roads_of
from normprop.graph.roles import mixes
from normprop.graph.trace import Trace
from normprop.nn.attention import MultiheadAttention


@torch.inference_mode(False)
def fold(model: nn.Module, /, *example_inputs, **example_keywords) -> nn.Module:
    r"""A network of plain ``torch.nn`` layers with the same outputs in evaluation.

    A normalised map becomes a plain one with the weight that it runs with.  A normalised
    activation becomes the plain f; y = (f(x) - μ)/σ goes into the map behind it,

    .. math:: W y + b = \frac{W}{\sigma} f(x) + \left(b - \frac{\mu}{\sigma} W 1\right),

    through pooling, dropout, reshaping, sums and concatenations, as far as they let it pass; a
    batch normalisation that has its statistics, or another norm with a bias, takes it as a map
    does.  Where a convolution pads with zeros, the shift has to be gone before: a ReLU then becomes
    ``nn.Threshold(-μ, -μ)``, as max(x, 0) - μ = max(x - μ, -μ), and the map in front of it
    gives x - μ; this costs nothing either.  A sum or a concatenation whose parts stand for
    different things asks the maps in front of them to give the same.  What no neighbour can
    take stays, as a line of torch's own functions behind the plain layer: the shift of
    a curved activation before a zero-padded convolution, or what reaches an output, a function
    that is not known, or a layer that is called twice with different neighbours.  Where constants
    follow from the shape of the input, as those of adaptive pooling, softmax and attention do,
    they are those of the example's, and the report says so; a layer that gets several stays.

    The code of the model is kept, and with it everything that it does in Python; its layers
    are exchanged.  Where :func:`convert` put layers in the place of functions, the module keeps the
    class that calls them, which this package is needed to unpickle.  It is watched while it runs on
    the example, several times: where it asks a tensor for a truth, also with the other answer.
    Roads that dice choose, or what earlier runs have left, or what the model is called with, are
    all folded for; one that its layers' outputs choose is refused.  A value that leaves by
    another way than by ``return`` is what it was: in an attribute, a list, a buffer, as a number,
    in a hook.  Functions of ``normprop.functional`` that the model calls itself, and
    ``normprop.nn.Residual`` and ``Concat``, stay what they are.  In float16 and bfloat16 a shifted
    input is rounded coarser than one near 0; fold in float32 and cast afterwards where that
    matters.

    Args:
        model: is not changed.
        example_inputs: what it is called with; values do not matter, shapes may where the
            model looks at them.  A layer that it does not reach is in the report, and where
            constants have moved it raises when it is called.
        example_keywords: what else it is called with.

    Returns:
        A copy, in evaluation mode; :func:`normprop.report` says where the constants went.  The
        keys of its ``state_dict`` are those of the model, and a ``bias`` where a map without one
        had to take a shift.  It is for inference: in training mode it is another network, as its
        dropout is the plain one, and where a shift stays it overwrites what it shifts, so that a
        backward pass raises.

    Raises:
        ValueError: no example is given, or the model decides by a value that it computes, by
            dice other than torch's, or by how often it ran.
        TypeError: the model is no module, cannot be looked into or copied, or returns no tensor.
    """
    rewrite.check_arguments(model, example_inputs, example_keywords)
    seen, split = rewrite.separated(model)
    seen.eval()
    kinds = _kinds(seen)
    traces, runs = roads_of(seen, example_inputs, example_keywords, kinds)
    kinds, notes = _fitted(seen, kinds, traces)
    plan = Plan(traces, training=False, kinds=kinds, can_shift=set(kinds))
    with torch.no_grad():
        folded = rewrite.exchanged(rewrite.separated(model)[0].eval(), plan, partial(_made, plan))
    still = _tied(folded)
    split += [names for names in _tied(seen) if names not in still]
    rewrite.refuse_unreached(folded, seen, plan)
    return remember(folded, rewrite.report_of(plan, folded, split, (*runs, *notes, *_own(folded))))


def _own(model: nn.Module) -> Iterator[str]:
    """Which modules have a class that nobody else has."""
    paths = [path or "the model" for path, m in model.named_modules() if hasattr(m, "_exchanged")]
    if paths:
        said = "the class calls layers for functions, and is unpickled with normprop"
        yield f"{', '.join(paths)}: {said}"


def _kinds(model: nn.Module) -> dict[str, Kind]:
    found = kinds_of(model)
    for path, kind in found.items():
        layer = model.get_submodule(path)
        function = getattr(layer, "function", getattr(layer, "gate", None))
        named = isinstance(function, str) or "<" not in getattr(function, "__qualname__", "<")
        if kind.plain is None and not named:
            found[path] = kind.staying("its function has no name that a file could hold")
    return found


def _fitted(model: nn.Module, kinds: dict[str, Kind], traces: tuple[Trace, ...]):
    """Kinds with constants for the shapes of the example, and notes on those shapes."""
    kinds, notes = dict(kinds), []
    nodes = [node for trace in traces for node in trace.nodes if node.module is not None]
    for path, kind in kinds.items():
        if kind.constants is not None:
            continue
        calls = [node for node in nodes if node.name == path]
        if not calls:
            continue
        try:
            found = {constants_at(model.get_submodule(path), node) for node in calls}
        except ValueError as problem:
            kinds[path] = kind.staying(str(problem))
            continue
        if len(found) > 1:
            kinds[path] = kind.staying("its constants change with the shapes that it gets")
            continue
        kinds[path] = dataclasses.replace(kind, constants=found.pop())
        text = " or ".join(sorted({str(node.shapes[0]) for node in calls}))
        notes.append(f"{path or 'the model'}: its constants are those of an input of shape {text}")
    return kinds, tuple(notes)


def _made(plan: Plan, layer: nn.Module, kind: Kind, choice: Choice) -> nn.Module:
    if choice.mode == "kept":
        return layer
    if kind.name == "map":
        return _map(layer, kind, Absorbed(choice.before, choice.after))
    if kind.name in ("norm", "batchnorm"):
        return _norm(layer, kind, choice.before, choice.after)
    if kind.name == "remade":
        return _remade(layer, kind)
    plain = _function(layer, kind, choice)
    if choice.mode == "moved":
        return plain
    scale, shift, _ = plan.after(kind, layer, choice.before)
    if choice.mode == "shifted":
        scale, shift = 1.0, shift / scale
    return affine.followed(plain, scale, shift, kind.name in ("curve", "clamp"))


def _function(layer, kind, choice) -> nn.Module:
    limits = rewrite.limits_behind(layer, kind, choice.before) if kind.name == "clamp" else None
    if limits is not None:
        return rewrite.clamp(*limits, getattr(layer, "inplace", False))
    if mixes(layer):
        # Of torch alone, which has the function.
        return fx.symbolic_trace(rewrite.plain_of(layer, kind.plain))
    if kind.plain is None:
        if hasattr(layer, "gate"):
            return affine.gating(gate_function(layer.gate), layer.dim)
        return affine.computing(layer.function)
    return layer if type(layer) is kind.plain else rewrite.plain_of(layer, kind.plain)


def _remade(layer, kind) -> nn.Module:
    """A layer of torch with the weights that a twin runs with."""
    made = rewrite.plain_of(layer, kind.plain)
    if isinstance(layer, MultiheadAttention):
        made._modules.update(dict(layer._modules))
        for name, weight in layer.weights_that_run(kind.constants).items():
            place, _, key = name.rpartition(".")
            setattr(made.get_submodule(place), key, nn.Parameter(weight, weight.requires_grad))
        return made
    if layer.method == "normalize":
        made.weight = _rounded(_running(layer), layer.weight)
    return made


def _running(layer) -> torch.Tensor:
    """The weight that a layer runs with, in float64."""
    wide = layer.weight.detach().to("cpu", torch.float64)
    normalized = getattr(layer, "method", None) == "normalize"
    return layer._on_ball(wide, layer._ball()) if normalized else wide


def _rounded(wide: torch.Tensor, like: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(wide.to(like), like.requires_grad)


def _map(layer, kind, absorbed: Absorbed) -> nn.Module:
    if type(layer) is kind.plain and absorbed == Absorbed():
        return layer
    bias = layer.bias
    # Made in float64, and rounded once.
    wide, offset = _running(layer), None if bias is None else bias.detach().to("cpu", torch.float64)
    if getattr(layer, "absorbed", None) is not None:
        wide, offset = _absorb(layer, wide, offset, layer.absorbed)
    wide, offset = _absorb(layer, wide, offset, absorbed)
    made = rewrite.plain_of(layer, kind.plain, bias=offset is not None)
    made.weight = _rounded(wide, layer.weight)
    if offset is not None:
        made.bias = _rounded(offset, layer.weight if bias is None else bias)
    return made


def _absorb(layer, weight, bias, absorbed: Absorbed):
    weight = weight * (absorbed.before.scale / absorbed.after.scale)
    outputs = layer.out_features if hasattr(layer, "out_features") else layer.out_channels
    return weight, absorbing_bias(bias, weight, absorbed.before, absorbed.after, outputs)


def _norm(layer, kind, before: Meaning, after: Meaning) -> nn.Module:
    # The same quotient, as mean, standard deviation and √eps shrink alike.
    layer.eps /= before.scale**2
    counted = kind.name == "batchnorm" and layer.running_mean is not None
    if counted:
        layer.running_mean.sub_(before.shift).div_(before.scale)
        layer.running_var.div_(before.scale**2)
    if after == Meaning():
        return layer
    if layer.weight is not None and layer.bias is not None:
        weight, bias = layer.weight, layer.bias
        layer.weight = nn.Parameter(weight / after.scale, weight.requires_grad)
        layer.bias = nn.Parameter((bias - after.shift) / after.scale, bias.requires_grad)
        return layer
    # By its statistics: (x - m - t·√(v + eps))/(s·√(v + eps)).
    spread = (layer.running_var + layer.eps).sqrt()
    layer.running_mean.add_(spread * after.shift)
    layer.running_var.mul_(after.scale**2)
    layer.eps *= after.scale**2
    return layer


def _tied(model) -> list[tuple[str, ...]]:
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return [tuple(names) for names in owners.values() if len(names) > 1]
