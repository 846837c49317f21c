"""Elementwise functions: by name, by module, by callable; and gates of half the input."""

import math
from collections.abc import Callable, Sequence
from operator import attrgetter

import torch
from torch import nn

from normprop.callables import check_kinks, from_callable
from normprop.gaussian import FUNCTIONS, Function, Image, Law, Normal, elementwise, families, smooth
from normprop.gaussian.functions import MAKERS
from normprop.gaussian.law import Figures
from normprop.gaussian.normal import EPS
from normprop.names import CLASSES, arguments_of, canonical
from normprop.rules.arguments import array, need_normal
from normprop.rules.registry import Moments, describe, lookup, moments_of, register

__all__ = ["activation", "function_of", "gated_linear", "image_of", "slope_of"]


def _measured(name: str, figures: Callable[..., Figures], *arguments) -> Moments:
    """Moments by figures, whose failure has a name."""
    try:
        found = figures(*arguments)
    except (ArithmeticError, ValueError) as problem:
        raise ValueError(f"{name} has no constants here: {problem}") from problem
    return moments_of(found)


def activation(function: Function, law: Law) -> Moments:
    """Moments of an elementwise function."""
    if isinstance(law, Image):
        raise ValueError(
            "after= takes a pooling, dropout or parametric layer behind it: an activation of "
            f"an activation's output has no constants here; layer was {function.name!r}"
        )
    return _measured(function.name, elementwise, function, law)


def gated_linear(gate: Function, law: Law) -> Moments:
    """Moments of a·gate(b), a and b the halves of the input; ``bwd_std`` is over both.

    Raises:
        ValueError: the gate's integrals do not converge.
    """
    return _measured(gate.name, lambda: product(law, elementwise(gate, law)))


def product(value: Normal, gate: Figures) -> Figures:
    r"""Figures of a·y for a ~ N(m, s²) and an independent y = g(b) with these figures.

    .. math::
        \mu = m\,E g, \qquad \sigma_f^2 = s^2 E g^2 + m^2\,\mathrm{Var}\,g, \qquad
        \sigma_b^2 = \tfrac12\bigl(E g^2 + (m^2 + s^2)\,E g'^2\bigr),

    the last the mean square of the gradients at a and at b.
    """
    m, s = abs(value.mean), value.std
    second, rms = math.hypot(gate.mean, gate.std), math.hypot(m, s)
    mean, std = value.mean * gate.mean, math.hypot(s * second, m * gate.std)
    behind = rms * gate.slope
    # A root of a sum of squares changes by at most the root of the sum of squared changes.
    error = gate.error * max(m, math.sqrt(2.0) * s + m, math.sqrt(2.0), rms)
    error += 8.0 * EPS * max(abs(mean), std, second, behind)
    slope = math.sqrt(0.5) * math.hypot(second, behind)
    return Figures(mean, std, slope, error, gate.method)


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
    entry = lookup(found)
    if entry is not None and entry.image is not None:
        image = entry.image(found, Normal(0.0, 1.0))
        # A twin computes another.
        if (image.shift, image.scale) == (0.0, 1.0):
            return image.function
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
    if id(layer) in _CALLABLES:
        return FUNCTIONS[_CALLABLES[id(layer)]]
    if callable(layer) and not isinstance(layer, type):
        return from_callable(layer, getattr(layer, "__name__", repr(layer)), kinks)
    raise TypeError(
        f"{argument} must be a name, a module or an elementwise function on tensors; "
        f"it was {layer!r} of type {type(layer).__name__}"
    )


_MORE = {"gelu_tanh": smooth.gelu_tanh(), "identity": families.identity()}

# Callables that are known by identity, with torch's default parameters.
_CALLABLES = {
    id(getattr(home, name)): name
    for home in (torch, nn.functional)
    for name in FUNCTIONS
    if hasattr(home, name)
} | {id(torch.special.expit): "sigmoid"}


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


def _is(module_type: type, function: Callable[[nn.Module], Function], **facts) -> None:
    """Make an activation known: a class of torch, its function and what differs from a curve."""
    register(
        module_type,
        lambda layer, law: activation(function(layer), law),
        lambda layer, base: Image(function(layer), base),
        **{"family": "activation", "algebra": "curve", **facts},
    )


def _always(layer: nn.Module) -> bool:
    return True


_ends = attrgetter("min_val", "max_val")

_FACTS = {
    nn.Hardtanh: {"algebra": "clamp", "limits": _ends},
    nn.LeakyReLU: {"algebra": "homogeneous", "needs_zero": _always},
    nn.ReLU: {"algebra": "clamp", "limits": lambda _: (0.0, math.inf)},
    nn.ReLU6: {"algebra": "clamp", "limits": _ends},
}
"""Of activations that are more than a curve."""


def _by_name(layer_type: type[nn.Module], name: str) -> Callable[[nn.Module], Function]:
    arguments = arguments_of(layer_type)
    if not arguments:
        return lambda _: FUNCTIONS[name]
    return lambda layer: MAKERS[name](*(float(getattr(layer, own)) for own in arguments))


for _type, _name in CLASSES.items():
    if _name in FUNCTIONS and _name != "gelu":
        _is(_type, _by_name(_type, _name), **_FACTS.get(_type, {}))
_is(nn.GELU, lambda x: smooth.gelu_tanh() if x.approximate == "tanh" else smooth.gelu())
_is(nn.Identity, lambda _: families.identity(), family="moving", algebra="commuting")
_is(nn.PReLU, _prelu, algebra="homogeneous", needs_zero=_always)
_is(nn.Threshold, lambda layer: families.threshold(layer.threshold, layer.value))


def rrelu_training(lower: float, upper: float, law: Normal) -> Figures:
    r"""Randomised leaky ReLU in training, max(x, 0) + A min(x, 0) with A uniform on its bounds.

    With g the leaky ReLU of slope E A and v = (upper - lower)²/12 the variance of A,

    .. math::
        E f = E g, \qquad \mathrm{Var} f = \mathrm{Var}\, g + v E \min(x, 0)^2, \qquad
        E f'^2 = E g'^2 + v P(x < 0),

    where the last two integrals are those of a ReLU at -x.  Every term is positive, so that the
    error of a root is at most that of its parts.
    """
    if not (math.isfinite(lower) and math.isfinite(upper) and lower <= upper):
        raise ValueError(
            "lower and upper must be finite and lower not greater than upper; "
            f"they were {lower} and {upper}"
        )
    mean = elementwise(families.rrelu(lower, upper), law)
    below = elementwise(FUNCTIONS["relu"], Normal(-law.mean, law.std))
    spread = (upper - lower) / math.sqrt(12.0)
    std = math.hypot(mean.std, spread * below.mean, spread * below.std)
    slope = math.hypot(mean.slope, spread * below.slope)
    error = mean.error + math.sqrt(2.0) * spread * below.error + 8.0 * EPS * max(std, slope)
    return Figures(mean.mean, std, slope, error, mean.method)


def rrelu(layer: nn.RReLU, law: Law) -> Moments:
    """Moments of randomised leaky ReLU, with the slopes that it draws or at their mean."""
    if not layer.training:
        return activation(_rrelu(layer), law)
    law, ends = need_normal(layer, law), (float(layer.lower), float(layer.upper))
    return _measured("RReLU", rrelu_training, *ends, law)


register(
    nn.RReLU,
    rrelu,
    lambda layer, base: Image(_rrelu(layer), base),
    family="activation",
    draws=attrgetter("training"),
)
register(
    nn.GLU,
    lambda layer, law: gated_linear(FUNCTIONS["sigmoid"], need_normal(layer, law)),
    note="the gradient's standard deviation is over both halves of the input",
    family="activation",
    algebra="curve",
)
