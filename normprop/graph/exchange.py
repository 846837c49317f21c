"""What is exchanged before a network is converted: classes from elsewhere, and normalisation."""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from normprop import nn as twins
from normprop import rules
from normprop.graph.anatomy import joined, paths_of, torch_type
from normprop.graph.example import Example
from normprop.graph.rewrite import replace as put_in
from normprop.nn.parametric import MapFromWeight

Factory = Callable[[nn.Module], nn.Module]


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _squared(x: Tensor) -> Tensor:
    return torch.relu(x).square()


def _transposed(layer: nn.Module) -> nn.Module:
    """Torch's linear map, with the weight of transformers' the other way round."""
    inputs, outputs = layer.weight.shape
    made = nn.Linear(inputs, outputs, device="meta")
    made.weight = nn.Parameter(layer.weight.detach().T.contiguous(), layer.weight.requires_grad)
    made.bias = layer.bias
    return made


# By module and name of a class, which need not be imported, what computes the same.
KNOWN: dict[tuple[str, str], Factory] = {
    ("transformers.activations", "GELUActivation"): lambda _: nn.GELU(),
    ("transformers.activations", "NewGELUActivation"): lambda _: nn.GELU("tanh"),
    ("transformers.activations", "FastGELUActivation"): lambda _: nn.GELU("tanh"),
    ("transformers.activations", "PytorchGELUTanh"): lambda _: nn.GELU("tanh"),
    ("transformers.activations", "GELUTanh"): lambda _: nn.GELU("tanh"),
    ("transformers.activations", "AccurateGELUActivation"): lambda _: nn.GELU("tanh"),
    ("transformers.activations", "QuickGELUActivation"): lambda _: _elementwise(_quick_gelu),
    ("transformers.activations", "SiLUActivation"): lambda _: nn.SiLU(),
    ("transformers.activations", "LinearActivation"): lambda _: nn.Identity(),
    ("transformers.activations", "ReLUSquaredActivation"): lambda _: _elementwise(_squared),
    ("transformers.pytorch_utils", "Conv1D"): _transposed,
}


def _elementwise(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return twins.Elementwise(function, scaling="forward")


def _root_mean_square(layer: nn.Module) -> nn.Module:
    """Torch's layer, with the weight of one that transformers has for a model."""
    made = nn.RMSNorm(layer.weight.shape, layer.variance_epsilon, device="meta")
    made.weight = layer.weight
    return made


def _known(layer: nn.Module) -> Factory | None:
    home, name = type(layer).__module__, type(layer).__name__
    if (home, name) in KNOWN:
        return KNOWN[home, name]
    own = [key for key, value in vars(layer).items() if isinstance(value, float)]
    plain = name.endswith("RMSNorm") and own == ["variance_epsilon"] and [*layer._parameters]
    return _root_mean_square if home.startswith("transformers.models.") and plain else None


def check_replace(replace: object) -> None:
    """Refuse what is no table of classes and factories."""
    fits = isinstance(replace, Mapping) and all(
        isinstance(kind, type)
        and issubclass(kind, nn.Module)
        and callable(factory)
        and not isinstance(factory, nn.Module)
        for kind, factory in replace.items()
    )
    if replace is not None and not fits:
        raise TypeError(
            "replace must map classes of modules to functions that make another module of one; "
            f"it was {replace!r}"
        )


def exchange(
    model: nn.Module, replace: Mapping[type, Factory] | None
) -> tuple[nn.Module, dict[str, str]]:
    """Put layers that are known in the place of classes from elsewhere.

    Returns the model, which is changed, and by path what was exchanged for what.
    """
    found: dict[str, str] = {}
    made: dict[int, nn.Module] = {}
    for path, layer in list(paths_of(model)):
        kind = type(layer)
        factory = (replace or {}).get(kind) or _known(layer)
        if factory is None:
            continue
        if id(layer) not in made:
            new = made[id(layer)] = factory(layer)
            if not isinstance(new, nn.Module):
                raise TypeError(
                    f"replace must make a module of every {kind.__name__}; of {path} it made "
                    f"{new!r}"
                )
            model = put_in(model, path, layer, new)
        found[path] = f"a {kind.__name__} became {made[id(layer)]}"
        if factory is _transposed:
            found[path] += f"; {joined(path, 'weight')} is the other way round in the state_dict"
    return model, found


def drop_normalization(model: nn.Module, example: Example) -> tuple[nn.Module, dict[str, str]]:
    """Exchange layers that normalise by statistics for the identity.

    Their shift goes to the map in front, as a bias of 0, where that has none and nobody else reads
    what it gives.  Returns the model, which is changed, and by path what became of a layer, with
    the keys of the ``state_dict`` that go.
    """
    found: dict[str, str] = {}
    fronts = _fronts(example)
    for path, layer in list(paths_of(model)):
        if not _normalises(layer):
            continue
        keys = ", ".join(joined(path, key) for key in layer.state_dict())
        found[path] = f"a {type(layer).__name__} is dropped" + (f": {keys} go" if keys else "")
        front = fronts.get(path)
        if front is not None and _give_bias(model.get_submodule(front), layer):
            found[path] += f"; its shift is a bias of {front} now"
        model = put_in(model, path, layer, nn.Identity())
    return model, found


def _normalises(layer: nn.Module) -> bool:
    """Whether it is of a class of torch that does by statistics, or of a subclass called alike."""
    entry = rules.entry_of_type(torch_type(type(layer)))
    if entry is None or entry.family != "statistics":
        return False
    taken = inspect.signature(layer.forward).parameters.values()
    return sum(p.default is p.empty for p in taken) == 1


def _fronts(example: Example) -> dict[str, str]:
    """By path of a layer, that of the map whose output goes to it alone, in every call."""
    found: dict[str, set[str | None]] = {}
    for run in example.traces:
        readers = Counter(value for node in run.nodes for value in node.inputs)
        for node in run.nodes:
            if node.module is not None and node.inputs:
                front = run.producer.get(node.inputs[0])
                alone = front is not None and front.module is not None
                alone = alone and readers[node.inputs[0]] == 1
                found.setdefault(node.name, set()).add(front.name if alone else None)
    return {path: front for path, (front, *more) in found.items() if front and not more}


def _give_bias(front: nn.Module, layer: nn.Module) -> bool:
    twin = getattr(twins, type(front).__name__, None)
    fits = getattr(front, "bias", 0) is None and getattr(layer, "bias", None) is not None
    if not (fits and twin is not None and issubclass(twin, MapFromWeight)):
        return False
    outputs = getattr(front, "out_features", None) or front.out_channels
    if layer.bias.numel() != outputs:
        return False
    zeros = torch.zeros(outputs, dtype=front.weight.dtype, device=front.weight.device)
    front.bias = nn.Parameter(zeros, layer.bias.requires_grad)
    return True
