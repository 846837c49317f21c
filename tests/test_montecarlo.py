"""simulate(): agrees with the exact figures within its own standard errors, which are honest.

|z| < 4.5 holds by chance alone but for 7 in a million; the seeds are fixed, so that it holds or
fails for good.
"""

import copy
import json
import math
import os
import random
import subprocess
import sys
import threading
from dataclasses import fields
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import normprop
from normprop import moments, simulate
from normprop.montecarlo.schedule import seed_generator
from tests.layers import named

LIMIT = 4.5
FIGURES = ("fwd_mean", "fwd_std", "bwd_std")


def weighted(layer):
    """The layer with weights and biases that depend on nothing but its shape."""
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


# What is simulated, and the law of its input. Samples of the smallest number that shows an error
# of a percent or less in every figure.
LAYERS = [
    ("relu", {}),
    ("relu", {"mean": 0.5, "std": 2.0}),
    (nn.ReLU(inplace=True), {}),
    (torch.relu, {"mean": -1.0}),
    ("sigmoid", {}),
    (nn.Sigmoid(), {"mean": 3.0, "std": 2.5}),
    ("tanh", {}),
    (nn.Tanh(), {"mean": -1.0, "std": 0.1}),
    (nn.GELU(), {"mean": 0.3}),
    (nn.SiLU(), {"mean": -1.0, "std": 2.0}),
    (nn.CELU(2.0), {}),
    (nn.ELU(0.5), {"mean": 0.5}),
    (nn.GELU(approximate="tanh"), {}),
    (nn.Hardshrink(), {}),
    (nn.Hardsigmoid(), {"std": 3.0}),
    (nn.Hardswish(), {}),
    (nn.Hardtanh(-0.5, 2.0), {}),
    (nn.Identity(), {"mean": 0.5, "std": 2.0}),
    (nn.LeakyReLU(0.2), {}),
    (nn.LogSigmoid(), {}),
    (nn.Mish(), {"mean": -0.5}),
    (nn.PReLU(), {}),
    (nn.ReLU6(), {"mean": 3.0, "std": 2.0}),
    (nn.RReLU(), {}),
    (nn.RReLU().eval(), {"mean": -0.5}),
    (nn.SELU(), {}),
    (nn.Softplus(2.0), {}),
    (nn.Softshrink(), {}),
    (nn.Softsign(), {}),
    (nn.Tanhshrink(), {}),
    (nn.Threshold(0.25, -1.0), {}),
    (normprop.nn.RReLU(scaling="separate"), {}),
    (nn.MaxPool1d(2), {}),
    (nn.MaxPool1d(3, 2, padding=1), {"mean": 0.3, "std": 0.7}),
    (nn.MaxPool1d(2, 5), {}),
    (nn.MaxPool2d(2), {}),
    (nn.MaxPool2d(3, 2), {}),
    (nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), {}),
    (nn.MaxPool2d(3, 1, dilation=2), {}),
    (nn.MaxPool2d(3, 2, dilation=2, return_indices=True), {}),
    (nn.MaxPool2d((2, 3), (3, 1)), {"mean": -1.0, "std": 3.0}),
    (nn.MaxPool3d(2), {}),
    (nn.MaxPool3d(3, 2), {}),
    (nn.MaxPool2d(2), {"after": "relu"}),
    (nn.MaxPool2d(3, 2), {"after": nn.Tanh(), "mean": 0.5}),
    (nn.AvgPool1d(3), {}),
    (nn.AvgPool1d(2, 3), {"mean": 0.3, "std": 0.7}),
    (nn.AvgPool2d(2), {}),
    (nn.AvgPool2d(3, 2, padding=1), {}),
    (nn.AvgPool2d((3, 1), (1, 2)), {}),
    (nn.AvgPool2d(2, divisor_override=3), {"mean": 1.0}),
    (nn.AvgPool3d(2, 1), {}),
    (nn.AvgPool2d(2), {"after": "relu"}),
    (nn.Dropout(0.3), {}),
    (nn.Dropout(0.5, inplace=True), {"mean": 1.0, "std": 0.5}),
    (nn.Dropout(0.3).eval(), {}),
    (nn.Dropout(0.0), {}),
    (nn.Dropout(1.0), {}),
    (nn.Dropout1d(0.3), {"mean": 0.5}),
    (nn.Dropout2d(0.3), {}),
    (nn.Dropout3d(0.3), {}),
    (nn.Dropout(0.3), {"after": "sigmoid"}),
    (weighted(nn.Linear(20, 10)), {"mean": 0.3, "std": 0.7}),
    (weighted(nn.Linear(5, 3, bias=False)), {}),
    (weighted(nn.Linear(20, 10)), {"after": "relu"}),
    (weighted(nn.Conv1d(3, 5, 3, 2, padding=1)), {}),
    (weighted(nn.Conv1d(2, 4, 2, 3, dilation=2, groups=2)), {"mean": 0.3, "std": 0.7}),
    (weighted(nn.Conv2d(3, 4, 3, 2, padding=1)), {}),
    (weighted(nn.Conv2d(3, 4, 3, padding="same")), {}),
    (weighted(nn.Conv2d(4, 4, (2, 3), (1, 2), groups=4, bias=False)), {}),
    (weighted(nn.Conv3d(2, 3, 2, 2)), {}),
    (weighted(nn.ConvTranspose1d(4, 3, 3, 2, 1)), {}),
    (weighted(nn.ConvTranspose2d(4, 6, 3, 2, groups=2)), {"mean": 0.5}),
    (weighted(nn.ConvTranspose3d(2, 3, 2)), {}),
    (normprop.nn.ConvTranspose2d(4, 6, 3, 2, groups=2, scaling="separate"), {}),
    (normprop.nn.ReLU(scaling="separate"), {}),
    (normprop.nn.Tanh(scaling="forward", mean=0.5, std=2.0), {"mean": 0.5, "std": 2.0}),
    (normprop.nn.MaxPool2d(3, 2, scaling="separate", after="relu"), {"after": "relu"}),
    (normprop.nn.AvgPool2d(3, 2), {}),
    (normprop.nn.Dropout(0.3, mean=0.5, eval="mean").eval(), {"mean": 0.5}),
    (normprop.nn.Linear(6, 4, scaling="separate"), {}),
    (normprop.nn.Conv2d(4, 6, 3, 2, groups=2, scaling="separate"), {}),
    (normprop.nn.Conv2d(4, 6, 3, scaling="separate", per="layer"), {}),
]


def worst(estimate, exact):
    return max(float(np.abs(score).max()) for score in estimate.z(exact).values())


def same(a, b, tolerance=0.0):
    """Whether two simulations are equal, relative to figures above 1."""
    return all(
        np.allclose(getattr(a, f.name), getattr(b, f.name), rtol=tolerance, atol=tolerance)
        for f in fields(a)
    )


@pytest.mark.parametrize(("layer", "law"), LAYERS, ids=named)
def test_a_layer_agrees_with_its_moments(layer, law):
    assert worst(simulate(layer, 300_000, seed=1, **law), moments(layer, **law)) < LIMIT


# Twins that are simulated in the tests of their own files: their input is no tensor of independent
# normals of which every entry is like every other.
ELSEWHERE = {
    "BCEWithLogitsLoss": "a target",
    "Bilinear": "two inputs",
    "CrossEntropyLoss": "a target",
    "Embedding": "indices",
    "GLU": "two halves",
    "HingeEmbeddingLoss": "a target",
    "HuberLoss": "a target",
    "L1Loss": "a target",
    "LogSoftmax": "a dimension",
    "MSELoss": "a target",
    "MultiLabelSoftMarginLoss": "a target",
    "MultiheadAttention": "three inputs",
    "NLLLoss": "a target",
    "SmoothL1Loss": "a target",
    "SoftMarginLoss": "a target",
    "Softmax": "a dimension",
    "Softmax2d": "a dimension",
    "Softmin": "a dimension",
}
# Layers of which the witness must be told the shape of a sample: simulated beside their rules.
ELSEWHERE |= dict.fromkeys(
    [
        *(
            f"{family}{dims}d"
            for family in (
                "AdaptiveAvgPool", "AdaptiveMaxPool", "CircularPad", "ConstantPad", "LPPool",
                "MaxUnpool", "ReflectionPad", "ReplicationPad", "ZeroPad",
            )
            for dims in (1, 2, 3)
        ),
        "AlphaDropout", "ChannelShuffle", "FeatureAlphaDropout", "Flatten", "Fold",
        "FractionalMaxPool2d", "FractionalMaxPool3d", "PixelShuffle", "PixelUnshuffle",
        "Unflatten", "Unfold", "Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d",
    ],
    "a shape",
)  # fmt: skip


def test_every_layer_of_the_package_has_a_row():
    plain = {type(layer).__name__ for layer, _ in LAYERS if not isinstance(layer, str)}
    # What has no twin in torch has tests of its own.
    twins = {name for name in normprop.nn.__all__ if isinstance(getattr(nn, name, None), type)}
    assert twins - set(ELSEWHERE) <= plain
    assert not plain & set(ELSEWHERE)


def test_a_wrong_constant_is_caught():
    # The post's 0.2123 is one standard error off at its own 100 000 samples, and found out here.
    exact = moments("sigmoid")
    posted = SimpleNamespace(fwd_mean=exact.fwd_mean, fwd_std=exact.fwd_std, bwd_std=0.2123)
    estimate = simulate("sigmoid", 8_000_000, seed=2)
    assert worst(estimate, exact) < LIMIT
    assert abs(estimate.z(posted)["bwd_std"]) > LIMIT


def chi_square_bounds(k, probability):
    """Quantiles of χ² with k degrees of freedom at both ends, after Wilson and Hilferty."""
    z = NormalDist().inv_cdf(1 - probability / 2)
    return [k * (1 - 2 / (9 * k) + sign * z * math.sqrt(2 / (9 * k))) ** 3 for sign in (-1, 1)]


@pytest.mark.parametrize(
    ("layer", "n"), [("sigmoid", 6_400), (nn.AvgPool2d(3, 2), 60_000), (nn.MaxPool1d(3, 2), 9_000)]
)
def test_standard_errors_are_calibrated(layer, n):
    exact, seeds, replicates = moments(layer), 100, 32
    scores = [simulate(layer, n, seed=s, replicates=replicates).z(exact) for s in range(seeds)]
    low, high = chi_square_bounds(seeds, 1e-4)
    # A t-distributed score has the variance ν/(ν - 2).
    spread = (replicates - 1) / (replicates - 3)
    for figure in FIGURES:
        total = sum(score[figure] ** 2 for score in scores)
        assert low < total / spread < high, figure


def test_standard_errors_are_those_of_replicates_not_of_elements():
    # Average pooling copies one dy to nine places: the elements count for a ninth of their number.
    estimate = simulate(nn.AvgPool2d(3), 400_000)
    naive = estimate.bwd_std / math.sqrt(2 * estimate.n)
    # A standard deviation from 256 replicates is good to 1/√(2·255); 4.5 of these.
    slack = LIMIT / math.sqrt(2 * (estimate.replicates - 1))
    assert 3 * (1 - slack) < estimate.bwd_std_se / naive < 3 * (1 + slack)


def test_errors_shrink_with_the_root_of_n():
    few, many = simulate("tanh", 50_000), simulate("tanh", 800_000)
    slack = 2 * LIMIT / math.sqrt(2 * 255)
    for figure in FIGURES:
        ratio = getattr(few, f"{figure}_se") / getattr(many, f"{figure}_se")
        assert 4 * (1 - slack) < ratio < 4 * (1 + slack)


# Reproducibility


@pytest.mark.parametrize("layer", ["relu", nn.Dropout(0.3), nn.Dropout2d(0.3), nn.MaxPool2d(3, 2)])
def test_the_same_seed_gives_the_same_sums_for_any_chunk(layer):
    # 300 000 elements a replicate are several blocks.
    first = simulate(layer, 1_200_000, seed=3, replicates=4)
    assert same(first, simulate(layer, 1_200_000, seed=3, replicates=4))
    for chunk in (1, 2, 7):
        assert same(first, simulate(layer, 1_200_000, seed=3, replicates=4, chunk=chunk), 1e-12)


@pytest.mark.parametrize("n", [10_000, 700_000])
@pytest.mark.parametrize(
    "layer",
    [
        nn.SiLU(),
        nn.ReLU(inplace=True),
        weighted(nn.Linear(5, 3)),
        weighted(nn.Conv2d(3, 4, 3, stride=2)),
        nn.MaxPool1d(3, 2),
    ],
    ids=str,
)
def test_threads_find_what_one_thread_finds(layer, n):
    threads = simulate(layer, n, replicates=5, progress=False)
    calls = []
    # With a hook, which may do anything, a layer runs one block at a time, on this thread.
    watched = copy.deepcopy(layer)
    watched.register_forward_hook(lambda *_: calls.append(threading.get_ident()))
    one = simulate(watched, n, replicates=5, progress=False)
    assert set(calls) == {threading.get_ident()}
    for field in fields(one):
        got, wanted = getattr(threads, field.name), getattr(one, field.name)
        assert np.array_equal(got, wanted), field.name


class Steep(nn.Module):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, x):
        self.seen(x)
        return x.sigmoid()


@pytest.mark.parametrize(
    "hold",
    [
        normprop.nn.Elementwise,
        normprop.nn.GatedLinear,
        lambda curve: normprop.nn.Calibrated(curve, depth=9),
        lambda curve: normprop.nn.Calibrated(Steep(curve), depth=9),
    ],
    ids=["Elementwise", "GatedLinear", "Calibrated", "a module in Calibrated"],
)
def test_a_layer_that_holds_a_callers_function_runs_on_one_thread(hold):
    seen = set()

    def curve(x):
        seen.add(threading.get_ident())
        return x.sigmoid()

    layer = hold(curve)
    seen.clear()
    simulate(layer, 3_000_000, shape=(64,), replicates=5, progress=False)
    assert seen == {threading.get_ident()}


def test_state_that_a_pass_changes_is_changed_in_order(monkeypatch):
    found = []
    forward = nn.BatchNorm1d.forward

    def counting(self, input):
        found.append((threading.get_ident(), int(self.num_batches_tracked)))
        return forward(self, input)

    monkeypatch.setattr(nn.BatchNorm1d, "forward", counting)
    simulate(nn.BatchNorm1d(3), 5000, shape=(3,), replicates=4, progress=False)
    threads, counts = zip(*found, strict=True)
    assert set(threads) == {threading.get_ident()}
    assert list(counts) == list(range(len(counts)))


def test_small_replicates_are_still_independent():
    layer, n = nn.SiLU(), 256 * 40
    whole = simulate(layer, n, progress=False)
    # One replicate after another from the numbers of the block that they share.
    assert whole.n == n
    assert whole.replicates == 256
    spread = [simulate(layer, n, seed=seed, progress=False) for seed in range(40)]
    means = np.array([s.fwd_mean for s in spread])
    expected = np.mean([s.fwd_mean_se for s in spread])
    # The standard deviation of a standard deviation of 40 numbers is about a ninth of it.
    assert abs(means.std(ddof=1) / expected - 1) < LIMIT / 9


def test_another_seed_gives_other_numbers():
    assert simulate("relu", 1000, seed=3).fwd_mean != simulate("relu", 1000, seed=4).fwd_mean


def test_the_global_generators_are_untouched():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    simulate(nn.Dropout(0.5), 10_000)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()


def test_the_global_generators_have_no_say():
    torch.manual_seed(1)
    first = simulate(nn.Dropout(0.5), 10_000)
    torch.manual_seed(2)
    assert same(first, simulate(nn.Dropout(0.5), 10_000))


PROCESS = """
import dataclasses, json, sys
import torch.distributed as dist
from torch import nn
import normprop

store, rank, world = sys.argv[1:4] if len(sys.argv) > 1 else (None, None, None)
if store:
    dist.init_process_group("gloo", init_method=store, rank=int(rank), world_size=int(world))
else:
    dist.init_process_group("gloo")
results = [
    normprop.simulate(nn.Dropout(0.3), 200_000, seed=5),
    normprop.simulate(nn.AvgPool2d(3, 2), 200_000, seed=5, replicates=31),
    normprop.simulate("tanh", 2, seed=5, replicates=2),
]
everyone = [None] * dist.get_world_size()
dist.all_gather_object(everyone, [dataclasses.asdict(result) for result in results])
if dist.get_rank() == 0:
    print(json.dumps(everyone))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def alone():
    return [
        simulate(nn.Dropout(0.3), 200_000, seed=5),
        simulate(nn.AvgPool2d(3, 2), 200_000, seed=5, replicates=31),
        simulate("tanh", 2, seed=5, replicates=2),
    ]


@pytest.fixture
def environment(root):
    """Of a process that finds the package, and talks to its peers on this machine alone."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    own = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return {**os.environ, **own}


def all_agree(output, alone, world):
    everyone = json.loads(output.strip().splitlines()[-1])
    assert len(everyone) == world
    for results in everyone:
        for result, wanted in zip(results, alone, strict=True):
            assert same(normprop.Simulation(**result), wanted, 1e-12)


def test_two_processes_under_torchrun_give_the_same(tmp_path, alone, environment):
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    all_agree(done.stdout, alone, 2)


def test_three_processes_give_the_same(tmp_path, alone, environment):
    # The last simulation has two replicates: one process has nothing to do.
    store = f"file://{tmp_path}/store"
    peers = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, store, str(rank), "3"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    done = [peer.communicate(timeout=120) for peer in peers]
    assert all(peer.returncode == 0 for peer in peers), done[0][1][-2000:]
    all_agree(done[0][0], alone, 3)


# Memory

MEMORY = """
import resource, sys, normprop
normprop.simulate("sigmoid", int(sys.argv[1]), progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_megabytes(n, environment):
    command = [sys.executable, "-c", MEMORY, str(n)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
def test_memory_does_not_grow_with_n(environment):
    # One float64 tensor of the larger run alone would be 160 MB.
    few, many = (peak_megabytes(n, environment) for n in (200_000, 20_000_000))
    assert many - few < 60


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
def test_a_billion_samples_stay_under_500_megabytes(request, environment):
    if "slow" not in request.config.option.markexpr:
        pytest.skip("about a minute: run with -m slow")
    assert peak_megabytes(1_000_000_000, environment) < 500


# Geometry


def test_interior_figures_do_not_know_of_borders():
    padded, plain = nn.MaxPool2d(3, 2, padding=1), nn.MaxPool2d(3, 2)
    assert worst(simulate(padded, 300_000), moments(plain)) < LIMIT


def test_with_a_shape_borders_count():
    # Windows of 3 at -1, 1, 3, 5 over 8 elements hold 2, 3, 3, 3 of them.
    counts = np.outer([2, 3, 3, 3], [2, 3, 3, 3])
    exact = SimpleNamespace(
        fwd_mean=0.0,
        fwd_std=math.sqrt(counts.mean() / 81),
        bwd_std=math.sqrt(counts.sum() / 81 / 64),
    )
    layer = nn.AvgPool2d(3, 2, padding=1)
    estimate = simulate(layer, 300_000, shape=(1, 8, 8))
    assert worst(estimate, exact) < LIMIT
    assert worst(estimate, moments(layer)) > LIMIT


@pytest.mark.parametrize("layer", [nn.Softmax(-1), nn.BatchNorm1d(4), nn.LSTM(2, 2)])
def test_a_shape_is_asked_for_where_it_cannot_be_guessed(layer):
    with pytest.raises(ValueError, match=f"shape must be given for {type(layer).__name__}"):
        simulate(layer, 1000)


class Mixed(nn.Module):
    """Draws, and lets a sample see the others."""

    def forward(self, x):
        return x * (torch.rand_like(x) < 0.5) - x.mean(0)


def test_samples_that_see_one_another_are_found_under_dice_too():
    with pytest.raises(ValueError, match="shape must be given for Mixed"):
        simulate(Mixed(), 1000)


class InBlocks(nn.Module):
    """Dropout as CUDA draws it: which number an element gets depends on how many there are."""

    def forward(self, x):
        drawn = torch.rand(x.numel() + 4).roll(x.numel())[: x.numel()].to(x)
        return x * (drawn.view_as(x) < 0.5) * 2.0


def test_dice_may_fall_otherwise_for_another_number_of_samples():
    estimate = simulate(InBlocks(), 100_000, seed=1)
    assert abs(estimate.fwd_std / math.sqrt(2.0) - 1) < LIMIT * estimate.fwd_std_se


def test_the_generator_of_the_device_is_seeded(monkeypatch):
    # Of the second of two GPUs, while the first is the current one.
    current, seeded = [0], []

    class On:
        def __init__(self, device):
            self.index = device.index

        def __enter__(self):
            current.append(self.index)

        def __exit__(self, *_):
            current.pop()

    monkeypatch.setattr(torch.cuda, "device", On)
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: seeded.append((current[-1], seed)))
    seed_generator(7, torch.device("cuda:1"))
    assert seeded == [(1, 7)]
    assert current == [0]


def test_any_layer_runs_on_a_given_shape():
    # Softmax over ten has a mean of a tenth, and no error but rounding.
    estimate = simulate(nn.Softmax(-1), 10_000, shape=(10,))
    assert abs(estimate.fwd_mean - 0.1) < 1e-12
    layer = nn.LayerNorm(50, eps=0.0, elementwise_affine=False)
    estimate = simulate(layer, 100_000, shape=(4, 50))
    # Each sample is normalised by itself: no error but rounding.
    assert abs(estimate.fwd_mean) < 1e-12
    assert abs(estimate.fwd_std - 1) < 1e-12


def test_figures_of_weights_have_an_entry_a_channel():
    estimate = simulate(nn.Conv2d(3, 5, 3), 10_000)
    for figure in ("fwd_mean", "fwd_std", "fwd_mean_se", "fwd_std_se"):
        assert getattr(estimate, figure).shape == (5,)
    for figure in ("bwd_mean", "bwd_std", "bwd_mean_se", "bwd_std_se"):
        assert getattr(estimate, figure).shape == (3,)
    assert type(simulate("relu", 1000).fwd_mean) is float


def test_at_least_n_elements_are_drawn():
    estimate = simulate("relu", 1001, replicates=10)
    assert (estimate.n, estimate.replicates) == (1010, 10)


def test_the_gradient_has_its_mean():
    estimate = simulate(nn.Dropout(0.3), 200_000)
    assert abs(estimate.bwd_mean) < LIMIT * estimate.bwd_mean_se


def test_single_precision_serves_too():
    layer = nn.MaxPool2d(3, 2)
    assert worst(simulate(layer, 300_000, dtype=torch.float32), moments(layer)) < LIMIT


def test_a_large_mean_costs_no_digits():
    estimate = simulate(nn.Dropout(0.0), 100_000, mean=1e8, std=1.0)
    assert worst(estimate, moments(nn.Dropout(0.0), 1e8, 1.0)) < LIMIT


# The layer stays as it was


def test_the_layer_is_not_modified():
    layer = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    layer[2].eval()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    simulate(layer, 10_000, shape=(4,))
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
    assert layer.training
    assert not layer[2].training
    for parameter in layer.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.requires_grad
        assert parameter.grad is None


def test_the_training_flag_is_respected():
    assert simulate(nn.Dropout(0.5).eval(), 10_000).bwd_std_se > 0
    assert worst(simulate(nn.Dropout(0.5).eval(), 10_000), moments("relu")) > LIMIT
    exact = SimpleNamespace(fwd_mean=0.0, fwd_std=1.0, bwd_std=1.0)
    assert worst(simulate(nn.Dropout(0.5).eval(), 100_000), exact) < LIMIT


def test_gradients_are_found_where_they_are_turned_off():
    with torch.no_grad():
        assert worst(simulate("tanh", 10_000), moments("tanh")) < LIMIT


# Words


def test_progress_goes_to_standard_error_alone(capsys):
    simulate("relu", 10_000, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "simulate" in err


@pytest.mark.parametrize("progress", [None, False])
def test_no_progress_where_nobody_watches(capsys, progress):
    simulate("relu", 10_000, progress=progress)
    assert capsys.readouterr() == ("", "")


def test_the_kernel_is_for_cuda(environment):
    # In a process of its own, where no test has turned Triton's interpreter on.
    code = "import normprop; normprop.simulate('relu', 1000, backend='triton')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "takes a tensor on CUDA; it was on cpu" in done.stderr or "needs triton" in done.stderr


def test_the_layer_itself_runs_where_there_is_no_kernel():
    assert same(simulate("relu", 1000), simulate("relu", 1000, backend="torch"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"layer": nn.MaxPool2d(2)},
        {"layer": torch.relu},
        {"layer": nn.RReLU()},
        {"layer": nn.PReLU(2)},
        {"layer": normprop.nn.ReLU()},
        {"after": "relu"},
        {"shape": (3,)},
        {"dtype": torch.float16},
    ],
)
def test_what_no_kernel_knows_is_refused_to_who_asks_for_one(arguments):
    with pytest.raises(ValueError, match="backend='triton' needs an activation"):
        simulate(**{"layer": "relu", "n": 1000, "backend": "triton", **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "cuda"}, "backend must be 'auto', 'torch' or 'triton'; it was 'cuda'"),
        ({"n": 0}, "n must be an integer of at least 1; it was 0"),
        ({"n": 1e6}, "n must be an integer of at least 1; it was 1000000.0"),
        ({"n": True}, "n must be an integer of at least 1; it was True"),
        ({"seed": -1}, "seed must be an integer of at least 0; it was -1"),
        ({"replicates": 1}, "replicates must be an integer of at least 2; it was 1"),
        ({"chunk": 0}, "chunk must be an integer of at least 1; it was 0"),
        ({"mean": math.nan}, "mean must be finite; it was nan"),
        ({"std": 0.0}, "std must be finite and greater than 0; it was 0.0"),
        ({"std": math.inf}, "std must be finite and greater than 0; it was inf"),
        ({"shape": (0,)}, r"shape must be made of integers of at least 1; it was \(0,\)"),
        ({"layer": "relo"}, "layer must be one of the names .*'relo'; did you mean 'relu'"),
        ({"after": "tan"}, "after must be one of the names .*'tan'; did you mean 'tanh'"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(**{"layer": "relu", "n": 1000, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": True}, "mean must be a real number; it was True"),
        ({"std": "1"}, "std must be a real number; it was '1'"),
        ({"std": torch.tensor(1.0)}, "std must be a real number"),
        ({"layer": nn.ReLU}, "layer must be a name, a module or a function on tensors"),
        ({"layer": 3}, "layer must be a name, a module or a function on tensors; it was 3"),
    ],
)
def test_what_has_the_wrong_type_is_refused(arguments, message):
    with pytest.raises(TypeError, match=message):
        simulate(**{"layer": "relu", "n": 1000, **arguments})


def test_a_score_of_nothing_over_nothing_is_zero():
    estimate = simulate(nn.Dropout(1.0), 1000)
    assert estimate.z(moments(nn.Dropout(1.0))) == dict.fromkeys(FIGURES, 0.0)
    wrong = SimpleNamespace(fwd_mean=0.0, fwd_std=0.1, bwd_std=0.0)
    assert estimate.z(wrong)["fwd_std"] == -math.inf


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layer", ["sigmoid", "relu", nn.GELU(), nn.Hardtanh(-0.5, 2.0)])
def test_the_kernel_agrees_and_is_reproducible(layer, dtype):
    law = {"mean": 0.3, "std": 1.5}
    road = {**law, "device": "cuda", "dtype": dtype, "seed": 1}
    estimate = simulate(layer, 100_000_000, **road)
    assert worst(estimate, moments(layer, **law)) < LIMIT
    assert same(estimate, simulate(layer, 100_000_000, backend="triton", **road))
    assert not same(estimate, simulate(layer, 100_000_000, backend="torch", **road))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "layer", ["sigmoid", nn.MaxPool2d(3, 2), nn.Dropout(0.3), weighted(nn.Conv2d(3, 4, 3, 2))]
)
def test_cuda_agrees_and_is_reproducible(layer):
    estimate = simulate(layer, 1_000_000, seed=1, device="cuda")
    assert worst(estimate, moments(layer)) < LIMIT
    assert same(estimate, simulate(layer, 1_000_000, seed=1, device="cuda", chunk=1), 1e-12)
