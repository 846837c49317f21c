"""Embeddings: the rows they look up, over uniform tokens, one by one and in bags."""

from itertools import product

import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from torch import nn

import normprop
from normprop import moments
from tests import reference


def filled(layer, seed=2):
    generator = torch.Generator().manual_seed(seed)
    layer.weight.data.copy_(torch.randn(layer.weight.shape, generator=generator))
    return layer


def enumerated(rows, bag, mode):
    """Means and standard deviations to 50 digits, over every bag of tokens."""
    reduce = {"sum": mp.fsum, "mean": lambda v: mp.fsum(v) / len(v), "max": max}[mode]
    found = []
    for column in zip(*rows, strict=True):
        values = [reduce([mpf(v) for v in bag]) for bag in product(column, repeat=bag)]
        mean = mp.fsum(values) / len(values)
        square = mp.fsum((v - mean) ** 2 for v in values) / len(values)
        found.append((mean, mp.sqrt(square)))
    return found


def agrees(got, wanted):
    assert got.bwd_std.shape == (0,)
    assert got.error <= 1e-12
    for k, (mean, std) in enumerate(wanted):
        assert reference.close(float(got.fwd_mean[k]), mean, got.error)
        assert reference.close(float(got.fwd_std[k]), std, got.error)


@pytest.mark.parametrize("padding", [None, 0, 3, -1])
def test_an_embedding_has_the_figures_of_its_rows(padding):
    layer = filled(nn.Embedding(6, 3, padding_idx=padding, dtype=torch.float64))
    rows = layer.weight.tolist()
    if padding is not None:
        del rows[padding]
    with mp.workdps(50):
        agrees(moments(layer), enumerated(rows, 1, "sum"))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("bag", [1, 2, 5])
def test_a_bag_is_its_enumeration(bag, mode):
    layer = filled(nn.EmbeddingBag(5, 2, mode=mode, padding_idx=4, dtype=torch.float64))
    with mp.workdps(50):
        agrees(moments(layer, shape=(bag,)), enumerated(layer.weight.tolist()[:4], bag, mode))


def test_a_bag_is_what_torch_does():
    for mode in ("sum", "mean", "max"):
        layer = filled(nn.EmbeddingBag(4, 3, mode=mode, dtype=torch.float64))
        bags = torch.tensor(list(product(range(4), repeat=3)))
        seen = layer(bags).detach()
        got = moments(layer, shape=(3,))
        for figure, wanted in (
            (got.fwd_mean, seen.mean(0)),
            (got.fwd_std, seen.std(0, correction=0)),
        ):
            assert np.abs(figure - wanted.numpy()).max() <= 2**-52 * 256 * seen.abs().max()


def test_a_large_bag_has_the_largest_row():
    layer = filled(nn.EmbeddingBag(5, 2, mode="max", dtype=torch.float64))
    got = moments(layer, shape=(10_000,))
    assert np.abs(got.fwd_mean - layer.weight.detach().amax(0).numpy()).max() <= got.error
    assert got.fwd_std.max() <= got.error <= 1e-11


@pytest.mark.parametrize("norm_type", [1.0, 2.0, float("inf")])
def test_max_norm_is_in_the_figures(norm_type):
    layer = filled(nn.Embedding(6, 3, max_norm=1.0, norm_type=norm_type, dtype=torch.float64))
    got = moments(layer)
    # torch writes the shorter rows into the weight.
    seen = layer(torch.arange(6)).detach()
    assert torch.linalg.vector_norm(seen, norm_type, 1).max() <= 1.0
    assert np.abs(got.fwd_mean - seen.mean(0).numpy()).max() <= 1e-15
    assert np.abs(got.fwd_std - seen.std(0, correction=0).numpy()).max() <= 1e-15


@pytest.mark.parametrize("method", ["normalize", "project"])
def test_a_twin_has_unit_mean_square(method):
    layer = normprop.nn.Embedding(50, 8, padding_idx=0, method=method, dtype=torch.float64)
    got = moments(layer)
    assert abs(np.mean(got.fwd_mean**2 + got.fwd_std**2) - 1) <= 2**-52 * 64 + 4 * got.error
    seen = layer(torch.arange(1, 50)).detach()
    assert np.abs(got.fwd_mean - seen.mean(0).numpy()).max() <= got.error + 2**-52 * 64


@pytest.mark.parametrize(
    ("layer", "law"),
    [
        (nn.Embedding(3, 2), {"mean": 1.0}),
        (nn.Embedding(3, 2), {"std": 2.0}),
        (nn.Embedding(3, 2), {"after": "relu"}),
        (normprop.nn.Embedding(3, 2), {"std": 2.0}),
        (nn.EmbeddingBag(3, 2), {"mean": 1.0, "shape": (2,)}),
    ],
)
def test_a_token_has_no_law(layer, law):
    with pytest.raises(ValueError, match=r"mean and std must be left at 0 and 1.*a token"):
        moments(layer, **law)


def test_refusals():
    with pytest.raises(ValueError, match=r"shape must be given for EmbeddingBag.*how many tokens"):
        moments(nn.EmbeddingBag(3, 2))
    with pytest.raises(ValueError, match=r"shape must be \(tokens in a bag,\).*\(2, 3\)"):
        moments(nn.EmbeddingBag(3, 2), shape=(2, 3))
    with pytest.raises(ValueError, match="there must be a row to look up"):
        moments(nn.Embedding(1, 2, padding_idx=0))
