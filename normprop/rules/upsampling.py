r"""Interpolation: linear maps whose weights follow from where an output falls among the inputs.

Their weights add up to 1, so that the mean stays; :math:`\sigma_f^2 = s^2\,\overline{\sum w^2}`
and :math:`\sigma_b^2 = \overline{\sum w^2}\cdot\text{outputs}/\text{inputs}`, averaged over the
phases.  Twice as many outputs have 5/8 an axis for linear interpolation; r times as many
2/3 - 1/(6r²) for even and 2/3 + 1/(3r²) for odd r.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache, partial

import numpy as np
from torch import nn

from normprop.checks import number
from normprop.gaussian import Law
from normprop.rules.arguments import Shape, need_shape, window_of
from normprop.rules.axis import Axis, averages, copies, grid
from normprop.rules.pool import lengths
from normprop.rules.registry import Moments, register

NEAREST = ("nearest", "nearest-exact")
LINEAR = ("linear", "bilinear", "trilinear")
MODES = (*NEAREST, *LINEAR, "bicubic", "area")
_DIMS = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}
# The longest period of phases that is looked for behind a factor.
_PERIOD = 64


def _check(layer: nn.Upsample, dims: int) -> None:
    """Refuse what does not go together."""
    size, factor, mode, corners = layer.size, layer.scale_factor, layer.mode, layer.align_corners
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}; it was {mode!r}")
    if mode in _DIMS and _DIMS[mode] != dims:
        raise ValueError(
            f"mode {mode} is for {_DIMS[mode]} axes behind the channels; there were {dims}"
        )
    if (size is None) == (factor is None):
        raise ValueError(
            f"one of size and scale_factor must be given; they were {size} and {factor}"
        )
    if size is not None and layer.recompute_scale_factor:
        raise ValueError("recompute_scale_factor must not be set where size is given")
    if corners is not None and mode not in _DIMS:
        raise ValueError(f"align_corners must be None for mode {mode}; it was {corners}")
    if _smooths(layer) and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"antialias is for bilinear and bicubic; mode was {mode}")


def _smooths(layer: nn.Upsample) -> bool:
    # An argument that torch's function has alone.
    return getattr(layer, "antialias", False)


def _factors(layer: nn.Upsample, dims: int) -> tuple[float, ...]:
    """The factor of each axis."""
    given = layer.scale_factor
    factors = given if isinstance(given, Sequence) else (given,) * dims
    if len(factors) != dims:
        raise ValueError(f"scale_factor must have 1 or {dims} entries; it was {given}")
    for factor in factors:
        number("scale_factor", factor)
        if not (math.isfinite(factor) and factor > 0):
            raise ValueError(f"scale_factor must be finite and above 0; it was {given}")
    return tuple(map(float, factors))


def _outputs(layer: nn.Upsample, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of the output."""
    if layer.size is not None:
        return window_of(layer.size, len(sizes), "size")
    factors = _factors(layer, len(sizes))
    outputs = tuple(math.floor(n * f) for n, f in zip(sizes, factors, strict=True))
    if min(outputs) < 1:
        raise ValueError(
            f"scale_factor must leave something of {sizes}; it was {layer.scale_factor}"
        )
    return outputs


@lru_cache(maxsize=1024)
def _axis(
    kernel: tuple[str, bool, bool],
    factor: float | None,
    size: int | None = None,
    outputs: int | None = None,
) -> Axis | None:
    """All of an axis with its ends, or a period far from them: ``None`` where there is none.

    The kernel is the mode, whether corners are aligned, whether it is stretched.
    """
    mode, corners, _ = kernel
    inputs = size
    if size is None:
        if corners:
            return None
        if mode in NEAREST:
            return Axis(1.0, 1.0, 1.0, factor)
        ratio = Fraction(factor).limit_denominator(_PERIOD)
        inputs, outputs = ratio.denominator, ratio.numerator
        if outputs > _PERIOD or float(ratio) != factor:
            return None
    if mode in NEAREST:
        return copies(outputs, inputs)
    if mode == "area":
        return averages(lengths(inputs, outputs), inputs)
    if corners:
        scale = (inputs - 1) / (outputs - 1) if outputs > 1 else 0.0
    else:
        scale = inputs / outputs if factor is None else 1.0 / factor
    places, weights = _taps(kernel, np.arange(outputs), scale, size)
    # At the ends torch takes the last element for those beyond: their weights add up.
    merged = np.zeros_like(weights)
    for tap in range(places.shape[1]):
        first = (places[:, : tap + 1] == places[:, [tap]]).argmax(1)
        merged[np.arange(len(merged)), first] += weights[:, tap]
    squares = math.fsum((merged**2).ravel()) / len(merged)
    return Axis(1.0, 1.0, squares, outputs / inputs)


def _taps(kernel, outputs, scale, size) -> tuple[np.ndarray, np.ndarray]:
    """Which inputs an output is made of, and their weights, as torch chooses them.

    Without a size the axis has no ends.
    """
    mode, corners, antialias = kernel
    if antialias:
        return _smoothed(mode, outputs, scale, size)
    place = outputs * scale if corners else (outputs + 0.5) * scale - 0.5
    if mode in LINEAR and size is not None:
        place = np.maximum(place, 0.0)
    base = np.floor(place)
    part = place - base
    if mode in LINEAR:
        offsets, weights = (0, 1), (1.0 - part, part)
    else:
        offsets = (-1, 0, 1, 2)
        weights = tuple(_cubic(np.abs(part - k), -0.75) for k in offsets)
    places = np.stack([base + k for k in offsets], 1)
    if size is not None:
        places = np.clip(places, 0, size - 1)
    return places, np.stack(weights, 1)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel."""
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    return np.where(x <= 1.0, near, np.where(x < 2.0, far, 0.0))


def _smoothed(mode, outputs, scale, size) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a kernel that is stretched by the scale where the output is coarser."""
    stretch = max(scale, 1.0)
    support = (1.0 if mode in LINEAR else 2.0) * stretch
    center = scale * (outputs + 0.5)
    # Far from the ends, where torch's truncation is the floor.
    low, high = np.floor(center - support + 0.5), np.floor(center + support + 0.5)
    if size is not None:
        low, high = np.maximum(low, 0.0), np.minimum(high, size)
    taps = np.arange(int((high - low).max()))
    places = low[:, None] + taps
    distance = np.abs((places - center[:, None] + 0.5) / stretch)
    raw = np.maximum(1.0 - distance, 0.0) if mode in LINEAR else _cubic(distance, -0.5)
    raw = np.where(places < high[:, None], raw, 0.0)
    return places, raw / raw.sum(1, keepdims=True)


def _rule(layer: nn.Upsample, law: Law, shape: Shape = None, whole: bool = True) -> Moments:
    """Moments of a module over the whole of its input, or of the interior where there is one."""
    sizes = None if shape is None else tuple(shape[1:])
    dims = _dims_of(layer) if sizes is None else len(shape) - 1
    if dims is None:
        need_shape(layer, shape, "how many axes its input has")
    if dims not in (1, 2, 3):
        raise ValueError(
            f"shape must be (C, L), (C, H, W) or (C, D, H, W) for {type(layer).__name__}; "
            f"it was {shape}"
        )
    kernel = layer.mode, bool(layer.align_corners), _smooths(layer)
    axes: list[Axis | None] = [None]
    if (sizes is None or not whole) and layer.size is None and layer.scale_factor is not None:
        axes = [_axis(kernel, factor) for factor in _factors(layer, dims)]
    if None in axes:
        sizes = need_shape(layer, sizes, "how large its input is")
    _check(layer, dims)
    if None in axes:
        used = layer.size is None and not layer.recompute_scale_factor
        factors = _factors(layer, dims) if used else (None,) * dims
        axes = list(map(partial(_axis, kernel), factors, sizes, _outputs(layer, sizes)))
    return grid(axes, law)


def _dims_of(layer: nn.Upsample) -> int | None:
    """How many axes a module interpolates, where its arguments tell."""
    if layer.mode in _DIMS:
        return _DIMS[layer.mode]
    if isinstance(layer, nn.UpsamplingNearest2d):
        return 2
    return len(layer.scale_factor) if isinstance(layer.scale_factor, Sequence) else None


_WHOLE = "over all outputs and inputs of the given size"
_INTERIOR = f"of the interior for factors that are ratios of small integers; with a shape, {_WHOLE}"

for _type, _note in {
    nn.Upsample: _INTERIOR,
    nn.UpsamplingNearest2d: "everywhere; a factor without a shape counts as it is",
    nn.UpsamplingBilinear2d: _WHOLE,
}.items():
    register(
        _type,
        _rule,
        shaped=True,
        declares=partial(_rule, whole=False),
        note=_note,
        family="resizing",
        algebra="commuting",
    )
