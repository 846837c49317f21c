"""Twins of torch.nn layers: stored arguments and one functional call.

Each is a subclass of its twin, with the same parameters under the same names, so that a plain
checkpoint loads into it and back.
"""

# ruff: noqa: F403
from types import ModuleType as _Module

from normprop.nn import init
from normprop.nn.activation import *
from normprop.nn.attention import *
from normprop.nn.calibrated import *
from normprop.nn.dropout import *
from normprop.nn.loss import *
from normprop.nn.parametric import *
from normprop.nn.pool import *
from normprop.nn.shape import *
from normprop.nn.together import *

__all__ = sorted(
    name
    for name, found in vars().items()
    if found is init or not (name.startswith("_") or isinstance(found, _Module))
)
