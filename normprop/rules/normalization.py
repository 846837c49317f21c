"""Layers that measure what they normalise: exact over a group of n, asymptotic over a batch."""

import math

import numpy as np
import torch
from torch import nn

from normprop.gaussian import Law, maximum
from normprop.gaussian.law import std_error
from normprop.gaussian.normal import EPS
from normprop.gaussian.normalization import local_response, normalization
from normprop.rules.arguments import Shape, array, need_normal, need_shape
from normprop.rules.registry import CLOSED, Moments, refuse, register, register_each


def _learnt(layer: nn.Module) -> list[np.ndarray | None]:
    """Weight and bias of a layer, as far as it has them."""
    pairs = ((getattr(layer, name, None), name) for name in ("weight", "bias"))
    return [None if p is None else array(p, name).ravel() for p, name in pairs]


def _by_groups(
    layer: nn.Module,
    law: Law,
    channels: int,
    groups: int = 1,
    positions: int = 1,
    eps: float | None = None,
) -> Moments:
    """Moments of a normalisation over groups of channels, in order, and all their positions.

    With weights the figures have one entry a channel.  Where ``eps`` is given, in the place of
    the layer's, nothing is centred.
    """
    law, centered = need_normal(layer, law), eps is None
    weight, bias = _learnt(layer)
    if channels % groups:
        raise ValueError(f"the groups must divide the channels; there were {groups} of {channels}")
    if not centered and law.mean != 0:
        raise ValueError(
            "mean must be 0 where the mean square is what normalises, so that the direction of "
            f"the input is uniform; it was {law.mean}"
        )
    n = channels // groups * positions
    found = normalization(n, law.std, float(layer.eps if centered else eps), centered)
    variance, own, other = found.variance, found.own, found.other
    errors = found.errors
    if weight is None and bias is None:
        slope, error = found.slope(n)
        std = math.sqrt(variance)
        return Moments(0.0, std, slope, max(error, std_error(variance, errors[0])), found.method)
    gain = np.ones(channels) if weight is None else weight
    shift = np.zeros(channels) if bias is None else bias
    squares = gain**2
    whole = positions * np.repeat(squares.reshape(groups, -1).sum(1), channels // groups)
    slopes = own * squares + other * (whole - squares)
    slope_error = errors[1] * squares + errors[2] * whole + 8.0 * EPS * (slopes + other * whole)
    largest = float(np.abs(gain).max())
    error = max(
        largest * std_error(variance, errors[0]),
        max(map(std_error, slopes.tolist(), slope_error.tolist())),
    )
    std = np.abs(gain) * math.sqrt(variance)
    error += 4.0 * EPS * largest
    return Moments(shift.copy(), std, np.sqrt(slopes), error, found.method)


def _by_statistics(layer: nn.Module, law: Law) -> Moments:
    """Moments of a normalisation with statistics that are at hand, one entry a channel."""
    mean, variance = (array(getattr(layer, name), name) for name in ("running_mean", "running_var"))
    weight, bias = _learnt(layer)
    m, s, error, _ = maximum(1, law)
    factor = 1.0 / np.sqrt(variance + layer.eps)
    factor = factor if weight is None else weight * factor
    shift = 0.0 if bias is None else bias
    means = (m - mean) * factor + shift
    size = np.abs(factor)
    slack = (abs(m) + np.abs(mean) + s + 1.0) * size + np.abs(shift)
    bound = float((error * size + 8.0 * EPS * slack).max())
    return Moments(means, s * size, size, bound, CLOSED)


def batch_norm(layer: nn.Module, law: Law) -> Moments:
    """Moments of batch normalisation: by its statistics, or as the batch grows in training."""
    if not layer.training and layer.running_mean is not None:
        return _by_statistics(layer, law)
    law = need_normal(layer, law)
    weight, bias = _learnt(layer)
    root = math.hypot(law.std, math.sqrt(layer.eps))
    gain = np.ones(layer.num_features) if weight is None else np.abs(weight)
    shift = np.zeros(layer.num_features) if bias is None else bias
    figures = shift.copy(), gain * (law.std / root), gain / root
    return Moments(*figures, math.inf, "asymptotic, O(1/n)")


def channel_norm(layer: nn.Module, law: Law, shape: Shape) -> Moments:
    """Moments of group normalisation, or of instance normalisation, whose groups are channels."""
    if not layer.training and getattr(layer, "running_mean", None) is not None:
        return _by_statistics(layer, law)
    grouped = isinstance(layer, nn.GroupNorm)
    counted, group = ("num_channels", "group") if grouped else ("num_features", "channel")
    shape = need_shape(layer, shape, f"how many elements a {group} has")
    channels, *positions = shape or (0,)
    if channels != getattr(layer, counted):
        raise ValueError(
            f"shape must have {getattr(layer, counted)} channels first, as {counted} says; "
            f"it was {shape}"
        )
    groups = layer.num_groups if grouped else channels
    return _by_groups(layer, law, channels, groups, math.prod(positions))


def rms_norm(layer: nn.RMSNorm, law: Law) -> Moments:
    """Moments of normalisation by the root mean square; the mean of the input must be 0."""
    eps = layer.eps
    if eps is None:
        # torch takes that of the input's type, which is the weight's.
        kind = torch.get_default_dtype() if layer.weight is None else layer.weight.dtype
        eps = torch.finfo(kind).eps
    return _by_groups(layer, law, math.prod(layer.normalized_shape), eps=eps)


def local_response_norm(layer: nn.LocalResponseNorm, law: Law) -> Moments:
    """Moments of local response normalisation in the interior; the mean must be 0."""
    law = need_normal(layer, law)
    if law.mean != 0:
        raise ValueError(
            "mean must be 0 for LocalResponseNorm, so that the direction of a window is "
            f"uniform; it was {law.mean}"
        )
    forward, backward, error = local_response(
        layer.size, law.std, float(layer.alpha), float(layer.beta), float(layer.k)
    )
    return Moments(0.0, forward, backward, error, "quadrature")


_NO_TWIN = "it normalises already, by statistics of its own, so that a twin has nothing to add"


def _tracks(layer: nn.Module) -> bool:
    return layer.training and layer.track_running_stats


for _type in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
    register(
        _type,
        batch_norm,
        grade="asymptotic",
        note="in training O(1/n) in the n values of a channel in the batch; in evaluation exact; "
        + _NO_TWIN,
        family="statistics",
        # Another process's samples are in the statistics of the last.
        algebra=None if _type is nn.SyncBatchNorm else "batchnorm",
        keeps_state=_tracks,
    )
_own = {"family": "statistics", "note": _NO_TWIN}
register_each(
    "InstanceNorm", lambda _, *given: channel_norm(*given), shaped=True, keeps_state=_tracks, **_own
)
register(nn.GroupNorm, channel_norm, shaped=True, algebra="norm", **_own)
register(
    nn.LayerNorm,
    lambda layer, law: _by_groups(layer, law, math.prod(layer.normalized_shape)),
    algebra="norm",
    **_own,
)
_ZERO = "for an input of mean 0"
for _type, _rule, _note in (
    (nn.RMSNorm, rms_norm, _ZERO),
    (nn.LocalResponseNorm, local_response_norm, f"{_ZERO}, in the interior of the channels"),
):
    register(_type, _rule, note=f"{_note}; {_NO_TWIN}", family="statistics")
refuse(
    nn.CrossMapLRN2d,
    "its running sum never lets go of the first channel, so that its channels have no common law; "
    "LocalResponseNorm has",
    family="statistics",
)
