"""What folding and fusing share: looking at a model, and taking its layers out and in."""

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from normprop.functional.parametric import Meaning
from normprop.graph.affine import Clamp
from normprop.graph.anatomy import is_layer, joined
from normprop.graph.kinds import Kind, is_twin
from normprop.graph.plan import Plan
from normprop.graph.wrappers import check_model, tensors_in, unwrapped
from normprop.nn.calibrated import Calibrated
from normprop.nn.parametric import Parametric
from normprop.nn.together import alone, together_of


@dataclass(frozen=True)
class Report:
    """Where the constants of every layer went; prints as a table.

    Attributes:
        moved: paths of the layers whose constants all moved into a neighbour.
        kept: by path, the layers that still shift or scale, and why.
        split: groups of paths that shared a layer or a parameter and no longer do.
        runs: what the model was watched at, and what that rests on.
    """

    moved: tuple[str, ...]
    kept: dict[str, str]
    split: tuple[tuple[str, ...], ...] = ()
    runs: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = len(self.moved) + len(self.kept)
        lines = [f"constants moved out of {len(self.moved)} of {total} normalised layers"]
        lines += [f"kept  {path:<32}  {reason}" for path, reason in self.kept.items()]
        lines += [f"split {', '.join(paths)}" for paths in self.split]
        lines += [f"seen  {note}" for note in self.runs]
        return "\n".join(lines)


def check_arguments(
    model: nn.Module, inputs: tuple, keywords: Mapping[str, object] | None = None
) -> None:
    """Refuse what cannot be traced."""
    check_model(model)
    if not tensors_in((inputs, keywords or {})):
        raise ValueError("example inputs must be given, among them a tensor; none was")


def copied(model: nn.Module) -> nn.Module:
    """A copy of the model itself, out of whatever it, or a part of it, is wrapped in.

    What an earlier run has left in it that autograd would differentiate is there as a number.

    Raises:
        TypeError: it is no module, cannot be looked into, or cannot be copied.
    """
    model = unwrapped(model)
    left = tensors_in([list(vars(module).values()) for module in model.modules()])
    known = {id(t): t.detach().clone() for t in left if not t.is_leaf}
    try:
        made = copy.deepcopy(model, known)
    except Exception as problem:
        raise TypeError(
            f"model must be one that copy.deepcopy copies; this {type(model).__name__} raised "
            f"{type(problem).__name__}: {problem}"
        ) from problem
    for parent in list(made.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None:
                parent._modules[name] = unwrapped(child)
    return made


def is_fused(model: nn.Module) -> bool:
    """Whether a part of it is."""
    together = filter(None, map(together_of, model.modules()))
    absorbing = (m.absorbed for m in model.modules() if isinstance(m, Parametric))
    return any(each.fused for each in together) or any(map(bool, absorbing))


def separated(model: nn.Module) -> tuple[nn.Module, list[tuple[str, ...]]]:
    """A copy in which each normalised layer without parameters has one path.

    A network may use one activation object everywhere, as it holds nothing; what becomes of
    it need not be the same everywhere.
    """
    model = alone(copied(model))
    paths: dict[int, list[str]] = {}
    for path, parent in list(model.named_modules()):
        for name, child in list(parent._modules.items()):
            if child is None or not hasattr(child, "constants") or list(child.parameters()):
                continue
            known = paths.setdefault(id(child), [])
            if known:
                parent._modules[name] = copy.copy(child)
            known.append(joined(path, name))
    return model, [tuple(p) for p in paths.values() if len(p) > 1]


def replace(model: nn.Module, path: str, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put a layer in the place of another, wherever that stands; returns the model."""
    if new is old:
        return model
    new.train(old.training)
    if not path:
        return new
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
    return model


def plain_of(layer: nn.Module, plain: type[nn.Module], **changes) -> nn.Module:
    """A layer of torch with the arguments of ``layer``, which is of a subclass of its class.

    What it holds is that of :func:`remade`.
    """
    if isinstance(layer, Calibrated):
        return layer.plain
    return remade(layer, plain, plain, **changes)


def remade(
    layer: nn.Module, plain: type[nn.Module], made_type: type[nn.Module], **changes
) -> nn.Module:
    """A layer of another class, with the arguments of ``layer`` that its class of torch has.

    Parameters, buffers and layers inside are those of ``layer`` itself.
    """
    arguments = arguments_of(layer, plain) | changes
    if any(True for _ in layer.parameters()):
        arguments["device"] = "meta"
    made = made_type(**arguments)
    made._parameters.update(layer._parameters)
    made._buffers.update(layer._buffers)
    made._modules.update(layer._modules)
    made.training = layer.training
    return made


def arguments_of(layer: nn.Module, plain: type[nn.Module]) -> dict[str, object]:
    """What a class of torch has to be called with to give a layer like this one."""
    arguments = {}
    for name, parameter in inspect.signature(plain.__init__).parameters.items():
        several = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if name in ("self", "device", "dtype") or parameter.kind in several:
            continue
        if name in ("bias", "add_bias_kv"):
            arguments[name] = _has_bias(layer, name)
        elif hasattr(layer, name):
            arguments[name] = getattr(layer, name)
        elif parameter.default is parameter.empty:
            raise TypeError(f"{plain.__name__} takes {name}, which {layer} does not have")
    return arguments


def _has_bias(layer: nn.Module, argument: str) -> bool:
    if isinstance(layer, nn.MultiheadAttention):
        return (layer.in_proj_bias if argument == "bias" else layer.bias_k) is not None
    return layer.bias is not None


def exchanged(network: nn.Module, plan: Plan, made: Callable) -> nn.Module:
    """Exchange the layers of a network for what is made of a layer, its kind and its choice."""
    for path, choice in plan.choices.items():
        layer = network.get_submodule(path)
        network = replace(network, path, layer, made(layer, plan.kinds[path], choice))
    return network


def limits_behind(layer: nn.Module, kind: Kind, before: Meaning) -> tuple[float, float] | None:
    """Limits of a clamp whose input stands for ``before``; None where torch's layer has them."""
    scale, moved = kind.before
    scale, shift = before.scale * scale, before.shift * scale + moved
    low, high = ((limit - shift) / scale for limit in kind.limits)
    other = type(layer) in (nn.Threshold, Clamp) or (low, high) != kind.limits
    return (low, high) if other else None


def clamp(low: float, high: float, inplace: bool = False) -> nn.Module:
    """min(max(x, low), high), by a layer of torch."""
    if high == math.inf:
        return nn.Threshold(low, low, inplace)
    return nn.Hardtanh(low, high, inplace)


_UNREACHED = "the example does not reach it; where constants have moved, its call raises"


def refuse_unreached(network: nn.Module, seen: nn.Module, plan: Plan) -> None:
    """Have layers that no run has reached raise when they are called.

    What comes to them may stand for something else than it did, and nobody has looked.  Parts of
    composed layers of torch are those layers' own affair.
    """
    if not any(c.mode == "moved" and plan.kinds[p].normalised for p, c in plan.choices.items()):
        return
    modules = dict(seen.named_modules())
    ran = {path for trace in plan.traces for path, *_ in trace.returned}
    composed = tuple(
        f"{p}." for p, module in modules.items() if module._modules and is_layer(module)
    )
    unreached = [
        path
        for path, module in modules.items()
        if path and not (module._modules or path in ran or path.startswith(composed))
    ]
    if unreached:
        _Refusal(network, unreached)


class _Refusal:
    """Raises where a layer is called in a pass of the network; a loss beside it may be called."""

    def __init__(self, network: nn.Module, paths: list[str]) -> None:
        self.running = 0
        network.register_forward_pre_hook(self.begin)
        network.register_forward_hook(self.end, always_call=True)
        for path in paths:
            network.get_submodule(path).register_forward_pre_hook(partial(self.refuse, path))

    def begin(self, network: nn.Module, inputs: tuple) -> None:
        """A pass begins."""
        self.running += 1

    def end(self, network: nn.Module, inputs: tuple, output) -> None:
        """It has ended, with an error or without."""
        self.running = 0

    def refuse(self, path: str, module: nn.Module, inputs: tuple) -> None:
        """Raise, in a pass."""
        if self.running:
            raise RuntimeError(
                f"{path} must be reached by the examples that a network is fused or folded with, "
                "as its input may stand for something else now; none of the runs called it"
            )


def report_of(plan: Plan, made: nn.Module, split, runs) -> Report:
    """What became of the normalised layers, which are in the model ``made`` now."""
    moved, kept = [], {}
    for path, kind in plan.kinds.items():
        choice = plan.choices.get(path)
        if choice is None:
            if kind.normalised or is_twin(made.get_submodule(path)):
                kept[path] = kind.reason or _UNREACHED
        elif choice.mode != "moved":
            if kind.normalised or kind.gives or choice.reason:
                kept[path] = choice.reason
        elif kind.name == "relative":
            kept[path] = kind.reason
        elif kind.normalised:
            moved.append(path)
    for path, module in made.named_modules():
        if is_twin(module) and path not in plan.kinds:
            kept[path] = f"it is a {type(module).__name__}, which may compute anything"
    return Report(tuple(moved), kept, tuple(split), tuple(runs))
