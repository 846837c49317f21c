"""The classes of ``torch.nn``, and an instance of each."""

import inspect
import re
import warnings

import torch
from torch import nn

from normprop import moments, rules

CLASSES = sorted(
    name
    for name, found in vars(nn).items()
    if inspect.isclass(found) and issubclass(found, nn.Module)
)

# What a constructor cannot do without, by the name without its dimension, and the shape of a
# sample where the figures depend on it.
ARGUMENTS = {
    "AdaptiveAvgPool": (2,),
    "AdaptiveMaxPool": (2,),
    "AdaptiveLogSoftmaxWithLoss": (4, 10, [5]),
    "AvgPool": (2,),
    "BatchNorm": (4,),
    "Bilinear": (3, 4, 5),
    "ChannelShuffle": (2,),
    "CircularPad": (1,),
    "ConstantPad": (1, 0.5),
    "Conv": (4, 6, 3),
    "ConvTranspose": (4, 6, 3),
    "CrossMapLRN": (3,),
    "DataParallel": (nn.ReLU(),),
    "Embedding": (7, 3),
    "EmbeddingBag": (7, 3),
    "Fold": ((4, 4), 2),
    "FractionalMaxPool": (2, 3),
    "GRU": (2, 3),
    "GRUCell": (2, 3),
    "GroupNorm": (2, 4),
    "InstanceNorm": (4,),
    "LPPool": (2, 2),
    "LSTM": (2, 3),
    "LSTMCell": (2, 3),
    "LayerNorm": (6,),
    "LazyConv": (6, 3),
    "LazyConvTranspose": (6, 3),
    "LazyLinear": (5,),
    "Linear": (4, 5),
    "LinearCrossEntropyLoss": (4, 5),
    "LocalResponseNorm": (3,),
    "LogSoftmax": (1,),
    "MaxPool": (2,),
    "MaxUnpool": (2,),
    "MultiheadAttention": (8, 2),
    "PixelShuffle": (2,),
    "PixelUnshuffle": (2,),
    "RMSNorm": (6,),
    "RNN": (2, 3),
    "RNNBase": ("LSTM", 2, 3),
    "RNNCell": (2, 3),
    "RNNCellBase": (2, 3, True, 4),
    "ReflectionPad": (1,),
    "ReplicationPad": (1,),
    "Softmax": (1,),
    "Softmin": (1,),
    "SyncBatchNorm": (4,),
    "Threshold": (0.1, 0.2),
    "TransformerDecoder": (nn.TransformerDecoderLayer(8, 2), 1),
    "TransformerDecoderLayer": (8, 2),
    "TransformerEncoder": (nn.TransformerEncoderLayer(8, 2), 1),
    "TransformerEncoderLayer": (8, 2),
    "Transformer": (8, 2, 1, 1, 8),
    "Unflatten": (1, (2, 2)),
    "Unfold": (2,),
    "Upsample": (None, 2),
    "UpsamplingBilinear": (None, 2),
    "UpsamplingNearest": (None, 2),
    "ZeroPad": (1,),
}
SHAPES = {"EmbeddingBag": (5,), "Fold": (8, 9), "MultiheadAttention": (6, 8), "Unfold": (4, 6, 6)}
# What holds others.
EMPTY = ("Module", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList")
# Softmax2d is no Softmax in two dimensions.
ALONE = {"Softmax2d": ()}


def instance(module, name):
    """An instance of a class of ``torch.nn`` or ``normprop.nn``, and the shape of a sample.

    The shape is None where the moments do not depend on it.
    """
    if name in EMPTY:
        return getattr(module, name)(), None
    family = re.sub(r"\dd$", "", name)
    arguments = ALONE.get(name, ARGUMENTS.get(family, ()))
    with warnings.catch_warnings():
        # Deprecated names and nested tensors; neither is what is tested.
        warnings.simplefilter("ignore")
        layer = getattr(module, name)(*arguments)
        if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
            dims = int(name[-2]) if family != name else 0
            layer(torch.randn(2, 4, *(6,) * dims) if dims else torch.randn(2, 4))
    entry = rules.lookup(layer)
    shape = None
    if entry is not None and entry.shaped:
        dims = int(name[-2]) if family != name else 1
        shape = SHAPES.get(family, (4, 6, 6, 6)[: dims + 1])
    return layer, shape


def figures(layer, shape):
    """The moments of what :func:`instance` gave, whole and as three figures."""
    found = moments(layer) if shape is None else moments(layer, shape=shape)
    return found, (found.fwd_mean, found.fwd_std, found.bwd_std)


def named(value: object) -> str:
    """The name of a value in the name of a test, which is the same in every process."""
    return getattr(value, "__name__", None) or str(value).replace("\n", "")
