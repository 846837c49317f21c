"""Attention: exact for independent queries, keys and values, asymptotic for those of one input."""

import math
from collections.abc import Sequence

import numpy as np
from torch import nn

from normprop.gaussian import Law, Normal
from normprop.gaussian.attention import AttentionFigures
from normprop.gaussian.attention import attention as ground
from normprop.rules.arguments import array, need_normal, need_shape
from normprop.rules.registry import Moments, refuse, register


def attention(
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    law: Normal,
    scale: float | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> AttentionFigures:
    """Figures of scaled dot-product attention of independent inputs of one law.

    Args:
        query: shape (…, L, d).
        key: shape (…, n, d).
        value: shape (…, n, d_v).
        law: of the elements of all three.
        scale: what the products are multiplied by, by default d^(-1/2).
        causal: whether query i sees the first i keys.
        dropout: probability of dropping a probability.

    Raises:
        ValueError: the shapes do not fit together, or the logits spread too far.
    """
    if min(map(len, (query, key, value))) < 2:
        raise ValueError(
            "query, key and value must have shapes (…, length, width); "
            f"they had {tuple(query)}, {tuple(key)} and {tuple(value)}"
        )
    if query[-1] != key[-1] or key[-2] != value[-2]:
        raise ValueError(
            "query and key must have one width, key and value one length; they had shapes "
            f"{tuple(query)}, {tuple(key)} and {tuple(value)}"
        )
    return ground(
        int(query[-1]),
        int(query[-2]),
        int(key[-2]),
        int(value[-1]),
        query_law=law,
        key_law=law,
        value_law=law,
        scale=scale,
        causal=causal,
        dropout=dropout,
    )


def attention_slope(figures: AttentionFigures, sizes: Sequence[int]) -> float:
    """Root mean square of the gradient over queries, keys and values of these sizes."""
    parts = (figures.query, figures.key, figures.value)
    total = math.fsum(size * part**2 for size, part in zip(sizes, parts, strict=True))
    return math.sqrt(total / sum(sizes))


def multihead_attention(
    layer: nn.MultiheadAttention, law: Law, shape: tuple[int, ...] | None
) -> Moments:
    r"""Moments of self-attention with these weights, as embed_dim E grows beside the length n.

    In that limit the projections of one input are independent normals, of the standard
    deviations s‖W‖_F/√E, and every head is :func:`attention` of them; the output projection
    and, backwards, the three sums over W_q, W_k and W_v are those of linear maps.  What is left
    out is the overlap of the rows of W_v with those of W_k, of the order n/E.
    """
    shape = need_shape(layer, shape, "the length of the sequence")
    law = need_normal(layer, law)
    width = layer.embed_dim
    if len(shape) != 2 or shape[1] != width:
        raise ValueError(
            f"shape must be (length, embed_dim) = (length, {width}), that of a sample of "
            f"self-attention; it was {shape}"
        )
    if law.mean != 0:
        raise ValueError(f"mean must be 0 for MultiheadAttention; it was {law.mean}")
    if not layer._qkv_same_embed_dim:
        raise ValueError("kdim and vdim must be embed_dim for self-attention")
    if layer.bias_k is not None or layer.add_zero_attn:
        raise ValueError("add_bias_kv and add_zero_attn must be off: such keys are no normals")
    query, key, value = np.split(array(layer.in_proj_weight, "in_proj_weight"), 3)
    out = array(layer.out_proj.weight, "out_proj.weight")
    shifts = np.zeros((3, width))
    shift = np.zeros(width)
    if layer.in_proj_bias is not None:
        shifts = array(layer.in_proj_bias, "in_proj_bias").reshape(3, width)
        shift = array(layer.out_proj.bias, "out_proj.bias")

    def spread(weight):
        return law.std * math.sqrt((weight**2).sum() / width)

    def rms(values):
        return math.sqrt((values**2).mean())

    length, head = shape[0], layer.head_dim
    figures = ground(
        head,
        length,
        length,
        # A bias of the keys shifts all logits of a row alike.
        query_law=Normal(rms(shifts[0]), spread(query)),
        key_law=Normal(0.0, spread(key)),
        value_law=Normal(rms(shifts[2]), spread(value)),
        dropout=layer.dropout if layer.training else 0.0,
    )
    rows = law.std**2 * (value**2).sum(1)
    averaging = figures.std**2 / rows.mean()
    arriving = (out**2).sum(0)
    back = (arriving * rows).mean() / rows.mean()
    squares = back * (
        figures.query**2 * (query**2).sum(0) + figures.key**2 * (key**2).sum(0)
    ) + figures.value**2 * (arriving @ value**2)
    return Moments(
        out @ shifts[2] + shift,
        np.sqrt(averaging * (out**2 @ rows)),
        np.sqrt(squares),
        math.inf,
        "asymptotic, O(n/embed_dim)",
    )


register(
    nn.MultiheadAttention,
    multihead_attention,
    grade="asymptotic",
    note="self-attention over n positions, O(n/embed_dim) for weights that are independent",
    shaped=True,
)

for _type in (
    nn.Transformer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
):
    refuse(
        _type,
        "its residual sums make the inputs of its later parts dependent on one another; "
        "its parts have constants one by one",
    )
