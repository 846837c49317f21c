"""Layers that normalise by themselves: simulated, exact where they can be, and refusals."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from normprop import moments, simulate

LAW = {"mean": 0.3, "std": 1.2}
CENTRED = {"mean": 0.0, "std": 1.2}


def filled(layer):
    """The layer in float64, with weights that differ from channel to channel."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in layer.named_parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = values + (name == "weight")
    return layer.double()


PLAIN = [
    (nn.LayerNorm(8, elementwise_affine=False), None, (8,), LAW),
    (nn.LayerNorm((2, 3), eps=0.1, elementwise_affine=False), None, (5, 2, 3), LAW),
    (nn.GroupNorm(2, 4, affine=False), (4, 3), (4, 3), LAW),
    (nn.InstanceNorm1d(3), (3, 6), (3, 6), LAW),
    (nn.InstanceNorm2d(2, eps=0.5), (2, 2, 3), (2, 2, 3), LAW),
    (nn.RMSNorm(6, eps=0.05, elementwise_affine=False), None, (6,), CENTRED),
]


@pytest.mark.parametrize(("layer", "shape", "sample", "law"), PLAIN)
def test_a_group_by_simulation(layer, shape, sample, law):
    got = moments(layer, **law, shape=shape)
    estimate = simulate(layer, 200_000, **law, shape=sample, seed=3)
    scores = estimate.z(got)
    if law is LAW:
        # A centred group has the mean 0, but for rounding.
        assert abs(estimate.fwd_mean) < 1e-14
        scores.pop("fwd_mean")
    assert all(abs(z) < 4.5 for z in scores.values()), scores
    assert 0 <= got.error < 1e-10


WEIGHTED = [
    (nn.LayerNorm(5), None, (5,), LAW, 1),
    (nn.LayerNorm(5, bias=False), None, (5,), LAW, 1),
    (nn.RMSNorm(5, eps=0.05), None, (5,), CENTRED, 1),
    (nn.GroupNorm(2, 4), (4, 3), (4, 3), LAW, 1),
    (nn.InstanceNorm1d(3, affine=True), (3, 6), (3, 6), LAW, 1),
]


def channels(layer, sample, law, replicates=48, n=1500):
    """E y, E y² and E dx² by replicate and channel, dimension 1 of a batch."""
    torch.manual_seed(0)
    lines = []
    for _ in range(replicates):
        x = torch.randn((n, *sample), dtype=torch.float64) * law["std"] + law["mean"]
        x.requires_grad_()
        y = layer(x)
        (dx,) = torch.autograd.grad(y, x, torch.randn_like(y))
        y = y.detach()
        dims = [d for d in range(y.ndim) if d != 1]
        lines.append(torch.stack([v.mean(dims) for v in (y, y**2, dx**2)]).numpy())
    return np.array(lines)


@pytest.mark.parametrize(("layer", "shape", "sample", "law", "_"), WEIGHTED)
def test_weights_have_an_entry_a_channel(layer, shape, sample, law, _):
    layer = filled(layer)
    got = moments(layer, **law, shape=shape)
    assert all(
        v.dtype == np.float64 and v.shape == sample[:1]
        for v in (got.fwd_mean, got.fwd_std, got.bwd_std)
    )
    lines = channels(layer, sample, law)
    wanted = [got.fwd_mean, got.fwd_std**2 + got.fwd_mean**2, got.bwd_std**2]
    error = lines.std(0, ddof=1) / math.sqrt(len(lines)) + 1e-14
    assert (np.abs(lines.mean(0) - wanted) < 4.5 * error).all()


def test_one_weight_for_all_is_the_plain_figure():
    plain = moments(nn.LayerNorm(8, elementwise_affine=False), **LAW)
    ones = moments(nn.LayerNorm(8), **LAW)
    assert np.abs(ones.fwd_std - plain.fwd_std).max() <= ones.error + plain.error
    assert np.abs(ones.bwd_std - plain.bwd_std).max() <= ones.error + plain.error


def test_a_wide_layer_norm_divides_by_the_std():
    got = moments(nn.LayerNorm(10_000, eps=0.0, elementwise_affine=False), **LAW)
    assert (got.fwd_std, got.method) == (1.0, "closed form")
    assert abs(got.bwd_std - math.sqrt(9998 / 9997) / 1.2) <= got.error


def test_a_local_response_by_simulation():
    layer = nn.LocalResponseNorm(5, alpha=0.5, beta=0.75, k=1.0)
    got = moments(layer, **CENTRED)
    torch.manual_seed(0)
    lines = []
    for _ in range(48):
        x = (1.2 * torch.randn((500, 24, 1), dtype=torch.float64)).requires_grad_()
        y = layer(x)
        (dx,) = torch.autograd.grad(y, x, torch.randn_like(y))
        # Away from the first and the last channels, whose windows are cut.
        inside = [v.detach()[:, 4:-4] for v in (y, y * y, dx * dx)]
        lines.append(torch.stack([v.mean() for v in inside]).numpy())
    lines = np.array(lines)
    z = lines.mean(0) - [0.0, got.fwd_std**2, got.bwd_std**2]
    z /= lines.std(0, ddof=1) / math.sqrt(48)
    assert (np.abs(z) < 4.5).all(), z


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_in_evaluation_is_an_affine_map(affine):
    layer = filled(nn.BatchNorm1d(3, affine=affine)).eval()
    layer.running_mean.copy_(torch.tensor([0.5, -1.0, 0.0]))
    layer.running_var.copy_(torch.tensor([4.0, 1.0, 0.25]))
    got = moments(layer, **LAW)
    # By the layer itself, at the mean and one standard deviation away.
    x = torch.tensor([0.3, 1.5], dtype=torch.float64)[:, None].expand(2, 3)
    with torch.no_grad():
        at_mean, beyond = layer(x).numpy()
    assert np.abs(got.fwd_mean - at_mean).max() <= got.error + 1e-15
    assert np.abs(got.fwd_std - np.abs(beyond - at_mean)).max() <= got.error + 4e-15
    assert np.abs(got.bwd_std - got.fwd_std / 1.2).max() <= got.error
    assert got.error < 1e-13
    after = moments(layer, after="relu")
    assert after.fwd_std.shape == (3,)


def test_batch_norm_in_training_is_asymptotic():
    layer = filled(nn.BatchNorm1d(3))
    got = moments(layer, **LAW)
    assert (got.error, got.method) == (math.inf, "asymptotic, O(1/n)")
    # What a batch of n does, exactly, is what a group of n does: the gap falls as 1/n.
    gaps = []
    for n in (64, 128, 256):
        exact = moments(nn.LayerNorm(n, eps=layer.eps, elementwise_affine=False), **LAW)
        gain = layer.weight.detach().abs().numpy()
        gaps.append(np.abs(exact.bwd_std * gain - got.bwd_std) / gain)
    for large, small in pairwise(gaps):
        assert (np.abs(large / small - 2) < 0.1).all()
    assert np.abs(got.fwd_std - np.abs(layer.weight.detach().numpy())).max() < 1e-5


def test_instance_norm_by_its_statistics():
    layer = nn.InstanceNorm1d(3, track_running_stats=True).eval()
    layer.running_var.fill_(4.0)
    got = moments(layer, **LAW)
    assert got.method == "closed form"
    assert np.abs(got.fwd_std - 0.6).max() < 1e-5


@pytest.mark.parametrize(
    ("layer", "arguments", "message"),
    [
        (nn.GroupNorm(2, 4), {}, "shape must be given for GroupNorm"),
        (nn.GroupNorm(2, 4), {"shape": (3, 5)}, "4 channels first, as num_channels says"),
        (nn.InstanceNorm1d(3), {}, "shape must be given for InstanceNorm1d"),
        (nn.InstanceNorm1d(3), {"shape": (4, 5)}, "3 channels first"),
        (nn.RMSNorm(4), {"mean": 0.1}, "mean must be 0"),
        (nn.LocalResponseNorm(3), {"mean": 0.1}, "mean must be 0"),
        (nn.LocalResponseNorm(3, k=0.0), {}, "k must be greater than 0"),
        (nn.LayerNorm(3, eps=0.0), {}, "eps must be greater than 0 for a group of 3"),
        (nn.LayerNorm(3), {"after": "relu"}, "after= takes"),
        (nn.LayerNorm(3), {"shape": (3,)}, "shape is for layers"),
    ],
)
def test_what_must_hold(layer, arguments, message):
    with pytest.raises(ValueError, match=message):
        moments(layer, **arguments)


def test_the_default_eps_of_rms_norm_is_that_of_its_type():
    single, double = nn.RMSNorm(2), nn.RMSNorm(2).double()
    explicit = nn.RMSNorm(2, eps=torch.finfo(torch.float32).eps)
    assert (moments(single).bwd_std == moments(explicit).bwd_std).all()
    assert moments(double).bwd_std[0] > moments(single).bwd_std[0]
