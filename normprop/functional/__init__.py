"""Normalised layers as functions on tensors: eager PyTorch, which is the specification."""

from normprop.functional.activation import (
    celu,
    elu,
    gelu,
    hardshrink,
    hardsigmoid,
    hardswish,
    hardtanh,
    identity,
    leaky_relu,
    logsigmoid,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softplus,
    softshrink,
    softsign,
    tanh,
    tanhshrink,
    threshold,
)
from normprop.functional.adaptive import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    fractional_max_pool2d,
    fractional_max_pool3d,
)
from normprop.functional.attention import multi_head_attention, scaled_dot_product_attention
from normprop.functional.bilinear import bilinear
from normprop.functional.callables import elementwise
from normprop.functional.conv import conv1d, conv2d, conv3d
from normprop.functional.conv_transpose import (
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from normprop.functional.dropout import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)
from normprop.functional.embedding import embedding, normalize_rows
from normprop.functional.gated import gated_linear, glu
from normprop.functional.join import cat, residual
from normprop.functional.linear import linear
from normprop.functional.loss import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    hinge_embedding_loss,
    huber_loss,
    l1_loss,
    mse_loss,
    multilabel_soft_margin_loss,
    nll_loss,
    smooth_l1_loss,
    soft_margin_loss,
)
from normprop.functional.observed import observed
from normprop.functional.padding import pad
from normprop.functional.pool import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from normprop.functional.scale import Constants, scale_gradient
from normprop.functional.shape import (
    channel_shuffle,
    fold,
    pixel_shuffle,
    pixel_unshuffle,
    unfold,
)
from normprop.functional.slope import prelu, rrelu
from normprop.functional.softmax import log_softmax, softmax, softmin
from normprop.functional.unpool import max_unpool1d, max_unpool2d, max_unpool3d
from normprop.functional.upsampling import interpolate
from normprop.functional.weight import normalize_weight

__all__ = [
    "Constants",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "alpha_dropout",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "bilinear",
    "binary_cross_entropy_with_logits",
    "cat",
    "celu",
    "channel_shuffle",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "elementwise",
    "elu",
    "embedding",
    "feature_alpha_dropout",
    "fold",
    "fractional_max_pool2d",
    "fractional_max_pool3d",
    "gated_linear",
    "gelu",
    "glu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hinge_embedding_loss",
    "huber_loss",
    "identity",
    "interpolate",
    "l1_loss",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "mish",
    "mse_loss",
    "multi_head_attention",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "normalize_rows",
    "normalize_weight",
    "pad",
    "pixel_shuffle",
    "pixel_unshuffle",
    "prelu",
    "relu",
    "relu6",
    "residual",
    "rrelu",
    "scale_gradient",
    "scaled_dot_product_attention",
    "selu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
    "unfold",
]

for _name in __all__:
    if _name != Constants.__name__:
        globals()[_name] = observed(globals()[_name])
