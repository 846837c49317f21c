"""What a layer does to an affine map that its input stands for."""

import math
from dataclasses import dataclass, replace

from torch import nn

from normprop import nn as twins
from normprop import rules
from normprop.functional.attention import AttentionConstants
from normprop.functional.scale import Constants
from normprop.graph.affine import Clamp
from normprop.graph.anatomy import CONTAINERS, is_layer, is_own, joined, torch_type
from normprop.graph.trace import Node

_IDENTITY = Constants(0.0, 1.0, 1.0)
_NO_LIMITS = (-math.inf, math.inf)
_JOINS = (twins.Residual, twins.Concat)


@dataclass(frozen=True)
class Kind:
    """What a module does, by name.

    "map", linear but for a bias; "clamp"; "homogeneous", f(cx) = c f(x) for c > 0; "curve", any
    other function; "commuting" with every affine map; "batchnorm"; "norm", which no affine map of
    its input changes; "dropout", the normalised one; "remade", whose weights alone are normalised;
    "relative", which is normalised by its law, and takes any of its input there; "opaque", which
    stays as it is.
    """

    name: str
    # The class of torch; None where there is none.
    plain: type[nn.Module] | None
    # None where they follow from the shape of the input.
    constants: Constants | None = _IDENTITY
    # Scale and shift of the input in front of the function.
    before: tuple[float, float] = (1.0, 0.0)
    # Of a clamp.
    limits: tuple[float, float] = _NO_LIMITS
    # Whether the shift of its input has to be 0.
    needs_zero: bool = False
    # Whether its parameters can take any scale and shift of its output.
    gives: bool = False
    # Whether it draws random numbers in the mode that it is in.
    draws: bool = False
    # Of an opaque one, why it stays.
    reason: str = ""

    @property
    def normalised(self) -> bool:
        """Whether there are constants to move away."""
        return self.constants != _IDENTITY

    def staying(self, reason: str) -> "Kind":
        """The same layer, where it has to stay what it is."""
        return replace(self, name="opaque", reason=reason)


def is_watched(module: nn.Module) -> bool:
    """Whether a hook, which may change the weights, sees what comes out; or another forward."""
    return _is_hooked(module) or "forward" in vars(module)


def _is_hooked(module: nn.Module) -> bool:
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def is_twin(module: nn.Module) -> bool:
    """Whether it is a normalised layer of ``normprop.nn``, or a subclass from elsewhere."""
    return is_own(type(module), "normprop.nn.") and not isinstance(module, (*CONTAINERS, *_JOINS))


def kinds_of(model: nn.Module) -> dict[str, Kind]:
    """The kind of every layer whose kind is known, by its path."""
    found, held = {}, {}
    for path, module in model.named_modules():
        kind = kind_of(module)
        if kind is not None:
            found[path] = kind.staying("it has hooks") if _is_hooked(module) else kind
        inner = [joined(path, name) for name, _ in module.named_modules() if name]
        if path.rpartition(".")[2] == "parametrizations":
            held.update(dict.fromkeys(inner, "it makes a weight"))
        elif is_layer(module):
            owner = path or "the model"
            reason = f"it is a part of {owner}, which may read its weights past it"
            held.update(dict.fromkeys(inner, reason))
    return {p: kind.staying(held[p]) if p in held else kind for p, kind in found.items()}


def kind_of(module: nn.Module) -> Kind | None:
    """The kind of a layer of ``torch.nn`` or ``normprop.nn``; None where it is not known.

    A subclass of theirs from elsewhere may do anything, and is not known; nor is a layer with
    a forward of its own.
    """
    if "forward" in vars(module):
        return None
    if type(module) is Clamp:
        plain = nn.ReLU if module.high == math.inf else nn.Hardtanh
        return Kind("clamp", plain, limits=(module.low, module.high))
    if type(module) is nn.Threshold and module.threshold == module.value:
        # What a shifted rectifier has become.
        return Kind("clamp", nn.ReLU, limits=(module.value, math.inf))
    if type(module) is twins.Calibrated:
        return _calibrated(module)
    plain = torch_type(type(module))
    if type(module).__module__.startswith("normprop.nn."):
        return None if isinstance(module, (*CONTAINERS, *_JOINS)) else _of_twin(module, plain)
    if type(module) is not plain:
        return None
    facts = rules.entry_of_type(plain)
    if facts is not None and facts.algebra not in (None, "curve", "remade"):
        return _by_facts(module, plain, _IDENTITY, facts)
    # Its parameters are its own affair, whoever else holds them.
    own_parameters = any(p is not None for p in module._parameters.values())
    return Kind("opaque", plain) if own_parameters and not module._modules else None


def _of_twin(module, plain) -> Kind:
    if plain is None:
        return Kind("curve", None, module.constants)
    facts = rules.entry_of_type(plain)
    if facts.algebra == "remade":
        return Kind("remade", plain, None if facts.shaped else _IDENTITY)
    if facts.family == "map":
        return _by_facts(module, plain, _IDENTITY, facts)
    constants = getattr(module, "constants", None)
    if facts.family == "dropout":
        return Kind("dropout", plain, constants)
    return _by_facts(module, plain, constants, facts)


def _by_facts(module, plain, constants, facts) -> Kind:
    learnt = facts.algebra in ("batchnorm", "norm") and (
        (module.weight is not None and module.bias is not None)
        or getattr(module, "running_mean", None) is not None
    )
    return Kind(
        facts.algebra or "curve",
        plain,
        constants,
        limits=facts.limits(module) if facts.algebra == "clamp" else _NO_LIMITS,
        needs_zero=facts.needs_zero(module),
        draws=facts.draws(module),
        gives=facts.algebra == "map" or learnt,
    )


def _calibrated(module: twins.Calibrated) -> Kind:
    plain = module.plain
    own = None if plain is None else type(plain)
    facts = rules.entry_of_type(own)
    if facts is None or facts.algebra != "clamp":
        # Behind a shift, a homogeneous function is a curve like any other.
        return Kind("curve", own, module.constants, module.line)
    return Kind("clamp", own, module.constants, module.line, limits=facts.limits(plain))


def mixed_in(node: Node) -> list[int]:
    """Queries, keys and values in a call of attention."""
    args, keywords = node.call
    names = ("query", "key", "value")
    given = dict(zip(names, args, strict=False)) | keywords
    return [given[name].number for name in names]


_OF_ATTENTION = ("dropout_p", "is_causal", "scale", "enable_gqa")


def constants_at(module: nn.Module, node: Node) -> Constants | AttentionConstants:
    """The constants of a layer in a call, where they follow from the shapes that it gets.

    Raises:
        ValueError: it has none for those shapes.
    """
    shape = node.shapes[0]
    if isinstance(module, twins.MultiheadAttention):
        return _attention(module, node)
    if isinstance(module, twins.ScaledDotProductAttention):
        given = {name: node.argument(k, name) for k, name in enumerate(_OF_ATTENTION, start=4)}
        given = {name: value for name, value in given.items() if value is not None}
        shapes = dict(zip(node.inputs, node.shapes, strict=True))
        return module.constants_of(*(shapes[v][-2:] for v in mixed_in(node)), **given)
    return module.constants_of(module._shape_for(shape) or shape[1:])


def _attention(module: nn.Module, node: Node) -> AttentionConstants:
    args, keywords = node.arguments
    names = [*("query", "key", "value")[: len(args)], *keywords]
    if names[:3] != ["query", "key", "value"]:
        raise ValueError(f"it must be called with query, key and value first; it had {names}")
    causal = node.argument(7, "is_causal", False)
    # A fifth tensor is padding, and then the mask alone says what is seen.
    return module.constants_of(*node.shapes[:3], bool(causal) and len(node.shapes) < 5)
