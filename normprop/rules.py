"""Which layer has which constants: from ``torch.nn`` modules to :mod:`normprop.gaussian`.

The figures of a layer are those of one element of its output, and of the gradient at one
element of its input, when the input's elements are independent draws from one law and the
gradient that arrives is N(0, 1) and independent of them.  For layers with windows they are
interior figures, averaged over a period of the stride: padding, ``ceil_mode`` and borders
are not in them.
"""

import difflib
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from normprop.callables import from_callable
from normprop.gaussian import (
    FUNCTIONS,
    Function,
    Image,
    Law,
    Normal,
    elementwise,
    families,
    maximum,
    smooth,
)

_EPS = float(np.finfo(np.float64).eps)
_CLOSED = "closed form"


@dataclass(frozen=True)
class Moments:
    r"""The figures of a layer.

    Attributes:
        fwd_mean: mean of an output element.
        fwd_std: standard deviation of an output element.
        bwd_std: standard deviation of the gradient at an input element, for an arriving
            gradient of standard deviation 1.
        error: bound on the absolute error of every one of these figures, rounding included.
        method: ``"closed form"`` or ``"quadrature"``.

    The figures are floats; for layers with weights they are float64 arrays, one entry for
    each output channel (forward) or input channel (backward).
    """

    fwd_mean: float | np.ndarray
    fwd_std: float | np.ndarray
    bwd_std: float | np.ndarray
    error: float
    method: str


Rule = Callable[[nn.Module, Law], Moments]
ImageRule = Callable[[nn.Module, Normal], Image]

_rules: dict[type, Rule] = {}
_images: dict[type, ImageRule] = {}


def register(module_type: type, rule: Rule, image: ImageRule | None = None) -> None:
    """Tell :func:`moments` how to measure a type of module.

    Args:
        module_type: the class; its subclasses follow only while they keep its ``forward``.
        rule: from the module and the law of its input to :class:`Moments`.
        image: for activations, from the module and the normal law of its input to the law
            of its output, so that the module may stand in ``after``.
    """
    _rules[module_type] = rule
    if image is not None:
        _images[module_type] = image


def moments(
    layer: str | nn.Module | Callable,
    mean: float = 0.0,
    std: float = 1.0,
    *,
    inverted: bool = True,
    after: str | nn.Module | Callable | None = None,
) -> Moments:
    r"""Exact mean and standard deviation of a layer, forward and backward.

    For an elementwise function f and :math:`x \sim N(m, s^2)`,

    .. math::
        \mu = E f(x), \qquad \sigma_f = \mathrm{Std}\, f(x), \qquad
        \sigma_b = \sqrt{E f'(x)^2}.

    For pooling over windows of K = ∏k elements with strides t, T = ∏t: the maximum has the
    order statistics of K draws and :math:`\sigma_b = T^{-1/2}`; the average has
    :math:`\sigma_f = s K^{-1/2}` and :math:`\sigma_b = (KT)^{-1/2}`.  For weights W:
    :math:`\mu_i = m \sum_j W_{ij} + b_i`, :math:`\sigma_{f,i} = s\,\|W_{i\cdot}\|` over
    fan-in, and :math:`\sigma_{b,j} = \|W_{\cdot j}\| / \sqrt{T}` over the outputs and taps
    that input channel j feeds.  For dropout with keep probability q = 1 - p:
    :math:`\sigma_f^2 = (s^2 + p m^2)/q` and :math:`\sigma_b = q^{-1/2}` where the kept
    values are divided by q, :math:`\sigma_f^2 = q(s^2 + p m^2)` and
    :math:`\sigma_b = q^{1/2}` where they are not.

    Args:
        layer: a name (``"relu"``), a module of ``torch.nn`` or ``normprop.nn``, which is
            measured as it is, or any elementwise function on tensors that autograd can
            differentiate.  Of a function that the package does not know, the error bound takes
            torch's values and slopes for correctly rounded.
        mean: mean m of the input.
        std: standard deviation s of the input, greater than 0.
        inverted: whether dropout divides the kept values by the keep probability, as
            PyTorch does; ``False`` gives the figures of the raw mask.  Only for dropout.
        after: the activation that stands before the layer.  The layer's input is then that
            activation's output, and ``mean`` and ``std`` are those of the activation's
            input.  A ``normprop.nn`` activation counts as it is, normalised.

    Returns:
        :class:`Moments`.

    Raises:
        TypeError: ``layer`` is nothing that has constants here, or an argument has the
            wrong type.
        ValueError: an argument is out of its range.

    Example:
        >>> moments("relu").fwd_std
        0.5838193701035489
    """
    law = _law(mean, std, after)
    layer = _resolve(layer)
    if not inverted:
        plain = isinstance(layer, nn.Module) and _lookup(_rules, layer) is _dropout_rule
        if not (plain and layer.training):
            raise ValueError(
                "inverted=False is for dropout of torch.nn in training, whose raw mask it "
                f"measures; it came with {_describe(layer)}"
            )
        return dropout(layer.p, law, inverted=False)
    if isinstance(layer, Function):
        return activation(layer, law)
    return _rule_of(layer)(layer, law)


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


def max_pool(window: Sequence[int], stride: Sequence[int], law: Law) -> Moments:
    """Moments of a maximum over windows, every argument with one entry a dimension."""
    mean, std, error, method = maximum(_count("kernel_size", window), law)
    slope = 1.0 / math.sqrt(_count("stride", stride))
    return Moments(mean, std, slope, error + 2.0 * _EPS * slope, method)


def avg_pool(
    window: Sequence[int], stride: Sequence[int], law: Law, divisor: int | None = None
) -> Moments:
    """Moments of an average over windows, or of their sum divided by ``divisor``."""
    size, period = _count("kernel_size", window), _count("stride", stride)
    divisor = size if divisor is None else divisor
    if divisor == 0:
        raise ValueError("divisor_override must not be 0")
    mean, std, error, method = maximum(1, law)
    scale = 1.0 / abs(divisor)
    figures = (
        mean * (size / divisor),
        std * math.sqrt(size) * scale,
        math.sqrt(size / period) * scale,
    )
    error = error * size * scale + 4.0 * _EPS * max(map(abs, figures))
    return Moments(*figures, error, method)


def dropout(p: float, law: Law, *, inverted: bool = True) -> Moments:
    """Moments of dropout in training, p the drop probability."""
    check_probability(p)
    keep = 1.0 - p
    mean, std, error, method = maximum(1, law)
    if inverted and keep == 0:
        # torch drops everything rather than divide by zero.
        return Moments(0.0, 0.0, 0.0, 0.0, _CLOSED)
    scale = 1.0 / math.sqrt(keep) if inverted else math.sqrt(keep)
    figures = (
        mean if inverted else keep * mean,
        math.hypot(std, math.sqrt(p) * mean) * scale,
        scale,
    )
    error = 2.0 * error * max(scale, 1.0) + 8.0 * _EPS * max(map(abs, figures))
    return Moments(*figures, error, method)


def parametric(
    forward_weight: np.ndarray,
    bias: np.ndarray | None,
    law: Law,
    *,
    stride: Sequence[int] = (),
    groups: int = 1,
    backward_weight: np.ndarray | None = None,
) -> Moments:
    """Moments of a linear map or convolution with these weights.

    Args:
        forward_weight: shape (out, in/groups, k…), used forward.
        bias: shape (out,) or ``None``.
        law: law of an input element.
        stride: one entry, or one for each dimension of the window.
        groups: number of groups of channels.
        backward_weight: weights of the backward pass where they differ.
    """
    mean, std, error, method = maximum(1, law)
    rows = forward_weight.reshape(len(forward_weight), math.prod(forward_weight.shape[1:]))
    rows = np.ascontiguousarray(rows)
    norms = np.sqrt((rows * rows).sum(-1))
    sums = rows.sum(-1)
    offset = np.zeros(len(rows)) if bias is None else bias
    fwd_mean = mean * sums + offset
    fwd_std = std * norms

    back = forward_weight if backward_weight is None else backward_weight
    outs, ins, taps = len(back) // groups, back.shape[1], math.prod(back.shape[2:])
    columns = back.reshape(groups, outs, ins, taps).transpose(0, 2, 1, 3)
    columns = np.ascontiguousarray(columns).reshape(groups * ins, outs * taps)
    steps = window_of(tuple(stride), back.ndim - 2, "stride") if len(stride) else ()
    bwd_std = np.sqrt((columns * columns).sum(-1) / math.prod(steps))

    # NumPy adds contiguous rows pairwise, in blocks of at most 128 terms.
    ulps = 24.0 + math.log2(max(rows.shape[1], columns.shape[1], 2))
    size = np.abs(rows).sum(-1)
    bound = np.concatenate(
        [
            error * size + ulps * _EPS * (abs(mean) * size + np.abs(offset)),
            error * norms + ulps * _EPS * fwd_std,
            ulps * _EPS * bwd_std,
        ]
    )
    return Moments(fwd_mean, fwd_std, bwd_std, float(bound.max(initial=0.0)), method)


def affine(figures: Moments, shift: float, forward: float, backward: float) -> Moments:
    """Moments of (y - shift)/forward whose gradient is divided by ``backward``."""
    mean = (figures.fwd_mean - shift) / forward
    error = figures.error / min(abs(forward), abs(backward))
    error += 2.0 * _EPS * ((abs(figures.fwd_mean) + abs(shift)) / abs(forward) + 1.0)
    return replace(
        figures,
        fwd_mean=mean,
        fwd_std=figures.fwd_std / abs(forward),
        bwd_std=figures.bwd_std / abs(backward),
        error=error,
    )


def image_of(after: str | nn.Module | Callable, base: Normal) -> Image:
    """Law of the output of the activation ``after`` for a normal input."""
    found = _resolve(after, "after")
    if isinstance(found, Function):
        return Image(found, base)
    image = _lookup(_images, found)
    if image is None:
        raise TypeError(
            "after must be an activation: a name, an elementwise function or a module such as "
            f"nn.ReLU(); it was {_describe(found)}"
        )
    return image(found, base)


def check_probability(p: float) -> None:
    """Refuse a drop probability outside [0, 1]."""
    _check_number("p", p)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p, the probability of dropping, must lie in [0, 1]; it was {p}")


def check_law(mean: float, std: float) -> Normal:
    """The normal law with this mean and standard deviation, which must be finite and > 0."""
    _check_number("mean", mean)
    _check_number("std", std)
    if not math.isfinite(mean):
        raise ValueError(f"mean must be finite; it was {mean}")
    if not (math.isfinite(std) and std > 0):
        raise ValueError(f"std must be finite and greater than 0; it was {std}")
    return Normal(float(mean), float(std))


def window_of(kernel_size: int | Sequence[int], dims: int, name: str) -> tuple[int, ...]:
    """``kernel_size`` or ``stride`` with one entry a dimension, each at least 1."""
    sizes = kernel_size if isinstance(kernel_size, Sequence) else (kernel_size,) * dims
    if len(sizes) == 1:
        sizes = tuple(sizes) * dims
    if len(sizes) != dims:
        raise ValueError(f"{name} must have 1 or {dims} entries; it was {kernel_size}")
    for size in sizes:
        whole = isinstance(size, numbers.Integral) and not isinstance(size, bool)
        if not whole or size < 1:
            raise ValueError(f"{name} must be made of integers of at least 1; it was {kernel_size}")
    return tuple(int(size) for size in sizes)


def weights_of(module: nn.Module) -> tuple[np.ndarray, np.ndarray | None]:
    """Weight and bias of a module as float64 arrays."""
    return _array(module.weight, "weight"), (
        None if module.bias is None else _array(module.bias, "bias")
    )


def function_of(layer: str | Callable) -> Function:
    """The elementwise function of a name, or that a callable computes.

    Raises:
        TypeError: it is no elementwise function.
        ValueError: the name is unknown.
    """
    found = _resolve(layer, "activation")
    if isinstance(found, Function):
        return found
    describe = _lookup(_FAMILIES, found) if isinstance(found, nn.Module) else None
    if describe is not None:
        return describe(found)
    raise TypeError(f"activation must be a name or an elementwise function; it was {found!r}")


def _law(mean: float, std: float, after) -> Law:
    base = check_law(mean, std)
    return base if after is None else image_of(after, base)


def _resolve(layer, argument: str = "layer"):
    """A function for a name or a callable; a module for a module."""
    if isinstance(layer, str):
        if layer in FUNCTIONS:
            return FUNCTIONS[layer]
        near = difflib.get_close_matches(layer.lower(), FUNCTIONS, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"{argument} must be one of the names {', '.join(sorted(FUNCTIONS))}, a module or a "
            f"function on tensors; it was {layer!r}{hint}"
        )
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
        return from_callable(layer, getattr(layer, "__name__", repr(layer)))
    raise TypeError(
        f"{argument} must be a name, a module or an elementwise function on tensors; "
        f"it was {layer!r} of type {type(layer).__name__}"
    )


def _rule_of(layer: nn.Module) -> Rule:
    rule = _lookup(_rules, layer)
    if rule is None:
        supported = sorted({f"{t.__module__.split('.')[0]}.nn.{t.__name__}" for t in _rules})
        raise TypeError(
            f"layer must be one of {', '.join(supported)}, or a subclass that keeps its "
            f"forward; it was {_describe(layer)}"
        )
    return rule


def _lookup(registry: dict, layer: nn.Module):
    for parent in type(layer).__mro__:
        if parent in registry:
            # A subclass with a forward of its own computes something else.
            return registry[parent] if type(layer).forward is parent.forward else None
    return None


def _describe(layer) -> str:
    if isinstance(layer, Function):
        return layer.name
    return type(layer).__name__ + ("" if layer.training else " in evaluation")


def _check_number(name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number; it was {value!r}")


def _count(name: str, sizes: Sequence[int]) -> int:
    return math.prod(window_of(tuple(sizes), len(sizes), name)) if len(sizes) else 1


def _array(tensor: torch.Tensor, name: str) -> np.ndarray:
    if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
        raise ValueError(f"{name} must have values; the lazy module has not seen an input yet")
    if tensor.is_meta or not tensor.is_floating_point():
        raise ValueError(f"{name} must hold real numbers; it was {tensor.dtype} on {tensor.device}")
    array = tensor.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; it holds NaN or infinities")
    return array


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


def _prelu(layer: nn.PReLU) -> Function:
    slopes = _array(layer.weight, "weight")
    if len(slopes) != 1:
        raise ValueError(
            "PReLU must have one slope, so that all elements have the same law; it has "
            f"{len(slopes)}: measure nn.LeakyReLU(slope) for each channel"
        )
    return families.leaky_relu(float(slopes[0]), "prelu")


def _rrelu(layer: nn.RReLU) -> Function:
    if layer.training:
        raise ValueError(
            "RReLU must be in evaluation, layer.eval(): in training its slope is drawn anew for "
            "each element, so that it is no function of its input"
        )
    return families.rrelu(layer.lower, layer.upper)


def _gelu(layer: nn.GELU) -> Function:
    return smooth.gelu_tanh() if layer.approximate == "tanh" else smooth.gelu()


# The function that a module with these parameters computes.
_FAMILIES: dict[type, Callable[[nn.Module], Function]] = {
    nn.CELU: lambda layer: families.celu(layer.alpha),
    nn.ELU: lambda layer: families.elu(float(layer.alpha)),
    nn.GELU: _gelu,
    nn.Hardshrink: lambda layer: families.hardshrink(layer.lambd),
    nn.Hardsigmoid: lambda _: FUNCTIONS["hardsigmoid"],
    nn.Hardswish: lambda _: families.hardswish(),
    nn.Hardtanh: lambda layer: families.hardtanh(layer.min_val, layer.max_val),
    nn.Identity: lambda _: families.identity(),
    nn.LeakyReLU: lambda layer: families.leaky_relu(layer.negative_slope),
    nn.LogSigmoid: lambda _: smooth.logsigmoid(),
    nn.Mish: lambda _: smooth.mish(),
    nn.PReLU: _prelu,
    nn.ReLU: lambda _: FUNCTIONS["relu"],
    nn.ReLU6: lambda _: families.relu6(),
    nn.RReLU: _rrelu,
    nn.SELU: lambda _: families.selu(),
    nn.Sigmoid: lambda _: FUNCTIONS["sigmoid"],
    nn.SiLU: lambda _: smooth.silu(),
    nn.Softplus: lambda layer: smooth.softplus(float(layer.beta), float(layer.threshold)),
    nn.Softshrink: lambda layer: families.softshrink(layer.lambd),
    nn.Softsign: lambda _: smooth.softsign(),
    nn.Tanh: lambda _: FUNCTIONS["tanh"],
    nn.Tanhshrink: lambda _: smooth.tanhshrink(),
    nn.Threshold: lambda layer: families.threshold(layer.threshold, layer.value),
}
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_POOLS = {
    1: (nn.MaxPool1d, nn.AvgPool1d, nn.Conv1d),
    2: (nn.MaxPool2d, nn.AvgPool2d, nn.Conv2d),
    3: (nn.MaxPool3d, nn.AvgPool3d, nn.Conv3d),
}


def _register_torch() -> None:
    for module_type, describe in _FAMILIES.items():
        register(
            module_type,
            lambda layer, law, describe=describe: activation(describe(layer), law),
            lambda layer, base, describe=describe: Image(describe(layer), base),
        )
    for module_type in _DROPOUTS:
        register(module_type, _dropout_rule)
    register(nn.Linear, lambda layer, law: parametric(*weights_of(layer), law))
    for dims, (max_type, avg_type, conv_type) in _POOLS.items():
        register(max_type, lambda layer, law, d=dims: max_pool(*pool_geometry(layer, d), law))
        register(
            avg_type,
            lambda layer, law, d=dims: avg_pool(
                *pool_geometry(layer, d), law, getattr(layer, "divisor_override", None)
            ),
        )
        register(
            conv_type,
            lambda layer, law: parametric(
                *weights_of(layer), law, stride=layer.stride, groups=layer.groups
            ),
        )


def pool_geometry(layer: nn.Module, dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Window and stride of a pooling module, one entry a dimension."""
    window = window_of(layer.kernel_size, dims, "kernel_size")
    stride = layer.kernel_size if layer.stride is None else layer.stride
    return window, window_of(stride, dims, "stride")


def _dropout_rule(layer: nn.Module, law: Law) -> Moments:
    # In evaluation torch's dropout is the identity.
    return dropout(layer.p if layer.training else 0.0, law)


_register_torch()
