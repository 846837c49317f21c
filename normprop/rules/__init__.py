"""Which layer has which constants: from ``torch.nn`` modules to :mod:`normprop.gaussian`.

The figures of a layer are those of one element of its output, and of the gradient at one
element of its input, when the input's elements are independent draws from one law and the
gradient that arrives is N(0, 1) and independent of them.  For layers with windows they are
interior figures, averaged over a period of the stride: padding, ``ceil_mode`` and borders
are not in them.

One file a family; each registers its layers when it is imported, and says of those that have
no constants why.
"""

from normprop.rules import containers, lazy, recurrent  # noqa: F401
from normprop.rules.activation import activation, function_of, image_of
from normprop.rules.affine import affine
from normprop.rules.arguments import check_law, check_probability, window_of
from normprop.rules.attention import (
    attention,
    attention_slope,
    projected_attention,
    projections,
    self_attention,
)
from normprop.rules.bilinear import bilinear
from normprop.rules.dropout import dropout
from normprop.rules.embedding import check_no_law, embedding, rows_of
from normprop.rules.gated import gated_linear
from normprop.rules.loss import class_count
from normprop.rules.measure import moments
from normprop.rules.normalization import group_normalization
from normprop.rules.parametric import parametric, weights_of
from normprop.rules.pool import avg_pool, max_pool, pool_geometry
from normprop.rules.registry import (
    Entry,
    Moments,
    entry_of_type,
    entry_that_applies,
    lookup,
    refuse,
    register,
)
from normprop.rules.softmax import log_softmax, softmax, softmax_classes
from normprop.rules.transposed import conv_transpose

__all__ = [
    "Entry",
    "Moments",
    "activation",
    "affine",
    "attention",
    "attention_slope",
    "avg_pool",
    "bilinear",
    "check_law",
    "check_no_law",
    "check_probability",
    "class_count",
    "conv_transpose",
    "dropout",
    "embedding",
    "entry_of_type",
    "entry_that_applies",
    "function_of",
    "gated_linear",
    "group_normalization",
    "image_of",
    "log_softmax",
    "lookup",
    "max_pool",
    "moments",
    "parametric",
    "pool_geometry",
    "projected_attention",
    "projections",
    "refuse",
    "register",
    "rows_of",
    "self_attention",
    "softmax",
    "softmax_classes",
    "weights_of",
    "window_of",
]
