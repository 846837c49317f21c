"""Dropout, of elements and of whole channels: the figures of one element are the same."""

import math

import numpy as np
from torch import nn

from normprop.gaussian import Law, maximum
from normprop.rules.arguments import check_probability
from normprop.rules.registry import CLOSED, Moments, register

_EPS = float(np.finfo(np.float64).eps)


def dropout(p: float, law: Law, *, inverted: bool = True) -> Moments:
    """Moments of dropout in training, p the drop probability."""
    check_probability(p)
    keep = 1.0 - p
    mean, std, error, method = maximum(1, law)
    if inverted and keep == 0:
        # torch drops everything rather than divide by zero.
        return Moments(0.0, 0.0, 0.0, 0.0, CLOSED)
    scale = 1.0 / math.sqrt(keep) if inverted else math.sqrt(keep)
    figures = (
        mean if inverted else keep * mean,
        math.hypot(std, math.sqrt(p) * mean) * scale,
        scale,
    )
    error = 2.0 * error * max(scale, 1.0) + 8.0 * _EPS * max(map(abs, figures))
    return Moments(*figures, error, method)


def dropout_rule(layer: nn.Module, law: Law) -> Moments:
    """Moments of a dropout module of torch, in its mode."""
    # In evaluation torch's dropout is the identity.
    return dropout(layer.p if layer.training else 0.0, law)


for _type in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d):
    register(_type, dropout_rule)
