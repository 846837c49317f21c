"""What a model is made of: its layers, whatever holds a parameter, and what belongs to whom."""

from collections.abc import Iterator

from torch import nn
from torch.nn.utils import parametrize

from normprop import nn as twins
from normprop import rules

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
PARAMETERS = (nn.ParameterList, nn.ParameterDict)
# What a class may say that computes nothing.
_SAYS_NOTHING = {
    "__init__", "extra_repr", "__repr__", "__doc__", "__module__", "__qualname__", "__dict__",
    "__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__",
    "__firstlineno__", "__static_attributes__", "__weakref__", "__parameters__",
    "__orig_bases__", "__abstractmethods__", "_abc_impl",
}  # fmt: skip


def layers_of(
    module: nn.Module, path: str = "", above: tuple[nn.Module, ...] = ()
) -> Iterator[tuple[str, nn.Module, str | None, bool]]:
    """Every layer, and whatever holds a parameter.

    Yields paths, modules, why the module stays, where its kind says so, and whether nothing
    inside it is looked at.
    """
    if any(module is parent for parent in above):
        return
    kind, base = type(module), torch_type(type(module))
    holds = any(p is not None for p in module._parameters.values())
    if parametrize.is_parametrized(module):
        whole = is_layer(module)
        yield path, module, "has parametrizations, which compute its weights", whole
        yield from _parts(module, path, "computes a weight of {}")
        if whole:
            return
    elif is_own(kind) and (base is not None or not module._modules):
        yield path, module, "is normalised already", True
        yield from _parts(module, path, "has a weight that {} normalises")
        return
    elif is_layer(module):
        entry = rules.entry_of_type(base)
        if kind is not base and (module._modules or not _changes_nothing(kind, base)):
            yield path, module, _foreign(module, base), False
        elif holds or entry is None or not (entry.quiet or isinstance(module, PARAMETERS)):
            has_twin = entry is not None and entry.converts and hasattr(twins, base.__name__)
            yield path, module, None if has_twin else _why_not(module, entry), True
        yield from _parts(module, path, "is a part of {}, which may read its weights past it")
        return
    elif not (module._modules or isinstance(module, CONTAINERS) or kind is nn.Module):
        yield path, module, _foreign(module, None), False
    elif holds:
        yield path, module, "holds parameters of its own, with which it may do anything", False
    for name, child in module._modules.items():
        if child is not None and name != "parametrizations":
            yield from layers_of(child, joined(path, name), (*above, module))


def _parts(module: nn.Module, path: str, reason: str):
    """What holds parameters inside a module that is judged as a whole."""
    whole = is_layer(module)
    for name, part in paths_of(module):
        inside = name and (whole or name.split(".")[0] == "parametrizations")
        if inside and any(p is not None for p in part._parameters.values()):
            yield joined(path, name), part, reason.format(path or "the model"), True


def paths_of(module: nn.Module, path: str = "", above: tuple[nn.Module, ...] = ()):
    """Every path to every module, but round in circles."""
    if any(module is parent for parent in above):
        return
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from paths_of(child, joined(path, name), (*above, module))


def joined(path: str, name: str) -> str:
    """The path of what has that path inside another."""
    return ".".join(part for part in (path, name) if part)


def torch_type(kind: type) -> type | None:
    """The class that ``torch.nn`` exports, of a layer, its subclass or its twin.

    Attention, which torch has as a function alone, has a class of its own.
    """
    for parent in kind.__mro__:
        if parent is nn.Module:
            return None
        own = parent.__module__.startswith("normprop.rules.")
        if own or getattr(nn, parent.__name__, None) is parent:
            return parent
    return None


def is_layer(module: nn.Module) -> bool:
    """Whether it is a layer, whatever it holds."""
    return torch_type(type(module)) is not None and not isinstance(module, CONTAINERS)


def leaves_of(model: nn.Module) -> set[str]:
    """Paths of the modules of which it is known what they do, so that no run looks inside them."""
    leaves = {path for path, _, _, leaf in layers_of(model) if leaf}
    # Layers inside what is foreign are layers, not functions.
    return leaves | {path for path, module in model.named_modules() if is_plain(module)}


def single_layers(model: nn.Module) -> set[str]:
    """Paths of the layers that hold no others, of torch or of this package."""
    return {
        path
        for path, module in model.named_modules()
        if not module._modules and (is_layer(module) or is_own(type(module)))
    }


def is_plain(module: nn.Module) -> bool:
    """Whether it is a layer of exactly a class that ``torch.nn`` exports."""
    return is_layer(module) and torch_type(type(module)) is type(module)


def is_own(kind: type, *homes: str) -> bool:
    """Whether it is a class of this package, by default of its layers, or a subclass of one."""
    homes = homes or ("normprop.nn.", "normprop.graph.")
    return any(parent.__module__.startswith(homes) for parent in kind.__mro__)


def _changes_nothing(kind: type, base: type) -> bool:
    """Whether a subclass computes what its base does."""
    own = [parent for parent in kind.__mro__ if parent not in base.__mro__]
    return all(name in _SAYS_NOTHING for parent in own for name in vars(parent))


def _foreign(module: nn.Module, base: type | None) -> str:
    name = type(module).__name__
    if base is not None and module._modules:
        return f"is a {name}, a {base.__name__} that holds layers, whose weights it may read"
    return f"is a {name}, not a layer of torch.nn, and may compute anything"


def _why_not(layer: nn.Module, entry: rules.Entry | None) -> str:
    family = None if entry is None else entry.family
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return "has no weights yet; run the model once before it is converted"
    if isinstance(layer, PARAMETERS):
        return "holds parameters, with which its owner may do anything"
    if family == "statistics":
        return "normalises by statistics of its own"
    if family == "softmax":
        return "has outputs that sum to 1"
    if family == "loss" or isinstance(layer, nn.modules.loss._Loss):
        return "is a loss"
    if layer._modules:
        return "is composed of layers whose weights it may read past them"
    return "has no normalised form"
