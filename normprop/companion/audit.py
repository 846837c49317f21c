"""Other projects' constants, each beside the exact figure that it stands for.

``results/wild.json``, written by ``scripts/collect_wild.py``, holds the constants and says of each
what it stands for: a layer, the law of its input, and one of the quantities below.

=================  ======================================================================
``fwd_mean``       mean of the output
``fwd_std``        its standard deviation, and ``1/fwd_std`` the gain that undoes it
``rms``            root mean square of the output, √E f², and ``1/rms`` its gain
``bwd_std``        standard deviation of the gradient, and ``1/bwd_std`` its gain
``chi``            growth of the squared gradient, (s·bwd_std/fwd_std)²
``truncated_std``  standard deviation of N(0, 1) cut at ±2
``selu_alpha``     SELU's α, and ``selu_lambda`` its λ: those with mean 0 and variance 1
=================  ======================================================================
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from normprop.companion import results
from normprop.montecarlo import simulate
from normprop.rules import Moments, moments

__all__ = ["Constant", "after", "constants", "exact", "figures", "standard_error"]


@dataclass(frozen=True)
class Constant:
    """A constant as it stands in the wild.

    Attributes:
        source: the project.
        name: what the project calls it.
        value: the number.
        quantity: what it stands for; see the module.
        layer: the layer, by the name that ``moments`` knows, or ``"max 9"`` or ``"dropout"``.
        std: standard deviation of the layer's input, of mean 0.
        slope: of a leaky ReLU.
        p: drop probability.
        samples: of the simulation that it comes from; ``None`` where it comes from none, or
            nobody says.
        digits: decimal places that are printed; ``None`` for a full double.
    """

    source: str
    name: str
    value: float
    quantity: str
    layer: str
    std: float = 1.0
    slope: float | None = None
    p: float | None = None
    samples: int | None = None
    digits: int | None = None

    @property
    def error(self) -> float:
        """Relative error, value/exact - 1."""
        return self.value / exact(self) - 1.0

    @property
    def rounds(self) -> bool:
        """Whether the exact figure rounds to the digits that are printed."""
        if self.digits is None:
            return abs(self.error) <= 1e-15
        return abs(self.value - exact(self)) <= 0.5 * 10.0**-self.digits


def constants() -> Iterator[Constant]:
    """The constants of the file, source by source."""
    for source, entry in json.loads(results.path("wild.json").read_text("utf-8")).items():
        for constant in entry["constants"]:
            yield Constant(source, **constant)


def figures(constant: Constant, std: float | None = None) -> Moments:
    """Exact figures of a constant's layer, at its own input law or at another width."""
    return moments(_layer(constant), 0.0, constant.std if std is None else std)


def exact(constant: Constant) -> float:
    """The figure that the constant stands for.

    Raises:
        ValueError: nothing is known of the quantity.
    """
    quantity = constant.quantity
    if quantity.startswith("selu_"):
        alpha, scale = selu()
        return alpha if quantity == "selu_alpha" else scale
    if quantity == "truncated_std":
        inside = math.erf(math.sqrt(2.0))
        return math.sqrt(1.0 - 4.0 * math.exp(-2.0) / math.sqrt(2.0 * math.pi) / inside)
    value = _quantity(quantity.removeprefix("1/"), figures(constant), constant.std)
    return 1.0 / value if quantity.startswith("1/") else value


def selu() -> tuple[float, float]:
    r"""SELU's α and λ, which give an output of mean 0 and variance 1 at N(0, 1).

    With :math:`E\,x^+ = 1/\sqrt{2\pi}` and :math:`E\,(e^x - 1)1_{x<0} = e^{1/2}\Phi(-1) - 1/2`,
    mean 0 asks for :math:`\alpha = -E\,x^+/E\,(e^x - 1)1_{x<0}`; then
    :math:`\lambda^{-2} = 1/2 + \alpha^2 E\,(e^x - 1)^2 1_{x<0}`.
    """
    # Φ(-1) and Φ(-2).
    one, two = (0.5 * math.erfc(k / math.sqrt(2.0)) for k in (1, 2))
    first = math.exp(0.5) * one - 0.5
    second = math.exp(2.0) * two - 2.0 * math.exp(0.5) * one + 0.5
    alpha = -1.0 / (math.sqrt(2.0 * math.pi) * first)
    return alpha, 1.0 / math.sqrt(0.5 + alpha * alpha * second)


def standard_error(constant: Constant, n: int = 200_000, seed: int = 0) -> float:
    """Standard error of a simulation of the constant's size.

    Measured by a simulation of ``n`` elements, and scaled to the constant's own samples.

    Raises:
        ValueError: the constant is not known to come from a simulation.
    """
    if constant.samples is None:
        raise ValueError(f"samples must be known; {constant.name} comes from no simulation")
    layer = _layer(constant)
    found = simulate(layer, n, std=constant.std, seed=seed)
    window = layer.kernel_size if isinstance(layer, nn.MaxPool1d) else 1
    own = getattr(found, f"{constant.quantity}_se")
    return own * math.sqrt(found.n / window / constant.samples)


_WIDEST = 1e150
"""Of a signal: beyond it, squares leave double precision."""


def after(constant: Constant, depth: int = 100) -> float:
    """Standard deviation that the constant makes of a unit one over a stack of such layers.

    Forward constants: each layer applies the function, divides or multiplies by the constant,
    and hands on a signal of mean 0 to the next, normal again, as wide layers make it; what
    counts is the standard deviation under ``fwd_std`` and the root mean square under ``rms``.
    Backward constants: the gradient, at inputs that stay N(0, 1).  With the exact constant the
    answer is 1; it is infinite once a signal is wider than 1e150.

    Raises:
        ValueError: the constant is no scale.
    """
    quantity, inverse = constant.quantity.removeprefix("1/"), constant.quantity.startswith("1/")
    if quantity not in ("fwd_std", "rms", "bwd_std") or constant.layer.startswith("max"):
        raise ValueError(f"a stack must be one of scales; {constant.name} is a {quantity}")
    gain = constant.value if inverse else 1.0 / constant.value
    std = constant.std
    if quantity == "bwd_std":
        return (gain * figures(constant).bwd_std) ** depth
    for _ in range(depth):
        std = constant.std * gain * _quantity(quantity, figures(constant, std), std)
        if std > _WIDEST:
            return math.inf
        if std == 0.0:
            return 0.0
    return std / constant.std


def _quantity(name: str, found: Moments, std: float) -> float:
    if name in ("fwd_mean", "fwd_std", "bwd_std"):
        return getattr(found, name)
    if name == "rms":
        return math.hypot(found.fwd_mean, found.fwd_std)
    if name == "chi":
        return (std * found.bwd_std / found.fwd_std) ** 2
    raise ValueError(f"a quantity must be one that the module lists; it was {name!r}")


def _layer(constant: Constant):
    if constant.layer.startswith("max "):
        return nn.MaxPool1d(int(constant.layer.removeprefix("max ")))
    if constant.layer == "dropout":
        return nn.Dropout(constant.p)
    if constant.slope is not None:
        return nn.LeakyReLU(constant.slope)
    return constant.layer
