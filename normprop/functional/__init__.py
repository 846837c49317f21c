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
from normprop.functional.attention import multi_head_attention, scaled_dot_product_attention
from normprop.functional.bilinear import bilinear
from normprop.functional.callables import elementwise
from normprop.functional.conv import conv1d, conv2d, conv3d
from normprop.functional.conv_transpose import (
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from normprop.functional.dropout import dropout, dropout1d, dropout2d, dropout3d
from normprop.functional.embedding import embedding, normalize_rows
from normprop.functional.gated import gated_linear, glu
from normprop.functional.linear import linear
from normprop.functional.loss import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    hinge_embedding_loss,
    huber_loss,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
    soft_margin_loss,
)
from normprop.functional.pool import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from normprop.functional.scale import Constants, scale_gradient
from normprop.functional.slope import prelu
from normprop.functional.softmax import log_softmax, softmax, softmin
from normprop.functional.weight import normalize_weight

__all__ = [
    "Constants",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "bilinear",
    "binary_cross_entropy_with_logits",
    "celu",
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
    "l1_loss",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mish",
    "mse_loss",
    "multi_head_attention",
    "nll_loss",
    "normalize_rows",
    "normalize_weight",
    "prelu",
    "relu",
    "relu6",
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
]
