"""Which layer has which constants: from ``torch.nn`` modules to :mod:`normprop.gaussian`.

The figures of a layer are those of one element of its output, and of the gradient at one
element of its input, when the input's elements are independent draws from one law and the
gradient that arrives is N(0, 1) and independent of them.  For layers with windows they are
interior figures, averaged over a period of the stride: padding, ``ceil_mode`` and borders
are not in them.

One file a family; each registers its layers when it is imported, and says of those that have
no constants why.
"""

from normprop.rules.activation import activation, function_of, image_of
from normprop.rules.affine import affine
from normprop.rules.arguments import check_law, check_probability, window_of
from normprop.rules.dropout import dropout
from normprop.rules.measure import moments
from normprop.rules.parametric import parametric, weights_of
from normprop.rules.pool import avg_pool, max_pool, pool_geometry
from normprop.rules.registry import Entry, Moments, entry_of_type, lookup, refuse, register

__all__ = [
    "Entry",
    "Moments",
    "activation",
    "affine",
    "avg_pool",
    "check_law",
    "check_probability",
    "dropout",
    "entry_of_type",
    "function_of",
    "image_of",
    "lookup",
    "max_pool",
    "moments",
    "parametric",
    "pool_geometry",
    "refuse",
    "register",
    "weights_of",
    "window_of",
]
