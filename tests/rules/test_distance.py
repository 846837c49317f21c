"""Angles and distances of two independent vectors: exact values, simulation, bounds."""

import math

import pytest
import torch
from mpmath import mp, mpf
from torch import nn

from normprop import moments
from tests import reference


def simulated(layer, n, m, s, replicates=64, batch=4000):
    generator = torch.Generator().manual_seed(9)
    found = []
    for _ in range(replicates):
        x1, x2 = (
            m + s * torch.randn(batch, n, generator=generator, dtype=torch.float64)
            for _ in range(2)
        )
        x1.requires_grad_()
        y = layer(x1, x2)
        dy = torch.randn(batch, generator=generator, dtype=torch.float64)
        (dx,) = torch.autograd.grad(y, x1, dy)
        y = y.detach()
        found.append([y.mean(), y.square().mean(), dx.square().mean()])
    found = torch.tensor(found)
    return found.mean(0), found.std(0) / math.sqrt(replicates)


@pytest.mark.parametrize(
    ("layer", "n", "m", "s"),
    [
        (nn.CosineSimilarity(), 6, 0.0, 0.5),
        (nn.CosineSimilarity(dim=-1), 40, 0.0, 2.0),
        (nn.PairwiseDistance(), 1, 0.3, 0.7),
        (nn.PairwiseDistance(), 3, 0.3, 0.7),
        (nn.PairwiseDistance(p=1.0), 5, 0.3, 2.0),
        (nn.PairwiseDistance(p=1.0, eps=0.5), 2, 0.3, 0.7),
    ],
)
def test_the_formula_is_what_simulation_finds(layer, n, m, s):
    got = moments(layer, m, s, shape=(n,))
    wanted = torch.tensor([got.fwd_mean, got.fwd_mean**2 + got.fwd_std**2, got.bwd_std**2])
    average, error = simulated(layer, n, m, s)
    # ±1 has a square without an error.
    same = (average - wanted).abs() <= 1e-12
    assert (same | ((average - wanted).abs() < 4.5 * error)).all()


@pytest.mark.parametrize("n", [3, 4, 100, 10**6])
def test_the_cosine(n):
    got = moments(nn.CosineSimilarity(), 0, 0.5, shape=(n,))
    with mp.workdps(50):
        wanted = 0, 1 / mp.sqrt(n), mp.sqrt(mpf(n - 1) / (n - 2)) / n * 2
    assert got.error <= 1e-7 if n == 3 else got.error <= 1e-14
    for name, exact in zip(("fwd_mean", "fwd_std", "bwd_std"), wanted, strict=True):
        assert reference.close(getattr(got, name), exact, got.error)


@pytest.mark.parametrize("n", [1, 2, 7, 100, 10**5])
def test_the_distance(n):
    s, eps = 0.5, 1e-6
    got = moments(nn.PairwiseDistance(eps=eps), 3.0, s, shape=(n,))
    with mp.workdps(50):
        # The mean length of a normal vector off the origin, and its mean square.
        scale, a = mp.sqrt(2) * mpf(s), mpf(n) / 2
        off = n * mpf(eps) ** 2 / scale**2
        mean = scale * mp.sqrt(2) * mp.gammaprod([a + mpf("0.5")], [a])
        mean *= mp.hyp1f1(-mpf("0.5"), a, -off / 2)
        std = mp.sqrt(n * (scale**2 + mpf(eps) ** 2) - mean**2)
    assert got.error <= 1e-10 * max(1, n)
    assert reference.close(got.fwd_mean, mean, got.error)
    assert reference.close(got.fwd_std, std, got.error)
    assert reference.close(got.bwd_std, 1 / mp.sqrt(n), got.error)


@pytest.mark.parametrize(
    ("layer", "arguments", "message"),
    [
        (nn.CosineSimilarity(), {}, "shape must be given for CosineSimilarity"),
        (nn.CosineSimilarity(), {"shape": (4,), "mean": 1.0}, r"mean must be 0.*it was 1\.0"),
        (nn.CosineSimilarity(), {"shape": (2,)}, "1 or more than 2 entries"),
        (nn.CosineSimilarity(dim=0), {"shape": (4,)}, "dim must be a dimension of the sample"),
        (nn.CosineSimilarity(dim=2), {"shape": (4,)}, "dim must be a dimension .* it was 2"),
        (nn.PairwiseDistance(), {}, "shape must be given for PairwiseDistance"),
        (nn.PairwiseDistance(), {"shape": ()}, "shape must have a dimension"),
        (nn.PairwiseDistance(p=3), {"shape": (4,)}, "p must be 1 or 2; it was 3"),
    ],
)
def test_refusals(layer, arguments, message):
    with pytest.raises(ValueError, match=message):
        moments(layer, **arguments)
