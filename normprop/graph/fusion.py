"""Constants kept in neighbours while a network trains: a block runs the plain activation."""

import dataclasses
import operator
from functools import partial

import torch
from torch import nn

from normprop import rules
from normprop.functional.parametric import Absorbed, Meaning
from normprop.graph import affine, rewrite
from normprop.graph.kinds import Kind, kinds_of
from normprop.graph.legality import Rates, rates_of
from normprop.graph.plan import Choice, Plan
from normprop.graph.report import remember
from normprop.graph.roads import roads_of
from normprop.graph.roles import mixes
from normprop.nn.parametric import MapFromWeight, Parametric
from normprop.nn.together import Together


@torch.inference_mode(False)
def fuse(model: nn.Module, /, *example_inputs, lean: bool = False, **example_keywords) -> nn.Module:
    r"""The same normalised network, to be trained, at the cost of the plain one.

    Activations become torch's own, at their paths; their shift and scale are kept by the
    normalised maps around them, in weight and bias:

    .. math:: \hat W \frac{f(x) - \mu}{\sigma} + b
        = \frac{\hat W}{\sigma} f(x) + \left(b - \frac{\mu}{\sigma} \hat W 1\right).

    The weights of the whole network are made in one call when it is called, a cost of
    O(parameters), and with ``method="project"`` they are at hand from :func:`normprop.nn.project_`
    on.  Most maps then run with the parameter itself: they leave their scale to the next one where
    functions between them take it along, as a ReLU does, f(ax) = a f(x); what goes through a map is
    at most 8, and a curve, a sum or an output asks for a scale of its own.  What hooks on layers of
    the copy see, of activations and maps, is in these units, gradients in the inverse ones: in half
    precision the largest factor of a loss is that much smaller.  Parameters, their balls and the
    keys of the ``state_dict`` stay what they are, so that every optimiser takes the steps that it
    would take in the model, and checkpoints go both ways.
    Outputs and gradients are the same but for rounding, under every scaling.  Separate scales are
    factors of each parameter's gradient where :func:`check` finds them legal, and cost nothing;
    elsewhere the map takes the gradient to its input through a weight of its own.
    Where a convolution pads with zeros, a ReLU becomes ``nn.Threshold(-μ, -μ)``, whose output is
    shifted already, and the map in front of it gives a shifted input; GELU and others
    that keep their input for the backward pass are followed by their shift, one pass more; the
    rest stay normalised.  What else cannot be moved, and how the model is watched, is as in
    :func:`normprop.fold`; layers of torch with weights take no constants here.

    Args:
        model: is not changed.  It is watched in training, in evaluation, and in its own mode
            where a part of it is in another.
        example_inputs: what it is called with.  A layer that it does not reach is in the report,
            and where constants have moved it raises when it is called.
        lean: whether a rectifier in front of zero padding keeps its output alone for the backward
            pass, as :class:`normprop.graph.affine.Clamp`, which runs a few lines of Python each
            way, where torch's own layers keep their input beside it.
        example_keywords: what else it is called with.

    Returns:
        A copy, in the mode of the model; :func:`normprop.report` says where the constants went.

    Raises:
        ValueError: no example is given, the model is fused already, or it decides by a value
            that it computes, by dice other than torch's, or by how often it ran.
        TypeError: the model is no module, cannot be looked into or copied, or returns no tensor.
    """
    rewrite.check_arguments(model, example_inputs, example_keywords)
    if rewrite.is_fused(model):
        raise ValueError("model must not be fused already; it was")
    rates = rates_of(model, example_inputs, example_keywords)
    network = model if rates is None else rates.network
    fused, plan, split, notes = _planned(network, example_inputs, example_keywords, lean)
    if rates is not None and len(plan.traces) == len(_modes(network)):
        _learn_at(fused, rates)
    elif rates is not None:
        # Another road may have other factors.
        fused, plan, split, notes = _planned(model, example_inputs, example_keywords, lean)
        rates = None
    Together(fused, True, None if rates is None else rates.inputs)
    return remember(fused, rewrite.report_of(plan, fused, split, notes))


def _planned(model: nn.Module, inputs: tuple, keywords: dict, lean: bool):
    """The network whose constants have moved, its plan, and what the report says beside."""
    seen, split = rewrite.separated(model)
    kinds = _kinds(seen.train())
    traces, notes = (), ()
    for mode in _modes(model):
        network = rewrite.separated(model)[0] if mode is None else seen.train(mode)
        roads, said = roads_of(network, inputs, keywords, kinds)
        traces, notes = traces + roads, notes + said
    plan = Plan(traces, training=True, kinds=kinds, can_shift=_keep_their_input(seen, kinds))
    plan = _through(plan, seen)
    fused = rewrite.exchanged(rewrite.separated(model)[0], plan, partial(_made, plan, lean))
    rewrite.refuse_unreached(fused, seen, plan)
    return fused, plan, split, notes


def _through(plan: Plan, model: nn.Module) -> Plan:
    """The plan in which scales go through maps whose weights stay on their balls by themselves.

    The same where that has any disadvantage.
    """
    layers = {p: model.get_submodule(p) for p in plan.choices if plan.kinds[p].name == "map"}
    maps = {p: m.weight.numel() for p, m in layers.items() if m.method == "project"}
    if not maps:
        return plan
    through = dataclasses.replace(plan, through=maps)
    costs, known = through.costs(maps), plan.costs(maps)
    better = costs != known and all(map(operator.le, costs, known))
    return through if better else plan


def _learn_at(fused: nn.Module, rates: Rates) -> None:
    """Leave it to the maps to multiply their gradients."""
    factors = {id(p): rates.parameters.get(n, 1.0) for n, p in fused.named_parameters()}
    for layer in (m for m in fused.modules() if isinstance(m, MapFromWeight)):
        own = tuple(factors.get(id(p), 1.0) for p in (layer.weight, layer.bias))
        if own != (1.0, 1.0):
            layer.absorbed = (layer.absorbed or Absorbed())._replace(factors=own)


def _modes(model: nn.Module) -> tuple[bool | None, ...]:
    """Training, evaluation, and ``None`` for its own where a part of it is in another."""
    mixed = len({module.training for module in model.modules()}) > 1
    return (True, False, None) if mixed else (True, False)


def _kinds(model: nn.Module) -> dict[str, Kind]:
    """Of the layers that can take part while a network trains."""
    found = {}
    for path, kind in kinds_of(model).items():
        layer = model.get_submodule(path)
        if kind.name == "map" and not isinstance(layer, Parametric):
            continue
        if kind.name == "commuting" and kind.draws:
            # Its constants are others in evaluation.
            continue
        found[path] = _staying(kind, layer)
    return found


def _staying(kind: Kind, layer: nn.Module) -> Kind:
    if kind.name == "remade" and not kind.normalised:
        return kind
    if kind.constants is None:
        reason = "its constants follow from the shape of its input"
        if kind.name == "commuting" and _is_relative(layer):
            return dataclasses.replace(kind, name="relative", reason=f"{reason}, and from its law")
        return kind.staying(reason)
    if kind.plain is None:
        return kind.staying("torch has no such layer")
    # What alpha dropout puts in the place of what it drops does not scale with its input.
    other = kind.name == "dropout" and rules.entry_of_type(kind.plain).algebra is None
    if other or (kind.name == "curve" and kind.draws):
        return kind.staying("its constants are others in evaluation")
    family = rules.entry_of_type(kind.plain).family
    if kind.name == "curve" and family not in ("activation", "attention"):
        return kind.staying("it is no activation, and trains as it is")
    return kind


def _is_relative(layer: nn.Module) -> bool:
    """Whether a, b and its law alike make no other output than x: f(a x + b) = a f(x) + b."""
    return layer.scaling == "forward" and getattr(layer, "after", None) is None


def _keep_their_input(model: nn.Module, kinds: dict[str, Kind]) -> set[str]:
    """Paths of the curves whose output autograd does not need."""
    found = set()
    for path, kind in kinds.items():
        activation = kind.name == "curve" and not mixes(model.get_submodule(path))
        if activation and kind.normalised:
            with torch.enable_grad():
                plain = rewrite.plain_of(model.get_submodule(path), kind.plain)
                output = plain(torch.zeros([2] * 6, device="cpu", requires_grad=True))
            if not hasattr(output.grad_fn, "_saved_result"):
                found.add(path)
    return found


def _made(plan: Plan, lean: bool, layer: nn.Module, kind: Kind, choice: Choice) -> nn.Module:
    if kind.name == "map":
        absorbed = Absorbed(choice.before, choice.after)
        layer.absorbed = None if absorbed == Absorbed() else absorbed
        return layer
    if kind.name == "norm" and choice.before != Meaning():
        layer.eps /= choice.before.scale**2
    if kind.name == "relative" and choice.before != Meaning():
        scale, shift, _ = choice.before
        layer.mean, layer.std = (layer.mean - shift) / scale, layer.std / scale
    function = kind.name in ("clamp", "homogeneous", "curve", "commuting")
    if not function or choice.mode in ("explicit", "kept"):
        return layer
    limits = rewrite.limits_behind(layer, kind, choice.before) if kind.name == "clamp" else None
    if limits is not None:
        return affine.Clamp(*limits) if lean else rewrite.clamp(*limits)
    plain = rewrite.plain_of(layer, kind.plain)
    if choice.mode == "shifted":
        out = plan.after(kind, layer, choice.before)
        return nn.Sequential(plain, affine.Affine(1.0, out.shift / out.scale, inplace=True))
    return plain
