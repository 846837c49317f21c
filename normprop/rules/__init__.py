"""Which layer has which constants: from ``torch.nn`` modules to :mod:`normprop.gaussian`.

The figures of a layer are those of one element of its output, and of the gradient at one
element of its input, when the input's elements are independent draws from one law and the
gradient that arrives is N(0, 1) and independent of them.  For layers with windows they are
interior figures, averaged over a period of the stride: padding, ``ceil_mode`` and borders
are not in them.

One file a family; each registers its layers when it is imported, and says of those that have
no constants why.
"""

from types import ModuleType as _Module

# ruff: noqa: F401, F403
from normprop.rules import composite, loss, shape, upsampling
from normprop.rules.activation import *
from normprop.rules.arguments import *
from normprop.rules.attention import *
from normprop.rules.axis import *
from normprop.rules.dropout import *
from normprop.rules.join import *
from normprop.rules.measure import *
from normprop.rules.parametric import *
from normprop.rules.registry import *
from normprop.rules.softmax import *

__all__ = sorted(
    name
    for name, found in vars().items()
    if not (name.startswith("_") or isinstance(found, _Module))
)
