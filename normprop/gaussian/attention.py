r"""Scaled dot-product attention of independent normal queries, keys and values.

Given a query q, the logits of its row are κ q·k_j: independent normals of standard deviation
τ = κ s_k \|q\|, whose common mean drops out of the softmax.  So every figure is one of softmax,
averaged over the length of q.  With P = Σ p_j², B the mean square length of p∘(dy - ⟨p, dy⟩) and
T that of its product with z (:class:`normprop.gaussian.softmax.Rows`), for n keys, L queries,
widths d of queries and keys and d_v of values, and do ~ N(0, 1),

.. math::
    \mathrm{Var}\,o &= s_v^2\,E P(\tau), \\
    \mathrm{Var}\,dv &= \tfrac{L}{n}\,E P(\tau), \\
    \mathrm{Var}\,dq &= \tfrac1d\,\kappa^2 s_k^2 s_v^2 d_v\,
        E\bigl((d - 1) B(\tau) + T(\tau)\bigr), \\
    \mathrm{Var}\,dk &= \tfrac{L}{nd}\,\kappa^2 s_v^2 d_v\,E \|q\|^2 B(\tau).

For dp_j = do·v_j is normal given do, with a mean in common that B does not see; the keys split
into the part along q, which is the logit z_j, and the rest, which the softmax does not see; and
the rows' shares of a key's gradient are uncorrelated, because their do are independent of mean 0.
No limit is taken.  Under a causal mask row i has i keys: average over the rows.  Dropout of the
probabilities with keep probability r adds the factor 1/r and turns s_v² into s_v² + (1 - r)m_v².
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from normprop.checks import positive, whole
from normprop.gaussian.law import Normal, std_error
from normprop.gaussian.lengths import gamma_rule
from normprop.gaussian.normal import EPS, REACH
from normprop.gaussian.softmax import WIDEST, rows_of

# Two meshes that agree to this are as good as the rows themselves.
_AGREEMENT = 4e-14
# A share of rows too rare to spoil ten digits.
_RARE = 1e-10
# Nearer to 0 the rows of shorter queries are the same to the square of this.
_SHORTEST = 1e-7


@dataclass(frozen=True)
class AttentionFigures:
    """Figures of scaled dot-product attention."""

    mean: float  # mean of an output element
    std: float  # standard deviation of an output element
    query: float  # standard deviation of the gradient at an element of the queries
    key: float  # the same at the keys
    value: float  # the same at the values
    error: float  # bound on the absolute error of each of the five
    method: str  # "closed form" or "quadrature"


def attention(
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    law: Normal | tuple[Normal, Normal, Normal],
    scale: float | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> AttentionFigures:
    """Figures of attention of independent inputs of these shapes, (…, length, width).

    Args:
        query: shape (…, L, d).
        key: shape (…, n, d).
        value: shape (…, n, d_v).
        law: of the elements of all three, or one for each; the mean of the keys has no effect.
        scale: κ, by default 1/√d.
        causal: whether row i sees the first i keys; then L = n.
        dropout: probability of dropping a probability, which PyTorch divides by what is kept.
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
    width, queries = whole("width", query[-1]), whole("queries", query[-2])
    keys, value_width = whole("keys", key[-2]), whole("value_width", value[-1])
    if causal and queries != keys:
        raise ValueError(
            "a causal mask must have as many queries as keys for its figures; "
            f"there were {queries} and {keys}"
        )
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must lie in [0, 1); it was {dropout}")
    scale = 1.0 / math.sqrt(width) if scale is None else positive("scale", float(scale))
    query_law, key_law, value_law = (law,) * 3 if isinstance(law, Normal) else law
    # Lengths of q in units of its own std.
    spread = scale * key_law.std * query_law.std
    offset = 0.5 * width * (query_law.mean / query_law.std) ** 2
    averages, errors = _averages(width, keys, spread, offset, causal)
    keep = 1.0 - dropout
    values = (value_law.std**2 + dropout * value_law.mean**2) / keep
    back = scale**2 * value_width * values / width
    # Averaged over a column of the rows that see it, L rows of n entries each.
    column = queries / keys

    def squares(flat, bent, tilted, weighted) -> tuple[float, float, float, float]:
        return (
            values * flat,
            back * key_law.std**2 * ((width - 1) * bent + tilted),
            back * column * query_law.std**2 * weighted,
            column * flat / keep,
        )

    found = squares(*averages)
    roots = [math.sqrt(square) for square in found]
    error = max(map(std_error, found, squares(*errors)))
    error += 8.0 * EPS * max(abs(value_law.mean), *roots)
    method = "closed form" if keys == 1 else "quadrature"
    return AttentionFigures(value_law.mean, *roots, error, method)


@lru_cache(maxsize=512)
def _averages(width: int, n: int, spread: float, offset: float, causal: bool):
    r"""E P, E B, E T and E \|q\|²B, q of unit variances, and bounds on their errors.

    The step is halved until two sums agree; their difference is then the bound on the error of
    the coarser one.
    """
    if n == 1:
        return (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)
    finer, errors = _sums(width, n, spread, offset, causal, 1)
    for refine in (2, 4, 8):
        coarser = finer
        finer, errors = _sums(width, n, spread, offset, causal, refine)
        difference = np.abs(finer - coarser)
        if (difference <= _AGREEMENT * finer).all():
            break
    return tuple(map(float, finer)), tuple(map(float, errors + difference))


def _sums(width: int, n: int, spread: float, offset: float, causal: bool, refine: int):
    """The four averages on a mesh, and bounds on their rounding."""
    rule = gamma_rule(0.5 * width, refine, offset)
    lengths = np.sqrt(2.0 * rule.nodes)
    widths = spread * np.maximum(lengths, _SHORTEST)
    over = float(rule.weights[widths > WIDEST].sum())
    if over > _RARE:
        raise ValueError(
            f"the logits must rarely spread by more than {WIDEST:g}; of this width, scale and "
            f"law, a share of {over:.1g} of the rows does"
        )
    rows = [rows_of(n, float(min(width, WIDEST)), causal) for width in widths]
    values = np.array([(r.concentration, r.gradient, r.tilted) for r in rows]).T
    errors = np.array([r.errors for r in rows]).T
    # Where the spread was cut, P and B are at most 1, and T the square of z's range.
    errors[:, widths > WIDEST] += np.array([[1.0], [1.0], [(2.0 * REACH) ** 2]])
    values = np.stack([*values, values[1] * lengths**2])
    errors = np.stack([*errors, errors[1] * lengths**2])
    sums = values @ rule.weights
    bounds = errors @ rule.weights + values @ (rule.weights * rule.rounding)
    return sums, bounds + sums * (4.0 * rule.truncation + 64.0 * EPS)
