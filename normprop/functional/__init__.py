"""Normalised layers as functions on tensors: eager PyTorch, which is the specification."""

# ruff: noqa: F403
from types import ModuleType as _Module

from normprop.functional.activation import *
from normprop.functional.attention import *
from normprop.functional.dropout import *
from normprop.functional.loss import *
from normprop.functional.observed import observed as _observed
from normprop.functional.parametric import *
from normprop.functional.pool import *
from normprop.functional.scale import *
from normprop.functional.shape import *
from normprop.functional.weight import *

__all__ = sorted(
    name
    for name, found in vars().items()
    if not (name.startswith("_") or isinstance(found, _Module))
)

for _name in __all__:
    if not isinstance(globals()[_name], type):
        globals()[_name] = _observed(globals()[_name])
