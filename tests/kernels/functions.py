"""The activations in high precision, the cases that the tests go through, and what to allow."""

import mpmath
import torch
from mpmath import mp
from torch.nn import functional

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ALPHA, SCALE = (
    mpmath.mpf("1.6732632423543772848170429916717"),
    mpmath.mpf("1.0507009873554804934193349852946"),
)


def unit(dtype) -> float:
    """Half a unit in the last place of 1, the relative error of a rounding."""
    return torch.finfo(dtype).eps / 2


def stored_unit(dtype) -> float:
    """Relative error of a store: Triton's interpreter cuts to bfloat16 instead of rounding."""
    return unit(dtype) * (2 if dtype == torch.bfloat16 and not torch.cuda.is_available() else 1)


def scaled(w, over, groups, size):
    """A weight alone, scaled by the kernels, and its norms."""
    from normprop.kernels import weight

    (value,), _, kept = forward([weight.Layer(over, size, groups)], [w], [None])
    return value, kept


def projected(w, kept, g, over, groups, size):
    """The gradient of that."""
    from normprop.kernels import weight

    layer = weight.Layer(over, size, groups)
    return backward([layer], [w], kept, [g], [None])[0][0]


def forward(layers, weights, biases):
    """What the kernels make of several, and the norms."""
    from normprop.kernels import weight

    return weight.batch(layers, weights, biases).forward(weights, biases)


def backward(layers, weights, kept, grads, bias_grads):
    """The gradients of that."""
    from normprop.kernels import weight

    alike = weight.batch(layers, weights, (None,) * len(layers))
    return alike.backward(weights, kept, grads, bias_grads)


def compute(dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _logistic(x):
    return 1 / (1 + mp.exp(-x))


def _expm1(x):
    return mp.expm1(x)


def _softplus(x):
    return mp.log1p(mp.exp(x))


# name: (parameters, value in mpmath, torch's function, kinks).  Kinks are numbers of every type.
CASES = {
    # torch's celu takes 1/alpha in float32.
    "celu": (
        (0.5,),
        lambda x, a: x if x > 0 else a * _expm1(x / a),
        lambda x, a: functional.celu(x, a),
        (0,),
    ),
    "elu": (
        (0.7,),
        lambda x, a: x if x > 0 else a * _expm1(x),
        lambda x, a: functional.elu(x, a),
        (0,),
    ),
    "gelu": ((), lambda x: x * mp.ncdf(x), functional.gelu, ()),
    "gelu_tanh": (
        (),
        lambda x: x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mpmath.mpf("0.044715") * x**3))),
        lambda x: functional.gelu(x, approximate="tanh"),
        (),
    ),
    "hardshrink": (
        (0.25,),
        lambda x, a: x if abs(x) > a else 0,
        lambda x, a: functional.hardshrink(x, a),
        (-0.25, 0.25),
    ),
    "hardsigmoid": ((), lambda x: min(max(x / 6 + 0.5, 0), 1), functional.hardsigmoid, (-3, 3)),
    "hardswish": ((), lambda x: x * min(max(x / 6 + 0.5, 0), 1), functional.hardswish, (-3, 3)),
    "hardtanh": (
        (-0.75, 1.25),
        lambda x, low, high: min(max(x, low), high),
        lambda x, low, high: functional.hardtanh(x, low, high),
        (-0.75, 1.25),
    ),
    "identity": ((), lambda x: x, lambda x: x * 1.0, ()),
    "leaky_relu": (
        (0.1,),
        lambda x, a: x if x > 0 else a * x,
        lambda x, a: functional.leaky_relu(x, a),
        (0,),
    ),
    "logsigmoid": ((), lambda x: -_softplus(-x), functional.logsigmoid, ()),
    "mish": ((), lambda x: x * mp.tanh(_softplus(x)), functional.mish, ()),
    "prelu": (
        (0.3,),
        lambda x, a: x if x > 0 else a * x,
        lambda x, a: functional.leaky_relu(x, a),
        (0,),
    ),
    "relu": ((), lambda x: max(x, 0), torch.relu, (0,)),
    "relu6": ((), lambda x: min(max(x, 0), 6), functional.relu6, (0, 6)),
    "rrelu": (
        (0.1, 0.3),
        lambda x, low, high: x if x > 0 else (mpmath.mpf(low) + mpmath.mpf(high)) / 2 * x,
        lambda x, low, high: functional.rrelu(x, low, high),
        (0,),
    ),
    "selu": (
        (),
        lambda x: SCALE * (x if x > 0 else ALPHA * _expm1(x)),
        functional.selu,
        (0,),
    ),
    "sigmoid": ((), _logistic, torch.sigmoid, ()),
    "silu": ((), lambda x: x * _logistic(x), functional.silu, ()),
    "softplus": (
        (1.7, 20.0),
        lambda x, beta, at: x if beta * x > at else _softplus(beta * x) / beta,
        lambda x, beta, at: functional.softplus(x, beta, at),
        (),
    ),
    "softshrink": (
        (0.25,),
        lambda x, a: x - a if x > a else x + a if x < -a else 0,
        lambda x, a: functional.softshrink(x, a),
        (-0.25, 0.25),
    ),
    "softsign": ((), lambda x: x / (1 + abs(x)), functional.softsign, ()),
    "tanh": ((), mp.tanh, torch.tanh, ()),
    "tanhshrink": ((), lambda x: x - mp.tanh(x), functional.tanhshrink, ()),
    "threshold": (
        (0.25, -0.4),
        lambda x, at, value: x if x > at else value,
        lambda x, at, value: functional.threshold(x, at, value),
        (0.25,),
    ),
}

# How fast f' changes with f, where it is read from the output: a Lipschitz constant.
READ = {
    "celu": 2.0, "elu": 1.0, "hardsigmoid": 0.0, "hardtanh": 0.0, "leaky_relu": 0.0,
    "logsigmoid": 1.0, "relu": 0.0, "relu6": 0.0, "selu": 1.0, "sigmoid": 1.0, "softplus": 1.7,
    "softsign": 2.0, "tanh": 2.0,
}  # fmt: skip


def points(name: str) -> list[float]:
    """Both tails, near 0 and near the kinks, on neither of which a derivative is asked for."""
    kinks = CASES[name][3]
    # Not 0: softsign has no second derivative there, which the numerical derivative would use.
    values = [s * v for s in (-1, 1) for v in (1e-9, 1e-4, 0.11, 0.26, 0.9, 2.3, 4.7, 9.1, 31, 700)]
    values += [k + d for k in kinks for d in (-1e-3, 1e-3)]
    return [v for v in values if all(v != k for k in kinks)]


def exact(name: str, xs: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and slope, from 50 digits."""
    params, function, _, _ = CASES[name]
    params = [mpmath.mpf(p) for p in params]
    value, slope = [], []
    with mp.workdps(50):
        for x in map(mpmath.mpf, xs):
            value.append(float(function(x, *params)))
            # The step is far below the distance of any point to a kink.
            step = mpmath.mpf(10) ** -18
            rise = function(x + step, *params) - function(x - step, *params)
            slope.append(float(rise / (2 * step)))
    return torch.tensor(value, dtype=torch.float64), torch.tensor(slope, dtype=torch.float64)


def rounding(x: torch.Tensor, dtype) -> torch.Tensor:
    """What sixteen roundings of numbers up to 1 + |x| come to, in the type of computation.

    No function takes more than sixteen operations whose errors reach its value; what its series
    leave out is less than one of them.  The exponential's argument z is rounded, but z·exp(-z) < 1.
    """
    return 16 * unit(compute(dtype)) * (1 + x.abs())


def smallest(dtype) -> float:
    """What is lost below the normal numbers of the type."""
    info = torch.finfo(dtype)
    return info.smallest_normal * info.eps
