# ruff: noqa: D103 - a function bears the name of what it computes; the module says the rest
r"""Scalar functions for the kernels: f and f', and f' from f, a few instructions on registers.

``name`` gives f(x) and f'(x), of which the compiler drops what is not used; ``name_read`` gives f'
at a known f, beside a kink told by ``above`` and ``below``, which say on which side of the lower
and the upper kink x lies.  Every function takes a block in float32 or float64 and two parameters of
its type, ``A`` and ``B``, of which it uses what it needs.  Numbers that stand here are compile-time
floats, which take the type of the block they meet; those of a call come by :func:`number`.  Nothing
of a float64 is lost.

``tl.exp`` of float32 is 2^(x log₂e) in hardware, off by about |x| + 4 halves of a unit in
the last place, so it is called for x ≤ 0 alone, where the value falls faster than that error
grows: what the functions below return is within a few units in the last place of the larger
of \|f\| and \|x\|, and never overflows on the way.  Neither ``log1p``, ``expm1`` nor
``tanh`` exists without a device library, which Triton's interpreter does not have; they are
made here from series whose remainders are bounded:

* log1p u = 2 artanh s with s = u/(2 + u).  For 0 ≤ u ≤ 1, s² ≤ 1/9, and the series
  s + s³/3 + s⁵/5 + … stops with an error of at most 9^(-n)/(2n + 1) of s after n terms.
* expm1 x is Taylor's series for -½ ≤ x ≤ 0, whose error after n terms is at most
  2^(-n)/(n + 1)! of x, and exp(x) - 1 below, where nothing cancels.
* tanh \|x\| = -e/(2 + e) with e = expm1(-2\|x\|), which has no cancellation anywhere.

At a kink the derivative is torch's.  NaN stays NaN.
"""

import struct
from collections.abc import Callable

import triton
import triton.language as tl

# What a float32 and a float64 need: 9^(-8)/17 < 2^-29, 9^(-17)/35 < 2^-58;
# 2^(-8)/9! < 2^-26, 2^(-14)/15! < 2^-54.
_SERIES = {"log1p": (8, 17), "expm1": (8, 14)}
_LOG1P_SINGLE = tl.constexpr(_SERIES["log1p"][0])
_LOG1P_DOUBLE = tl.constexpr(_SERIES["log1p"][1])
_EXPM1_SINGLE = tl.constexpr(_SERIES["expm1"][0])
_EXPM1_DOUBLE = tl.constexpr(_SERIES["expm1"][1])

_INV_SQRT2 = tl.constexpr(0.7071067811865475244)
_INV_SQRT_2PI = tl.constexpr(0.3989422804014326779)
_SQRT_8_OVER_PI = tl.constexpr(1.5957691216057307117)
_GELU_CUBE = tl.constexpr(0.044715)
_SELU_ALPHA = tl.constexpr(1.6732632423543772848170429916717)
_SELU_SCALE = tl.constexpr(1.0507009873554804934193349852946)


def kernel(function: Callable):
    """Under ``triton.jit``, not compiled anew for values of what is annotated as 64 bits."""
    whole = [name for name, kind in function.__annotations__.items() if kind is tl.int64]
    return triton.jit(do_not_specialize=whole)(function)


@triton.jit
def load(ptrs, mask):
    """A block in the type that it is computed in, float32 at least."""
    x = tl.load(ptrs, mask=mask, other=0.0)
    if x.dtype != tl.float64:
        x = x.to(tl.float32)
    return x


@triton.jit
def full(x, VALUE: tl.constexpr):
    """A block of one value, in the type of x.

    A comparison turns a constant into float32 first, unlike arithmetic and ``tl.where``.
    """
    return tl.full(x.shape, VALUE, x.dtype)


def bits(value: float) -> int:
    """A float64 as an int64, in which shape a kernel takes it: a float would come as a float32."""
    return struct.unpack("<q", struct.pack("<d", value))[0]


@triton.jit
def number(bits, dtype: tl.constexpr):
    """The number of these :func:`bits`, in the type that meets it."""
    return tl.cast(bits, tl.int64).to(tl.float64, bitcast=True).to(dtype)


# Elementary functions


@triton.jit
def log1p(u):
    """Logarithm of 1 + u for 0 ≤ u ≤ 1."""
    terms: tl.constexpr = _LOG1P_DOUBLE if u.dtype == tl.float64 else _LOG1P_SINGLE
    s = u / (2.0 + u)
    square = s * s
    series = full(square, 0.0)
    for k in tl.static_range(terms):
        series = series * square + 1.0 / (2 * (terms - 1 - k) + 1)
    return 2.0 * s * series


@triton.jit
def expm1(x):
    """exp(x) - 1 for x ≤ 0; there is no use for it above."""
    terms: tl.constexpr = _EXPM1_DOUBLE if x.dtype == tl.float64 else _EXPM1_SINGLE
    # The series is for the near side alone, and must not overflow on the far one.
    near = tl.where(x < -0.5, -0.5, x)
    series = full(near, 1.0)
    for k in tl.static_range(terms - 1):
        series = series * near * (1.0 / (terms - k)) + 1.0
    return tl.where(x < -0.5, tl.exp(x) - 1.0, near * series)


@triton.jit
def _tanh(x):
    e = expm1(-2.0 * tl.abs(x))
    t = -e / (2.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def _logistic(x):
    """1/(1 + exp(-x)) and 1/(1 + exp(x)), both to their last digits."""
    e = tl.exp(-tl.abs(x))
    large = 1.0 / (1.0 + e)
    small = e * large
    return tl.where(x < 0, small, large), tl.where(x < 0, large, small)


@triton.jit
def _density(x):
    """exp(-x²/2)/√(2π)."""
    return tl.exp(-0.5 * x * x) * _INV_SQRT_2PI


@triton.jit
def _positive(x):
    """The larger of x and 0; NaN stays, which tl.maximum does not promise."""
    return tl.where(x <= 0, 0.0, x)


@triton.jit
def _negative(x):
    return tl.where(x >= 0, 0.0, x)


# Piecewise linear


@triton.jit
def identity(x, A, B):
    return x, full(x, 1.0)


@triton.jit
def relu(x, A, B):
    return _positive(x), tl.where(x <= 0, 0.0, full(x, 1.0))


@triton.jit
def relu_read(f, above, below, A, B):
    return tl.where(above, full(f, 1.0), 0.0)


@triton.jit
def leaky_relu(x, A, B):
    return tl.where(x > 0, x, x * A), tl.where(x > 0, full(x, 1.0), A)


@triton.jit
def leaky_relu_read(f, above, below, A, B):
    return tl.where(above, full(f, 1.0), A)


@triton.jit
def hardtanh(x, A, B):
    inside = (x > A) & (x < B)
    return tl.where(x <= A, A, tl.where(x >= B, B, x)), tl.where(inside, full(x, 1.0), 0.0)


@triton.jit
def hardtanh_read(f, above, below, A, B):
    return tl.where(above & below, full(f, 1.0), 0.0)


@triton.jit
def hardsigmoid(x, A, B):
    value = tl.where(x <= -3.0, 0.0, tl.where(x >= 3.0, 1.0, (x + 3.0) * (1.0 / 6.0)))
    return value, tl.where((x > -3.0) & (x < 3.0), full(x, 1.0 / 6.0), 0.0)


@triton.jit
def hardsigmoid_read(f, above, below, A, B):
    return tl.where(above & below, full(f, 1.0 / 6.0), 0.0)


@triton.jit
def hardswish(x, A, B):
    value = tl.where(x <= -3.0, 0.0, tl.where(x >= 3.0, x, x * ((x + 3.0) * (1.0 / 6.0))))
    return value, tl.where(x <= -3.0, 0.0, tl.where(x >= 3.0, 1.0, x * (1.0 / 3.0) + 0.5))


@triton.jit
def _beyond(x, A):
    return tl.where(tl.abs(x) <= A, 0.0, full(x, 1.0))


@triton.jit
def hardshrink(x, A, B):
    return tl.where(tl.abs(x) <= A, 0.0, x), _beyond(x, A)


@triton.jit
def softshrink(x, A, B):
    return tl.where(tl.abs(x) <= A, 0.0, tl.where(x < 0, x + A, x - A)), _beyond(x, A)


@triton.jit
def threshold(x, A, B):
    return tl.where(x <= A, B, x), tl.where(x <= A, 0.0, full(x, 1.0))


# Exponential on one side


@triton.jit
def elu(x, A, B):
    value = tl.where(x > 0, x, expm1(_negative(x)) * A)
    return value, tl.where(x > 0, full(x, 1.0), tl.exp(_negative(x)) * A)


@triton.jit
def elu_read(f, above, below, A, B):
    return tl.where(above, full(f, 1.0), _positive(f + A))


@triton.jit
def celu(x, A, B):
    value = tl.where(x > 0, x, expm1(_negative(x) * (1.0 / A)) * A)
    return value, tl.where(x > 0, full(x, 1.0), tl.exp(_negative(x) * (1.0 / A)))


@triton.jit
def celu_read(f, above, below, A, B):
    return tl.where(f > 0, full(f, 1.0), _positive(1.0 + f * (1.0 / A)))


@triton.jit
def selu(x, A, B):
    value = tl.where(x > 0, x * _SELU_SCALE, expm1(_negative(x)) * (_SELU_ALPHA * _SELU_SCALE))
    slope = tl.where(x > 0, _SELU_SCALE, tl.exp(_negative(x)) * (_SELU_ALPHA * _SELU_SCALE))
    return value, slope


@triton.jit
def selu_read(f, above, below, A, B):
    return tl.where(above, _SELU_SCALE, _positive(f + _SELU_ALPHA * _SELU_SCALE))


# Smooth


@triton.jit
def sigmoid(x, A, B):
    value, rest = _logistic(x)
    return value, value * rest


@triton.jit
def sigmoid_read(f, above, below, A, B):
    # A rounded output may lie outside the range of f by half a unit.
    return _positive(f * (1.0 - f))


@triton.jit
def tanh(x, A, B):
    value, rest = _logistic(2.0 * x)
    return _tanh(x), 4.0 * value * rest


@triton.jit
def tanh_read(f, above, below, A, B):
    return _positive((1.0 - f) * (1.0 + f))


@triton.jit
def gelu(x, A, B):
    gate = 0.5 + 0.5 * tl.erf(x * _INV_SQRT2)
    return x * gate, gate + x * _density(x)


@triton.jit
def gelu_tanh(x, A, B):
    # ½(1 + tanh u) is the logistic function of 2u.
    value, rest = _logistic((x + x * x * x * _GELU_CUBE) * _SQRT_8_OVER_PI)
    inner = (1.0 + x * x * (3.0 * _GELU_CUBE)) * _SQRT_8_OVER_PI
    return x * value, value + x * value * rest * inner


@triton.jit
def silu(x, A, B):
    value, rest = _logistic(x)
    return x * value, value * (1.0 + x * rest)


@triton.jit
def mish(x, A, B):
    """Of a gate tanh(softplus x).

    With w = eˣ it is n/(n + 2), n = w² + 2w, and its slope 4w(1 + w)/(n + 2)²; for x > 0 in powers
    of 1/w, which does not overflow.
    """
    e = tl.exp(-tl.abs(x))
    left = e * (e + 2.0)
    right = 1.0 + 2.0 * e
    gate = tl.where(x > 0, right / (right + 2.0 * e * e), left / (left + 2.0))
    width = tl.where(x > 0, right + 2.0 * e * e, left + 2.0)
    power = tl.where(x > 0, e * e, e)
    return x * gate, gate + x * (4.0 * power * (1.0 + e) / (width * width))


@triton.jit
def softplus(x, A, B):
    scaled = x * A
    value = (_positive(scaled) + log1p(tl.exp(-tl.abs(scaled)))) * (1.0 / A)
    slope, _ = _logistic(scaled)
    return tl.where(scaled > B, x, value), tl.where(scaled > B, 1.0, slope)


@triton.jit
def softplus_read(f, above, below, A, B):
    scaled = _positive(f * A)
    return tl.where(scaled > B, full(f, 1.0), -expm1(-scaled))


@triton.jit
def logsigmoid(x, A, B):
    _, rest = _logistic(x)
    return _negative(x) - log1p(tl.exp(-tl.abs(x))), rest


@triton.jit
def logsigmoid_read(f, above, below, A, B):
    return -expm1(_negative(f))


@triton.jit
def softsign(x, A, B):
    rest = 1.0 / (1.0 + tl.abs(x))
    return x / (1.0 + tl.abs(x)), rest * rest


@triton.jit
def softsign_read(f, above, below, A, B):
    rest = _positive(1.0 - tl.abs(f))
    return rest * rest


@triton.jit
def tanhshrink(x, A, B):
    t = _tanh(x)
    return x - t, t * t


INTERPRETED = not isinstance(identity, triton.JITFunction)
"""Whether triton was imported under TRITON_INTERPRET=1, and kernels run in its interpreter."""
