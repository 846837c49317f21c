"""Reference figures to at least 30 digits, computed from the definitions with mpmath.

Nothing here comes from the package under test: scalar figures are integrals of their definition,
figures of windows and weights come from enumeration. Every input of a layer has independent
entries x ~ N(m, s²), and the gradient dy of its output has independent entries dy ~ N(0, 1) that
are independent of x. The forward figures are the mean and the standard deviation of an entry of
the output, the backward figure is the root mean square of an entry of the input's gradient.

Floats are taken as the binary numbers they are. Results are mpf values of about 60 digits; do
arithmetic on them inside `mp.workdps`, or with `close`, so that they are not rounded to doubles.
Errors are below 1e-30·max(1, |figure|); no relative accuracy is promised for a tiny figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import product
from operator import index
from typing import Any

from mpmath import mp, mpf

DIGITS = 60
MORE_DIGITS = 100

Number = float | mpf
Figures = tuple[mpf, mpf, mpf]
Moments = tuple[mpf, mpf]
Expectation = Callable[[Callable[[mpf, mpf], mpf]], mpf]

# A stretch of the real line: break points of the quadrature, and the z at which the weight is 1.
Region = tuple[list[mpf], mpf]


def close(value: float, reference: mpf, error: float) -> bool:
    """Whether |value − reference| ≤ error, in exact arithmetic for all practical purposes."""
    with mp.workdps(MORE_DIGITS):
        return bool(abs(_exact(value) - reference) <= _exact(error))


def agrees_to_1e13(value: float, reference: mpf) -> bool:
    """Whether |value − reference| ≤ 1e-13·max(|reference|, 1e-3)."""
    with mp.workdps(MORE_DIGITS):
        return close(value, reference, mpf("1e-13") * max(abs(reference), mpf("1e-3")))


@cache
def elementwise(name: str, m: Number, s: Number) -> Figures:
    """(μ, σ_f, σ_b) of relu, sigmoid or tanh.

    μ = E f(x), σ_f² = E (f(x) − μ)², σ_b² = E f'(x)².
    """
    with mp.workdps(_digits(m, s)):
        return _elementwise(name, _exact(m), _exact(s))


def maximum(n: int, m: Number, s: Number) -> Moments:
    """(mean, standard deviation) of the maximum of n independent N(m, s²).

    The maximum is m + s·M, where M, the maximum of n standard normal variables, has the density
    n φ(z) Φ(z)^(n−1).
    """
    mean, std = _standard_maximum(index(n))
    with mp.workdps(MORE_DIGITS):
        return _exact(m) + _exact(s) * mean, _exact(s) * std


@cache
def maximum_of(name: str, n: int, m: Number, s: Number) -> Moments:
    """(mean, standard deviation) of the maximum of f(x₁), …, f(xₙ), for relu, sigmoid or tanh.

    As f does not decrease, the maximum is f(m + s·M) with M of density n φ(z) Φ(z)^(n−1).
    """
    with mp.workdps(_digits(m, s)):
        return _moments(_expectation(name, index(n), _exact(m), _exact(s)))


@cache
def max_pool(window: tuple[int, ...], stride: tuple[int, ...], m: Number, s: Number) -> Figures:
    """(μ, σ_f, σ_b) of max pooling away from the borders.

    Each output is the maximum of its n inputs. Its gradient reaches one of these, each with
    probability 1/n, so an input that feeds c outputs has E dx² = c/n. σ_b² is the mean of c/n
    over the positions of one stride period, c being counted.
    """
    n = math.prod(window)
    counts = dict.fromkeys(_period(stride), 0)
    for position, _ in _connections(window, stride, (1,) * len(window)):
        counts[position] += 1
    mean, std = maximum(n, m, s)
    return mean, std, _root(Fraction(sum(counts.values()), len(counts) * n))


@cache
def avg_pool(
    window: tuple[int, ...],
    stride: tuple[int, ...],
    m: Number,
    s: Number,
    divisor: int | None = None,
) -> Figures:
    """(μ, σ_f, σ_b) of average pooling away from the borders.

    Each output is Σ w x with w = 1/n, or 1/divisor, at each of the n inputs of its window:
    μ = m Σ w and σ_f² = s² Σ w². An input has E dx² = Σ w² over the outputs it feeds. σ_b² is the
    mean of that over the positions of one stride period, the outputs being enumerated.
    """
    taps = list(product(*map(range, window)))
    weight = 1 / Fraction(len(taps) if divisor is None else divisor)
    squares = dict.fromkeys(_period(stride), Fraction(0))
    for position, _ in _connections(window, stride, (1,) * len(window)):
        squares[position] += weight**2
    with mp.workdps(MORE_DIGITS):
        mean = _exact(m) * _exact(sum(weight for _ in taps))
        std = _exact(s) * _root(sum(weight**2 for _ in taps))
    return mean, std, _root(sum(squares.values()) / len(squares))


@cache
def dropout(p: Number, m: Number, s: Number, inverted: bool = True) -> Figures:
    """(μ, σ_f, σ_b) of y = k x, where the mask k is 0 with probability p, else 1 or 1/(1 − p).

    μ = Σ P(k) k m, σ_f² = Σ P(k) (k² s² + (k m − μ)²) and σ_b² = Σ P(k) k².
    """
    with mp.workdps(MORE_DIGITS):
        p, m, s = _exact(p), _exact(m), _exact(s)
        mask = [(p, mpf(0))]
        if p < 1:
            mask.append((1 - p, 1 / (1 - p) if inverted else mpf(1)))
        mean = mp.fsum(chance * k * m for chance, k in mask)
        variance = mp.fsum(chance * ((k * s) ** 2 + (k * m - mean) ** 2) for chance, k in mask)
        return mean, mp.sqrt(variance), mp.sqrt(mp.fsum(chance * k**2 for chance, k in mask))


def linear(weight: Any, bias: Any, m: Number, s: Number) -> tuple[list[Moments], list[mpf]]:
    """The (mean, standard deviation) of every output, and σ_b of every input, of y = W x + b.

    Output o: μ = m Σᵢ W[o, i] + b[o], σ_f² = s² Σᵢ W[o, i]². Input i: σ_b² = Σₒ W[o, i]².
    """
    rows = _nested(weight)
    with mp.workdps(MORE_DIGITS):
        outputs = _affine_outputs(rows, bias, m, s)
        backward = [mp.sqrt(mp.fsum(w**2 for w in column)) for column in zip(*rows, strict=True)]
    return outputs, backward


def convolution(
    weight: Any,
    bias: Any,
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    m: Number,
    s: Number,
) -> tuple[list[Moments], list[mpf]]:
    """As `linear`, for every channel of a convolution away from the borders.

    The weight has PyTorch's shape (out, in/groups, k₁, …). Output channel o: μ = m Σ W[o] + b[o]
    and σ_f² = s² Σ W[o]². Input channel i: σ_b² is the mean, over the positions of one stride
    period, of Σ W² over all the weights that connect the position with some output.
    """
    kernels = _nested(weight)
    shape = _shape(kernels)[2:]
    stride, dilation = _per_dimension(stride, shape), _per_dimension(dilation, shape)
    outs, width = len(kernels), len(kernels[0])
    assert outs % groups == 0
    squares = [dict.fromkeys(_period(stride), mpf(0)) for _ in range(width * groups)]
    with mp.workdps(MORE_DIGITS):
        for position, tap in _connections(shape, stride, dilation):
            for out, channel in product(range(outs), range(width)):
                group = out // (outs // groups)
                squares[group * width + channel][position] += _at(kernels[out][channel], tap) ** 2
        outputs = _affine_outputs([list(_flat(kernel)) for kernel in kernels], bias, m, s)
        backward = [mp.sqrt(mp.fsum(sums.values()) / len(sums)) for sums in squares]
    return outputs, backward


def _elementwise(name: str, m: mpf, s: mpf, **quadrature: Any) -> Figures:
    """`elementwise` at the working precision in force."""
    expectation = _expectation(name, 1, m, s, **quadrature)
    mean, std = _moments(expectation)
    return mean, std, mp.sqrt(expectation(lambda _, slope: slope**2))


def _moments(expectation: Expectation) -> Moments:
    """The mean μ = E f and the standard deviation, the root of E (f − μ)²."""
    mean = expectation(lambda value, _: value)
    # The centred square keeps all digits where the variance is far smaller than μ².
    return mean, mp.sqrt(expectation(lambda value, _: (value - mean) ** 2))


@cache
def _standard_maximum(n: int) -> Moments:
    """`maximum` for N(0, 1)."""
    with mp.workdps(DIGITS):
        return _moments(_expectation("identity", n, mpf(0), mpf(1)))


def _expectation(
    name: str,
    n: int,
    m: mpf,
    s: mpf,
    refine: Number = 1,
    method: str = "gauss-legendre",
) -> Expectation:
    """The map g ↦ E g(f(m + s·M), f'(m + s·M)) for M of density n φ(z) Φ(z)^(n−1).

    Panels are `refine` times as wide as usual.
    """
    assert n >= 1
    assert s > 0
    function = _FUNCTIONS[name]

    # The expectations of one case share their nodes, and the nodes take most of the time.
    @cache
    def node(z: mpf, base: mpf) -> tuple[mpf, mpf, mpf]:
        density = n * mp.exp((base - z) * (base + z) / 2) / mp.sqrt(2 * mp.pi)
        if n > 1:
            density *= mp.ncdf(z) ** (n - 1)
        return *function(m + s * z), density

    def integral(g: Callable[[mpf, mpf], mpf], points: list[mpf], base: mpf) -> mpf:
        def integrand(z: mpf) -> mpf:
            value, slope, density = node(z, base)
            return g(value, slope) * density

        result, error = mp.quad(integrand, points, error=True, method=method, maxdegree=8)
        assert error <= mpf("1e-45") * max(1, abs(result)), f"not converged: {error}"
        return result * mp.exp(-(base**2) / 2)

    regions = _regions(name, n, m, s, mpf(refine))
    return lambda g: mp.fsum(integral(g, points, base) for points, base in regions)


def _regions(name: str, n: int, m: mpf, s: mpf, refine: mpf) -> list[Region]:
    """Stretches of z that cover all but a negligible part of the density, in suitable panels.

    Panels must be short where the integrand, continued to complex z, has a singularity nearby.
    """
    low, high = _support(n)
    step = refine * (3 if n == 1 else mpf(3) / 2 if n < 10 else mpf(1))
    root = -m / s
    if name == "relu":
        # The kink is a break point. If it lies far out, the weight on its right is taken
        # relative to the weight at the kink, as an absolute error would spoil the tiny result.
        base = max(root, mpf(0))
        end = mp.sqrt(base**2 + high**2)
        right = _panels(max(root, low), end, lambda _: min(step, refine * 16 / max(base, 1)))
        left = _panels(low, min(root, high), lambda _: step)
        return [(left, mpf(0)), (right, base)]
    # The poles next to the real line: m + s z = ±iπ for sigmoid, ±iπ/2 for tanh.
    pole = {"identity": mp.inf, "sigmoid": mp.pi / s, "tanh": mp.pi / 2 / s}[name]
    points = _panels(low, high, lambda z: min(step, refine * (pole + abs(z - root) / 2)))
    return [(points, mpf(0))]


def _panels(low: mpf, high: mpf, width: Callable[[mpf], mpf]) -> list[mpf]:
    """Break points from low to high, `width(z)` apart; none if there is nothing between them."""
    points = [low]
    while points[-1] < high:
        points.append(min(high, points[-1] + width(points[-1])))
    return points


def _support(n: int) -> Moments:
    """Bounds of z outside which n φ(z) Φ(z)^(n−1) is negligible at the working precision."""
    cut = -(mp.dps + 15) * math.log(10)

    def log_density(z: float) -> float:
        log_cdf = math.log(math.erfc(-z / math.sqrt(2)) / 2)
        return math.log(n) - z * z / 2 + (n - 1) * log_cdf

    high = math.sqrt(2 * (math.log(n) - cut))
    low = -math.sqrt(-2 * cut)
    while log_density(low + 0.25) < cut:
        low += 0.25
    return mpf(low), mpf(high)


def _identity(x: mpf) -> tuple[mpf, mpf]:
    return x, mpf(1)


def _relu(x: mpf) -> tuple[mpf, mpf]:
    return (x, mpf(1)) if x > 0 else (mpf(0), mpf(0))


def _sigmoid(x: mpf) -> tuple[mpf, mpf]:
    """f = 1/(1 + e^−x) and f' = e^−|x|/(1 + e^−|x|)², without cancellation."""
    small = mp.exp(-abs(x))
    return (1 if x > 0 else small) / (1 + small), small / (1 + small) ** 2


def _tanh(x: mpf) -> tuple[mpf, mpf]:
    """f = (e^x − e^−x)/(e^x + e^−x) and f' = 4/(e^x + e^−x)², without cancellation in f'."""
    grow = mp.exp(x)
    decay = 1 / grow
    return (grow - decay) / (grow + decay), 4 / (grow + decay) ** 2


_FUNCTIONS = {"identity": _identity, "relu": _relu, "sigmoid": _sigmoid, "tanh": _tanh}


def _digits(m: Number, s: Number) -> int:
    """The working precision, in decimal digits.

    One of two, as quadrature nodes are kept for each precision. A saturated function at a tiny s
    has a variance that loses the more digits; 60 leave 40 for |m| ≤ 10 and s ≥ 1e-3.
    """
    return DIGITS if abs(m) <= 10 and 1e-3 <= s <= 1e3 else MORE_DIGITS


def _exact(value: Any) -> mpf:
    """The number itself, whichever type holds it."""
    if isinstance(value, mpf):
        return value
    if isinstance(value, Fraction):
        return mpf(value.numerator) / value.denominator
    return mpf(float(value))


def _root(value: Fraction) -> mpf:
    with mp.workdps(MORE_DIGITS):
        return mp.sqrt(_exact(Fraction(value)))


def _period(stride: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The positions of the input within one stride period."""
    return product(*map(range, stride))


def _connections(
    kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every (position, tap) by which an input within one stride period feeds an output.

    Output o reads input o·t + tap·d. The region of inputs is one period that starts at a multiple
    of the stride t far enough from 0 that outputs from 0 on are all that reach it.
    """
    starts = [-(-(k - 1) * d // t) * t for k, t, d in zip(kernel, stride, dilation, strict=True)]
    outputs = product(*(range(r // t + 1) for r, t in zip(starts, stride, strict=True)))
    for output in outputs:
        for tap in product(*map(range, kernel)):
            place = zip(output, stride, tap, dilation, starts, strict=True)
            position = tuple(o * t + j * d - r for o, t, j, d, r in place)
            if all(0 <= at < t for at, t in zip(position, stride, strict=True)):
                yield position, tap


def _affine_outputs(rows: list[list[mpf]], bias: Any, m: Number, s: Number) -> list[Moments]:
    """(m Σ w + b, s (Σ w²)^½) for every row of weights."""
    biases = [mpf(0)] * len(rows) if bias is None else _nested(bias)
    return [
        (_exact(m) * mp.fsum(row) + b, _exact(s) * mp.sqrt(mp.fsum(w**2 for w in row)))
        for row, b in zip(rows, biases, strict=True)
    ]


def _nested(values: Any) -> Any:
    """Nested lists of mpf from nested sequences or from an array of whichever library."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    return [_nested(v) for v in values] if isinstance(values, list | tuple) else _exact(values)


def _shape(values: Any) -> tuple[int, ...]:
    return (len(values), *_shape(values[0])) if isinstance(values, list) else ()


def _flat(values: Any) -> Iterator[mpf]:
    if isinstance(values, list):
        for v in values:
            yield from _flat(v)
    else:
        yield values


def _at(values: Any, where: tuple[int, ...]) -> mpf:
    for i in where:
        values = values[i]
    return values


def _per_dimension(value: int | Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    return (value,) * len(shape) if isinstance(value, int) else tuple(value)
