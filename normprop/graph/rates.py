"""Separate scales on a chain, for what they are there: factors of each parameter's gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normprop.graph.legality import check, is_separate
from normprop.graph.rewrite import copied
from normprop.graph.wrappers import tensors_in
from normprop.nn.parametric import MapFromWeight


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

    Args:
        model: is not changed.
        inputs: what it is called with.
        keywords: what else it is called with.

    Returns:
        ``None`` where there are no separate scales, or where they are more than factors: at
        joins, per neuron, others in evaluation, or of parameters that are no map's.
    """
    if not any(is_separate(module) for module in model.modules()):
        return None
    called = _Called(copied(model), inputs, keywords)
    if called.deep:
        return None
    network = copied(model)
    for module in network.modules():
        if is_separate(module):
            module.scaling = "forward"
    # Functions outside layers keep the scales that they have.
    both = [_factors(called), _factors(_Called(copied(network), inputs, keywords))]
    if None in both:
        return None
    worth = {name: both[0][name] / both[1][name] for name in both[0]}
    held = {
        id(p)
        for m in called.model.modules()
        if isinstance(m, MapFromWeight)
        for p in (m._parameters.get("weight"), m._parameters.get("bias"))
    }
    parameters, given = {}, {}
    for name, parameter in called.named_parameters():
        factor = worth.get(name, 1.0)
        if factor == 1.0:
            continue
        where, _, rest = name.partition(".")
        if where == "model" and id(parameter) in held:
            parameters[rest] = factor
        elif where == "given":
            given[called.places[int(rest)]] = factor
        else:
            return None
    return Rates(network, parameters, given)


def _factors(called: "_Called") -> dict[str, float] | None:
    """By name, the factor of each gradient, where they are factors, the same in both modes."""
    try:
        found = [check(called.train(mode)) for mode in (True, False)]
    except (TypeError, ValueError):
        return None
    if not all(legality.legal for legality in found):
        return None
    learning, judging = ({n: f.value for n, f in one.factors.items()} for one in found)
    return learning if learning == judging else None


class _Called(nn.Module):
    """A model and what it is called with, as parameters where that is made of numbers."""

    def __init__(self, model, inputs, keywords):
        super().__init__()
        self.model, self.inputs, self.keywords = model, inputs, keywords
        flat = {**dict(enumerate(inputs)), **keywords}
        self.places = [
            k for k, v in flat.items() if isinstance(v, Tensor) and v.is_floating_point()
        ]
        self.given = nn.ParameterList([flat[k].detach().clone() for k in self.places])
        rest = [v for k, v in flat.items() if not isinstance(v, Tensor)]
        self.deep = any(t.is_floating_point() for t in tensors_in(rest))

    def forward(self):
        inputs, keywords = list(self.inputs), dict(self.keywords)
        for place, value in zip(self.places, self.given, strict=True):
            # A model may write into what it is given.
            (keywords if isinstance(place, str) else inputs)[place] = torch.mul(value, 1.0)
        return self.model(*inputs, **keywords)
