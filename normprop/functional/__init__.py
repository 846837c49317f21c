"""Normalised layers as functions on tensors: eager PyTorch, which is the specification."""

from normprop.functional.activation import gelu, relu, sigmoid, silu, tanh
from normprop.functional.callables import elementwise
from normprop.functional.conv import conv1d, conv2d, conv3d
from normprop.functional.dropout import dropout, dropout1d, dropout2d, dropout3d
from normprop.functional.linear import linear
from normprop.functional.pool import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from normprop.functional.scale import Constants, scale_gradient
from normprop.functional.weight import normalize_weight

__all__ = [
    "Constants",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "conv1d",
    "conv2d",
    "conv3d",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "elementwise",
    "gelu",
    "linear",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "normalize_weight",
    "relu",
    "scale_gradient",
    "sigmoid",
    "silu",
    "tanh",
]
