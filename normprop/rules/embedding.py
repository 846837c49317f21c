"""Rows that tokens look up: the figures are those of the weight, over uniform tokens.

A token is an integer.  No gradient reaches it, so that ``bwd_std`` has no entry; and it has no
mean and no standard deviation that could be chosen.
"""

import math

import numpy as np
from torch import nn

from normprop.gaussian import Law, Normal
from normprop.gaussian.law import std_error
from normprop.gaussian.normal import EPS
from normprop.rules.arguments import Shape, array, need_shape
from normprop.rules.registry import CLOSED, Moments, register

__all__ = ["check_no_law", "embedding", "rows_of"]


def embedding(rows: np.ndarray, bag: int = 1, mode: str = "mean") -> Moments:
    """Moments of what ``bag`` independent tokens look up, each any of the rows alike.

    Rows have the shape (tokens, dim), figures an entry for each of dim, and none backward; the mode
    says what becomes of the rows: ``"sum"``, ``"mean"`` or ``"max"``.

    Raises:
        ValueError: there is no row.
    """
    count = len(rows)
    if count == 0:
        raise ValueError("there must be a row to look up; the weight has none")
    if mode == "max":
        return _largest(np.sort(rows, axis=0), bag)
    scale = float(bag) if mode == "sum" else 1.0
    spread = scale / math.sqrt(bag)
    mean = rows.sum(0) / count
    std = np.sqrt(((rows - mean) ** 2).sum(0) / count)
    error = _rounding(rows, std)
    return Moments(mean * scale, std * spread, np.zeros(0), error * max(scale, spread), CLOSED)


def _largest(rows: np.ndarray, bag: int) -> Moments:
    """Moments of the largest of ``bag`` draws, with replacement, from sorted columns."""
    count = len(rows)
    # The rank is k or less for (k/count)^bag of the bags.
    ranks = ((np.arange(count + 1) / count) ** bag)[:, None]
    chances = np.diff(ranks, axis=0)
    mean = (chances * rows).sum(0)
    squares = (rows - mean) ** 2
    variance = (chances * squares).sum(0)
    std = np.sqrt(variance)
    # A rank is off by that share of itself; by partial summation it counts once for each step of
    # what is summed.
    share = (bag + 4.0) * EPS
    steps, bends = ((ranks[1:-1] * np.abs(np.diff(v, axis=0))).sum(0) for v in (rows, squares))
    of_std = map(std_error, variance.tolist(), (share * bends).tolist())
    error = _rounding(rows, std) + max(float(share * steps.max(initial=0.0)), *of_std, 0.0)
    return Moments(mean, std, np.zeros(0), error, CLOSED)


def _rounding(rows: np.ndarray, std: np.ndarray) -> float:
    """What adding up rows in their order does to their mean and standard deviation."""
    largest = np.abs(rows).max(initial=0.0) + std.max(initial=0.0)
    return float((len(rows) + 16.0) * EPS * largest)


def rows_of(layer: nn.Embedding | nn.EmbeddingBag) -> np.ndarray:
    """The rows as they are looked up, without that of ``padding_idx``, which stands for nothing."""
    rows = array(layer.weight, "weight")
    if layer.max_norm is not None:
        norms = np.linalg.norm(rows, ord=float(layer.norm_type), axis=1, keepdims=True)
        # As torch adds to a norm before it divides by it.
        factor = layer.max_norm / (norms + 1e-7)
        rows = np.where(norms > layer.max_norm, rows * factor, rows)
    return rows if layer.padding_idx is None else np.delete(rows, layer.padding_idx, axis=0)


def check_no_law(layer: nn.Module, law: Law) -> None:
    """Refuse a law for an input that has none."""
    if law != Normal(0.0, 1.0):
        raise ValueError(
            f"mean and std must be left at 0 and 1, and after at None, for {type(layer).__name__}: "
            f"its input is a token, which is uniform; it was {law}"
        )


def _embedding(layer: nn.Embedding, law: Law) -> Moments:
    check_no_law(layer, law)
    return embedding(rows_of(layer))


def _embedding_bag(layer: nn.EmbeddingBag, law: Law, shape: Shape) -> Moments:
    """Moments of bags, all of ``shape[0]`` tokens, none of them padding."""
    check_no_law(layer, law)
    shape = need_shape(layer, shape, "how many tokens a bag has")
    if len(shape) != 1:
        raise ValueError(f"shape must be (tokens in a bag,) for EmbeddingBag; it was {shape}")
    return embedding(rows_of(layer), shape[0], layer.mode)


register(
    nn.Embedding,
    _embedding,
    note="over uniform tokens, one entry a dimension; no gradient reaches a token",
    family="map",
)
register(
    nn.EmbeddingBag,
    _embedding_bag,
    note="over bags of one size, of uniform tokens; no gradient reaches a token, and there is no "
    "twin, as its scale would depend on the size of each bag",
    shaped=True,
)
