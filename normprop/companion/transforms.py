r"""Activation transforms of deep kernel shaping (DKS) and of tailored transforms (TAT).

Both replace an activation f by :math:`\hat f(z) = \gamma\,(f(\alpha z + \beta) + \delta)`, so that
the maps of a whole network are what they ask for.  With z ~ N(0, 1) a layer has

.. math::
    Q(1) = E \hat f^2, \quad C(0) = (E \hat f)^2, \quad C'(1) = E \hat f'^2, \quad
    C''(1) = E \hat f''^2.

- DKS (Martens et al. 2021): :math:`Q(1) = Q'(1) = 1`, :math:`C(0) = 0`, and C'(1) = ζ for the
  network.  That is the condition of :class:`normprop.nn.Calibrated`, with ζ in the place of
  ``growth``, and one more, :math:`Q'(1) = 1`.
- TAT (Zhang, Botev, Martens 2022): :math:`Q(1) = Q'(1) = C'(1) = 1`, and C''(1) = τ for the
  network; a leaky ReLU has its slope alone, and gets C(0) = η for the network.

A network is given as the shares of its layers: the k-th maps a correlation c to
:math:`(1 - s_k)\,c + s_k\,C(c)`, which is C(c) on a chain, where all shares are 1.  The conditions
are solved with this package's own integrals.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from normprop.gaussian.elementwise import elementwise
from normprop.gaussian.law import Normal
from normprop.gaussian.maps import chi, hermite_energies, scale_slope
from normprop.rules import function_of

SLOPE, CURVATURE, FLOOR = 1.5, 0.3, 0.9
"""ζ, τ and η, at the values that the two papers use throughout."""
# Conditions of order 1 are met to this, and a Newton step is measured over that.
_MET, _DIFFERENCE, _STEPS = 1e-10, 1e-6, 60
_STARTS = [(b * side, k) for k in (1.0, 2.0) for b in (0.5, 1.0, 0.25, 2.0) for side in (1, -1)]
"""β, and α in units of the root of what is asked for, to start from."""
_STEEPEST = 2.0
"""Of the transformed function: above it, say the authors of TAT, second moments are unstable."""


@dataclass(frozen=True)
class Transform:
    """α, β, γ and δ of a transformed activation; ``slope`` is that of a leaky ReLU."""

    input_scale: float = 1.0
    input_shift: float = 0.0
    output_scale: float = 1.0
    output_shift: float = 0.0
    slope: float | None = None


class Transformed(nn.Module):
    """γ·(f(αx + β) + δ).

    Args:
        function: f, a module.
        transform: the four numbers.
    """

    def __init__(self, function: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.function, self.transform = function, transform

    def forward(self, input: Tensor) -> Tensor:
        """Apply it."""
        t = self.transform
        inner = (
            input
            if (t.input_scale, t.input_shift) == (1, 0)
            else (torch.add(t.input_shift, input, alpha=t.input_scale))
        )
        return t.output_scale * (self.function(inner) + t.output_shift)

    def extra_repr(self) -> str:
        """The numbers."""
        return str(self.transform)


@lru_cache(maxsize=64)
def dks(name: str, shares: tuple[float, ...], slope: float = SLOPE) -> Transform:
    """The transform of DKS: C'(1) of the network is ``slope``.

    ReLU gets a negative slope in place of a scale and a shift of its input, as the authors
    advise.

    Args:
        name: of a smooth activation, or ``"relu"``.
        shares: of the network's layers, from 0 to 1.
        slope: ζ > 1.

    Raises:
        ValueError: no solution was found.
    """
    target = local_slope(shares, slope)
    if name == "relu":
        return _leaky_dks(target)
    function = function_of(name)

    def misses(law: Normal, sign: float) -> tuple[float, float]:
        at = elementwise(function, law)
        steep = scale_slope(function, law, at.mean, at.std, 1.0).value
        return chi(function, law).value - target, steep - 1.0

    def finish(law: Normal, sign: float) -> Transform:
        at = elementwise(function, law)
        return Transform(law.std, law.mean, 1.0 / at.std, -at.mean)

    return _solved(name, misses, finish, target - 1.0, (1.0,), steepest=math.inf)


@lru_cache(maxsize=64)
def tat(name: str, shares: tuple[float, ...], curvature: float = CURVATURE) -> Transform:
    """The transform of TAT: C''(1) of the network is ``curvature``, and C'(1) is 1.

    Args:
        name: of a smooth activation.
        shares: of the network's layers.
        curvature: τ > 0.

    Raises:
        ValueError: no solution was found.
    """
    target = local_curvature(shares, curvature)
    function = function_of(name)

    def output(law: Normal, sign: float) -> tuple[float, float]:
        """γ and the mean of f + δ, by C'(1) = 1 and Q(1) = 1: real by Poincaré's inequality."""
        at = elementwise(function, law)
        slope = law.std * at.slope
        return 1.0 / slope, sign * math.sqrt(max(slope**2 - at.std**2, 0.0))

    def misses(law: Normal, sign: float) -> tuple[float, float]:
        at = elementwise(function, law)
        scale, mean = output(law, sign)
        steep = scale_slope(function, law, at.mean - mean, 1.0 / scale, 1.0).value
        energies = hermite_energies(function, law) * (at.std * scale) ** 2
        bent = sum(k * (k - 1) * a for k, a in enumerate(energies.tolist(), start=1))
        return bent - target, steep - 1.0

    def finish(law: Normal, sign: float) -> Transform:
        scale, mean = output(law, sign)
        at = elementwise(function, law)
        return Transform(law.std, law.mean, scale, mean - at.mean)

    return _solved(name, misses, finish, target, (1.0, -1.0), steepest=_STEEPEST)


@lru_cache(maxsize=64)
def leaky_tat(shares: tuple[float, ...], floor: float = FLOOR) -> Transform:
    """The leaky ReLU of TAT: uncorrelated inputs leave the network with correlation ``floor``.

    Args:
        shares: of the network's layers.
        floor: η, between 0 and 1.

    Raises:
        ValueError: even ReLU does not correlate them so much in so few layers.
    """

    def excess(slope: float) -> float:
        correlation = 0.0
        for share in shares:
            behind = leaky_correlation(correlation, slope)
            correlation = (1.0 - share) * correlation + share * behind
        return correlation - floor

    if excess(0.0) <= 0:
        raise ValueError(
            f"floor must be below what ReLU reaches in {len(shares)} layers, "
            f"{excess(0.0) + floor:.4g}; it was {floor}"
        )
    slope = _bisected(excess, 0.0, 1.0)
    return Transform(output_scale=math.sqrt(2.0 / (1.0 + slope**2)), slope=slope)


def leaky_correlation(correlation: float, slope: float) -> float:
    r"""C(c) of a leaky ReLU whose second moment is 1 (Zhang et al. 2022).

    .. math:: C(c) = c + \frac{(1 - a)^2}{\pi (1 + a^2)}
        \left(\sqrt{1 - c^2} - c \arccos c\right)
    """
    # Rounding may have left the interval of a cosine.
    c = min(max(correlation, -1.0), 1.0)
    bend = (1.0 - slope) ** 2 / (math.pi * (1.0 + slope**2))
    return c + bend * (math.sqrt(1.0 - c * c) - c * math.acos(c))


def local_slope(shares: Sequence[float], slope: float) -> float:
    """C'(1) of a layer where the product of 1 + s·(C'(1) - 1) over the shares is ``slope``."""
    if not slope > 1:
        raise ValueError(f"slope must be greater than 1; it was {slope}")

    def excess(above: float) -> float:
        return math.log(slope) - sum(math.log1p(share * above) for share in shares)

    return 1.0 + _bisected(excess, 0.0, (slope - 1.0) / min(sum(shares), 1.0))


def local_curvature(shares: Sequence[float], curvature: float) -> float:
    """C''(1) of a layer: where every C'(1) is 1, those of the layers add up by their shares."""
    if not curvature > 0:
        raise ValueError(f"curvature must be greater than 0; it was {curvature}")
    return curvature / sum(shares)


def _leaky_dks(target: float) -> Transform:
    """χ of a centred leaky ReLU falls from π/(π - 1) to 1 as its slope rises; Q'(1) is 1."""

    def figures(slope: float) -> tuple[float, float, float]:
        mean = (1.0 - slope) / math.sqrt(2.0 * math.pi)
        second = 0.5 * (1.0 + slope**2)
        return mean, second - mean**2, second / (second - mean**2)

    if figures(0.0)[2] <= target:
        raise ValueError(
            f"slope must be below π/(π - 1) a layer, which is ReLU's; it was {target:.6g} a layer"
        )
    slope = _bisected(lambda a: figures(a)[2] - target, 0.0, 1.0)
    mean, variance, _ = figures(slope)
    return Transform(output_scale=variance**-0.5, output_shift=-mean, slope=slope)


def _bisected(excess: Callable[[float], float], start: float, end: float) -> float:
    """Where ``excess`` turns from positive at the start to negative at the end, to rounding."""
    while True:
        middle = 0.5 * (start + end)
        if middle in (start, end):
            return middle
        start, end = (middle, end) if excess(middle) > 0 else (start, middle)


def _solved(
    name: str,
    misses: Callable[[Normal, float], tuple[float, float]],
    finish: Callable[[Normal, float], Transform],
    target: float,
    signs: tuple[float, ...],
    steepest: float,
) -> Transform:
    """Newton's method for α and β, from several starts: the first acceptable solution."""
    for mean, scale in _STARTS:
        for sign in signs:
            start = Normal(mean, scale * math.sqrt(target))
            law = _newton(lambda at, sign=sign: misses(at, sign), start)
            if law is None:
                continue
            found = finish(law, sign)
            if found.output_scale * found.input_scale * function_of(name).lipschitz < steepest:
                return found
    raise ValueError(f"no transform of {name} was found that meets the conditions")


def _newton(misses: Callable[[Normal], tuple[float, float]], law: Normal) -> Normal | None:
    """A law N(β, α²) at which both misses vanish, or ``None``."""
    for _ in range(_STEPS):
        try:
            a, b = misses(law)
            if abs(a) + abs(b) < _MET * law.std**2:
                return law
            ratio = math.exp(_DIFFERENCE)
            wider = misses(Normal(law.mean, law.std * ratio))
            moved = misses(Normal(law.mean + _DIFFERENCE, law.std))
            aw, bw = (wider[0] - a) / _DIFFERENCE, (wider[1] - b) / _DIFFERENCE
            am, bm = (moved[0] - a) / _DIFFERENCE, (moved[1] - b) / _DIFFERENCE
            determinant = aw * bm - am * bw
            log_step = (am * b - bm * a) / determinant
            step = (bw * a - aw * b) / determinant
            # Far from the solution a step may be much too long.
            shorter = min(1.0, 0.5 / max(abs(log_step), abs(step)))
            law = Normal(law.mean + shorter * step, law.std * math.exp(shorter * log_step))
        except (ValueError, ZeroDivisionError):
            return None
    return None
