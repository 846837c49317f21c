"""Attention by rules: shapes, multi-head attention as its width grows, and what must hold."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from normprop import moments
from normprop.gaussian import Normal
from normprop.rules import attention, attention_slope

STANDARD = Normal(0.0, 1.0)


def test_one_slope_for_three_inputs():
    figures = attention((4, 8), (6, 8), (6, 3), STANDARD)
    sizes = (32, 48, 18)
    parts = (figures.query, figures.key, figures.value)
    wanted = sum(n * p**2 for n, p in zip(sizes, parts, strict=True)) / sum(sizes)
    assert abs(attention_slope(figures, sizes) ** 2 - wanted) < 1e-15


def measured(width, length, replicates):
    """E y² and E dx² of self-attention over what moments says, by drawn weights on the ball.

    All rows have norm 1, so that the averages over channels are the same for all of them.
    """
    lines, wanted = [], None
    for seed in range(replicates):
        torch.manual_seed(seed)
        layer = nn.MultiheadAttention(width, 4, bias=False, batch_first=True).double()
        for parameter in layer.parameters():
            rows = torch.randn_like(parameter)
            parameter.data = rows / rows.norm(dim=1, keepdim=True)
        if wanted is None:
            figures = moments(layer, shape=(length, width))
            wanted = np.array([(figures.fwd_std**2).mean(), (figures.bwd_std**2).mean()])
        x = torch.randn(48, length, width, dtype=torch.float64).requires_grad_()
        y, _ = layer(x, x, x, need_weights=False)
        (dx,) = torch.autograd.grad(y, x, torch.randn_like(y))
        lines.append(np.array([float(v.detach().square().mean()) for v in (y, dx)]) / wanted)
    return np.array(lines)


def test_multi_head_attention_as_its_width_grows():
    # Off by O(n/embed_dim), so that four times the width leave a quarter, and of that a part
    # of the order of its square: n/embed_dim is 5/8 and 5/32.
    narrow, wide = (measured(width, 20, 24) for width in (32, 128))
    gaps = [lines.mean(0) - 1 for lines in (narrow, wide)]
    errors = [lines.std(0, ddof=1) / math.sqrt(len(lines)) for lines in (narrow, wide)]
    assert (gaps[0] > 4.5 * errors[0]).all()
    assert (np.abs(gaps[1] - gaps[0] / 4) < 4.5 * np.hypot(errors[0] / 4, errors[1])).all()


def test_the_mean_of_multi_head_attention_is_its_biases():
    layer = nn.MultiheadAttention(8, 2, batch_first=True).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    got = moments(layer, 0.0, 0.2, shape=(5, 8))
    x = torch.zeros(1, 5, 8, dtype=torch.float64)
    wanted = layer(x, x, x)[0][0, 0].detach().numpy()
    assert np.abs(got.fwd_mean - wanted).max() < 1e-13


def test_the_figures_of_multi_head_attention_have_no_bound():
    got = moments(nn.MultiheadAttention(8, 2), shape=(5, 8))
    assert (got.error, got.method) == (math.inf, "asymptotic, O(n/embed_dim)")
    assert got.fwd_std.shape == got.bwd_std.shape == (8,)


def test_dropout_counts_in_training_alone():
    layer = nn.MultiheadAttention(8, 2, dropout=0.5, bias=False)
    training = moments(layer, shape=(5, 8))
    evaluation = moments(layer.eval(), shape=(5, 8))
    assert np.abs(training.fwd_std / evaluation.fwd_std - math.sqrt(2)).max() < 1e-6


@pytest.mark.parametrize(
    ("layer", "arguments", "message"),
    [
        (nn.MultiheadAttention(8, 2), {}, "shape must be given for MultiheadAttention"),
        (nn.MultiheadAttention(8, 2), {"shape": (5, 6)}, r"\(length, 8\)"),
        (nn.MultiheadAttention(8, 2), {"shape": (5, 8), "mean": 1.0}, "mean must be 0"),
        (nn.MultiheadAttention(8, 2, kdim=4), {"shape": (5, 8)}, "kdim and vdim"),
        (nn.MultiheadAttention(8, 2, add_zero_attn=True), {"shape": (5, 8)}, "must be off"),
        (nn.MultiheadAttention(8, 2, add_bias_kv=True), {"shape": (5, 8)}, "must be off"),
    ],
)
def test_what_must_hold(layer, arguments, message):
    with pytest.raises(ValueError, match=message):
        moments(layer, **arguments)


@pytest.mark.parametrize(
    "layer",
    [
        nn.TransformerEncoderLayer(8, 2),
        nn.TransformerDecoderLayer(8, 2),
        nn.Transformer(8, 2, 1, 1, batch_first=True),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 1, enable_nested_tensor=False),
        nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2), 1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_transformer_is_its_parts(layer):
    with pytest.raises(TypeError, match="its parts have constants one by one"):
        moments(layer)
