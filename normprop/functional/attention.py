"""Normalised attention."""

import math
from functools import lru_cache
from typing import NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.constants import sizes_of
from normprop.functional.keywords import Given, takes
from normprop.functional.parametric import linear
from normprop.functional.scale import (
    Scaling,
    check_real,
    check_scaling,
    constant_when_compiled,
    literal,
    scale_gradient,
)
from normprop.functional.weight import Per

__all__ = ["multi_head_attention", "scaled_dot_product_attention"]


class AttentionConstants(NamedTuple):
    """y = (attention - shift)/forward, whose three gradients are divided by the other figures.

    They differ from ``forward`` only under ``scaling="separate"``.
    """

    shift: float
    forward: float
    query: float
    key: float
    value: float

    @classmethod
    def alike(cls, shift: float, forward: float, backward: float) -> "AttentionConstants":
        """With one divisor for all three gradients."""
        return cls(shift, forward, *(backward,) * 3)


@takes(Given)
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    **law: Unpack[Given],
) -> Tensor:
    r"""Normalised softmax(κ q kᵀ) v, κ the scale.

    .. math:: y = \frac{1}{\sigma}\Bigl(\sum_j p_{ij} v_j - \mathrm{mean}\Bigr)

    For independent queries, keys and values ~ N(mean, std²), σ_f² = std² E Σ_j p_ij², averaged
    over the length of a query; the gradients at queries, keys and values have standard
    deviations of their own, whose root mean square over all elements is σ_b.  All are exact, and
    under ``is_causal`` averaged over the rows.  Under ``"forward"`` and ``"backward"`` the
    gradients are the true ones; under ``"separate"`` each of the three is divided by its own
    figure, so that together they are no multiple of the gradient.

    float16 and bfloat16 run in PyTorch's kernels for these types, which add up in float32; the
    result is rounded by them, and once more here.

    Args:
        query: shape (…, L, d).
        key: shape (…, n, d).
        value: shape (…, n, d_v).
        attn_mask: as in torch; what it hides is not in the constants.
        dropout_p: probability of dropping a probability.
        is_causal: whether query i sees the first i keys.
        scale: κ, by default d^(-1/2).
        enable_gqa: as in torch: a head of keys and values serves several of queries, whose
            gradients it adds up; for every scaling but ``"forward"`` it must be ``False``.
        scaling: which figures divide in which pass.
        mean: mean of all inputs.
        std: standard deviation of all inputs, greater than 0.

    Returns:
        Tensor of shape (…, L, d_v).

    Raises:
        TypeError: an input does not hold real numbers.
        ValueError: an argument is out of its range, or the logits spread too far.
    """
    for tensor in (query, key, value):
        check_real(tensor)
    constants = attention_constants(
        *(sizes_of(t.shape[-2:]) for t in (query, key, value)),
        law["scaling"],
        literal(law["mean"]),
        literal(law["std"]),
        None if scale is None else literal(scale),
        is_causal,
        literal(dropout_p),
        enable_gqa,
    )
    given = attn_mask, dropout_p, is_causal, scale, enable_gqa
    return attended(query, key, value, constants, *given)


def attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    constants: AttentionConstants,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Tensor:
    """Attention, normalised by these constants."""
    query, key, value = divided(query, key, value, constants)
    output = torch_functional.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    # Values of mean 0 cost one pass.
    output = output if constants.shift == 0.0 else output - constants.shift
    return output / constants.forward


def divided(
    query: Tensor, key: Tensor, value: Tensor, constants: AttentionConstants
) -> tuple[Tensor, ...]:
    """The inputs, whose gradients will be divided by their own figures instead of σ_f."""
    figures = (constants.query, constants.key, constants.value)
    return tuple(
        tensor if own == constants.forward else scale_gradient(tensor, constants.forward / own)
        for tensor, own in zip((query, key, value), figures, strict=True)
    )


@constant_when_compiled
def attention_constants(
    query: tuple[int, ...],
    key: tuple[int, ...],
    value: tuple[int, ...],
    scaling: Scaling,
    mean: float = 0.0,
    std: float = 1.0,
    scale: float | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    enable_gqa: bool = False,
) -> AttentionConstants:
    """Constants of attention of inputs of these shapes, of one law."""
    if enable_gqa and scaling != "forward":
        raise ValueError(
            "enable_gqa must be False for a scaling of gradients: a head of keys adds up those of "
            f"several queries, which is not in the constants; scaling was {scaling!r}"
        )
    laws = (rules.check_law(mean, std),) * 3
    return _cached(query, key, value, scaling, laws, scale, is_causal, dropout_p)


@lru_cache(maxsize=256, typed=True)
def _cached(query, key, value, scaling, laws, scale, is_causal, dropout_p) -> AttentionConstants:
    check_scaling(scaling)
    figures = rules.attention(query, key, value, laws, scale, is_causal, dropout_p)
    if scaling == "separate":
        # A single key has nothing to choose, and its query no gradient that could be scaled.
        own = (figures.query or figures.std, figures.key or figures.std, figures.value)
        return AttentionConstants(figures.mean, figures.std, *own)
    sizes = tuple(shape[-2] * shape[-1] for shape in (query, key, value))
    sigma = figures.std if scaling == "forward" else rules.attention_slope(figures, sizes)
    return AttentionConstants.alike(figures.mean, sigma, sigma)


class BallOfHeads(TypedDict, total=False):
    """Which ball, its radius, which figures; standard deviation of the inputs of mean 0."""

    scaling: Scaling
    per: Per
    gain: float
    std: float


@takes(BallOfHeads, scaling="forward")
def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
    weights: tuple[Tensor, Tensor, Tensor],
    biases: tuple[Tensor | None, Tensor | None, Tensor | None],
    out_weight: Tensor,
    out_bias: Tensor | None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    need_weights: bool = False,
    **ball: Unpack[BallOfHeads],
) -> tuple[Tensor, Tensor | None]:
    r"""Multi-head attention with projections on the unit ℓ2 ball.

    .. math::
        y = \hat W_o \frac{a}{\sigma} + b_o, \qquad
        a = \mathrm{softmax}\bigl(\tfrac{1}{\sqrt d} q k^\top\bigr) v, \qquad
        q = \hat W_q x_q + b_q, \;\dots

    The projections are those of :func:`linear`, σ is that of
    :func:`scaled_dot_product_attention` for their standard deviations.  The constants take the
    projected queries, keys and values for independent normals: exact for independent inputs
    and orthogonal weights, and for one input that is all three off by O(n/embed_dim).

    Args:
        query: shape (N, L, E).
        key: shape (N, n, E_k).
        value: shape (N, n, E_v).
        num_heads: into how many heads E is split.
        weights: of queries (E, E), keys (E, E_k) and values (E, E_v).
        biases: of the three, shape (E,).
        out_weight: shape (E, E).
        out_bias: shape (E,).
        attn_mask: added to the logits; shape (L, n) or one that spreads to (N, heads, L, n).
            What it hides is not in the constants.
        dropout_p: probability of dropping a probability.
        is_causal: whether query i sees the first i keys; then without ``attn_mask``.
        need_weights: also return the probabilities, as dropout left them.
        scaling: which ball and which figures in which pass; under ``"separate"`` the
            gradients of queries, keys and values have three factors.  By default the forward
            one, as the three projections usually share an input, where their gradients meet:
            only a factor that both passes have leaves their sum's direction alone.
        per: one norm a neuron, or one a layer.
        gain: radius of the ball of ``out_weight``, greater than 0.
        std: standard deviation of the inputs, whose mean is taken for 0.

    Returns:
        The output, shape (N, L, E), and the probabilities, shape (N, heads, L, n), or ``None``.

    Raises:
        TypeError: an input does not hold real numbers.
        ValueError: an argument is out of its range.
    """
    scaling, per, std = ball["scaling"], ball["per"], ball["std"]
    for tensor in (query, key, value):
        check_real(tensor)
    projected = [
        linear(x, weight, bias, scaling=scaling, per=per)
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    ]
    queries, keys, values = (
        x.unflatten(-1, (num_heads, x.shape[-1] // num_heads)).transpose(-2, -3) for x in projected
    )
    constants = multi_head_constants(
        tuple(sizes_of(x.shape[-2:]) for x in (queries, keys, values)),
        tuple(sizes_of(weight.shape) for weight in weights),
        scaling,
        literal(std),
        is_causal,
        literal(dropout_p),
    )
    queries, keys, values = divided(queries, keys, values, constants)
    probabilities = None
    if need_weights:
        logits = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
        if is_causal:
            hidden = logits.new_ones(logits.shape[-2:], dtype=torch.bool).triu(1)
            logits = logits.masked_fill(hidden, -math.inf)
        logits = logits if attn_mask is None else logits + attn_mask
        probabilities = torch_functional.dropout(torch.softmax(logits, -1), dropout_p)
        mixed = probabilities @ values
    else:
        mixed = torch_functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask, dropout_p, is_causal
        )
    mixed = (mixed / constants.forward).transpose(-2, -3).flatten(-2)
    output = linear(mixed, out_weight, out_bias, scaling=scaling, per=per, gain=ball["gain"])
    return output, probabilities


@constant_when_compiled
def multi_head_constants(
    heads: tuple[tuple[int, ...], ...],
    weights: tuple[tuple[int, ...], ...],
    scaling: Scaling,
    std: float,
    is_causal: bool,
    dropout_p: float,
) -> AttentionConstants:
    """Constants of heads of these shapes (length, width), with projections of those shapes."""
    check_scaling(scaling)
    # On the backward ball the squares of a neuron's weights add up to fan-in/fan-out on average.
    spreads = [math.sqrt(width / outs) if scaling == "backward" else 1.0 for outs, width in weights]
    laws = tuple(rules.check_law(0.0, std * spread) for spread in spreads)
    return _cached(*heads, scaling, laws, None, is_causal, dropout_p)
