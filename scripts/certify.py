"""Enclose the standard constants in balls and write the digits that are proved.

    python scripts/certify.py            writes normprop/gaussian/certified.json
    python scripts/certify.py relu 9     prints the constants of ReLU and of the maximum of 9

Arithmetic and integrals are those of FLINT's ball arithmetic: every operation, and every integral
over a finite interval, returns a ball that contains the true value.  Functions are written here
from their definitions; nothing comes from the package.

The file has five parts.  A number is {"digits": a decimal, "radius": how far the true value may
be from it}, and x ~ N(0, 1) but for the third part:

    elementwise   {name: figures} of every function that has a name, with torch's default parameters
    modules       {expression: figures} of further modules of torch.nn; RReLU() draws its slopes
    wide          {name: {std: figures}} of functions of x ~ N(0, std²)
    maximum       {n: {mean, std}} of the largest of n independent x
    numbers       {name: number}: SELU's α and λ, which leave mean 0 and variance 1; -αλ, where
                  SELU saturates; the standard deviation of x given |x| < 2

    fwd_mean      E f(x)
    fwd_std       σ_f, the standard deviation of f(x)
    bwd_std       σ_b, the root mean square of f'(x)
    second_moment E f(x)²
    rms           its root
    chi           (std·σ_b/σ_f)²
    fwd_gain      1/σ_f
    bwd_gain      1/σ_b
    rms_gain      1/rms

What the balls do not know is the tail.  Every function here has |f(x)| ≤ G(1 + |x|) and
|f'(x)| ≤ G with G = 2.  For x = m + sz and |z| ≥ 1 the integrands f, f² and f'² are then at most
g z² with g = G²(1 + |m| + s)².  With ∫_L^∞ z²φ = Lφ(L) + Φ(-L) and Φ(-L) ≤ φ(L)/L,

    ∫_{|z|>L} g z² φ ≤ 2g (L + 1/L) φ(L),    6e-54 for N(0, 1) and L = 16,

which is added to the radius; for the largest of n, whose density is at most nφ, n times as much.
"""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from flint import acb, arb, ctx

TARGET = Path(__file__).resolve().parent.parent / "normprop" / "gaussian" / "certified.json"
PLACES = 40
"""Decimal places that are written; the radius is one unit of the last of them."""

WORKING_DIGITS = 60
TAIL_START = 16
SIZES = (2, 3, 4, 5, 6, 7, 8, 9, 16, 25, 27, 36, 49, 64, 81, 100, 125, 196)
WIDE = {"sigmoid": (2, 3)}

Map = Callable[[acb, bool], acb]
Piece = tuple[Map, Map]
"""f and f' on an interval, as functions that are analytic around it."""


def _line(slope, intercept=0) -> Piece:
    return (lambda z, _: _exact(slope) * z + _exact(intercept)), (lambda z, _: acb(_exact(slope)))


def _exact(number) -> arb:
    """An integer, or a decimal as a string, which arb encloses."""
    return arb(number)


def _sigmoid(z: acb) -> acb:
    return 1 / (1 + (-z).exp())


def _softplus(z: acb, analytic: bool) -> acb:
    return (1 + z.exp()).log(analytic=analytic)


def _normal_cdf(z: acb) -> acb:
    return (-z / acb(2).sqrt()).erfc() / 2


def _normal_pdf(z: acb) -> acb:
    return (-z * z / 2).exp() / (2 * acb.pi()).sqrt()


def _mish_gate(z: acb) -> acb:
    w = z.exp()
    return 1 - 2 / (w * w + 2 * w + 2)


def _mish_slope(z: acb) -> acb:
    w = z.exp()
    return _mish_gate(z) + 4 * z * w * (w + 1) / (w * w + 2 * w + 2) ** 2


def _exponential(alpha, scale) -> Piece:
    # Decimals are enclosed when they are used, at the precision that holds then.
    def factor() -> arb:
        return _exact(alpha) * _exact(scale)

    return (lambda z, _: factor() * (z.exp() - 1)), (lambda z, _: factor() * z.exp())


def _smooth(f: Callable[[acb], acb], slope: Callable[[acb], acb]) -> tuple:
    return (), [((lambda z, _: f(z)), (lambda z, _: slope(z)))]


SELU_ALPHA = "1.6732632423543772848170429916717"
SELU_SCALE = "1.0507009873554804934193349852946"

# Kinks from left to right, and the pieces between them, with torch's default parameters.
FUNCTIONS: dict[str, tuple[tuple, list[Piece]]] = {
    "celu": ((0,), [_exponential(1, 1), _line(1)]),
    "elu": ((0,), [_exponential(1, 1), _line(1)]),
    "gelu": _smooth(lambda z: z * _normal_cdf(z), lambda z: _normal_cdf(z) + z * _normal_pdf(z)),
    "hardshrink": (("-0.5", "0.5"), [_line(1), _line(0), _line(1)]),
    "hardsigmoid": (
        (-3, 3),
        [
            _line(0),
            ((lambda z, _: z / 6 + acb(1) / 2), (lambda z, _: acb(1) / 6)),
            _line(0, 1),
        ],
    ),
    "hardswish": (
        (-3, 3),
        [
            _line(0),
            ((lambda z, _: z * (z + 3) / 6), (lambda z, _: (2 * z + 3) / 6)),
            _line(1),
        ],
    ),
    "hardtanh": ((-1, 1), [_line(0, -1), _line(1), _line(0, 1)]),
    "leaky_relu": ((0,), [_line("0.01"), _line(1)]),
    "logsigmoid": (
        (),
        [((lambda z, analytic: -_softplus(-z, analytic)), (lambda z, _: _sigmoid(-z)))],
    ),
    "mish": _smooth(lambda z: z * _mish_gate(z), _mish_slope),
    "relu": ((0,), [_line(0), _line(1)]),
    "relu6": ((0, 6), [_line(0), _line(1), _line(0, 6)]),
    "selu": ((0,), [_exponential(SELU_ALPHA, SELU_SCALE), _line(SELU_SCALE)]),
    "sigmoid": _smooth(_sigmoid, lambda z: _sigmoid(z) * _sigmoid(-z)),
    "silu": _smooth(lambda z: z * _sigmoid(z), lambda z: _sigmoid(z) * (1 + z * _sigmoid(-z))),
    # Torch's turns into the straight line at 20.
    "softplus": ((20,), [(_softplus, lambda z, _: _sigmoid(z)), _line(1)]),
    "softshrink": (("-0.5", "0.5"), [_line(1, "0.5"), _line(0), _line(1, "-0.5")]),
    "softsign": (
        (0,),
        [
            ((lambda z, _: z / (1 - z)), (lambda z, _: 1 / (1 - z) ** 2)),
            ((lambda z, _: z / (1 + z)), (lambda z, _: 1 / (1 + z) ** 2)),
        ],
    ),
    "tanh": _smooth(lambda z: z.tanh(), lambda z: 1 / z.cosh() ** 2),
    "tanhshrink": _smooth(lambda z: z - z.tanh(), lambda z: z.tanh() ** 2),
}


def _gelu_tanh() -> tuple:
    # z σ(2u) with u = √(2/π)(z + 0.044715 z³).
    def rate() -> acb:
        return 2 * (2 / acb.pi()).sqrt()

    def argument(z: acb) -> acb:
        return rate() * (z + _exact("0.044715") * z * z * z)

    def slope(z: acb) -> acb:
        inner = rate() * (1 + 3 * _exact("0.044715") * z * z)
        gate, rest = _sigmoid(argument(z)), _sigmoid(-argument(z))
        return gate * (1 + z * rest * inner)

    return _smooth(lambda z: z * _sigmoid(argument(z)), slope)


def _leaky(slope: Callable[[], arb]) -> tuple:
    return (0,), [((lambda z, _: slope() * z), (lambda z, _: acb(slope()))), _line(1)]


# Its slope in evaluation is the middle of 1/8 and 1/3, which it draws from in training.
RRELU_MIDDLE, RRELU_WIDTH = (11, 48), (5, 24)

# Further modules, as one writes them; what is drawn adds a variance to the slope of the left piece.
MODULES: dict[str, tuple] = {
    "GELU(approximate='tanh')": _gelu_tanh(),
    "LeakyReLU(0.2)": ((0,), [_line("0.2"), _line(1)]),
    "RReLU()": _leaky(lambda: arb(RRELU_MIDDLE[0]) / RRELU_MIDDLE[1]),
    "RReLU().eval()": _leaky(lambda: arb(RRELU_MIDDLE[0]) / RRELU_MIDDLE[1]),
    "Threshold(0.1, 20)": (("0.1",), [_line(0, 20), _line(1)]),
}


def elementwise(name: str, std: int = 1) -> dict[str, arb]:
    """Balls around the figures of a function that has a name, at N(0, std²)."""
    return _all_figures(*figures(*FUNCTIONS[name], 0.0, float(std)), std)


def module(expression: str) -> dict[str, arb]:
    """Balls around the figures of a further module at N(0, 1)."""
    # A threshold may put out twenty where nothing else exceeds its input.
    mean, std, slope = figures(*MODULES[expression], growth=20)
    if expression == "RReLU()":
        # A slope of variance v adds v E x² and v P over x < 0.
        drawn = _square(arb(RRELU_WIDTH[0]) / RRELU_WIDTH[1]) / 12 / 2
        std, slope = (_square(std) + drawn).sqrt(), (_square(slope) + drawn).sqrt()
    return _all_figures(mean, std, slope, 1)


def _all_figures(mean: arb, std: arb, slope: arb, width: int) -> dict[str, arb]:
    second = _square(mean) + _square(std)
    return {
        "bwd_gain": 1 / slope,
        "bwd_std": slope,
        "chi": _square(width * slope / std),
        "fwd_gain": 1 / std,
        "fwd_mean": mean,
        "fwd_std": std,
        "rms": second.sqrt(),
        "rms_gain": 1 / second.sqrt(),
        "second_moment": second,
    }


def numbers() -> dict[str, arb]:
    r"""Balls around constants that are no figures of a function.

    SELU has mean 0 for :math:`\alpha = -E x^+/E(e^x - 1)1_{x<0}` and then variance 1 for
    :math:`\lambda^{-2} = E(x^+)^2 + \alpha^2 E(e^x - 1)^2 1_{x<0}`, where
    :math:`E\,e^{kx} 1_{x<0} = e^{k^2/2}\Phi(-k)`.  Integrating by parts,
    :math:`E x^2 1_{|x|<2} = P(|x| < 2) - 4\varphi(2)`.
    """
    half = arb(1) / 2
    one, two = (((arb(k * k) / 2).exp() * _normal_cdf(acb(-k)).real) for k in (1, 2))
    alpha = 1 / ((2 * arb.pi()).sqrt() * (half - one))
    scale = 1 / (half + _square(alpha) * (two - 2 * one + half)).sqrt()
    inside = 1 - 2 * _normal_cdf(acb(-2)).real
    return {
        "selu_alpha": alpha,
        "selu_floor": -alpha * scale,
        "selu_lambda": scale,
        "truncated_normal_std": (1 - 4 * _normal_pdf(acb(2)).real / inside).sqrt(),
    }


def figures(
    kinks: Sequence, pieces: Sequence[Piece], mean: float = 0.0, std: float = 1.0, growth: int = 2
) -> tuple[arb, arb, arb]:
    """Balls around mean, standard deviation and root mean square slope at N(mean, std²).

    Args:
        kinks: from left to right.
        pieces: f and f' between them.
        mean: m, taken for the binary number that it is.
        std: s, likewise.
        growth: G with |f(x)| ≤ G(1 + |x|) and |f'(x)| ≤ G.
    """
    m, s = arb(mean), arb(std)
    inside = [(_exact(kink) - m) / s for kink in kinks]
    ends = [_clipped(end) for end in (-TAIL_START, *inside, TAIL_START)]
    tail = _tail(growth * growth * (1 + abs(m) + s) ** 2)

    def expectation(integrand: Callable[[Piece, acb, bool], acb]) -> arb:
        total = arb(0)
        for piece, (start, end) in zip(pieces, pairwise(ends), strict=True):
            # Pieces that lie beyond the tail's start have been clipped to nothing.
            if start == end:
                continue
            total += _integral(
                lambda z, analytic, piece=piece: (
                    integrand(piece, m + s * z, analytic) * _normal_pdf(z)
                ),
                start,
                end,
            )
        return total + tail

    first = expectation(lambda piece, x, analytic: piece[0](x, analytic))
    middle = first.mid()
    second = expectation(lambda piece, x, analytic: _square(piece[0](x, analytic) - middle))
    slope = expectation(lambda piece, x, analytic: _square(piece[1](x, analytic)))
    return first, (second - _square(first - middle)).sqrt(), slope.sqrt()


def _square(value):
    # Not value ** 2, which is no number where a ball holds 0.
    return value * value


def _clipped(end) -> arb:
    return arb(end).max(arb(-TAIL_START)).min(arb(TAIL_START))


def maximum(n: int) -> dict[str, arb]:
    """Balls around mean and standard deviation of the largest of n draws of N(0, 1)."""

    def expectation(power: int) -> arb:
        integral = _integral(
            lambda z, _: n * z**power * _normal_pdf(z) * _normal_cdf(z) ** (n - 1),
            arb(-TAIL_START),
            arb(TAIL_START),
        )
        return integral + _tail(4 * n)

    mean = expectation(1)
    return {"mean": mean, "std": (expectation(2) - mean * mean).sqrt()}


def _integral(integrand: Map, start: arb, end: arb) -> arb:
    tolerance = arb(10) ** -(PLACES + 10)
    return acb.integral(integrand, acb(start), acb(end), abs_tol=tolerance, rel_tol=tolerance).real


def _tail(size) -> arb:
    """The ball around 0 that holds what ``size`` z² φ has beyond TAIL_START."""
    start = arb(TAIL_START)
    bound = 2 * size * (start + 1 / start) * _normal_pdf(acb(start)).real
    return arb(0, bound.upper())


def proved(ball: arb) -> dict[str, str]:
    """A decimal number and the radius within which the ball lies around it.

    Raises:
        ArithmeticError: the ball is too wide.
    """
    scaled = ball * arb(10**PLACES)
    digits = int(scaled.mid().floor().unique_fmpz())
    # The nearer of the two neighbours, and the ball has to lie within one unit of it.
    digits += bool(scaled.mid() - digits > arb("0.5"))
    if not abs(scaled - digits) < 1:
        raise ArithmeticError(f"{PLACES} places must be proved; the ball was {ball}")
    sign, whole = "-" if digits < 0 else "", str(abs(digits)).rjust(PLACES + 1, "0")
    return {
        "digits": f"{sign}{whole[:-PLACES]}.{whole[-PLACES:]}",
        "radius": f"1e-{PLACES}",
    }


def certificates(names=tuple(FUNCTIONS), sizes=SIZES) -> dict:
    """The proved digits of functions and maxima, for JSON."""
    with _precision():
        return {
            "elementwise": {name: _written(elementwise(name)) for name in names},
            "maximum": {str(n): _written(maximum(n)) for n in sizes},
        }


def everything() -> dict:
    """All that the file holds."""
    with _precision():
        others = {
            "modules": {name: _written(module(name)) for name in MODULES},
            "numbers": _written(numbers()),
            "wide": {
                name: {str(std): _written(elementwise(name, std)) for std in stds}
                for name, stds in WIDE.items()
            },
        }
    return certificates() | others


@contextmanager
def _precision():
    before, ctx.dps = ctx.dps, WORKING_DIGITS
    try:
        yield
    finally:
        ctx.dps = before


def _written(balls: dict[str, arb]) -> dict[str, dict[str, str]]:
    return {figure: proved(ball) for figure, ball in balls.items()}


def text(found: dict) -> str:
    """The file's text: the same bytes for the same digits."""
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    asked = sys.argv[1:]
    if asked:
        numbers = [int(word) for word in asked if word.isdigit()]
        print(text(certificates([word for word in asked if not word.isdigit()], numbers)), end="")
    else:
        TARGET.write_text(text(everything()), encoding="utf-8")
