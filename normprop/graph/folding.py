"""Constants folded into weights: a network that costs what a plain one costs."""

import torch
from torch import nn

from normprop.functional.parametric import Absorbed, Affine, absorbing_bias
from normprop.graph import affine
from normprop.graph.kinds import Kind
from normprop.graph.plan import Choice, Plan, keeps_itself, kinds_of
from normprop.graph.report import remember
from normprop.graph.rewrite import (
    check_arguments,
    limits_behind,
    plain_of,
    replace,
    report_of,
    separated,
)
from normprop.graph.roads import roads_of
from normprop.nn.parametric import Parametric


def fold(model: nn.Module, /, *example_inputs, **example_keywords) -> nn.Module:
    r"""A network of plain ``torch.nn`` layers with the same outputs in evaluation.

    A normalised map becomes a plain one with the weight that it runs with.  A normalised
    activation becomes the plain f; y = (f(x) - μ)/σ goes into the map behind it,

    .. math:: W y + b = \frac{W}{\sigma} f(x) + \left(b - \frac{\mu}{\sigma} W 1\right),

    through pooling, dropout, reshaping, sums and concatenations, as far as they let it pass.
    Where a convolution pads with zeros, the shift has to be gone before: a ReLU then becomes
    ``nn.Threshold(-μ, -μ)``, as max(x, 0) - μ = max(x - μ, -μ), and the map in front of it
    gives x - μ; this costs nothing either.  A sum or a concatenation whose parts stand for
    different things asks the maps in front of them to give the same.  What no neighbour can
    take stays, as an :class:`normprop.graph.affine.Affine` behind the plain layer: the shift of
    a curved activation before a zero-padded convolution, or what reaches an output, a function
    that is not known, or a layer that is called twice with different neighbours.

    The code of the model is kept, and with it everything that it does in Python; its layers
    are exchanged.  It is watched while it runs on the example, several times: where it asks a
    tensor for a truth, also with the other answer.  Roads that dice choose, or what earlier runs
    have left, are all folded for; one that the values choose is refused.  A value that leaves by
    another way than by ``return`` is what it was: in an attribute, a list, a buffer, as a number,
    in a hook.  Functions of ``normprop.functional`` that the model calls itself
    stay what they are.  In float16 and bfloat16 a shifted input is rounded coarser than one near
    0; fold in float32 and cast afterwards where that matters.

    Args:
        model: is not changed.
        example_inputs: what it is called with; values do not matter, shapes may where the
            model looks at them.
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
    check_arguments(model, example_inputs, example_keywords)
    seen, split = separated(model)
    seen.eval()
    kinds = kinds_of(seen)
    roads = roads_of(seen, example_inputs, example_keywords, kinds)
    can_shift = {p for p in kinds if not keeps_itself(seen.get_submodule(p))}
    plan = Plan(seen, roads.traces, training=False, kinds=kinds, can_shift=can_shift)

    folded = separated(model)[0].eval()
    tied = _tied(folded)
    with torch.no_grad():
        for path, choice in plan.choices.items():
            layer = folded.get_submodule(path)
            made = _made(layer, kinds[path], choice, plan, path)
            folded = replace(folded, path, layer, made)
    still = _tied(folded)
    split += [names for names in tied if names not in still]
    return remember(folded, report_of(plan, split, roads.notes))


def _made(layer: nn.Module, kind: Kind, choice: Choice, plan: Plan, path: str) -> nn.Module:
    if path in plan.fixed or kind.name == "opaque":
        return layer
    if kind.name == "map":
        return _map(layer, kind, Absorbed(choice.before, choice.after))
    if kind.name in ("norm", "batchnorm"):
        return _norm(layer, kind, choice.before)
    if choice.mode == "explicit" and keeps_itself(layer):
        return layer
    plain = _function(layer, kind, choice)
    if choice.mode == "moved":
        return plain
    out = plan.after(kind, layer, choice.before)
    inplace = kind.name in ("curve", "clamp")
    if choice.mode == "shifted":
        return nn.Sequential(plain, affine.Affine(1.0, out.shift / out.scale, inplace))
    return nn.Sequential(plain, affine.Affine(out.scale, out.shift, inplace))


def _function(layer, kind, choice) -> nn.Module:
    if kind.name == "clamp":
        low, high = limits_behind(kind, choice.before)
        if (low, high) != kind.limits or type(layer) is affine.Clamp:
            inplace = layer.inplace if hasattr(layer, "inplace") else False
            if kind.plain is nn.ReLU:
                return nn.Threshold(low, low, inplace)
            return nn.Hardtanh(low, high, inplace)
    if kind.before != (1.0, 0.0):
        return kind.plain()
    return layer if type(layer) is kind.plain else plain_of(layer, kind.plain)


def _map(layer, kind, absorbed: Absorbed) -> nn.Module:
    if type(layer) is kind.plain and absorbed == Absorbed():
        return layer
    weight, bias = layer.weight, layer.bias
    # Once in float64, and rounded once.
    wide = weight.detach().to("cpu", torch.float64)
    offset = None if bias is None else bias.detach().to("cpu", torch.float64)
    if isinstance(layer, Parametric):
        if layer.method == "normalize":
            wide = layer._on_ball(wide, layer._ball())
        if layer.absorbed is not None:
            wide, offset = _absorb(layer, wide, offset, layer.absorbed)
    wide, offset = _absorb(layer, wide, offset, absorbed)
    made = plain_of(layer, kind.plain, bias=offset is not None)
    made.weight = nn.Parameter(wide.to(weight), weight.requires_grad)
    if offset is not None:
        made.bias = nn.Parameter(offset.to(weight), weight.requires_grad)
    return made


def _absorb(layer, weight, bias, absorbed: Absorbed):
    weight = weight * (absorbed.before.scale / absorbed.after.scale)
    outputs = layer.out_features if hasattr(layer, "out_features") else layer.out_channels
    return weight, absorbing_bias(bias, weight, *absorbed, outputs)


def _norm(layer, kind, before: Affine) -> nn.Module:
    if before == Affine():
        return layer
    # The same quotient, as mean, standard deviation and √eps shrink alike.
    layer.eps /= before.scale**2
    if kind.name == "batchnorm" and layer.running_mean is not None:
        layer.running_mean.sub_(before.shift).div_(before.scale)
        layer.running_var.div_(before.scale**2)
    return layer


def _tied(model) -> list[tuple[str, ...]]:
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return [tuple(names) for names in owners.values() if len(names) > 1]
