"""Padding: the interior is the input itself; with a size, all positions count."""

import math
from functools import partial

from torch import nn

from normprop.gaussian import Law, maximum
from normprop.gaussian.law import std_error
from normprop.gaussian.normal import EPS
from normprop.rules.arguments import Shape
from normprop.rules.axis import copied, copies, grid
from normprop.rules.registry import Moments, register_each


def _pad(copying: bool, dims: int, layer: nn.Module, law: Law, shape: Shape) -> Moments:
    r"""Moments of padding: those of the identity in the interior.

    Over a whole sample a mode that copies has :math:`\sigma_b^2` = outputs/inputs, as an input
    gets the gradients of all its copies; a constant v on a part 1 - r of the outputs gives

    .. math:: \mu = r m + (1-r) v, \qquad \sigma_f^2 = r s^2 + r(1-r)(m - v)^2,

    and :math:`\sigma_b^2` is the part of the inputs that is not cut off, 1 where no pad is
    negative.

    Raises:
        ValueError: the shape or the pads do not fit.
    """
    # Two an axis, the last axis first.
    pads = tuple(layer.padding)
    if shape is not None and len(shape) < dims:
        raise ValueError(
            f"shape must have at least {dims} sizes for {type(layer).__name__}; it was {shape}"
        )
    if len(pads) % 2:
        raise ValueError(f"pad must have two entries an axis; it was {pads}")
    if shape is None:
        return copied(law)
    sizes = shape[len(shape) - dims :]
    before, after = pads[0::2][::-1], pads[1::2][::-1]
    outputs = [n + a + b for n, a, b in zip(sizes, before, after, strict=True)]
    kept = [n + min(a, 0) + min(b, 0) for n, a, b in zip(sizes, before, after, strict=True)]
    if min(kept) < 1:
        raise ValueError(f"the padding must leave something of the sizes {sizes}; it was {pads}")
    if copying:
        return grid([copies(o, n) for o, n in zip(outputs, sizes, strict=True)], law)
    value = float(getattr(layer, "value", 0.0))
    m, s, error, method = maximum(1, law)
    inside, whole = math.prod(kept), math.prod(outputs)
    part, rest = inside / whole, (whole - inside) / whole
    variance = part * s * s + part * rest * (m - value) ** 2
    mean = part * m + rest * value
    off = 2.0 * error * (s + abs(m - value) + error) + 8.0 * EPS * variance
    off += 8.0 * EPS * part * rest * (abs(m) + abs(value)) * abs(m - value)
    bound = max(error + 4.0 * EPS * (abs(m) + abs(value)), std_error(variance, off), 4.0 * EPS)
    slope = math.sqrt(inside / math.prod(sizes))
    return Moments(mean, math.sqrt(variance), slope, bound, method)


_BORDER = "at the border an input gets more than one gradient"
_CONSTANT = "the border is a constant that the law does not know"
# What a constant is after a map depends on it, but that 0 stays where nothing is shifted.
for _name, _note, _facts in (
    ("Zero", _CONSTANT, {"algebra": "commuting", "needs_zero": lambda _: True}),
    ("Constant", _CONSTANT, {}),
    ("Reflection", _BORDER, {"algebra": "commuting"}),
    ("Replication", _BORDER, {"algebra": "commuting"}),
    ("Circular", f"forward everywhere; {_BORDER}", {"algebra": "commuting"}),
):
    register_each(
        f"{_name}Pad",
        partial(_pad, _note != _CONSTANT),
        shaped=True,
        note=f"of the interior; with a shape, over all positions: {_note}",
        family="padding",
        **_facts,
    )
