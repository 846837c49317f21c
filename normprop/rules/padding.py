"""Padding: the interior is the input itself; with a size, all positions count."""

import math

from torch import nn

from normprop.gaussian import Law, maximum
from normprop.gaussian.law import std_error
from normprop.gaussian.normal import EPS
from normprop.rules.arguments import Shape
from normprop.rules.axis import copied, copies, grid
from normprop.rules.registry import Moments, register_each

__all__ = ["pad"]


COPYING = ("reflect", "replicate", "circular")
MODES = ("constant", *COPYING)


def pad(
    pads: tuple[int, ...],
    mode: str,
    law: Law,
    sizes: tuple[int, ...] | None = None,
    value: float = 0.0,
) -> Moments:
    r"""Moments of padding: those of the identity in the interior.

    Over a whole sample a mode that copies has :math:`\sigma_b^2` = outputs/inputs, as an input
    gets the gradients of all its copies; a constant v on a part 1 - r of the outputs gives

    .. math:: \mu = r m + (1-r) v, \qquad \sigma_f^2 = r s^2 + r(1-r)(m - v)^2,

    and :math:`\sigma_b^2` is the part of the inputs that is not cut off, 1 where no pad is
    negative.

    Args:
        pads: as :func:`torch.nn.functional.pad` has them, two an axis, the last axis first.
        mode: ``"constant"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        law: of the input.
        sizes: of the axes that are padded, the first axis first.
        value: of the constant.

    Raises:
        ValueError: the arguments do not fit.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}; it was {mode!r}")
    if len(pads) % 2:
        raise ValueError(f"pad must have two entries an axis; it was {pads}")
    if sizes is None:
        return copied(law)
    before, after = pads[0::2][::-1], pads[1::2][::-1]
    outputs = [n + a + b for n, a, b in zip(sizes, before, after, strict=True)]
    kept = [n + min(a, 0) + min(b, 0) for n, a, b in zip(sizes, before, after, strict=True)]
    if min(kept) < 1:
        raise ValueError(f"the padding must leave something of the sizes {sizes}; it was {pads}")
    if mode in COPYING:
        return grid([copies(o, n) for o, n in zip(outputs, sizes, strict=True)], law)
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


def _rule(mode: str):
    def rule(dims: int, layer: nn.Module, law: Law, shape: Shape = None) -> Moments:
        sizes = None
        if shape is not None:
            if len(shape) < dims:
                raise ValueError(
                    f"shape must have at least {dims} sizes for {type(layer).__name__}; "
                    f"it was {shape}"
                )
            sizes = shape[len(shape) - dims :]
        value = float(getattr(layer, "value", 0.0))
        return pad(tuple(layer.padding), mode, law, sizes, value)

    return rule


_BORDER = "at the border an input gets more than one gradient"
_CONSTANT = "the border is a constant that the law does not know"
# What a constant is after a map depends on it, but that 0 stays where nothing is shifted.
for _name, _mode, _note, _facts in (
    ("Zero", "constant", _CONSTANT, {"algebra": "commuting", "needs_zero": lambda _: True}),
    ("Constant", "constant", _CONSTANT, {}),
    ("Reflection", "reflect", _BORDER, {"algebra": "commuting"}),
    ("Replication", "replicate", _BORDER, {"algebra": "commuting"}),
    ("Circular", "circular", f"forward everywhere; {_BORDER}", {"algebra": "commuting"}),
):
    register_each(
        f"{_name}Pad",
        _rule(_mode),
        shaped=True,
        note=f"of the interior; with a shape, over all positions: {_note}",
        family="padding",
        **_facts,
    )
