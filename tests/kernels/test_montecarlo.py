"""The kernel's simulation: the exact figures within its own errors, and the same for any parts."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("triton")

from normprop import moments, simulate
from normprop.kernels import activation
from normprop.kernels import montecarlo as kernel
from normprop.montecarlo import simulation
from normprop.names import CLASSES, NAMED
from tests.layers import instance

pytestmark = pytest.mark.usefixtures("poisoned")

LIMIT = 4.5
FEW = {"n": 30_000, "replicates": 16, "backend": "triton"}
LAYERS = [
    "relu", "sigmoid", "gelu", "hardshrink", nn.ELU(0.5), nn.GELU("tanh"), nn.Hardtanh(-0.5, 2.0),
    nn.PReLU(init=0.1), nn.RReLU().eval(), nn.Softplus(2.0), nn.Identity(), nn.Threshold(0.5, 0.25),
]  # fmt: skip


def worst(estimate, exact):
    return max(abs(score) for score in estimate.z(exact).values())


def run(layer="tanh", device="cpu", **changes):
    return simulate(layer, **{**FEW, "mean": 0.3, "std": 1.5, "device": device, **changes})


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_it_agrees_with_the_moments(layer, device):
    estimate = run(layer, device)
    # Sixteen replicates: a t-distribution of 15 degrees of freedom has longer tails, and 7 lies
    # where 4.5 lies for a normal.
    assert worst(estimate, moments(layer, 0.3, 1.5)) < 7
    assert abs(estimate.bwd_mean) < 7 * estimate.bwd_mean_se
    assert estimate.n == 30_000


@pytest.mark.parametrize("layer", ["relu", "tanh"])
def test_many_samples(layer, device, monkeypatch):
    # Four million tell a std that is off by a quarter of a per cent.  Wide blocks, for the
    # interpreter's sake.
    monkeypatch.setattr(kernel, "_BLOCK", 1 << 14)
    estimate = run(layer, device, n=4_000_000, replicates=64)
    exact = moments(layer, 0.3, 1.5)
    assert max(estimate.fwd_std_se / exact.fwd_std, estimate.bwd_std_se / exact.bwd_std) < 0.0006
    # t of 63 degrees of freedom: 5.1 lies where 4.5 lies for a normal.
    assert worst(estimate, exact) < 5.1


def test_every_name_of_the_witness_has_a_kernel():
    assert set(NAMED) <= set(activation.FUNCTIONS)
    modules = [instance(nn, layer_type.__name__)[0] for layer_type in CLASSES]
    known = {known[0] for module in modules if (known := simulation._known(module)) is not None}
    assert {*NAMED, "threshold", "prelu"} - {"gelu_tanh"} <= known <= set(activation.FUNCTIONS)
    # Not those of several elements.
    assert simulation._known(nn.Softmax(-1)) is simulation._known(nn.GLU()) is None


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        (nn.CELU(0.5), ("celu", (0.5,))),
        (nn.ELU(2.0), ("elu", (2.0,))),
        (nn.GELU("tanh"), ("gelu_tanh", ())),
        (nn.Hardshrink(0.1), ("hardshrink", (0.1,))),
        (nn.Hardtanh(-2.0, 3.0), ("hardtanh", (-2.0, 3.0))),
        (nn.LeakyReLU(0.2), ("leaky_relu", (0.2,))),
        (nn.PReLU(init=0.5), ("prelu", (0.5,))),
        (nn.RReLU(0.1, 0.2).eval(), ("rrelu", (0.1, 0.2))),
        (nn.Softplus(2.0, 10.0), ("softplus", (2.0, 10.0))),
        (nn.Softshrink(0.1), ("softshrink", (0.1,))),
        (nn.Threshold(0.5, 0.2), ("threshold", (0.5, 0.2))),
    ],
)
def test_a_module_brings_its_parameters(module, wanted):
    assert simulation._known(module) == wanted


def test_single_precision(device):
    assert worst(run("tanh", device, dtype=torch.float32), moments("tanh", 0.3, 1.5)) < 7


def test_a_large_mean_costs_no_digits(device):
    # 1e8 would leave no digit of a square's deviation.
    estimate = run(nn.Identity(), device, mean=1e8)
    assert worst(estimate, moments(nn.Identity(), 1e8, 1.5)) < 7


def test_the_seed_decides(device):
    first, second, other = (run(device=device, seed=s) for s in (1, 1, 2))
    assert first == second
    assert first.fwd_mean != other.fwd_mean
    torch.manual_seed(5)
    assert run(device=device, seed=1) == first


def test_replicates_do_not_depend_on_launches(device, monkeypatch):
    whole = run(device=device, n=5_001)
    monkeypatch.setattr(simulation, "_LAUNCH", 1)
    assert run(device=device, n=5_001) == whole


def test_replicates_do_not_depend_on_parts(device, monkeypatch):
    whole = run(device=device)
    monkeypatch.setattr(kernel, "_SPAN", 512)
    parts = run(device=device)
    for field in fields(whole):
        a, b = getattr(whole, field.name), getattr(parts, field.name)
        assert np.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_any_processes_share_the_replicates(device):
    arguments = ("tanh", (), 0.3, 1.5, 9, range(7), 1_001, torch.float64, torch.device(device))
    whole = kernel.figures(*arguments)
    for rank in range(3):
        mine = range(rank, 7, 3)
        part = kernel.figures(*arguments[:5], mine, *arguments[6:])
        assert torch.equal(part, whole[mine.start :: 3])
    assert kernel.figures(*arguments[:5], range(0), *arguments[6:]).shape == (0, 2, 3)


def test_samples_are_counted_to_the_last(device):
    # All of a sample's y are 1 where its mean is far above the window.
    for samples in (1, 2, 511, 1_023, 1_025):
        figures = kernel.figures(
            "hardsigmoid", (), 9.0, 0.1, 3, range(2), samples, torch.float64, torch.device(device)
        )
        assert figures[:, 0].tolist() == [[samples, 1.0, 0.0]] * 2


def test_half_precision_is_refused(device):
    with pytest.raises(TypeError, match=r"float32 or float64; dtype was torch.float16"):
        kernel.figures("relu", (), 0.0, 1.0, 0, range(2), 9, torch.float16, torch.device(device))
