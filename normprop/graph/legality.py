"""By what factor separate scales multiply each parameter's gradient, and where they turn it.

A layer with ``scaling="separate"`` multiplies the gradient that passes it by a constant.  What
reaches a parameter is a sum over the paths from the output to it.  Where every path carries
the same product of constants, the gradient is the true one times that product; where paths
differ, at a residual sum, a concatenation or a shared weight, it is no multiple of it.  The
products are read off autograd's own graph, in which every function of this package states its
constants; a graph that cannot be read is refused.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from normprop.graph.anatomy import is_own
from normprop.graph.rewrite import copied
from normprop.graph.wrappers import forked_dice, held_by, run_as_written, tensors_in, unwrapped
from normprop.nn.parametric import MapFromWeight

_TOLERANCE = 1e-12
"""Two products count as equal when they differ by less than the rounding of a long product."""

_DERIVATIVES = {
    "torch.nn.modules._functions", "torch.nn.parallel._functions", "torch.nn.parallel.distributed",
}  # fmt: skip
"""Modules of torch whose Functions give the derivative."""

_INSTEAD = {
    "CheckpointFunction": "checkpoint layers with use_reentrant=False",
    "CompiledFunction": "check the model before it is compiled",
}


@dataclass(frozen=True)
class Factor:
    """The products of constants over the paths from the output to one parameter.

    Attributes:
        low: the smallest; NaN where a path passes a layer whose backward weights differ from its
            forward ones by more than a scalar, so that no factor describes the gradient.
        high: the largest; NaN there too.
    """

    low: float
    high: float

    @property
    def asymmetric(self) -> bool:
        """Whether a path passes a layer whose backward weights are no multiple of its own."""
        return math.isnan(self.low)

    @property
    def legal(self) -> bool:
        """Whether the gradient is the true one times a constant."""
        return bool(_agree(self.low, self.high))

    @property
    def value(self) -> float:
        """The constant.

        Raises:
            ValueError: there is none.
        """
        if not self.legal:
            raise ValueError(f"the paths must agree on one factor; they gave {self}")
        return self.low


@dataclass(frozen=True)
class Bridge:
    """A layer with separate scales, and whether it may have them.

    Attributes:
        factor: by what it multiplies the gradient that passes, 1 where none does; NaN where that
            is no one number: its backward weights differ from its forward ones by more than a
            scalar, or its inputs have factors of their own.
        legal: whether every parameter's gradient were the true one times a constant if this were
            the only layer with separate scales: all paths to the output from any parameter before
            it lead through it, or its factor is 1.
    """

    factor: float
    legal: bool


@dataclass(frozen=True)
class Legality:
    """What ``check`` found; prints as a table.

    Attributes:
        factors: by name of the parameter, of those that a gradient reaches.
        layers: by name of the module, for each layer with separate scales on the way to the
            outputs.
        unreached: names of the parameters that no gradient reaches, of which nothing is said: the
            run did not use them, or they are frozen.
    """

    factors: dict[str, Factor]
    layers: dict[str, Bridge]
    unreached: tuple[str, ...] = ()

    @property
    def legal(self) -> bool:
        """Whether every gradient that reaches a parameter is the true one times a constant."""
        return all(factor.legal for factor in self.factors.values())

    def __str__(self) -> str:
        width = max(map(len, ("parameter", *self.factors, *self.unreached)))
        lines = [f"{'parameter':<{width}}  factor of the true gradient"]
        for name, factor in self.factors.items():
            if factor.legal:
                text = f"{factor.value:.6g}"
            elif factor.asymmetric:
                text = "none: a layer's backward weights are not its forward ones"
            else:
                text = f"none: paths give {factor.low:.6g} to {factor.high:.6g}"
            lines.append(f"{name:<{width}}  {text}")
        lines += [f"{name:<{width}}  not reached" for name in self.unreached]
        illegal = [name for name, bridge in self.layers.items() if not bridge.legal]
        if illegal:
            lines.append(f"separate scales are not legal in: {', '.join(illegal)}")
        return "\n".join(lines)


def check(model: nn.Module, /, *inputs, **keywords) -> Legality:
    """Where separate scales are legal in a model, and by what factor they multiply gradients.

    Runs the model once, on the inputs, in the mode that it is in, and reads autograd's graph of
    its outputs; buffers and torch's random numbers are afterwards what they were.  Paths count
    whether or not a gradient happens to vanish on them.  What ``torch.compile`` made runs as it
    was written.

    A ``torch.autograd.Function`` from elsewhere may do anything to a gradient, and may hide
    layers: it has to say what it does.  One whose backward pass gives the derivative says so by
    the class attribute ``gradient_factors = (1.0,)``.

    Args:
        model: uses ``normprop.nn`` layers or ``normprop.functional``, anywhere; compiled, data
            parallel or averaged models are looked into.  All tensors that it returns count,
            wherever they are in tuples, lists, dictionaries, dataclasses and other objects.
        inputs: what the model is called with.
        keywords: what it is called with by name.

    Returns:
        :class:`Legality`, with the names that the model has for its parameters and modules.

    Raises:
        TypeError: the model is no module, or it or a part of it is one of TorchScript or sharded.
        ValueError: the output does not depend on any parameter, or the graph cannot be read: the
            model passes a function with a backward pass of its own that does not say what it
            does, such as a reentrant checkpoint, or runs autograd itself.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    factors, alone, calls = _factors(model, inputs, keywords, names)
    if not factors:
        raise ValueError("the output must depend on a parameter; none of the model's is reached")
    layers = {
        name: Bridge(_factor_through(made), bool(legal))
        for (name, made), legal in zip(calls.items(), alone, strict=True)
    }
    unreached = tuple(name for name in names.values() if name not in factors)
    return Legality(factors, layers, unreached)


def _factors(model, inputs, keywords, names: dict) -> tuple[dict, np.ndarray, dict]:
    """What each leaf of these names has, by identity, and calls of layers with separate scales.

    Of each of these layers also whether all gradients were true but for a constant if it were the
    only one.
    """
    roots, graph, calls = _run(model, inputs, keywords)
    # On the way to the outputs, or where no gradient can be, as no parameter stands before it.
    calls = {
        name: made
        for name, made in calls.items()
        if any(not call.roots or not graph.keys().isdisjoint(call.roots) for call in made)
    }
    owners = defaultdict(lambda: [0])
    for column, made in enumerate(calls.values(), 1):
        for node in (node for call in made for node in call.graph):
            owners[node].append(column)

    def together_and_alone(node) -> np.ndarray:
        """The factors with all layers as they are, and with each as the only separate one."""
        stated = _stated(node)
        found = np.ones((len(stated), 1 + len(calls)))
        found[:, owners[node]] = np.reshape(stated, (-1, 1))
        return found

    ends = _products(roots, graph, together_and_alone, np.ones(1 + len(calls)))
    reached = {
        names[id(node.variable)]: np.stack(products)
        for node, products in ends.items()
        if id(getattr(node, "variable", None)) in names
    }
    factors = {
        name: Factor(*reached[name][:, 0].tolist()) for name in names.values() if name in reached
    }
    legal = [_agree(low, high) for low, high in reached.values()]
    return factors, np.all(legal, axis=0)[1:] if legal else np.ones(len(calls)), calls


def separate_on_bridges_(model: nn.Module, /, *inputs, **keywords) -> Legality:
    """Keep separate scales where they are legal; elsewhere take the forward scale, in place.

    Dropout and randomised activations are judged as they are in training.  A layer that the run
    does not call takes the forward scale.

    Args:
        model: as in :func:`check`; likewise inputs and keywords.
        inputs: as there.
        keywords: as there.

    Returns:
        What ``check`` finds afterwards.

    Raises:
        TypeError: as there.
        ValueError: as there; or a layer that is not legal cannot change its scaling, or a function
            that is called outside layers turns a gradient.  The model is as it was then.
    """
    modules = dict(model.named_modules())
    saved = {layer: vars(layer).copy() for layer in modules.values() if is_separate(layer)}
    try:
        for layer in saved:
            layer.training = True
        bridges = check(model, *inputs, **keywords).layers
        for name, layer in modules.items():
            if not bridges[name].legal if name in bridges else layer in saved:
                if _absorbed_factor(layer) != 1.0:
                    raise ValueError(
                        "scales must be chosen before the model is fused; "
                        f"{name} has absorbed those of its neighbours: {layer.absorbed}"
                    )
                layer.scaling = "forward"
        _refuse_turned(check(model, *inputs, **keywords))
    except BaseException:
        for layer, attributes in saved.items():
            vars(layer).update(attributes)
        raise
    for layer, attributes in saved.items():
        layer.training = attributes["training"]
    return check(model, *inputs, **keywords)


def _refuse_turned(found: Legality) -> None:
    illegal = ", ".join(name for name, bridge in found.layers.items() if not bridge.legal)
    if illegal:
        raise ValueError(f"layers must be able to take the forward scale; {illegal} did not")
    if not found.legal:
        turned = [name for name, factor in found.factors.items() if not factor.legal]
        raise ValueError(
            "separate scales must be those of layers, to be taken away; functions that are called "
            f"outside layers turn the gradients of {', '.join(turned)}"
        )


def _agree(low, high):
    """Whether two products are one; NaN is none."""
    return high - low <= _TOLERANCE * np.maximum(np.abs(low), np.abs(high))


def is_separate(module: nn.Module) -> bool:
    """Whether it is a layer of ours with separate scales."""
    return is_own(type(module)) and getattr(module, "scaling", None) == "separate"


def _absorbed_factor(module: nn.Module) -> float:
    """The factor that a map has for layers around it."""
    absorbed = getattr(module, "absorbed", None)
    return 1.0 if absorbed is None else absorbed.before.gradient / absorbed.after.gradient


@dataclass(frozen=True)
class _Call:
    """What a layer added to autograd's graph when it was called."""

    # The nodes of its outputs, and those between them and its inputs.
    roots: list
    graph: dict
    # Identities of its parameters.
    parameters: set[int]


def _run(model, inputs, keywords) -> tuple[list, dict, dict[str, list[_Call]]]:
    """Nodes of the model's outputs, those behind, and calls of each layer with separate scales."""
    calls: dict[str, list[_Call]] = defaultdict(list)

    def record(name, module, inputs, keywords, output):
        roots, stop = _nodes_of(tensors_in(output)), _nodes_of(tensors_in((inputs, keywords)))
        own = {id(parameter) for parameter in module.parameters()}
        calls[name].append(_Call(roots, _graph(roots, set(stop)), own))

    inner = unwrapped(model)
    held = held_by(model, inputs, keywords)
    with ExitStack() as stack:
        # Named as the user's model names them.
        for name, module in model.named_modules():
            if is_separate(module) or _absorbed_factor(module) != 1.0:
                hook = module.register_forward_hook(partial(record, name), with_kwargs=True)
                stack.enter_context(hook)
        stack.enter_context(forked_dice({t.device for t in held if t.is_cuda}))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(run_as_written())
        stack.enter_context(_NoGradientsInside())
        # Statistics are to be what they were.
        buffers = {n: b.clone() for n, b in inner.named_buffers() if not is_lazy(b)}
        result = torch.func.functional_call(inner, buffers, inputs, keywords)
    roots = _nodes_of(tensors_in(result))
    return roots, _graph(roots), calls


class _NoGradientsInside(TorchFunctionMode):
    """Refuses a model whose outputs depend on gradients, which separate scales change."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = {torch.autograd.grad: "torch.autograd.grad", Tensor.backward: "backward"}.get(func)
        result = None if name else func(*args, **(kwargs or {}))
        if name is None and func == Tensor.grad.__get__ and result is not None:
            name = "the attribute grad of a tensor"
        if name:
            raise ValueError(
                f"the model must not use gradients in its forward pass; it did, by {name}"
            )
        return result


def _nodes_of(tensors: Iterable[Tensor]) -> list:
    """The nodes that the gradients of these tensors go to."""
    return [get_gradient_edge(tensor).node for tensor in tensors if tensor.requires_grad]


def _stated(node) -> tuple[float, ...]:
    """What a node multiplies the gradients of its tensors by; those that follow have 1."""
    function = getattr(type(node), "_forward_cls", None)
    if function is None:
        # Of torch's own nodes, in C++, this one holds a whole graph.
        if "DifferentiableGraph" in node.name():
            raise ValueError("the model must be made of Python; it calls a function of TorchScript")
        return ()
    stated = getattr(node, "gradient_factors", getattr(function, "gradient_factors", None))
    if stated is None:
        if function.__module__ in _DERIVATIVES:
            return ()
        instead = _INSTEAD.get(function.__name__, "see normprop.check on how to state it")
        raise ValueError(
            "a function with a backward pass of its own must state its gradient_factors, or nobody "
            f"can judge what it does to gradients and whether it hides layers; "
            f"{function.__module__}.{function.__qualname__} does not; {instead}"
        )
    return stated


def _graph(roots, stop=frozenset()) -> dict:
    """Nodes of autograd's graph, each before what it passes gradients to, and with it.

    Is read while the tensors are there: before torch 2.13 the node of a custom function dies with
    them, whoever holds it in Python.
    """
    order, edges = [], {}
    stack = [(root, False) for root in roots]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in edges and node not in stop:
            edges[node] = node.next_functions
            stack.append((node, True))
            stack += [(child, False) for child, _ in edges[node] if child is not None]
    return {node: edges[node] for node in reversed(order)}


def _products(roots, graph, factors_of: Callable, one) -> dict:
    """Smallest and largest product over the paths to each node where they end.

    Where a tensor needs no gradient, but has a factor, they end at None.
    """
    ends = dict.fromkeys(roots, (one, one))
    for node, edges in graph.items():
        if not edges:
            continue
        arriving, factors = ends.pop(node), factors_of(node)
        for position, (child, _) in enumerate(edges):
            if position >= len(factors) and child is None:
                continue
            factor = factors[position] if position < len(factors) else 1.0
            both = [*ends.get(child, ()), *(product * factor for product in arriving)]
            ends[child] = np.min(both, axis=0), np.max(both, axis=0)
    return ends


def _factor_through(calls: Iterable[_Call]) -> float:
    """By what a layer multiplies the gradient on its way to the inputs."""
    found = [
        product
        for call in calls
        for node, products in _products(call.roots, call.graph, _stated, 1.0).items()
        if id(getattr(node, "variable", None)) not in call.parameters
        for product in products
    ]
    factor = Factor(float(np.min(found)), float(np.max(found))) if found else Factor(1.0, 1.0)
    return factor.low if factor.legal else math.nan


# Separate scales on a chain, for what they are there: factors of each parameter's gradient.


@dataclass(frozen=True)
class Rates:
    """A network that divides by the forward scales alone, and what its separate ones were worth.

    Attributes:
        network: a copy, with forward scales.
        parameters: by name, the factor of the gradient that is not 1.
        inputs: by place or keyword, that of a tensor which the network is called with.
    """

    network: nn.Module
    parameters: dict[str, float]
    inputs: dict[int | str, float]


def rates_of(model: nn.Module, inputs: tuple, keywords: dict) -> Rates | None:
    """What separate scales are worth, where they are legal and weights of maps take it all.

    ``None`` where there are no separate scales, or where they are more than factors: at joins, per
    neuron, others in evaluation, or of parameters that are no map's.
    """
    if not any(is_separate(module) for module in model.modules()):
        return None
    called, network = copied(model), copied(model)
    for module in network.modules():
        if is_separate(module):
            module.scaling = "forward"
    # Functions outside layers keep the scales that they have.
    separate, forward = (_rates(m, inputs, keywords) for m in (called, copied(network)))
    if separate is None or forward is None:
        return None
    held = {
        id(p)
        for m in called.modules()
        if isinstance(m, MapFromWeight)
        for p in (m._parameters.get("weight"), m._parameters.get("bias"))
    }
    rates = {key: separate[key] / forward[key] for key in separate}
    found = Rates(network, {}, {})
    for (leaf, name), rate in rates.items():
        if rate == 1.0:
            continue
        if leaf == "input":
            found.inputs[name] = rate
        elif id(called.get_parameter(name)) in held:
            found.parameters[name] = rate
        else:
            return None
    return found


def _rates(model: nn.Module, inputs: tuple, keywords: dict) -> dict | None:
    """Factors of the gradients of parameters and of inputs, where they are the same in both modes.

    By what it is of, a "parameter" or an "input", and its name or place.
    """
    flat = {**dict(enumerate(inputs)), **keywords}
    tensors = {key: given for key, given in flat.items() if isinstance(given, Tensor)}
    real = {key: tensor for key, tensor in tensors.items() if tensor.is_floating_point()}
    deep = tensors_in([given for key, given in flat.items() if key not in tensors])
    if any(tensor.is_floating_point() for tensor in deep):
        return None
    modes = []
    for mode in (True, False):
        with torch.inference_mode(False), torch.enable_grad():
            leaves = {key: tensor.detach().clone().requires_grad_() for key, tensor in real.items()}
            # A model may write into what it is given.
            given = flat | {key: leaf * 1.0 for key, leaf in leaves.items()}
        args = tuple(given.pop(place) for place in range(len(inputs)))
        names = {id(p): ("parameter", name) for name, p in model.named_parameters()}
        names |= {id(leaf): ("input", key) for key, leaf in leaves.items()}
        try:
            factors, *_ = _factors(model.train(mode), args, given, names)
        except (TypeError, ValueError):
            return None
        if not all(factor.legal for factor in factors.values()):
            return None
        modes.append({key: factor.value for key, factor in factors.items()})
    return modes[0] if modes[0] == modes[1] else None
