"""Residual sums and concatenations: figures of the parts, simulated."""

import math

import pytest
import torch
from torch import nn

from normprop import Moments, moments, rules, simulate
from tests.rules.linear import worst


def branch_weight(size):
    """An orthogonal matrix: mean 0 and unit scale both ways, for every input."""
    generator = torch.Generator().manual_seed(4)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


@pytest.mark.parametrize("weight", [0.0, 0.3, math.sqrt(0.5), 1.0])
def test_a_residual_by_simulation(weight):
    # The branch's first elements are read from elements that the skip puts elsewhere, so that
    # the two paths of one output are independent, forward and backward.
    kept, size = math.sqrt(1 - weight**2), 64

    def block(x):
        return kept * x + weight * 1.5 * torch.relu(x.roll(1, -1))

    relu = moments("relu")
    branch = Moments(
        1.5 * relu.fwd_mean, 1.5 * relu.fwd_std, 1.5 * relu.bwd_std, 1e-15, "closed form"
    )
    skip = Moments(0.0, 1.0, 1.0, 0.0, "closed form")
    got = rules.residual(skip, branch, weight)
    assert worst(simulate(block, 200_000, shape=(size,), seed=1), got) < 4.5


@pytest.mark.parametrize("weight", [0.3, math.sqrt(0.5)])
def test_unit_paths_stay_unit(weight):
    unit = Moments(0.0, 1.0, 1.0, 0.0, "closed form")
    got = rules.residual(unit, unit, weight)
    for figure in (got.fwd_std, got.bwd_std):
        assert abs(figure - 1) <= got.error
    assert got.fwd_mean == 0


def test_a_branch_with_weights_has_an_entry_a_channel():
    layer = nn.Linear(3, 3).double()
    unit = Moments(0.0, 1.0, 1.0, 0.0, "closed form")
    own = moments(layer)
    got = rules.residual(unit, own, 0.6)
    assert got.fwd_std.shape == got.bwd_std.shape == (3,)
    assert abs(got.fwd_std - (0.64 + 0.36 * own.fwd_std**2) ** 0.5).max() <= got.error


def test_a_concatenation_by_simulation():
    # Two laws beside one another: what relu puts out, and what it is given.
    def joined(x):
        return torch.cat([torch.relu(x[:, :3]), x[:, 3:]], 1)

    parts = [moments("relu", 0.5, 2.0), moments(nn.Identity(), 0.5, 2.0)]
    got = rules.concatenation(parts, (3, 7))
    estimate = simulate(joined, 200_000, mean=0.5, std=2.0, shape=(10,), seed=1)
    assert worst(estimate, got) < 4.5


def test_parts_of_one_law_keep_it():
    part = moments("tanh", 0.5, 2.0)
    got = rules.concatenation([part, part], (2, 5))
    for name in ("fwd_mean", "fwd_std", "bwd_std"):
        assert abs(getattr(got, name) - getattr(part, name)) <= got.error
    assert got.method == "quadrature"


def test_the_least_exact_method_is_named():
    exact, limit = moments("relu"), Moments(0.0, 1.0, 1.0, math.inf, "asymptotic, O(1/n)")
    assert rules.residual(exact, limit, 0.5).method == "asymptotic, O(1/n)"
    assert rules.residual(exact, limit, 0.5).error == math.inf
    assert rules.concatenation([exact, moments("tanh")], (1, 1)).method == "quadrature"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda u: rules.residual(u, u, 1.5), ValueError, "must lie in .0, 1.; it was 1.5"),
        (lambda u: rules.residual(u, u, math.nan), ValueError, "must lie in"),
        (lambda u: rules.residual(u, u, "1"), TypeError, "weight must be a real number"),
        (lambda u: rules.concatenation([], ()), ValueError, "at least 1 part; there were 0 for 0"),
        (lambda u: rules.concatenation([u], (1, 2)), ValueError, "there were 2 for 1"),
        (lambda u: rules.concatenation([u], (0,)), ValueError, "sizes must be made of integers"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(Moments(0.0, 1.0, 1.0, 0.0, "closed form"))
