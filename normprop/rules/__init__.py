"""Which layer has which constants: from ``torch.nn`` modules to :mod:`normprop.gaussian`.

The figures of a layer are those of one element of its output, and of the gradient at one
element of its input, when the input's elements are independent draws from one law and the
gradient that arrives is N(0, 1) and independent of them.  For layers with windows they are
interior figures, averaged over a period of the stride: padding, ``ceil_mode`` and borders
are not in them.

One file a family; each registers its layers when it is imported, and says of those that have
no constants why.
"""

from normprop.rules import containers, distance, lazy, recurrent  # noqa: F401
from normprop.rules.activation import activation, function_of, image_of, slope_of
from normprop.rules.adaptive import (
    adaptive_avg_pool,
    adaptive_max_pool,
    adaptive_sizes,
    fractional_growth,
    fractional_max_pool,
)
from normprop.rules.affine import affine
from normprop.rules.arguments import (
    NeedsShapeError,
    check_law,
    check_number,
    check_probability,
    window_of,
)
from normprop.rules.attention import (
    attention,
    attention_slope,
    projected_attention,
    projections,
    self_attention,
)
from normprop.rules.axis import copied
from normprop.rules.bilinear import bilinear
from normprop.rules.dropout import alpha_dropout, alpha_gain, dropout
from normprop.rules.embedding import check_no_law, embedding, rows_of
from normprop.rules.gated import gated_linear
from normprop.rules.join import check_weight, concatenation, residual
from normprop.rules.loss import class_count
from normprop.rules.measure import moments
from normprop.rules.normalization import group_normalization
from normprop.rules.padding import pad
from normprop.rules.parametric import parametric, weights_of
from normprop.rules.pool import avg_pool, lp_pool, max_pool, pool_geometry
from normprop.rules.registry import (
    Entry,
    Moments,
    declared,
    entry_of_type,
    entry_that_applies,
    inherit,
    lookup,
    refuse,
    register,
)
from normprop.rules.shape import fold, unfold, windows_of
from normprop.rules.softmax import log_softmax, softmax, softmax_classes
from normprop.rules.transposed import conv_transpose
from normprop.rules.unpool import max_unpool, unpool_geometry
from normprop.rules.upsampling import has_interior, interpolate

__all__ = [
    "Entry",
    "Moments",
    "NeedsShapeError",
    "activation",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "adaptive_sizes",
    "affine",
    "alpha_dropout",
    "alpha_gain",
    "attention",
    "attention_slope",
    "avg_pool",
    "bilinear",
    "check_law",
    "check_no_law",
    "check_number",
    "check_probability",
    "check_weight",
    "class_count",
    "concatenation",
    "conv_transpose",
    "copied",
    "declared",
    "dropout",
    "embedding",
    "entry_of_type",
    "entry_that_applies",
    "fold",
    "fractional_growth",
    "fractional_max_pool",
    "function_of",
    "gated_linear",
    "group_normalization",
    "has_interior",
    "image_of",
    "inherit",
    "interpolate",
    "log_softmax",
    "lookup",
    "lp_pool",
    "max_pool",
    "max_unpool",
    "moments",
    "pad",
    "parametric",
    "pool_geometry",
    "projected_attention",
    "projections",
    "refuse",
    "register",
    "residual",
    "rows_of",
    "self_attention",
    "slope_of",
    "softmax",
    "softmax_classes",
    "unfold",
    "unpool_geometry",
    "weights_of",
    "window_of",
    "windows_of",
]
