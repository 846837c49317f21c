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

    ``None`` where there are no separate scales, or where they are more than factors: at joins, per
    neuron, others in evaluation, or of parameters that are no map's.
    """
    if not any(is_separate(module) for module in model.modules()):
        return None
    network = copied(model)
    for module in network.modules():
        if is_separate(module):
            module.scaling = "forward"
    called, other = (_Called(copied(m), inputs, keywords) for m in (model, network))
    # Functions outside layers keep the scales that they have.
    separate, forward = _factors(called), _factors(other)
    if called.deep or separate is None or forward is None:
        return None
    held = {
        id(p)
        for m in called.model.modules()
        if isinstance(m, MapFromWeight)
        for p in (m._parameters.get("weight"), m._parameters.get("bias"))
    }
    parameters, given = {}, {}
    for name, parameter in called.named_parameters():
        factor = separate[name] / forward[name] if name in separate else 1.0
        where, _, rest = name.partition(".")
        if factor == 1.0:
            continue
        if where == "given":
            given[called.places[int(rest)]] = factor
        elif id(parameter) in held:
            parameters[rest] = factor
        else:
            return None
    return Rates(network, parameters, given)


def _factors(called: "_Called") -> dict[str, float] | None:
    """By name, the factor of each gradient, where they are factors, the same in both modes."""
    found = []
    for mode in (True, False):
        try:
            legality = check(called.train(mode))
        except (TypeError, ValueError):
            return None
        if not legality.legal:
            return None
        found.append({name: factor.value for name, factor in legality.factors.items()})
    return found[0] if found[0] == found[1] else None


class _Called(nn.Module):
    """A model and what it is called with, as parameters where that is made of numbers."""

    def __init__(self, model, inputs, keywords):
        super().__init__()
        self.model, self.inputs, self.keywords = model, inputs, keywords
        flat = {**dict(enumerate(inputs)), **keywords}
        tensors = {k: v for k, v in flat.items() if isinstance(v, Tensor)}
        self.places = [k for k, v in tensors.items() if v.is_floating_point()]
        self.given = nn.ParameterList([flat[k].detach().clone() for k in self.places])
        rest = [v for k, v in flat.items() if k not in tensors]
        self.deep = any(t.is_floating_point() for t in tensors_in(rest))

    def forward(self):
        # A model may write into what it is given.
        given = dict(zip(self.places, (torch.mul(v, 1.0) for v in self.given), strict=True))
        inputs = [given.get(place, value) for place, value in enumerate(self.inputs)]
        keywords = {name: given.get(name, value) for name, value in self.keywords.items()}
        return self.model(*inputs, **keywords)
