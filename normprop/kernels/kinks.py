r"""What a stored output must keep apart.

Where f' is a function of f, the backward pass reads the stored output
y = (f(x) - shift)/forward, which the next layer keeps anyway, and the input is not kept.  At
a kink of f that needs care: y is rounded, and near the shifted value of the kink its steps
are far coarser than those of x near 0.  A ReLU's y in bfloat16 is the same for x = 0 and
for all 0 < x ≲ 0.0026, which is one normal input in a thousand; all of these would lose
their gradient.

The decision: an element on the rising side of a kink is stored at the next representable
number above the stored value of the kink at least, one on the far side at that value at
most.  So an element is moved by one unit in the last place at most, in the half of it that
would have been rounded away, and the derivative of every element is exact.  The kernels do
this in every type, in the same pass.  In float32 the elements at stake are one in 10⁸,
and in float64 one in 10¹⁶: eager code may leave them, as torch leaves x² = 0 where x² is
too small for the type.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch


class Kinks(NamedTuple):
    """Where f has a kink, and its value there.

    ``low`` separates x ≤ low from x > low, ``high`` x ≥ high from x < high; None where there
    is no such kink.
    """

    low: tuple[float, float] | None = None
    high: tuple[float, float] | None = None


class Bounds(NamedTuple):
    """What an output may be on each side of a kink, in numbers of the stored type.

    x > low goes with y ≥ above, x ≤ low with y ≤ at_low; x < high with y ≤ below, x ≥ high
    with y ≥ at_high.  Where a kink is missing, its bounds do not bind.
    """

    low: float = -math.inf
    at_low: float = -math.inf
    above: float = -math.inf
    high: float = math.inf
    at_high: float = math.inf
    below: float = math.inf


_KINKS: dict[str, Callable[..., Kinks]] = {
    "elu": lambda _: Kinks((0.0, 0.0)),
    "hardsigmoid": lambda: Kinks((-3.0, 0.0), (3.0, 1.0)),
    "hardtanh": lambda low, high: Kinks((low, low), (high, high)),
    "leaky_relu": lambda _: Kinks((0.0, 0.0)),
    "relu": lambda: Kinks((0.0, 0.0)),
    "relu6": lambda: Kinks((0.0, 0.0), (6.0, 6.0)),
    "selu": lambda: Kinks((0.0, 0.0)),
}
"""By its parameters, the kinks of a function whose slope is read from its output, if it has any."""


@lru_cache(maxsize=1024)
def bounds(
    name: str, params: tuple[float, ...], shift: float, forward: float, dtype: torch.dtype
) -> Bounds:
    """Bounds of the stored output of a function whose slope is read from it."""
    found = _KINKS[name](*params) if name in _KINKS else Kinks()
    fields = {}
    if found.low is not None:
        low, value = found.low
        at, above = _stored(value, shift, forward, dtype, math.inf)
        fields.update(low=low, at_low=at, above=above)
    if found.high is not None:
        high, value = found.high
        at, below = _stored(value, shift, forward, dtype, -math.inf)
        fields.update(high=high, at_high=at, below=below)
    return Bounds(**fields)


def _stored(value, shift, forward, dtype, beyond) -> tuple[float, float]:
    """(value - shift)/forward as a kernel computes and rounds it, and the next number beyond."""
    compute = dtype if dtype == torch.float64 else torch.float32
    numbers = torch.tensor([value, shift, 1.0 / forward], dtype=compute, device="cpu")
    at = ((numbers[0] - numbers[1]) * numbers[2]).to(dtype)
    return at.item(), torch.nextafter(at, torch.full_like(at, beyond)).item()
