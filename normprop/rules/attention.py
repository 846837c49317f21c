"""Attention: exact for independent queries, keys and values, asymptotic for those of one input."""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from normprop.gaussian import Law, Normal
from normprop.gaussian.attention import AttentionFigures, attention
from normprop.rules.arguments import Shape, array, need_normal, need_shape
from normprop.rules.registry import Moments, register

__all__ = [
    "ScaledDotProductAttention", "attention", "attention_slope", "independent_attention",
    "projected_attention", "projections", "self_attention",
]  # fmt: skip


class ScaledDotProductAttention(nn.Module):
    """The layer that torch has as a function alone."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attend, as :func:`torch.nn.functional.scaled_dot_product_attention` does."""
        given = attn_mask, dropout_p, is_causal
        return nn.functional.scaled_dot_product_attention(
            query, key, value, *given, scale=scale, enable_gqa=enable_gqa
        )


def attention_slope(figures: AttentionFigures, sizes: Sequence[int]) -> float:
    """Root mean square of the gradient over queries, keys and values of these sizes."""
    parts = (figures.query, figures.key, figures.value)
    total = math.fsum(size * part**2 for size, part in zip(sizes, parts, strict=True))
    return math.sqrt(total / sum(sizes))


def independent_attention(
    layer: nn.Module,
    law: Law,
    shape: Shape,
    constants: Sequence[float] = (0.0, 1.0, 1.0, 1.0, 1.0),
) -> Moments:
    """Moments of attention of independent queries, keys and values of shape (length, width).

    Its output is shifted and divided, and the gradients of the three are divided, by ``constants``.
    """
    shape = need_shape(layer, shape, "the length and the width of its inputs")
    figures = attention(shape, shape, shape, need_normal(layer, law))
    shift, forward, *back = constants
    parts = (figures.query, figures.key, figures.value)
    slope = math.hypot(*(part / own for part, own in zip(parts, back, strict=True)))
    return Moments(
        (figures.mean - shift) / forward,
        figures.std / forward,
        slope / math.sqrt(len(parts)),
        figures.error / min(forward, *back),
        figures.method,
    )


def multihead_attention(layer: nn.MultiheadAttention, law: Law, shape: Shape) -> Moments:
    r"""Moments of self-attention with these weights, as embed_dim E grows beside the length n.

    In that limit the projections of one input are independent normals, of the standard
    deviations s‖W‖_F/√E, and every head is :func:`attention` of them; the output projection
    and, backwards, the three sums over W_q, W_k and W_v are those of linear maps.  What is left
    out is the overlap of the rows of W_v with those of W_k, of the order n/E.
    """
    length, law = self_attention(layer, law, shape)
    weights, shifts = projections(layer)
    dropout = layer.dropout if layer.training else 0.0
    return projected_attention(length, layer.head_dim, law.std, weights, shifts, dropout)


def self_attention(layer: nn.MultiheadAttention, law: Law, shape: Shape) -> tuple[int, Normal]:
    """Length and law of an input of self-attention."""
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
    return shape[0], law


def projections(layer: nn.MultiheadAttention) -> tuple[list[np.ndarray], np.ndarray]:
    """Weights of queries, keys, values and output, and their biases, (4, E)."""
    width = layer.embed_dim
    weights = np.split(array(layer.in_proj_weight, "in_proj_weight"), 3)
    weights.append(array(layer.out_proj.weight, "out_proj.weight"))
    shifts = np.zeros((4, width))
    if layer.in_proj_bias is not None:
        shifts[:3] = array(layer.in_proj_bias, "in_proj_bias").reshape(3, width)
        shifts[3] = array(layer.out_proj.bias, "out_proj.bias")
    return weights, shifts


def projected_attention(
    length: int,
    head: int,
    std: float,
    weights: Sequence[np.ndarray],
    shifts: np.ndarray,
    dropout: float = 0.0,
    divisors: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    back: Sequence[np.ndarray] | None = None,
) -> Moments:
    """Moments of self-attention between projections, of an input of mean 0.

    Queries, keys, values and output have weights (E, E) and biases (4, E), ``back`` are the weights
    of the backward pass where they are others; attention, whose heads are ``head`` wide, and the
    gradients of its three inputs are divided by ``divisors``.
    """
    width = len(shifts[0])
    query, key, value, out = weights
    # A bias of the keys shifts all logits of a row alike.
    laws = tuple(
        Normal(math.sqrt((shift**2).mean()), std * math.sqrt((weight**2).sum() / width))
        for weight, shift in zip((query, key, value), shifts, strict=False)
    )
    figures = attention(*[(length, head)] * 3, laws, dropout=dropout)
    forward, *backward = divisors
    rows = std**2 * (value**2).sum(1)
    averaging = (figures.std / forward) ** 2 / rows.mean()
    back_query, back_key, back_value, back_out = weights if back is None else back
    # The gradient that arrives at attention; that of the values in v's own direction counts.
    arriving = (back_out**2).sum(0)
    share = (arriving * rows).mean() / rows.mean()
    squares = (
        share * (figures.query / backward[0]) ** 2 * (back_query**2).sum(0)
        + share * (figures.key / backward[1]) ** 2 * (back_key**2).sum(0)
        + (figures.value / backward[2]) ** 2 * (arriving @ back_value**2)
    )
    return Moments(
        out @ (shifts[2] / forward) + shifts[3],
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
    family="map",
    algebra="remade",
    draws=lambda layer: layer.training and layer.dropout > 0,
)
register(ScaledDotProductAttention, independent_attention, shaped=True, family="attention")
