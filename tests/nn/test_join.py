"""Residual blocks and concatenations as layers."""

import copy
import pickle

import pytest
import torch
from torch import nn

import normprop
from normprop import functional, moments, simulate
from normprop.nn import Concat, Residual
from tests.nn.battery import SCALINGS


def test_a_residual_is_its_function():
    branch, x = nn.Linear(5, 5).double(), torch.randn(3, 5, dtype=torch.float64)
    layer = Residual(branch, weight=0.6)
    assert torch.equal(layer(x), functional.residual(branch(x), x, weight=0.6))
    assert torch.equal(Residual(branch)(x), functional.residual(branch(x), x))
    skip = nn.Linear(5, 5).double()
    assert torch.equal(
        Residual(branch, skip, weight=0.6)(x), functional.residual(branch(x), skip(x), weight=0.6)
    )
    assert list(layer.state_dict()) == ["branch.weight", "branch.bias"]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    assert "weight=0.6" in repr(layer)


def test_a_block_of_normalised_layers_keeps_unit_scale():
    # A branch that ends with weights of mean 0 that no other block sees: the paths are
    # uncorrelated, up to what one draw of the weights leaves.
    width = 256
    torch.manual_seed(3)
    branch = nn.Sequential(
        normprop.nn.ReLU(scaling="forward"), normprop.nn.Linear(width, width, bias=False)
    ).double()
    estimate = simulate(Residual(branch, weight=0.5), 400_000, shape=(width,), seed=1)
    # The paths' covariance is 2w√(1 - w²) times a mean of width diagonal entries of a product
    # of independent weights and slopes, none of which exceeds 1/√width in spread.
    spread = 2 * 0.5 * 0.75**0.5 / width**0.5 / width**0.5
    assert abs(estimate.fwd_std**2 - 1) < 4.5 * (spread + 2 * estimate.fwd_std_se)


def test_it_compiles():
    torch.compiler.reset()
    layer = nn.Sequential(Residual(nn.Linear(4, 4), weight=0.3), Concatenated(2)).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert (compiled(x) - layer(x)).abs().max() <= 1e-14 * (1 + layer(x).abs().max())
    torch.compiler.reset()


class Concatenated(nn.Module):
    """The input beside itself, normalised."""

    def __init__(self, times):
        super().__init__()
        self.times = times
        self.join = Concat(mean=0.5, std=(1.0, 2.0), scaling="forward")

    def forward(self, x):
        return self.join(*(x,) * self.times)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_concatenation_is_its_function(scaling):
    parts = [torch.randn(2, n, 3, dtype=torch.float64) for n in (1, 4)]
    law = {"mean": (0.5, -1.0), "std": (2.0, 0.5)}
    layer = Concat(scaling=scaling, **law)
    assert torch.equal(layer(*parts), functional.cat(parts, 1, scaling=scaling, **law))
    last = Concat(-1, scaling=scaling, mean=0.5)
    assert torch.equal(
        last(parts[0], parts[0]), functional.cat([parts[0]] * 2, -1, scaling=scaling, mean=0.5)
    )
    assert f"dim=1, scaling={scaling!r}, mean=(0.5, -1.0), std=(2.0, 0.5)" in repr(layer)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(*parts), layer(*parts))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Residual(torch.relu), TypeError, "branch must be a module"),
        (lambda: Residual(nn.ReLU(), skip=torch.relu), TypeError, "skip must be a module or None"),
        (lambda: Residual(nn.ReLU(), weight=-0.1), ValueError, "must lie in .0, 1."),
        (lambda: Residual(nn.Linear(3, 2))(torch.ones(1, 3)), ValueError, "the same shape"),
        (lambda: Concat(mean=(0.0, 1.0), std=(1.0,) * 3), ValueError, "as many entries"),
        (lambda: Concat(std=-1.0), ValueError, "std must be finite and greater than 0"),
        (lambda: Concat(mean=("0",)), TypeError, "mean must be a real number"),
        (lambda: Concat(scaling="both"), ValueError, "scaling must be one of"),
        (lambda: moments(Residual(nn.ReLU())), TypeError, "Residual has no constants: what its"),
        (lambda: moments(Concat()), TypeError, "Concat has no constants: it has several inputs"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
