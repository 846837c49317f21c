r"""Normalised activations in one pass each way.

One forward and one backward kernel serve every activation; the scalar function is a
compile-time argument.  Constants and parameters are none: layers of other laws share what has
been compiled.

.. math:: y = \frac{f(x) - \mu}{\sigma_{fwd}}, \qquad dx = \frac{dy\, f'(x)}{\sigma_{bwd}}

The forward kernel reads x and writes y; the backward kernel reads dy and either x or, where
f' is a function of f, the stored y, from which f = σ_fwd y + μ.  Nothing else is stored.
Divisions by the constants are products with their reciprocals.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from normprop.kernels import check_usable, scalar
from normprop.kernels.kinks import Bounds, bounds
from normprop.kernels.launch import block_size, over_elements
from normprop.kernels.layout import as_dense, like
from normprop.kernels.scalar import bits, kernel, load, number


class _Function(NamedTuple):
    """f with f', f' read from f (None where it cannot be), and the defaults of the parameters.

    ``slots`` turns parameters into the two slots of the kernels, where these differ.
    """

    both: Callable
    read: Callable | None
    defaults: tuple[float, ...] = ()
    slots: Callable[..., tuple[float, ...]] = lambda *params: params

    @classmethod
    def of(cls, name: str, *more) -> "_Function":
        """The functions of :mod:`~normprop.kernels.scalar` of that name."""
        return cls(getattr(scalar, name), getattr(scalar, f"{name}_read", None), *more)


# Without parameters.
_PLAIN = (
    "gelu", "gelu_tanh", "hardsigmoid", "hardswish", "identity", "logsigmoid", "mish", "relu",
    "selu", "sigmoid", "silu", "softsign", "tanh", "tanhshrink",
)  # fmt: skip

FUNCTIONS = {name: _Function.of(name) for name in _PLAIN} | {
    "celu": _Function.of("celu", (1.0,)),
    "elu": _Function.of("elu", (1.0,)),
    "hardshrink": _Function.of("hardshrink", (0.5,)),
    "hardtanh": _Function.of("hardtanh", (-1.0, 1.0)),
    "leaky_relu": _Function.of("leaky_relu", (0.01,)),
    "prelu": _Function.of("leaky_relu", (0.25,)),
    "relu6": _Function.of("hardtanh", (), lambda: (0.0, 6.0)),
    "rrelu": _Function.of(
        "leaky_relu", (1.0 / 8.0, 1.0 / 3.0), lambda lower, upper: ((lower + upper) / 2,)
    ),
    "softplus": _Function.of("softplus", (1.0, 20.0)),
    "softshrink": _Function.of("softshrink", (0.5,)),
    "threshold": _Function.of("threshold", (0.0, 0.0)),
}
"""Activations by torch's name; parameters are torch's, in torch's order.

``rrelu`` is that of evaluation; GELU's two forms are ``gelu`` and ``gelu_tanh``.
"""


def forward(
    name: str,
    params: tuple[float, ...] | Tensor,
    input: Tensor,
    shift: float,
    forward: float,
    *,
    save_output: bool = False,
) -> Tensor:
    r"""Forward pass, y = (f(x) - shift)/forward, in the input's memory format where that is dense.

    The name is a key of :data:`FUNCTIONS`.  No parameters stand for torch's defaults; ``"prelu"``
    also takes a tensor of one element on the input's device, so that the slope need not be known
    here.  With ``save_output`` the backward pass will read the output, and elements on the rising
    side of a kink are kept apart from those on the flat one: :mod:`~normprop.kernels.kinks` says
    how and why.
    """
    slope = _slope(name, params, input)
    numbers, constants = _forward_of(
        name, () if slope is not None else params, shift, forward, input.dtype, save_output
    )
    x = as_dense(input)
    y = torch.empty_like(x)
    constants = constants | {"HAS_SLOPE": slope is not None}
    over_elements(_forward_kernel, x, (x, y, slope, x.numel(), *numbers), constants)
    return y


@lru_cache(maxsize=1024)
def _forward_of(name, params, shift, forward, dtype, save_output) -> tuple[tuple, dict]:
    """Numbers and constants of the forward kernel, and what it has to be asked for."""
    function, slots = resolve(name, params)
    limits = _limits(name, params, shift, forward, dtype) if save_output else Bounds()
    return tuple(map(bits, (*slots, shift, 1.0 / forward, *limits))), {
        "F": function.both,
        "HAS_LOW": limits.low != Bounds().low,
        "HAS_HIGH": limits.high != Bounds().high,
    }


def backward(
    name: str,
    params: tuple[float, ...] | Tensor,
    saved: Tensor,
    grad: Tensor,
    shift: float,
    forward: float,
    backward: float,
    *,
    from_output: bool,
) -> Tensor:
    r"""Backward pass, dx = dy f'(x)/backward, of the shape, type and memory format of ``saved``.

    That is the input, or with ``from_output`` what :func:`forward` gave under
    ``save_output=True``: f' is then read from f = forward·y + shift.  Where f saturates it is known
    to the rounding of y alone: its absolute error is at most that of y times forward times
    \|f''/f'\|, as where torch reads a sigmoid's derivative from its output.  A gradient that is a
    scalar which was expanded is not written out.
    """
    return _backward(name, params, saved, grad, shift, forward, backward, from_output)


def backward_prelu(
    slope: Tensor, saved: Tensor, grad: Tensor, shift: float, forward: float, backward: float
) -> tuple[Tensor, Tensor]:
    r"""Backward pass from the input, with the slope's gradient Σ dy·min(x, 0)/backward beside dx.

    The sum is taken in the same pass, in float32 or float64, block by block in a fixed
    order: the same numbers give the same sum.
    """
    compute = torch.float64 if saved.dtype == torch.float64 else torch.float32
    programs = triton.cdiv(saved.numel(), block_size())
    parts = torch.empty(programs, dtype=compute, device=saved.device)
    dx = _backward("prelu", slope, saved, grad, shift, forward, backward, False, parts)
    return dx, parts.sum().to(slope.dtype).reshape(slope.shape)


def _backward(name, params, saved, grad, shift, forward, backward, from_output, parts=None):
    slope = _slope(name, params, saved)
    params = () if slope is not None else params
    numbers, constants = _backward_of(
        name, params, shift, forward, backward, saved.dtype, from_output
    )
    x = as_dense(saved)
    step = 0 if grad.numel() and not any(grad.stride()) else 1
    dy = grad if step == 0 else like(grad, x)
    dx = torch.empty_like(x)
    constants = constants | {
        "HAS_SLOPE": slope is not None, "SLOPE_GRADIENT": parts is not None, "GRAD_STEP": step
    }  # fmt: skip
    arguments = (x, dy, dx, slope, parts, x.numel(), *numbers)
    over_elements(_backward_kernel, x, arguments, constants)
    return dx


@lru_cache(maxsize=1024)
def _backward_of(name, params, shift, forward, backward, dtype, from_output) -> tuple[tuple, dict]:
    """Numbers and constants of the backward kernel, and what it has to be asked for."""
    function, slots = resolve(name, params)
    limits = _limits(name, params, shift, forward, dtype) if from_output else Bounds()
    numbers = (*slots, shift, forward, 1.0 / backward, limits.at_low, limits.at_high)
    return tuple(map(bits, numbers)), {
        "F": function.read if from_output else function.both, "FROM_OUTPUT": from_output
    }  # fmt: skip


@kernel
def _forward_kernel(
    x_ptr, y_ptr, slope_ptr, numel, a_bits: tl.int64, b_bits: tl.int64, shift: tl.int64,
    scale: tl.int64, low: tl.int64, at_low: tl.int64, above: tl.int64, high: tl.int64,
    at_high: tl.int64, below: tl.int64, F: tl.constexpr, HAS_LOW: tl.constexpr,
    HAS_HIGH: tl.constexpr, HAS_SLOPE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offsets = offsets_of(BLOCK, WIDE)
    mask = offsets < numel
    x = load(x_ptr + offsets, mask)
    a = tl.load(slope_ptr).to(x.dtype) if HAS_SLOPE else number(a_bits, x.dtype)
    f, _ = F(x, a, number(b_bits, x.dtype))
    y = (f - number(shift, x.dtype)) * number(scale, x.dtype)
    if HAS_LOW:
        rising = _at_least(y, number(above, x.dtype))
        y = tl.where(x > number(low, x.dtype), rising, _at_most(y, number(at_low, x.dtype)))
    if HAS_HIGH:
        rising = _at_most(y, number(below, x.dtype))
        y = tl.where(x < number(high, x.dtype), rising, _at_least(y, number(at_high, x.dtype)))
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _at_least(y, bound):
    """NaN stays, which tl.maximum does not promise."""
    return tl.where(y < bound, bound, y)


@triton.jit
def _at_most(y, bound):
    return tl.where(y > bound, bound, y)


@kernel
def _backward_kernel(
    saved_ptr, dy_ptr, dx_ptr, slope_ptr, parts_ptr, numel, a_bits: tl.int64, b_bits: tl.int64,
    shift: tl.int64, forward: tl.int64, scale: tl.int64, at_low: tl.int64, at_high: tl.int64,
    F: tl.constexpr, FROM_OUTPUT: tl.constexpr, HAS_SLOPE: tl.constexpr,
    SLOPE_GRADIENT: tl.constexpr, GRAD_STEP: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offsets = offsets_of(BLOCK, WIDE)
    mask = offsets < numel
    saved = load(saved_ptr + offsets, mask)
    dy = tl.load(dy_ptr + offsets * GRAD_STEP, mask=mask, other=0.0).to(saved.dtype)
    a = tl.load(slope_ptr).to(saved.dtype) if HAS_SLOPE else number(a_bits, saved.dtype)
    b = number(b_bits, saved.dtype)
    if FROM_OUTPUT:
        # Negated, so that NaN passes its gradient on, as in torch.
        above = ~(saved <= number(at_low, saved.dtype))
        below = ~(saved >= number(at_high, saved.dtype))
        f = saved * number(forward, saved.dtype) + number(shift, saved.dtype)
        slope = F(f, above, below, a, b)
    else:
        _, slope = F(saved, a, b)
    factor = number(scale, saved.dtype)
    dx = dy * (slope * factor)
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    if SLOPE_GRADIENT:
        rest = tl.where(saved < 0, saved, 0.0)
        part = tl.sum(tl.where(mask, dy * rest * factor, 0.0), axis=0)
        tl.store(parts_ptr + tl.program_id(0), part)


@triton.jit
def offsets_of(BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Indices of this program's elements, in 64 bits where 32 do not reach."""
    start = tl.program_id(0)
    if WIDE:
        start = start.to(tl.int64)
    return start * BLOCK + tl.arange(0, BLOCK)


@lru_cache(maxsize=1024)
def _filled(name: str, params: tuple[float, ...]) -> tuple[float, ...]:
    """The parameters, torch's defaults for none."""
    if name not in FUNCTIONS:
        raise ValueError(f"name must be one of {', '.join(FUNCTIONS)}; it was {name!r}")
    defaults = FUNCTIONS[name].defaults
    if params and len(params) != len(defaults):
        raise ValueError(f"{name} takes {len(defaults)} parameters; params was {params}")
    return tuple(float(value) for value in params or defaults)


def resolve(name: str, params: tuple[float, ...]) -> tuple[_Function, tuple[float, float]]:
    """The function of that name, and what its two slots hold."""
    filled = _filled(name, params)
    slots = FUNCTIONS[name].slots(*filled)
    return FUNCTIONS[name], (*slots, 0.0, 0.0)[:2]


def _slope(name, params, tensor) -> Tensor | None:
    """The slope, where it is a tensor."""
    check_usable(tensor)
    if not isinstance(params, Tensor):
        return None
    if params.device != tensor.device:
        raise ValueError(
            f"the slope must be on the input's device, {tensor.device}; it was on {params.device}"
        )
    return params


def _limits(name, params, shift, forward, dtype) -> Bounds:
    return bounds(name, _filled(name, params), float(shift), float(forward), dtype)
