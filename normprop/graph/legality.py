"""By what factor separate scales multiply each parameter's gradient, and where they turn it.

A layer with ``scaling="separate"`` multiplies the gradient that passes it by a constant.  What
reaches a parameter is a sum over the paths from the output to it.  Where every path carries
the same product of constants, the gradient is the true one times that product; where paths
differ, at a residual sum, a concatenation or a shared weight, it is no multiple of it.  The
products are read off autograd's own graph, so whatever the model does is what is checked.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_TOLERANCE = 1e-12
"""Two products count as equal when they differ by less than the rounding of a long product."""


@dataclass(frozen=True)
class Factor:
    """The products of constants over the paths from the output to one parameter.

    Attributes:
        low: the smallest.
        high: the largest.
        asymmetric: whether a path passes a layer whose backward weights differ from its
            forward ones by more than a scalar; then no factor describes the gradient.
    """

    low: float
    high: float
    asymmetric: bool = False

    @property
    def legal(self) -> bool:
        """Whether the gradient is the true one times a constant."""
        return not self.asymmetric and self.high - self.low <= _TOLERANCE * self.high

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
        factor: by what it multiplies the gradient that passes; NaN where its backward
            weights differ from its forward ones by more than a scalar, which is legal nowhere.
        legal: whether it is a bridge: all paths to the output from any parameter before it
            lead through it.
    """

    factor: float
    legal: bool


@dataclass(frozen=True)
class Legality:
    """What ``check`` found; prints as a table.

    Attributes:
        factors: by name of the parameter.
        layers: by name of the module, for each layer with separate scales.
    """

    factors: dict[str, Factor]
    layers: dict[str, Bridge]

    @property
    def legal(self) -> bool:
        """Whether every parameter's gradient is the true one times a constant."""
        return all(factor.legal for factor in self.factors.values())

    def __str__(self) -> str:
        lines = ["parameter                                 factor of the true gradient"]
        for name, factor in self.factors.items():
            if factor.legal:
                text = f"{factor.value:.6g}"
            elif factor.asymmetric:
                text = "none: a layer's backward weights are not its forward ones"
            else:
                text = f"none: paths give {factor.low:.6g} to {factor.high:.6g}"
            lines.append(f"{name:<40}  {text}")
        illegal = [name for name, bridge in self.layers.items() if not bridge.legal]
        if illegal:
            lines.append(f"separate scales are not legal in: {', '.join(illegal)}")
        return "\n".join(lines)


def check(model: nn.Module, *inputs: Tensor) -> Legality:
    """Where separate scales are legal in a model, and by what factor they multiply gradients.

    Runs the model once, on the inputs, and reads autograd's graph of its output.  Paths
    count whether or not a gradient happens to vanish on them.

    Args:
        model: uses ``normprop.nn`` layers, anywhere; returns a tensor or a tuple of them.
        inputs: what the model is called with.

    Returns:
        :class:`Legality`.

    Raises:
        ValueError: the output does not depend on any parameter.
    """
    outputs, scales = _traced(model, inputs)
    roots = [output.grad_fn for output in outputs if output.grad_fn is not None]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order = _topological(roots)
    if not any(id(getattr(node, "variable", None)) in names for node in order):
        raise ValueError("the output must depend on a parameter; none of the model's is reached")
    factors = {
        names[key]: factor
        for key, factor in _products(roots, order, _factor_of).items()
        if key in names
    }
    layers = {}
    for name, nodes in scales.items():
        marked = _products(roots, order, lambda node, chosen=nodes: 2.0 if node in chosen else 1.0)
        factor = _factor_of(nodes[0]) if nodes else 1.0
        on_bridge = all(mark.legal for mark in marked.values())
        layers[name] = Bridge(factor, on_bridge and not math.isnan(factor))
    return Legality({name: factors[name] for name in names.values() if name in factors}, layers)


def separate_on_bridges_(model: nn.Module, *inputs: Tensor) -> Legality:
    """Keep separate scales where they are legal; elsewhere take the forward scale, in place.

    Returns:
        What ``check`` finds afterwards.

    Raises:
        ValueError: a layer that is not legal cannot change its scaling.
    """
    found = check(model, *inputs)
    modules = dict(model.named_modules())
    for name, bridge in found.layers.items():
        if not bridge.legal:
            _take_forward_scale(modules[name], name)
    return check(model, *inputs)


def _absorbed_factor(module: nn.Module) -> float:
    """The factor that a map has for layers around it."""
    absorbed = getattr(module, "absorbed", None)
    return 1.0 if absorbed is None else absorbed.before.gradient / absorbed.after.gradient


def _take_forward_scale(layer: nn.Module, name: str) -> None:
    if _absorbed_factor(layer) != 1.0:
        raise ValueError(
            "scales must be chosen before the model is fused; "
            f"{name} has absorbed those of its neighbours: {layer.absorbed}"
        )
    layer.scaling = "forward"
    constants = getattr(layer, "constants", None)
    if constants is None:
        return
    if hasattr(constants, "training"):
        training = constants.training._replace(backward=constants.training.forward)
        layer.constants = constants._replace(training=training)
    elif hasattr(constants, "backward"):
        layer.constants = constants._replace(backward=constants.forward)
    else:
        raise ValueError(f"{name} must have constants to change; it has {constants!r}")


def _traced(model, inputs):
    """Outputs of the model, and the gradient-scaling nodes that each module made."""
    scales: dict[str, list] = defaultdict(list)
    handles = []
    for name, module in model.named_modules():
        if getattr(module, "scaling", None) == "separate" or _absorbed_factor(module) != 1.0:
            handles.append(module.register_forward_hook(_recorder(scales[name])))
    try:
        with torch.enable_grad():
            result = model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    outputs = result if isinstance(result, tuple | list) else (result,)
    return [o for o in outputs if isinstance(o, Tensor)], dict(scales)


def _recorder(nodes: list):
    def record(module, inputs, output):
        output = output[0] if isinstance(output, tuple) else output
        before = {i.grad_fn for i in inputs if isinstance(i, Tensor)}
        nodes.extend(n for n in _topological([output.grad_fn], before) if _is_scale(n))

    return record


def _is_scale(node) -> bool:
    return _factor_of(node) != 1.0


def _factor_of(node) -> float:
    """What a node multiplies its first input's gradient by; NaN where it is no constant."""
    kind = type(node).__name__
    if kind == "_ScaleGradientBackward":
        return node.factor
    if kind == "_TwoWeightsBackward":
        # Without a factor the backward weight is a weight of its own.
        return math.nan if node.factor is None else node.factor
    if kind in ("_FusedBackward", "_TracedBackward"):
        _, _, constants, _ = node.call
        return constants.forward / constants.backward
    return 1.0


def _topological(roots, stop=frozenset()) -> list:
    """Nodes of autograd's graph, each before what it passes gradients to."""
    order, state = [], {}
    stack = [(root, False) for root in roots if root is not None]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        if node in state or node in stop:
            continue
        state[node] = True
        stack.append((node, True))
        stack += [(child, False) for child, _ in node.next_functions if child is not None]
    return order[::-1]


def _products(roots, order, factor_of) -> dict[int, Factor]:
    """Smallest and largest product over the paths to each leaf, by the leaf's identity."""
    low, high = {}, {}
    asymmetric = set()
    for root in roots:
        low[root] = high[root] = 1.0
    leaves = {}
    for node in order:
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = Factor(low[node], high[node], node in asymmetric)
            continue
        factor = factor_of(node)
        for position, (child, _) in enumerate(node.next_functions):
            if child is None:
                continue
            # Weight and bias get the gradient as it came; the input comes first.
            through = factor if position == 0 else 1.0
            if node in asymmetric or math.isnan(through):
                asymmetric.add(child)
                through = 1.0 if math.isnan(through) else through
            low[child] = min(low.get(child, math.inf), low[node] * through)
            high[child] = max(high.get(child, 0.0), high[node] * through)
    return leaves
