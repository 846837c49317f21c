"""What layers do that measure what they normalise, and what normalised layers do."""

import copy
import functools
import inspect
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from normprop import nn as twins
from normprop import rules
from normprop.functional.activation import gate_function
from normprop.functional.attention import AttentionConstants
from normprop.functional.scale import Constants
from normprop.functional.shape import constants_of_parts
from normprop.functional.weight import normalize_weight
from normprop.graph import calls
from normprop.graph.calls import Call, Step, custom, elementwise, inside, rule, unknown
from normprop.graph.fields import Array, Field, at_zero, average, plus, times
from normprop.graph.kinds import constants_at
from normprop.graph.maps import entries_of
from normprop.graph.trace import Node, is_value
from normprop.nn.parametric import Parametric, weights_that_run

# Layers that measure what they normalise.


def normalised(call, value, over, eps, weight=None, bias=None, centred=True, apart=False) -> Step:
    """Subtract the mean over axes, or not, and divide by the deviation over them.

    With ``apart`` each channel has a variance of its own.
    """
    law = call.law(value)
    size = max(math.prod(law.axes[k].size for k in over), 2)

    def apart_from_mean(array: Array) -> Array:
        return array - _mean_over(law, array, over) if centred else array

    array = apart_from_mean(law.covariance)
    mean = 0.0 if centred else law.mean
    square = max(at_zero(array), 0.0) + mean**2
    w, b = call.numbers(weight), call.numbers(bias)
    if (w is None and is_value(weight)) or (b is None and is_value(bias)):
        call.notes.append("its weights are made of what the model is given; taken for 1 and 0")
    w = torch.ones(1, device="cpu") if w is None else w
    b = torch.zeros(1, device="cpu") if b is None else b
    if not square > 0:
        call.notes.append("its input does not vary within what it normalises")
    # Of channels that are normalised one by one, each has its own variance.
    each, share = np.ones((2, 1)) if law.uneven is None or not apart else law.uneven
    below = np.maximum(square * each + eps, 1e-300)
    inverse, steep = float((each / below).mean()), math.sqrt(float((share / below).mean()))
    centre, gain = mean / math.sqrt(square + eps), float((w * w).mean())
    spread = float(b.var(correction=0)) + centre**2 * float(w.var(correction=0))
    array = plus(array * (gain * inverse), spread)
    made = law.rescaled(centre * float(w.mean()) + float(b.mean()), array)
    slope, left = math.sqrt(gain) * steep, 1.0 - 1.0 / size
    return Step.curve(value, made, slope, lambda noise: apart_from_mean(noise) * left)


def _mean_over(law: Field, array: Array, over: Sequence[int]) -> Array:
    """What all places along some axes have in common."""
    for k in over:
        array = np.expand_dims(average(array, k, law.axes[k].size), k)
    return array


def _but(law: Field, *dims: int) -> list[int]:
    """Places of the axes of all other dimensions."""
    return law.along(*(d for d in range(len(law.dims)) if d not in dims))


@rule("batch_norm", "instance_norm")
def _batch_norm(
    call: Call, input, running_mean=None, running_var=None, weight=None, bias=None,
    training=None, momentum=0.1, eps=1e-5, use_input_stats=True,
):  # fmt: skip
    law, one_by_one = call.law(input), call.name == "instance_norm"
    if training is None:
        training = one_by_one and use_input_stats
    mean = call.numbers(running_mean)
    if training or mean is None:
        over = _but(law, *((0, 1) if one_by_one else (1,)))
        return normalised(call, input, over, eps, weight, bias, apart=not one_by_one)
    variance, w, b = map(call.numbers, (running_var, weight, bias))
    gain = torch.rsqrt(variance + eps) * (1.0 if w is None else w)
    squares = float((gain**2).mean())
    array, offsets = law.covariance, torch.zeros_like(gain) if b is None else b
    if bool((mean == 0).all()):
        offsets = offsets + gain * law.mean
    else:
        call.notes.append("the running means are taken for those of the channels that arrive")
        array = array - _mean_over(law, array, _but(law, 1))
    array = plus(array * squares, float(offsets.var(correction=0)))
    return Step.curve(input, law.rescaled(float(offsets.mean()), array), math.sqrt(squares))


@rule(torch.batch_norm, torch.instance_norm)
def _affine_first(call: Call, input, weight, bias, mean, variance, training, momentum, eps, *_):
    return _batch_norm(call, input, mean, variance, weight, bias, training, momentum, eps)


@rule("layer_norm")
def _layer_norm(call: Call, input, normalized_shape, weight=None, bias=None, eps=1e-5, *_) -> Step:
    centred = call.name == "layer_norm"
    law, count = call.law(input), len(entries_of(normalized_shape, 1))
    over = law.along(*range(len(law.dims) - count, len(law.dims)))
    return normalised(call, input, over, eps, weight, bias, centred)


@rule("rms_norm")
def _rms_norm(call: Call, input, normalized_shape, weight=None, eps=None) -> Step:
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return _layer_norm(call, input, normalized_shape, weight, None, eps)


@rule("group_norm")
def _group_norm(call: Call, input, num_groups, weight=None, bias=None, eps=1e-5, *_) -> Step:
    def normal(inner: Call, parts, *rest) -> Step:
        return normalised(inner, parts, _but(inner.law(parts), 0, 1), eps, *rest)

    def apply(x, *rest):
        return custom(normal)(x.unflatten(1, (num_groups, -1)), *rest).flatten(1, 2)

    return inside(call, apply, input, weight, bias)


# Normalised layers.


def step_of_layer(call: Call, layer: nn.Module, node: Node) -> Step:
    """What a normalised layer does: torch's layer with the weights that run, and constants."""
    plain = layer.torch_type
    family = None if plain is nn.Module else rules.entry_of_type(plain).family
    if isinstance(layer, twins.GatedLinear):
        return _divided(inside(call, _gated(layer), *call.args), layer.constants)
    if family in (None, "activation"):
        call.function = copy.deepcopy(layer).cpu().double()
        step = elementwise(call)
        if step is not None:
            return step
        if plain is nn.Module:
            return unknown(call)
    if family == "dropout" and not layer.training:
        training, *center, factor = layer.constants
        shift, law = center[0] if center else training.shift, call.law(call.args[0])
        return Step.curve(call.args[0], law.image((law.values - shift) * factor), factor)
    running, weights = _running(layer, node)
    forward = functools.partial(plain.forward, running)
    if family == "attention":
        forward = _each_divided(forward, constants_at(layer, node))
    step = inside(call, forward, *call.args, weights=weights, **call.kwargs)
    if isinstance(layer, Parametric | twins.MultiheadAttention):
        return step
    constants = layer.constants[0] if family == "dropout" else constants_at(layer, node)
    return _divided(step, constants[:3])


def _each_divided(attend: Callable, constants: AttentionConstants) -> Callable:
    """Attention whose three gradients have divisors of their own, up to the first one's."""
    _, _, first, *others = constants

    def scaled(factor: float) -> Callable:
        return custom(lambda call, x: Step.curve(x, call.law(x), factor))

    def apply(query, key, value, *more, **named):
        if {*others} != {first}:
            key, value = (scaled(first / f)(x) for f, x in zip(others, (key, value), strict=True))
        return attend(query, key, value, *more, **named)

    return apply


def _gated(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    def curve(call: Call, *_) -> Step:
        call.function = gate_function(layer.gate)
        return elementwise(call) or unknown(call, "what its gate does is not known")

    def apply(x):
        passing, gate = x.chunk(2, layer.dim)
        return passing * custom(curve)(gate)

    return apply


def _with(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """The same layer with other parameters."""
    made = copy.copy(module)
    made.__dict__["_parameters"] = {**module._parameters, **tensors}
    return made


def _running(layer: nn.Module, node: Node) -> tuple[nn.Module, list]:
    """The layer with weights that run, and of each what :meth:`Call.weight` says of it."""
    root = frozenset({("weight", id(layer))})
    if isinstance(layer, twins.MultiheadAttention):
        return _attention(layer, node)
    if isinstance(layer, twins.Embedding | twins.Bilinear):
        weight = layer.weight.detach().double().cpu()
        if layer.method == "normalize":
            weight = layer._on_ball(weight, layer._ball())
        return _with(layer, weight=weight), [(weight, (root, None))]
    if not isinstance(layer, Parametric):
        return layer, []
    forward, bias, backward = (
        None if array is None else torch.from_numpy(array) for array in weights_that_run(layer)
    )
    return _with(layer, weight=forward, bias=bias), [(forward, (root, backward))]


def _divided(step: Step, constants: Constants) -> Step:
    """(f - shift)/forward, whose gradient is divided by ``backward``."""
    shift, forward, backward = constants
    first = step.laws[0]
    moved = first.image((first.values - shift) / forward)

    def back(gradients):
        return step.back([times(gradients[0], 1.0 / backward), *gradients[1:]])

    return Step([moved, *step.laws[1:]], back)


def _attention(layer: nn.Module, node: Node) -> tuple[nn.Module, list]:
    constants = constants_at(layer, node)
    running = {k: w.double() for k, w in layer.weights_that_run(constants).items()}
    out = running.pop("out_proj.weight")
    own = [*running.values()] if len(running) == 3 else running["in_proj_weight"].chunk(3)
    back, back_out = own, out
    if layer.scaling == "separate":
        # The gradients of queries, keys and values are multiplied on their way.
        factors = [constants.forward / f for f in (constants.query, constants.key, constants.value)]
        back = [normalize_weight(w, "backward", layer.per) for w in own]
        back = [w * f for w, f in zip(back, factors, strict=True)]
        back_out = normalize_weight(out, "backward", layer.per, gain=layer.gain / constants.forward)
    q, k, v = own
    made = _with(layer, q_proj_weight=q, k_proj_weight=k, v_proj_weight=v)
    made._qkv_same_embed_dim = False
    made.__dict__["_modules"] = {"out_proj": _with(layer.out_proj, weight=out)}
    return made, [
        (w, (frozenset(), b)) for w, b in zip((*own, out), (*back, back_out), strict=True)
    ]


@rule("functional.residual")
def _residual(call: Call, branch, skip, weight=0.5**0.5, **_) -> Step:
    kept = math.sqrt((1.0 - weight) * (1.0 + weight))
    return inside(call, lambda branch, skip: skip * kept + branch * weight, branch, skip)


@rule("functional.cat")
def _concatenated(call: Call, tensors, dim=0, **law) -> Step:
    sizes = tuple(call.law(part).shape[dim] for part in tensors)
    given = inspect.signature(call.function).bind_partial(**law)
    given.apply_defaults()
    scaling, mean, std = (given.arguments[name] for name in ("scaling", "mean", "std"))
    constants = constants_of_parts(sizes, scaling, mean, std)
    return _divided(calls.TABLE["cat"](call, tensors, dim), constants)
