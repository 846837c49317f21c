"""Layers that learn the size of their input from the first that they see.

The first input turns a lazy layer into one of the plain class, with its figures.  What is still
lazy has no weights.
"""

from torch import nn

from normprop.gaussian import Law

# The plain classes first.
from normprop.rules import normalization, parametric  # noqa: F401
from normprop.rules.registry import Moments, entry_of_type, register


def _without_weights(layer: nn.Module, law: Law, *_) -> Moments:
    raise ValueError(
        "weight must have values; the lazy module has not seen an input yet, which makes "
        f"{layer.cls_to_become.__name__} of {type(layer).__name__}"
    )


for _name in dir(nn):
    _type = getattr(nn, _name)
    _plain = getattr(_type, "cls_to_become", None)
    if not (isinstance(_plain, type) and issubclass(_plain, nn.Module)):
        continue
    _entry = entry_of_type(_plain)
    register(
        _type,
        _without_weights,
        grade=_entry.grade,
        note="; ".join(
            filter(None, ("once its first input has made a plain layer of it", _entry.note))
        ),
        shaped=_entry.shaped,
        family=_entry.family,
    )
