"""What normalised layers do to laws: the plain layer, its weights that run, its constants."""

import copy
import inspect
import math

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from normprop import nn as twins
from normprop import rules
from normprop.functional.gated import gate_function
from normprop.functional.join import constants_of_parts
from normprop.functional.parametric import Absorbed, absorbing_bias
from normprop.functional.scale import Constants
from normprop.functional.weight import normalize_weight
from normprop.graph.calls import Call, Step, Tape, elementwise, rule, step_of, unknown
from normprop.graph.kinds import constants_at
from normprop.graph.laws import times
from normprop.graph.maps import Weight, convolved, through_weights
from normprop.graph.products import by_pairs, dropped, gates, heads, looked_up
from normprop.graph.trace import Node, is_value
from normprop.nn.parametric import weights_that_run


def step_of_layer(call: Call, layer: nn.Module, node: Node) -> Step:
    """What a normalised layer does.

    Args:
        call: of the layer.
        layer: with its numbers.
        node: of the trace.
    """
    plain = layer.torch_type
    if isinstance(layer, twins.MultiheadAttention):
        return _attention(call, layer, node)
    if isinstance(layer, twins.Embedding):
        rows = layer.weight.detach().double().cpu()
        rows = layer._on_ball(rows, "forward") if layer.method == "normalize" else rows
        return looked_up(call, call.args[0], rows, layer.padding_idx, _root(layer))
    if isinstance(layer, twins.Bilinear):
        return _bilinear(call, layer)
    entry = rules.entry_of_type(plain)
    if plain is not nn.Module and entry.family == "map":
        return _map(call, layer)
    if plain is not nn.Module and entry.family == "dropout":
        return _dropout(call, layer)
    if isinstance(layer, twins.GatedLinear):
        gated = lambda c: gates(c, call.args[0], layer.dim, gate_function(layer.gate))  # noqa: E731
        return _divided(gated(call), layer.constants)
    if plain is nn.Module or entry.family == "activation":
        call.function = copy.deepcopy(layer).cpu().double()
        step = elementwise(call)
        if step is not None:
            return step
        if plain is nn.Module:
            return unknown(call)
    inner = _within(call, layer)
    if inner is None:
        value = call.args[0]
        step = Step([call.law(value)], lambda gradients: [(value, gradients[0])])
    else:
        step = step_of(inner)
    return _divided(step, constants_at(layer, node))


def _root(layer: nn.Module) -> frozenset:
    return frozenset({("weight", id(layer))})


class _First(TorchFunctionMode):
    """The first function that is called, and with what."""

    found = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if self.found is None:
            self.found = func, args, kwargs or {}
        return func(*args, **(kwargs or {}))


def _within(call: Call, layer: nn.Module) -> Call | None:
    """The function of torch that the plain layer calls; None where it gives back its input."""
    tensors = {v: torch.empty(call.law(v).shape, device="meta") for v in call.values()}
    args, kwargs = tree_map(
        lambda leaf: tensors[leaf] if is_value(leaf) else leaf,
        (call.args, call.kwargs),
        is_leaf=is_value,
    )
    with _First() as first:
        layer.torch_type.forward(layer, *args, **kwargs)
    if first.found is None:
        return None
    function, args, kwargs = first.found
    values = {id(t): v for v, t in tensors.items()}
    args, kwargs = tree_map(lambda leaf: values.get(id(leaf), leaf), (args, kwargs))
    call.name, call.function = function.__name__.strip("_"), function
    call.args, call.kwargs = args, kwargs
    return call


def _divided(step: Step, constants: Constants) -> Step:
    """(f - shift)/forward, whose gradient is divided by ``backward``."""
    shift, forward, backward = constants
    first = step.laws[0]
    moved = first.image((first.values - shift) / forward)

    def back(gradients):
        return step.back([times(gradients[0], 1.0 / backward), *gradients[1:]])

    return Step([moved, *step.laws[1:]], back)


def _map(call: Call, layer: nn.Module) -> Step:
    forward, bias, backward = map(_tensor, weights_that_run(layer))
    before, after, _ = layer.absorbed or Absorbed()
    gain = before.scale / after.scale
    used, back = forward * gain, backward * gain * (before.gradient / after.gradient)
    transposed = getattr(layer, "transposed", False)
    if layer.absorbed is not None:
        bias = absorbing_bias(bias, used, before, after, layer.outputs)
    value = call.args[0]
    if forward.ndim == 2:
        used, back = used.unsqueeze(2), back.unsqueeze(2)
        weight = Weight(used, bias, 1, back)
        return through_weights(call, value, weight, _root(layer), len(call.law(value).dims) - 1)
    names = ("stride", "padding", "dilation")
    given = {name: getattr(layer, name) for name in names}
    if layer.padding_mode != "zeros":
        padding = layer._reversed_padding_repeated_twice
        tape = Tape(call)
        sizes = list(call.law(value).shape)
        for d in range(len(padding) // 2):
            sizes[-1 - d] += padding[2 * d] + padding[2 * d + 1]
        value = tape(
            "pad", value, padding, layer.padding_mode, shape=sizes, function=nn.functional.pad
        )
        given["padding"] = 0
        made = tape.run(
            lambda c: convolved(
                c, value, used, bias, _root(layer), transposed, layer.groups, given, back
            )
        )
        return tape.end(made)
    return convolved(call, value, used, bias, _root(layer), transposed, layer.groups, given, back)


def _tensor(array):
    return None if array is None else torch.from_numpy(array)


def _dropout(call: Call, layer: nn.Module) -> Step:
    training, *evaluation = layer.constants
    value = call.args[0]
    alpha = "Alpha" in layer.torch_type.__name__
    if not layer.training:
        *center, factor = evaluation
        law = call.law(value)
        shift = center[0] if center else training.shift
        moved = law.image((law.values - shift) * factor)
        return Step([moved], lambda gradients: [(value, times(gradients[0], factor))])
    channels = layer.torch_type.__name__.startswith("Feature") or layer._dims > 0
    step = dropped(call, value, layer.p, channels, alpha) if layer.p else None
    if step is None:
        step = Step([call.law(value)], lambda gradients: [(value, gradients[0])])
    return _divided(step, training)


def _bilinear(call: Call, layer: nn.Module) -> Step:
    weight = layer.weight.detach().double().cpu()
    if layer.method == "normalize":
        weight = layer._on_ball(weight, layer._ball())
    bias = None if layer.bias is None else layer.bias.detach().double().cpu()
    left, right = call.args[:2]
    return by_pairs(call, left, right, weight, bias, _root(layer))


def _attention(call: Call, layer: nn.Module, node: Node) -> Step:
    constants = constants_at(layer, node)
    running = {k: w.double() for k, w in layer.weights_that_run(constants).items()}
    own = running["in_proj_weight"].chunk(3) if "in_proj_weight" in running else [
        running[f"{name}_proj_weight"] for name in "qkv"]  # fmt: skip
    back, factors = own, (1.0, 1.0, 1.0)
    out = running["out_proj.weight"]
    back_out = out
    if layer.scaling == "separate":
        factors = [constants.forward / f for f in (constants.query, constants.key, constants.value)]
        back = [normalize_weight(w, "backward", layer.per) for w in own]
        back_out = normalize_weight(out, "backward", layer.per, gain=layer.gain / constants.forward)
    biases = (None,) * 3 if layer.in_proj_bias is None else layer.in_proj_bias.detach().chunk(3)
    if call.get(3, "key_padding_mask") is not None:
        call.notes.append("what its padding hides is not known; taken for nothing")
    return heads(
        call,
        [call.get(i, n) for i, n in enumerate(("query", "key", "value"))],
        list(zip(own, biases, back, strict=True)),
        (out, layer.out_proj.bias, back_out),
        layer.num_heads,
        layer.dropout if layer.training else 0.0,
        call.get(5, "attn_mask"),
        "batch" if layer.batch_first else "length",
        factors,
    )


@rule("functional.residual")
def _residual(call: Call) -> Step:
    weight = call.kwargs.get("weight", math.sqrt(0.5))
    tape = Tape(call)
    branch = tape.scaled(call.get(0, "branch"), weight)
    kept = tape.scaled(call.get(1, "skip"), math.sqrt((1.0 - weight) * (1.0 + weight)))
    return tape.end(tape("add", kept, branch, shape=call.shapes[0], function=torch.add))


@rule("functional.cat")
def _concatenated(call: Call) -> Step:
    dim = call.get(1, "dim", 0)
    laws = [call.law(v) for v in call.values()]
    one = torch.empty([law.shape[dim] for law in laws], device="meta").shape
    law = {k: v for k, v in call.kwargs.items() if k not in ("tensors", "dim")}
    given = inspect.signature(call.function).bind_partial(**law)
    given.apply_defaults()
    numbers = given.arguments
    constants = constants_of_parts(tuple(one), numbers["scaling"], numbers["mean"], numbers["std"])
    call.name = "cat"
    return _divided(step_of(call), constants)
