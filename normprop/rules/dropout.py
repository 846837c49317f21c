"""Dropout, of elements and of whole channels: the figures of one element are the same."""

import math
from operator import attrgetter

from torch import nn

from normprop.gaussian import Law, maximum
from normprop.gaussian.normal import EPS
from normprop.rules.arguments import check_probability
from normprop.rules.registry import CLOSED, Moments, register

__all__ = ["alpha_dropout", "alpha_gain", "dropout"]


def dropout(p: float, law: Law, *, inverted: bool = True) -> Moments:
    """Moments of dropout in training, p the drop probability."""
    check_probability(p)
    keep = 1.0 - p
    mean, std, error, method = maximum(1, law)
    if inverted and keep == 0:
        # torch drops everything rather than divide by zero.
        return _NOTHING
    scale = 1.0 / math.sqrt(keep) if inverted else math.sqrt(keep)
    shift = mean if inverted else keep * mean
    figures = shift, math.hypot(std, math.sqrt(p) * mean) * scale, scale
    error = 2.0 * error * max(scale, 1.0) + 8.0 * EPS * max(map(abs, figures))
    return Moments(*figures, error, method)


_NOTHING = Moments(0.0, 0.0, 0.0, 0.0, CLOSED)

ALPHA = 1.7580993408473766
"""What torch's alpha dropout puts, negative, in the place of what it drops: λα of SELU."""


def alpha_gain(p: float) -> float:
    """What alpha dropout multiplies by: a = (q(1 + pα²))^(-1/2), q the keep probability."""
    check_probability(p)
    if p == 1:
        raise ValueError("p must be less than 1, so that something is kept; it was 1")
    return 1.0 / math.sqrt((1.0 - p) * (1.0 + p * ALPHA * ALPHA))


def alpha_dropout(p: float, law: Law) -> Moments:
    r"""Moments of alpha dropout in training, p the drop probability.

    For y = a(x·mask - α(1 - mask)) + aαp, with :func:`alpha_gain` a and q = 1 - p,

    .. math:: \mu = aqm, \qquad \sigma_f^2 = a^2 q\,(s^2 + p(m + α)^2), \qquad
        \sigma_b = a\sqrt q.
    """
    check_probability(p)
    if p == 1:
        # torch multiplies by zeros.
        return _NOTHING
    m, s, error, method = maximum(1, law)
    if p == 0:
        return Moments(m, s, 1.0, error, method)
    gain, keep = alpha_gain(p), 1.0 - p
    scale = gain * math.sqrt(keep)
    figures = (gain * keep * m, math.hypot(s, math.sqrt(p) * (m + ALPHA)) * scale, scale)
    error = 2.0 * error * max(scale, 1.0) + 16.0 * EPS * (max(map(abs, figures)) + abs(m) + ALPHA)
    return Moments(*figures, error, method)


def dropout_rule(layer: nn.Module, law: Law) -> Moments:
    """Moments of a dropout module of torch, in its mode."""
    # In evaluation torch's dropout is the identity.
    return dropout(layer.p if layer.training else 0.0, law)


def alpha_dropout_rule(layer: nn.Module, law: Law) -> Moments:
    """Moments of an alpha dropout module of torch, in its mode."""
    return alpha_dropout(layer.p if layer.training else 0.0, law)


# A factor for each element, but no shift.
_commuting = {"algebra": "commuting", "needs_zero": attrgetter("training")}
for _types, _rule, _facts in (
    ((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), dropout_rule, _commuting),
    ((nn.AlphaDropout, nn.FeatureAlphaDropout), alpha_dropout_rule, {}),
):
    for _type in _types:
        register(_type, _rule, family="dropout", draws=attrgetter("training"), **_facts)
