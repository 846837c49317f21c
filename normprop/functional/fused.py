r"""Elementwise functions, normalised in as few passes over memory as ATen allows.

.. math:: y = a f(x) + c, \qquad dx = b\, f'(x)\, dy, \qquad
    a = 1/\sigma_\mathrm{forward}, \quad c = -\mu/\sigma_\mathrm{forward}, \quad
    b = 1/\sigma_\mathrm{backward}

A row of ``MAPS`` says how a function runs forward, how backward, and what it keeps in between.
Where f' is a function of f, that is y, which the next layer keeps anyway; elsewhere it is x;
never both, and never a mask.  A slope from y has an absolute error of a few units of rounding of
the steepest slope, where one from x would have a relative one.

Who writes into y would write into what is kept.  Where torch's function lets him, as it keeps x,
``overwritten="output"`` keeps x too, and y is computed once more on the way back.  Where torch
keeps its own output and so lets him write into x, and x would be kept here,
``overwritten="input"`` runs torch's function and a line behind it: one tensor and one pass more.

Where f consists of lines, y decides on which of them x lies: on the middle one where
y(lower kink) < y < y(upper kink).  Hence this rule, for every implementation of it:

- float64 and float32: an x so near a kink that its y is rounded onto the kink's counts as lying on
  the kink, and has torch's slope there, that of the flatter side.  At a kink of 0, where y is the
  constant c, that is exact; at any other, two units of rounding of y or c belong to the kink.
  Kernels, which have no further pass to pay, hold these types to the second rule as well.
- float16 and bfloat16: y is computed in float32 and rounded once, except that an x strictly between
  the kinks never gets the y of a kink: it gets the neighbouring number inside.  ReLU at N(0, 1)
  moves about 0.1 % of its bfloat16 outputs so, by one unit in the last place, and without it those
  would lose their gradient.  Every other function, whose slope would be that of a neighbour, keeps
  x in these types, and its slope is computed from x in float32.

A call that works on few elements costs what Python costs.  Where the gradient is the derivative,
small tensors of float32 and float64 therefore run torch's function and a line behind it, two
operators that autograd knows, and no Function.  They keep what torch's function keeps, which may be
f beside the y that the next layer keeps, and of kinks and NaN they know what torch knows: x
decides.
On a GPU the others run the rows below there, and kernels from where memory costs more than calls.

Compiled code runs the same rows, where a step is written without a comparison: Inductor would
keep the outcome of a comparison as a mask of its own, which on a CPU costs more than ten times the
time.  Under functional transforms, in forward mode, and for tensors of other classes, plain
operations say the same.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as torch_functional
from torch.utils._python_dispatch import _disable_current_modes

from normprop.functional.scale import (
    Constants,
    check_real,
    is_differentiated,
    literal,
    normalized,
    remembered,
    scale_gradient,
    transforms_active,
    upcast,
)
from normprop.gaussian.families import SELU_ALPHA, SELU_SCALE

Backend = Literal["auto", "eager", "triton"]
BACKENDS = ("auto", "eager", "triton")
Kept = Literal["nothing", "input", "output"]
Overwritten = Literal["input", "output"]
Params = tuple[float | str, ...]

SMALL = {"cpu": 2**14, "cuda": 2**20}
"""Up to so many elements Python costs more than a pass over memory does."""

_aten = torch.ops.aten
_PLAIN = (Tensor, nn.Parameter)


class Line(NamedTuple):
    """The factors a, c and b above; the way back, f = std·y + mean; the y of the kinks."""

    scale: float
    shift: float
    slope: float
    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class Map:
    """How a function runs.

    Attributes:
        plain: f, from the input and the parameters.
        backward: dx from dy, what was kept, the line and the parameters.  Its operations can be
            differentiated again; it works in place only on what it made itself.
        forward: y from x, the line and the parameters; by default ``plain`` and a line in place.
        keeps: what ``backward`` wants, by the parameters.
        kinks: of functions of lines that keep y, the values of f at the ends of the steepest.
        stepped: for compiled code, where ``backward`` compares, the slope f' in steps, without b.
        derived: whether ``backward`` is autograd's, for want of one that saves a pass.
        lean: whether ``plain`` is one operator in a type.
    """

    plain: Callable[..., Tensor]
    backward: Callable[..., Tensor]
    forward: Callable[..., Tensor] | None = None
    keeps: Callable[..., Kept] = lambda *_: "output"
    kinks: Callable[..., tuple[float, float]] | None = None
    stepped: Callable[..., Tensor] | None = None
    derived: bool = False
    lean: Callable[[torch.dtype], bool] = lambda dtype: not half(dtype)

    def kept(self, params: Params, dtype: torch.dtype) -> Kept:
        """What the backward pass gets for an input of this type."""
        kept = self.keeps(*params)
        return "input" if kept == "output" and half(dtype) and self.kinks is None else kept

    def run(self, x: Tensor, line: Line, params: Params) -> Tensor:
        """The forward pass, where no gradient is recorded."""
        if self.forward is not None and not torch.compiler.is_compiling():
            return self.forward(x, line, *params)
        return affine_(self.plain(x, *params), line.scale, line.shift)

    def run_half(self, x: Tensor, line: Line, params: Params) -> Tensor:
        """The forward pass in float32, rounded once, kinks kept apart."""
        wide = x.float()
        if self.kinks is None or self.keeps(*params) != "output":
            return self.run(wide, line, params).to(x.dtype)
        f = self.plain(wide, *params)
        low, high = self.kinks(*params)
        under, over = f <= low, f >= high
        y = affine_(f, line.scale, line.shift).to(x.dtype)
        least, most = _between(line.low, line.high, x.dtype)
        inside = y.clamp(least, most)
        return inside.where(~under, y.clamp(max=line.low)).where(~over, y.clamp(min=line.high))


def fused(
    name: str,
    input: Tensor,
    params: Params,
    constants: Constants,
    backend: Backend = "auto",
    overwritten: Overwritten | None = None,
) -> Tensor:
    """The function of a row of ``MAPS``, normalised, with torch's parameters after the input.

    ``overwritten`` is what is written into between the two passes.
    """
    check_real(input)
    small, transformed, dtype = is_small(input), is_transformed(input), input.dtype
    if small and not transformed and backend != "triton":
        bare = _bare(name, params, constants, dtype)
        if bare is not None:
            check_backend(backend)
            plain, scale, shift = bare
            return torch.add(shift, plain(input, *params), alpha=scale)
    row = MAPS[name]
    triton = wants_triton(input, backend, transformed)
    kept = row.kept(params, dtype)
    if small and backend == "auto" and not half(dtype):
        # Two of ATen's launches take less of Python's time than one of a kernel's.
        triton = False
    if row.derived:
        triton = triton and _has_kernel(kernel_of(name, params)[0], backend)
        # Nothing is saved over what is done without a Function, and the compiler sees through it.
        transformed = transformed or torch.compiler.is_compiling()
    if transformed or (kept == "input" and overwritten == "input"):
        return normalized(lambda x: row.plain(x, *params), input, constants)
    if kept == "output" and overwritten == "output":
        kept = "input"
    if torch.compiler.is_compiling():
        # Dynamo makes variables of floats that it has seen change from layer to layer.
        shift, forward, backward = constants.shift, constants.forward, constants.backward
        constants = Constants(literal(shift), literal(forward), literal(backward))
        return _Fused.apply(input, name, params, constants, kept, triton)
    run = _Fused.apply if is_differentiated(input) else _forward
    return run(input, name, params, constants, kept, triton)


def _forward(input, name, params, constants, kept, triton) -> Tensor:
    if triton:
        from normprop.kernels import activation as kernel

        shift, forward = constants.shift, constants.forward
        return kernel.forward(
            *kernel_of(name, params), input, shift, forward, save_output=kept == "output"
        )
    line, row = line_of(name, params, *constants, input.dtype), MAPS[name]
    return (row.run_half if half(input.dtype) else row.run)(input, line, params)


def is_small(input: Tensor) -> bool:
    """Whether Python is the most of what this tensor costs, in code that is not compiled."""
    most = SMALL.get(input.device.type, SMALL["cpu"])
    return not torch.compiler.is_compiling() and input.numel() <= most


def is_transformed(input: Tensor) -> bool:
    """Whether the tensor stands for others, so that only plain operations work on it."""
    if type(input) not in _PLAIN or transforms_active():
        return True
    # What torch.autograd.grad(..., is_grads_batched=True) sends backward.
    return not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(input)


def any_transformed(tensors: Iterable[Tensor | None]) -> bool:
    """Whether one of these is."""
    there = [t for t in tensors if t is not None]
    if transforms_active() or torch.compiler.is_compiling():
        return any(map(is_transformed, there))
    batched = torch._C._functorch.is_legacy_batchedtensor
    return not {*map(type, there)}.issubset(_PLAIN) or any(map(batched, there))


def check_backend(backend: str) -> None:
    """Refuse a backend that does not exist."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; it was {backend!r}")


def wants_triton(input: Tensor, backend: Backend, transformed: bool) -> bool:
    """Whether a kernel does the work; an error where it was asked for and cannot."""
    check_backend(backend)
    if backend == "eager" or (backend == "auto" and not input.is_cuda):
        return False
    # Compiled code is fused as it is.
    if transformed or torch.compiler.is_compiling():
        if backend == "auto":
            return False
        raise RuntimeError(
            "backend='triton' does not run under torch.compile, torch.func or forward mode, nor on "
            "tensors of other classes, nor where operators are recorded; backend='auto' does"
        )
    from normprop import kernels

    if backend == "auto":
        return kernels.usable(input)
    kernels.check_usable(input)
    return True


def kernel_of(name: str, params: Params) -> tuple[str, Params]:
    """What the kernels call this function."""
    return ("gelu_tanh", ()) if params == ("tanh",) else (name, () if name == "gelu" else params)


def _has_kernel(name: str, backend: Backend) -> bool:
    from normprop.kernels.activation import FUNCTIONS

    if backend == "triton" and name not in FUNCTIONS:
        raise ValueError(f"backend='triton' must be asked for a function with a kernel, not {name}")
    return name in FUNCTIONS


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, name, params, constants, kept, triton):
        output = _forward(input, name, params, constants, kept, triton)
        ctx.call = name, params, constants, kept
        ctx.gradient_factors = (constants.forward / constants.backward,)
        ctx.triton = triton
        ctx.set_materialize_grads(False)
        if kept != "nothing":
            ctx.save_for_backward(output if kept == "output" else input)
        return output

    @staticmethod
    def backward(ctx, grad):
        if grad is None:
            return None, None, None, None, None, None
        name, params, constants, kept = ctx.call
        saved = ctx.saved_tensors[0] if kept != "nothing" else None
        # Whoever differentiates once more differentiates PyTorch's operations.
        if ctx.triton and kept != "nothing" and not _recorded(grad):
            from normprop.kernels import activation as kernel

            dx = kernel.backward(
                *kernel_of(name, params), saved, grad, *constants, from_output=kept == "output"
            )
        else:
            dx = _backward(name, params, constants, kept, saved, grad)
        return dx, None, None, None, None, None


def _backward(name, params, constants, kept, saved, grad) -> Tensor:
    row, dtype = MAPS[name], grad.dtype
    line = line_of(name, params, *constants, dtype)
    grad = upcast(grad)
    if kept == "nothing":
        return (grad * line.slope).to(dtype)
    if kept != row.keeps(*params):
        # A slope that takes y, and an x was kept: y once more, in float32 at least where no kinks
        # are to be told apart by it.
        saved = upcast(saved) if row.kinks is None else saved
        if torch.is_grad_enabled():
            saved = _Fused.apply(saved, name, params, constants, "output", False)
        else:
            saved = (row.run_half if half(saved.dtype) else row.run)(saved, line, params)
        kept = "output"
    saved = upcast(saved)
    if kept == "output" and constants.forward != constants.backward and torch.is_grad_enabled():
        # dy/dx is b f' where y gives its gradient back, and a f' where its slope is meant.
        saved = scale_gradient(saved, constants.backward / constants.forward)
    if row.stepped is not None and torch.compiler.is_compiling():
        return (grad * (row.stepped(saved, line, *params) * line.slope)).to(dtype)
    return row.backward(grad, saved, line, *params).to(dtype)


@remembered
def line_of(
    name: str, params: Params, mean: float, std: float, divisor: float, dtype: torch.dtype
) -> Line:
    """The factors of these constants, and the kinks as that type shows them."""
    # As numbers of the type that computes, so that a kink of 0 has the y that kernels give it; on
    # the CPU, wherever tensors are made by default.
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    factor = torch.tensor(1.0 / std, dtype=compute, device="cpu")

    def shown(value: float) -> float:
        if math.isinf(value):
            return value
        ends = torch.tensor([value, mean], dtype=compute, device="cpu")
        return (ends.diff() * -factor).to(dtype).item()

    kinks = MAPS[name].kinks if name in MAPS else None
    low, high = (-math.inf, math.inf) if kinks is None else kinks(*params)
    scale, shift = factor.item(), (torch.tensor(-mean, dtype=compute, device="cpu") * factor).item()
    ends = [shown(low), shown(high)]
    if not half(dtype):
        # y at a kink of 0 is the shift and nothing else; elsewhere it has been rounded.
        unit = 2.0 * torch.finfo(dtype).eps
        ends[0] += unit * max(abs(scale * low), abs(shift)) if low and math.isfinite(low) else 0.0
        ends[1] -= unit * max(abs(scale * high), abs(shift)) if math.isfinite(high) else 0.0
    return Line(scale, shift, 1.0 / divisor, mean, std, *ends)


def half(dtype: torch.dtype) -> bool:
    """Whether numbers of this type are computed in float32."""
    return dtype in (torch.float16, torch.bfloat16)


@remembered
def _between(low: float, high: float, dtype: torch.dtype) -> tuple[float, float]:
    """The least number above low and the greatest below high."""
    ends = torch.tensor([low, high], dtype=dtype, device="cpu")
    inside = torch.nextafter(ends, ends.flip(0)).tolist()
    return tuple(
        near if math.isfinite(end) else end for near, end in zip(inside, (low, high), strict=True)
    )


# Passes over memory


def affine_(t: Tensor, scale: float, shift: float) -> Tensor:
    """scale·t + shift, in place: one pass."""
    # The meta device refuses to write where a number of the CPU has come in.
    if torch.compiler.is_compiling() or t.is_meta:
        return t * scale + shift
    return torch.add(_scalar(shift, t), t, alpha=scale, out=t)


def affine(t: Tensor, scale: float, shift: float) -> Tensor:
    """scale·t + shift in one pass, for ever more derivatives."""
    return torch.add(_scalar(shift, t), t, alpha=scale)


def _scalar(value: float, like: Tensor) -> Tensor:
    # On the CPU whatever the device: addition takes such a number as an argument.  CUDA's addcmul
    # and addcdiv do not, and are only for tensors on the CPU.
    return torch.scalar_tensor(value, dtype=like.dtype, device="cpu")


@lru_cache(maxsize=1024)
def _bare(name: str, params: Params, constants: Constants, dtype: torch.dtype):
    """Torch's function, scale and shift, where these are all that small tensors run."""
    row = MAPS[name]
    if row.derived or constants.forward != constants.backward or not row.lean(dtype):
        return None
    line = line_of(name, params, *constants, dtype)
    # Whoever asks first may have modes of his own.
    with torch.inference_mode(False), _disable_current_modes():
        return row.plain, line.scale, torch.scalar_tensor(line.shift, dtype=dtype, device="cpu")


def product(grad: Tensor, slope: Tensor, factor: float) -> Tensor:
    """factor·slope·grad, in one pass on the CPU; the slope was made for it."""
    if _recorded(grad):
        return factor * (slope * grad)
    if slope.device.type != "cpu":
        return torch.mul(slope, grad, out=slope).mul_(factor)
    return torch.addcmul(_scalar(0.0, slope), slope, grad, value=factor, out=slope)


def _recorded(grad: Tensor) -> bool:
    """Whether somebody looks on: then nothing is overwritten."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or is_transformed(grad)


def _relu_of_sum(t: Tensor, number: float) -> Tensor:
    # One pass, where ATen has it.
    if t.device.type != "cpu":
        return (t + number).relu_()
    return _aten._add_relu.Scalar(t, number)


def _step(t: Tensor) -> Tensor:
    """1 where t > 0, else 0, without a comparison that a compiler could keep."""
    return torch.sign(torch.relu(t))


# Slopes from y


def _between_kinks(plain, kinks, forward=None, factor=1.0, **more) -> Map:
    """The row of a function that rises so fast between two kinks, and nowhere else."""

    def backward(grad, y, line, *_):
        return _aten.hardtanh_backward(grad, y, line.low, line.high).mul_(factor * line.slope)

    def stepped(y, line, *_):
        return _step(y - line.low) * _step(line.high - y) * factor

    return Map(plain, backward, forward, kinks=kinks, stepped=stepped, **more)


def _relu(grad, y, line):
    return _aten.threshold_backward(grad, y, line.low).mul_(line.slope)


def _leaky_relu(grad, saved, line, negative_slope):
    from_y = negative_slope >= 0
    if not from_y or _recorded(grad):
        # Has the sign of f, and so of x.
        t = saved - line.low if from_y else saved
        return _aten.leaky_relu_backward(grad, t, negative_slope, from_y).mul_(line.slope)
    # ELU's backward pass has a factor for either side, but a slope that goes with its t ≤ 0, which
    # is 0 here.
    t = _relu_of_sum(saved, -line.low)
    factors = 1.0 / line.slope, line.slope, negative_slope * line.slope
    return _aten.elu_backward.grad_input(grad, *factors, True, t, grad_input=t)


def _leaky_relu_stepped(saved, line, negative_slope):
    step = _step(saved - line.low if negative_slope >= 0 else saved)
    return negative_slope + (1.0 - negative_slope) * step


def _exponential(grad, saved, line, alpha, scale=1.0, input_scale=1.0):
    if alpha < 0:
        slope = scale * line.slope
        return _aten.elu_backward(grad, alpha, slope, input_scale, False, saved)
    # t = f/std has the sign of x, and f' = input_scale·std·(t + alpha·scale/std) where it is not
    # positive: b goes into ATen's three factors.
    t = saved - line.shift
    factors = (
        alpha / (line.std * line.slope),
        scale * line.slope,
        input_scale * line.std * line.slope,
    )
    if _recorded(grad):
        return _aten.elu_backward(grad, *factors, True, t)
    return _aten.elu_backward.grad_input(grad, *factors, True, t, grad_input=t)


def _parabola(grad, y, line, height, middle):
    # f' = height - (f - middle)², the slope of tanh and of the logistic function.
    centre = (middle - line.mean) / line.std
    t = y if centre == 0.0 else y - centre
    height, curve = line.slope * height, -line.slope * line.std**2
    if t.device.type == "cpu":
        slope = torch.addcmul(_scalar(height, t), t, t, value=curve)
    else:
        slope = affine(t.square(), curve, height)
    return product(grad, slope, 1.0)


def _softplus(grad, saved, line, beta, threshold):
    if not _is_softplus(beta, threshold):
        return _aten.softplus_backward(grad, saved, beta, threshold).mul_(line.slope)
    # f' = 1 - e^(-beta f), and 1 beyond the threshold, which other types round it to anyway.
    t = affine(saved, beta * line.std, beta * line.mean)
    if t.dtype == torch.float64:
        t = -torch_functional.threshold(-t, -threshold, -math.inf)
    return _saturating(grad, t, line)


def _saturating(grad, t, line):
    """Slope 1 - e^(-t), t ≥ 0."""
    if _recorded(grad) or t.dtype == torch.float64:
        return product(grad, torch.expm1(-t), -line.slope)
    # 2 - 1/sigmoid(t): ATen's sigmoid takes a third of the time of its exponential.
    return product(grad, t.sigmoid_().reciprocal_().sub_(2.0), -line.slope)


def _is_softplus(beta, threshold):
    # f falls where it becomes a line: at a low threshold by so much that f' is no function of f.
    return beta > 0 and threshold >= 20.0


def _logsigmoid(grad, y, line):
    # f' = 1 - e^f.
    return _saturating(grad, affine(y, -line.std, -line.mean), line)


def _softsign(grad, y, line):
    # f' = (1 - |f|)².
    t = affine(y, line.std, line.mean)
    if _recorded(grad):
        return product(grad, (t.abs() - 1.0).square(), line.slope)
    return product(grad, t.abs_().sub_(1.0).square_(), line.slope)


# Slopes from x


def _tanhshrink(grad, x, line):
    if _recorded(grad) or x.dtype == torch.float64:
        return product(grad, torch.tanh(x).square(), line.slope)
    # tanh x = 2 sigmoid(2x) - 1: ATen's sigmoid takes a tenth of the time of its tanh.
    return product(grad, affine_((2.0 * x).sigmoid_(), 2.0, -1.0).square_(), line.slope)


def _by_aten(backward):
    def run(grad, x, line, *params):
        return backward(grad, x, *params).mul_(line.slope)

    return run


def plain_map(plain: Callable[..., Tensor]) -> Map:
    """The row of a function that has none of its own: its slope is autograd's, by its input."""

    def backward(grad, x, line, *params):
        recorded = torch.is_grad_enabled()
        x = x if recorded and x.requires_grad else x.detach().requires_grad_()
        with torch.enable_grad():
            y = plain(x, *params)
        (dx,) = torch.autograd.grad(y, x, grad, create_graph=recorded)
        return dx * line.slope

    return Map(plain, backward, keeps=lambda *_: "input", derived=True)


def _mish(grad, x, line):
    if not torch.is_grad_enabled():
        return _aten.mish_backward(grad, x).mul_(line.slope)
    # ATen's backward pass has no derivative of its own.
    t = torch.tanh(torch_functional.softplus(x))
    return product(grad, t + x * torch.sigmoid(x) * (1.0 - t * t), line.slope)


def _silu(grad, x, line):
    if not torch.is_grad_enabled():
        return _aten.silu_backward(grad, x).mul_(line.slope)
    s = torch.sigmoid(x)
    return product(grad, s * (1.0 + x * (1.0 - s)), line.slope)


def _beyond(x, line, limit):
    return _step(x.abs() - limit)


# Torch's own have a float32 sixth in float64: forward on CUDA, and hardsigmoid's slope everywhere


def _hardsigmoid(x):
    return torch_functional.hardtanh(x + 3.0, 0.0, 6.0) / 6.0


def _hardsigmoid_forward(x, line):
    f = _hardsigmoid(x) if x.dtype == torch.float64 else torch_functional.hardsigmoid(x)
    return affine_(f, line.scale, line.shift)


def _hardswish(x):
    return x * _hardsigmoid(x) if x.dtype == torch.float64 else torch_functional.hardswish(x)


# Forward passes that take one fewer than a function and a line do


def _relu_forward(x, line):
    # a max(x, 0) + c = max(ax + c, c).
    return affine(x, line.scale, line.shift).clamp_min_(line.shift)


def _softsign_forward(x, line):
    d = x.abs().add_(1.0)
    if x.device.type != "cpu":
        return affine_(torch.div(x, d, out=d), line.scale, line.shift)
    return torch.addcdiv(_scalar(line.shift, x), x, d, value=line.scale, out=d)


def _tanhshrink_forward(x, line):
    t = torch.tanh(x)
    return affine_(torch.sub(x, t, out=t), line.scale, line.shift)


_fn = torch_functional

MAPS = {
    "celu": Map(
        _fn.celu,
        lambda grad, saved, line, alpha: _exponential(grad, saved, line, alpha, 1.0, 1.0 / alpha),
        keeps=lambda alpha: "output" if alpha >= 0 else "input",
    ),
    "elu": Map(_fn.elu, _exponential, keeps=lambda alpha: "output" if alpha >= 0 else "input"),
    "gelu": Map(
        lambda x, approximate: _fn.gelu(x, approximate=approximate),
        lambda grad, x, line, approximate: _aten.gelu_backward(
            grad, x, approximate=approximate
        ).mul_(line.slope),
        keeps=lambda _: "input",
    ),
    "hardshrink": Map(
        _fn.hardshrink,
        _by_aten(_aten.hardshrink_backward),
        keeps=lambda _: "input",
        stepped=_beyond,
    ),
    "hardsigmoid": _between_kinks(
        _hardsigmoid,
        lambda: (0.0, 1.0),
        _hardsigmoid_forward,
        factor=1.0 / 6.0,
        lean=lambda _: False,
    ),
    "hardswish": Map(
        _hardswish,
        _by_aten(_aten.hardswish_backward),
        keeps=lambda: "input",
        lean=lambda dtype: dtype == torch.float32,
    ),
    "hardtanh": _between_kinks(_fn.hardtanh, lambda low, high: (low, high)),
    "identity": Map(
        lambda x: x,
        lambda grad, _, line: grad * line.slope,
        lambda x, line: affine(x, line.scale, line.shift),
        keeps=lambda: "nothing",
    ),
    "leaky_relu": Map(
        _fn.leaky_relu,
        _leaky_relu,
        keeps=lambda slope: "output" if slope >= 0 else "input",
        kinks=lambda _: (0.0, math.inf),
        stepped=_leaky_relu_stepped,
    ),
    "logsigmoid": Map(_fn.logsigmoid, _logsigmoid),
    "mish": Map(_fn.mish, _mish, keeps=lambda: "input"),
    "relu": Map(
        torch.relu,
        _relu,
        _relu_forward,
        kinks=lambda: (0.0, math.inf),
        stepped=lambda y, line: _step(y - line.low),
    ),
    "relu6": _between_kinks(_fn.relu6, lambda: (0.0, 6.0)),
    "selu": Map(_fn.selu, lambda *saved: _exponential(*saved, SELU_ALPHA, SELU_SCALE)),
    "sigmoid": Map(torch.sigmoid, lambda grad, y, line: _parabola(grad, y, line, 0.25, 0.5)),
    "silu": Map(_fn.silu, _silu, keeps=lambda: "input"),
    "softplus": Map(
        _fn.softplus,
        _softplus,
        keeps=lambda beta, threshold: "output" if _is_softplus(beta, threshold) else "input",
    ),
    "softshrink": Map(
        _fn.softshrink,
        _by_aten(_aten.softshrink_backward),
        keeps=lambda _: "input",
        stepped=_beyond,
    ),
    "softsign": Map(_fn.softsign, _softsign, _softsign_forward, lean=lambda _: False),
    "tanh": Map(torch.tanh, lambda grad, y, line: _parabola(grad, y, line, 1.0, 0.0)),
    "tanhshrink": Map(
        _fn.tanhshrink,
        _tanhshrink,
        _tanhshrink_forward,
        keeps=lambda: "input",
        lean=lambda _: False,
    ),
    "threshold": Map(
        _fn.threshold,
        lambda grad, x, line, limit, _: _aten.threshold_backward(grad, x, limit).mul_(line.slope),
        keeps=lambda *_: "input",
        stepped=lambda x, line, limit, _: _step(x - limit),
    ),
}
"""Every elementwise function without parameters to learn or numbers to draw."""
