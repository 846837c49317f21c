"""Twins of torch.nn layers: stored arguments and one functional call.

Each is a subclass of its twin, with the same parameters under the same names, so that a plain
checkpoint loads into it and back.
"""

from normprop.nn import init
from normprop.nn.activation import (
    CELU,
    ELU,
    GELU,
    SELU,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    Identity,
    LeakyReLU,
    LogSigmoid,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
    Threshold,
)
from normprop.nn.calibrated import Calibrated
from normprop.nn.conv import Conv1d, Conv2d, Conv3d
from normprop.nn.dropout import Dropout, Dropout1d, Dropout2d, Dropout3d
from normprop.nn.elementwise import Elementwise
from normprop.nn.linear import Linear
from normprop.nn.parametric import project_
from normprop.nn.pool import AvgPool1d, AvgPool2d, AvgPool3d, MaxPool1d, MaxPool2d, MaxPool3d

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "SELU",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "Calibrated",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "Elementwise",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "LeakyReLU",
    "Linear",
    "LogSigmoid",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Mish",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
    "init",
    "project_",
]
