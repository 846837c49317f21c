"""Attention: against definitions by integration, against known special cases, and simulated."""

import math
from itertools import pairwise

import numpy as np
import pytest

from normprop.gaussian import Normal
from normprop.gaussian.attention import attention
from normprop.gaussian.softmax import rows_of

STANDARD = Normal(0.0, 1.0)


def simulated(width, queries, keys, values, laws, scale, causal, dropout, replicates=64, n=400):
    """Means of o and of the squares of o - m, dq, dk, dv, one line a replicate.

    The backward pass is written out from the Jacobian of softmax.
    """
    generator = np.random.Generator(np.random.SFC64(11))
    scale = 1 / math.sqrt(width) if scale is None else scale
    hidden = np.triu(np.full((queries, keys), -np.inf), 1) if causal else 0.0
    lines = []
    for _ in range(replicates):
        q, k, v = (
            law.mean + law.std * generator.standard_normal((n, rows, size))
            for law, rows, size in zip(
                laws, (queries, keys, keys), (width, width, values), strict=True
            )
        )
        logits = scale * q @ k.transpose(0, 2, 1) + hidden
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        mask = (generator.random(p.shape) >= dropout) / (1 - dropout)
        o = (p * mask) @ v
        do = generator.standard_normal(o.shape)
        dv = (p * mask).transpose(0, 2, 1) @ do
        dp = mask * (do @ v.transpose(0, 2, 1))
        ds = scale * p * (dp - (p * dp).sum(-1, keepdims=True))
        dq, dk = ds @ k, ds.transpose(0, 2, 1) @ q
        squares = [(x**2).mean() for x in (o - laws[2].mean, dq, dk, dv)]
        lines.append((o.mean(), *squares))
    return np.array(lines)


CASES = [
    (1, 3, 5, 2, (STANDARD,) * 3, None, False, 0.0),
    (2, 4, 4, 4, (STANDARD, Normal(0.0, 0.7), Normal(0.0, 2.0)), None, True, 0.0),
    (8, 5, 7, 3, (Normal(0.5, 1.0), Normal(-1.0, 1.0), Normal(1.0, 0.5)), 0.6, False, 0.3),
    (16, 8, 8, 16, (STANDARD, STANDARD, Normal(0.3, 1.0)), None, True, 0.1),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case[:4])))
def test_every_figure_by_simulation(case):
    width, queries, keys, values, laws, scale, causal, dropout = case
    shapes = (queries, width), (keys, width), (keys, values)
    figures = attention(*shapes, laws, scale, causal, dropout)
    lines = simulated(*case)
    wanted = np.array(
        [figures.mean, *(getattr(figures, k) ** 2 for k in ("std", "query", "key", "value"))]
    )
    z = (lines.mean(0) - wanted) / (lines.std(0, ddof=1) / math.sqrt(len(lines)))
    assert (np.abs(z) < 4.5).all(), z
    assert 0 < figures.error < 1e-11
    assert figures.method == "quadrature"


@pytest.mark.parametrize("width", [1, 2, 5, 64])
@pytest.mark.parametrize(("s", "scale"), [(1.0, None), (0.5, 0.3)])
def test_the_average_over_the_length_of_a_query(width, s, scale):
    # The same integrals over |q| by Gauss-Legendre on its density of chi.
    n = 6
    laws = Normal(0.0, s), Normal(0.0, s), STANDARD
    figures = attention(*[(n, width)] * 3, laws, scale)
    kappa = 1 / math.sqrt(width) if scale is None else scale
    high = math.sqrt(width) + 9.0
    x, w = np.polynomial.legendre.leggauss(60)
    r, w = high * (x + 1) / 2, high * w / 2
    log = (width - 1) * np.log(r) - r * r / 2
    log -= (width / 2 - 1) * math.log(2) + math.lgamma(width / 2)
    w = w * np.exp(log)
    rows = [rows_of(n, kappa * s * s * length) for length in r]
    flat = w @ [row.concentration for row in rows]
    bent = w @ [row.gradient for row in rows]
    longer = w @ [row.gradient * length**2 for row, length in zip(rows, r, strict=True)]
    tilted = w @ [row.tilted for row in rows]
    # Sixty nodes leave a relative 1e-12 at width 1, whose integrand is steepest, and less beyond.
    bound = 1e-11 + figures.error
    assert abs(w.sum() - 1) < 1e-12
    assert abs(figures.std - math.sqrt(flat)) <= bound
    assert abs(figures.value - math.sqrt(flat)) <= bound
    query = kappa * s * math.sqrt((width - 1) * bent + tilted)
    assert abs(figures.query - query) <= bound
    assert abs(figures.key - kappa * s * math.sqrt(longer)) <= bound


def test_the_mean_of_the_keys_has_no_say():
    shapes, moved = [(5, 4)] * 3, Normal(7.0, 1.0)
    plain = attention(*shapes, STANDARD)
    assert attention(*shapes, (STANDARD, moved, STANDARD)) == plain
    assert attention(*shapes, (moved, STANDARD, STANDARD)).query != plain.query


def test_a_single_key_is_passed_on():
    figures = attention((3, 8), (1, 8), (1, 8), (STANDARD, STANDARD, Normal(0.5, 2.0)))
    assert (figures.mean, figures.std, figures.query, figures.key) == (0.5, 2.0, 0.0, 0.0)
    assert figures.value == math.sqrt(3.0)
    assert figures.method == "closed form"


def test_queries_and_keys_without_spread_average():
    figures = attention(*[(9, 16)] * 3, (Normal(0.0, 1e-6), STANDARD, STANDARD))
    assert abs(figures.std - 1 / 3) < 1e-10
    assert abs(figures.value - 1 / 3) < 1e-10


def test_wide_heads_have_a_limit():
    # For d → ∞ the logits are normals of variance 1: σ² → n E p², off by O(1/d).
    n = 16
    limit = rows_of(n, 1.0).concentration
    gaps = [attention(*[(n, d)] * 3, STANDARD).std ** 2 - limit for d in (128, 256, 512)]
    # Twice the width leaves half the gap, but for a part that halves as well.
    over = [a / b - 2 for a, b in pairwise(gaps)]
    assert 0 < over[0] < 0.1
    assert abs(over[0] / over[1] - 2) < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": (5, 0), "key": (5, 0)}, "width must be an integer of at least 1; it was 0"),
        ({"query": (0, 4)}, "queries must be an integer of at least 1; it was 0"),
        ({"key": (0, 4), "value": (0, 4)}, "keys must be an integer of at least 1; it was 0"),
        ({"value": (5, 0)}, "value_width must be an integer of at least 1; it was 0"),
        ({"key": (2.0, 4), "value": (2.0, 4)}, "keys must be an integer of at least 1; it was 2.0"),
        ({"value": (5, True)}, "value_width must be an integer of at least 1; it was True"),
        ({"query": (3, 4), "causal": True}, "as many queries as keys"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"scale": 0.0}, "scale must be finite and greater than 0"),
        ({"scale": 40.0}, "rarely spread by more than 20"),
        ({"query": (8,)}, "must have shapes"),
        ({"query": (5, 9)}, "must have one width"),
        ({"value": (6, 3)}, "key and value one length"),
    ],
)
def test_what_must_hold(arguments, message):
    shapes = dict.fromkeys(("query", "key", "value"), (5, 4))
    with pytest.raises(ValueError, match=message):
        attention(**{**shapes, "law": STANDARD, **arguments})


def test_only_length_and_width_have_a_say():
    got = attention((2, 5, 8), (2, 7, 8), (2, 7, 3), STANDARD)
    assert got == attention((5, 8), (7, 8), (7, 3), (STANDARD,) * 3)
