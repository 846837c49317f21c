"""Elementwise functions: by name, by module, by callable."""

import math
from collections.abc import Callable, Sequence
from operator import attrgetter

import torch
from torch import nn

from normprop.callables import check_kinks, from_callable
from normprop.gaussian import (
    FUNCTIONS,
    Function,
    Image,
    Law,
    Normal,
    elementwise,
    families,
    smooth,
)
from normprop.gaussian.drawn import rrelu_training
from normprop.names import canonical
from normprop.rules.arguments import array
from normprop.rules.registry import Moments, describe, lookup, register

__all__ = ["activation", "function_of", "image_of", "slope_of"]


def activation(function: Function, law: Law) -> Moments:
    """Moments of an elementwise function.

    Raises:
        ValueError: its integrals do not converge, or the law is an activation's output.
    """
    if isinstance(law, Image):
        raise ValueError(
            "after= takes a pooling, dropout or parametric layer behind it: an activation of "
            f"an activation's output has no constants here; layer was {function.name!r}"
        )
    try:
        figures = elementwise(function, law)
    except ArithmeticError as problem:
        raise ValueError(f"{function.name} has no constants here: {problem}") from problem
    return Moments(figures.mean, figures.std, figures.slope, figures.error, figures.method)


def image_of(after: str | nn.Module | Callable, base: Normal) -> Image:
    """Law of the output of the activation ``after`` for a normal input."""
    found = resolve(after, "after")
    if isinstance(found, Function):
        return Image(found, base)
    entry = lookup(found)
    if entry is None or entry.image is None:
        raise TypeError(
            "after must be an activation: a name, an elementwise function or a module such as "
            f"nn.ReLU(); it was {describe(found)}"
        )
    return entry.image(found, base)


def function_of(layer: str | Callable) -> Function:
    """The elementwise function of a name, or that a callable computes.

    Raises:
        TypeError: it is no elementwise function.
        ValueError: the name is unknown.
    """
    found = resolve(layer, "activation")
    if isinstance(found, Function):
        return found
    for parent in type(found).__mro__:
        if parent in _FAMILIES and type(found).forward is parent.forward:
            return _FAMILIES[parent](found)
    raise TypeError(f"activation must be a name or an elementwise function; it was {found!r}")


def resolve(layer, argument: str = "layer", kinks: Sequence[float] | None = None):
    """A function for a name or a callable, whose kinks may be given; a module for a module."""
    if kinks is not None:
        check_kinks(kinks)
        if isinstance(layer, (str, type, nn.Module)) or not callable(layer):
            raise ValueError(
                f"kinks are for a function on tensors, those of others are known; {argument} was "
                f"{layer!r}"
            )
    if isinstance(layer, str):
        name = canonical(layer, argument)
        return FUNCTIONS[name] if name in FUNCTIONS else _MORE[name]
    if isinstance(layer, type) and issubclass(layer, nn.Module):
        raise TypeError(
            f"{argument} must be an instance, such as {layer.__name__}(…); "
            f"it was the class {layer.__name__}"
        )
    if isinstance(layer, nn.Module):
        return layer
    if layer is torch.abs:
        return families.absolute()
    known = next((name for function, name in _CALLABLES if layer is function), None)
    if known is not None:
        return FUNCTIONS[known]
    if callable(layer) and not isinstance(layer, type):
        return from_callable(layer, getattr(layer, "__name__", repr(layer)), kinks)
    raise TypeError(
        f"{argument} must be a name, a module or an elementwise function on tensors; "
        f"it was {layer!r} of type {type(layer).__name__}"
    )


_MORE = {"gelu_tanh": smooth.gelu_tanh(), "identity": families.identity()}

# Callables that are known by identity, with torch's default parameters.
_CALLABLES = (
    (torch.relu, "relu"),
    (torch.sigmoid, "sigmoid"),
    (torch.special.expit, "sigmoid"),
    (torch.tanh, "tanh"),
    (torch.celu, "celu"),
    (torch.selu, "selu"),
    (torch.hardshrink, "hardshrink"),
    *((getattr(nn.functional, name), name) for name in FUNCTIONS),
)


def slope_of(layer: nn.PReLU) -> float:
    """The slope of a PReLU, which must have one."""
    slopes = set(array(layer.weight, "weight").tolist())
    if len(slopes) != 1:
        raise ValueError(
            "PReLU must have one slope, so that all elements have the same law; it has "
            f"{len(slopes)}: measure nn.LeakyReLU(slope) for each channel"
        )
    return slopes.pop()


def _prelu(layer: nn.PReLU) -> Function:
    return families.leaky_relu(slope_of(layer), "prelu")


def _rrelu(layer: nn.RReLU) -> Function:
    if layer.training:
        raise ValueError(
            "RReLU must be in evaluation here, layer.eval(): in training its slope is drawn anew "
            "for each element, so that it is no function of its input"
        )
    return families.rrelu(layer.lower, layer.upper)


# The function that a module with these parameters computes.
_FAMILIES: dict[type, Callable[[nn.Module], Function]] = {}


def _is(module_type: type, function: Callable[[nn.Module], Function], **facts) -> None:
    """Make an activation known: a class of torch, its function and what differs from a curve."""
    _FAMILIES[module_type] = function
    register(
        module_type,
        lambda layer, law: activation(function(layer), law),
        lambda layer, base: Image(function(layer), base),
        **{"family": "activation", "algebra": "curve", **facts},
    )


def _always(layer: nn.Module) -> bool:
    return True


_ends = attrgetter("min_val", "max_val")

_is(nn.CELU, lambda layer: families.celu(layer.alpha))
_is(nn.ELU, lambda layer: families.elu(float(layer.alpha)))
_is(nn.GELU, lambda x: smooth.gelu_tanh() if x.approximate == "tanh" else smooth.gelu())
_is(nn.Hardshrink, lambda layer: families.hardshrink(layer.lambd))
_is(nn.Hardsigmoid, lambda _: FUNCTIONS["hardsigmoid"])
_is(nn.Hardswish, lambda _: families.hardswish())
_is(
    nn.Hardtanh,
    lambda layer: families.hardtanh(layer.min_val, layer.max_val),
    algebra="clamp",
    limits=_ends,
)
_is(nn.Identity, lambda _: families.identity(), family="moving", algebra="commuting")
_is(
    nn.LeakyReLU,
    lambda layer: families.leaky_relu(layer.negative_slope),
    algebra="homogeneous",
    needs_zero=_always,
)
_is(nn.LogSigmoid, lambda _: smooth.logsigmoid())
_is(nn.Mish, lambda _: smooth.mish())
_is(nn.PReLU, _prelu, algebra="homogeneous", needs_zero=_always)
_is(nn.ReLU, lambda _: FUNCTIONS["relu"], algebra="clamp", limits=lambda _: (0.0, math.inf))
_is(nn.ReLU6, lambda _: families.relu6(), algebra="clamp", limits=_ends)
_is(nn.SELU, lambda _: families.selu())
_is(nn.Sigmoid, lambda _: FUNCTIONS["sigmoid"])
_is(nn.SiLU, lambda _: smooth.silu())
_is(nn.Softplus, lambda layer: smooth.softplus(float(layer.beta), float(layer.threshold)))
_is(nn.Softshrink, lambda layer: families.softshrink(layer.lambd))
_is(nn.Softsign, lambda _: smooth.softsign())
_is(nn.Tanh, lambda _: FUNCTIONS["tanh"])
_is(nn.Tanhshrink, lambda _: smooth.tanhshrink())
_is(nn.Threshold, lambda layer: families.threshold(layer.threshold, layer.value))


def rrelu(layer: nn.RReLU, law: Law) -> Moments:
    """Moments of randomised leaky ReLU, with the slopes that it draws or at their mean."""
    if not layer.training:
        return activation(_rrelu(layer), law)
    if isinstance(law, Image):
        raise ValueError(
            "after= takes a pooling, dropout or parametric layer behind it; layer was RReLU"
        )
    try:
        figures = rrelu_training(float(layer.lower), float(layer.upper), law)
    except (ArithmeticError, ValueError) as problem:
        raise ValueError(f"RReLU has no constants here: {problem}") from problem
    return Moments(figures.mean, figures.std, figures.slope, figures.error, figures.method)


_FAMILIES[nn.RReLU] = _rrelu
register(
    nn.RReLU,
    rrelu,
    lambda layer, base: Image(_rrelu(layer), base),
    family="activation",
    draws=attrgetter("training"),
)
