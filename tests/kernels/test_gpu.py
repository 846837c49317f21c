"""What only a GPU can show: more than 2³¹ elements, races, captured graphs, streams.

The other tests of this folder run on the GPU too where there is one.
"""

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("triton")

import normprop
import normprop.nn as nnp
from normprop import functional, simulate
from normprop.functional.fused import fused
from normprop.functional.scale import Constants
from normprop.kernels import activation, check_usable, dropout, montecarlo, usable
from tests.kernels.functions import CASES, READ, compute, projected, scaled, unit

pytestmark = pytest.mark.gpu

SHIFT, FORWARD, BACKWARD = 0.3, 0.7, 0.9
# Past 2³¹ by an odd number of elements, in the middle of a block.
MANY = 2**31 + 4_099


def room(gigabytes):
    """Skip where the GPU has not that much memory left."""
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes} GiB of GPU memory; {free:.0f} are free")


def places(count, total):
    """The first and the last elements, those around 2³¹, and some between."""
    ends = [
        torch.arange(4_096),
        total - 1 - torch.arange(4_096),
        2**31 + torch.arange(-2_048, 2_048),
    ]
    between = torch.randint(0, total, (count,))
    return torch.cat([*ends, between]).cuda()


def test_tensors_on_cuda_are_usable():
    assert usable(torch.zeros(1, device="cuda"))
    assert not usable(torch.zeros(1, device="cuda", dtype=torch.int64))
    assert not usable(torch.zeros(1))
    with pytest.raises(ValueError, match="takes a tensor on CUDA; it was on cpu"):
        check_usable(torch.zeros(1))


# Size


def test_an_activation_of_more_than_two_to_the_31_elements():
    room(20)
    x = torch.empty(MANY, device="cuda", dtype=torch.bfloat16).normal_()
    at = places(100_000, MANY)
    y = activation.forward("relu", (), x, SHIFT, FORWARD, save_output=True)
    small = x[at]
    assert torch.equal(
        y[at], activation.forward("relu", (), small, SHIFT, FORWARD, save_output=True)
    )
    del x
    dx = activation.backward("relu", (), y, y, SHIFT, FORWARD, BACKWARD, from_output=True)
    wanted = activation.backward(
        "relu", (), y[at], y[at], SHIFT, FORWARD, BACKWARD, from_output=True
    )
    assert torch.equal(dx[at], wanted)


@pytest.mark.parametrize("leading", [0, 2])
def test_dropout_of_more_than_two_to_the_31_elements(leading):
    room(20)
    shape = (MANY,) if leading == 0 else (3, 5, MANY // 15 + 1)
    x = torch.ones(shape, device="cuda", dtype=torch.bfloat16)
    y, seed = dropout.forward(x, 0.3, 0.0, 1.0, leading=leading)
    del x
    kept = y != 0
    if leading == 0:
        share = kept[2**31 :].double().mean().item()
        assert abs(share - 0.7) < 4.5 * (0.21 / (MANY - 2**31)) ** 0.5
    else:
        assert (kept == kept[..., :1]).all()
    y.fill_(1)
    dx = dropout.backward(y, seed, 0.3, 1.0, y.stride(), leading=leading)
    assert torch.equal(dx != 0, kept)


@pytest.mark.parametrize("over", ["fan-in", "fan-out", "all"])
def test_a_weight_of_more_than_two_to_the_31_elements(over):
    room(20)
    w = torch.empty(65_537, 32_771, device="cuda", dtype=torch.bfloat16).normal_()
    v, inverse = scaled(w, over, 1, 1.0)
    dims = {"fan-in": 1, "fan-out": 0, "all": (0, 1)}[over]
    norms = torch.linalg.vector_norm(w, dim=dims, dtype=torch.float32).flatten()
    # Each without the power of two that belongs to it, which is 1 here.
    inverse, powers = inverse.view(2, -1)
    assert (powers == 1).all()
    # Sums of up to 2³¹ squares in float32, in two orders, both in trees and parts.
    assert torch.allclose(inverse * norms, torch.ones_like(norms), rtol=1e-4, atol=0)
    rows = torch.tensor([0, 65_535, 65_536], device="cuda")
    factor = inverse[rows][:, None] if over == "fan-in" else inverse
    wanted = w[rows].float() * factor
    assert ((v[rows].float() - wanted).abs() <= 2 * unit(torch.bfloat16) * wanted.abs()).all()


# Races


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_same_bits_every_time(dtype):
    x = torch.randn(1_000_003, device="cuda", dtype=dtype)
    w = torch.randn(1_023, 257, 3, device="cuda", dtype=dtype)
    slope = torch.full((1,), 0.25, device="cuda", dtype=dtype)

    def everything():
        torch.manual_seed(7)
        results = [
            activation.forward("gelu", (), x, SHIFT, FORWARD),
            dropout.forward(x, 0.3, SHIFT, FORWARD)[0],
            *activation.backward_prelu(slope, x, x, SHIFT, FORWARD, BACKWARD),
        ]
        for over in ("fan-in", "fan-out", "all"):
            v, inverse = scaled(w, over, 1, 1.0)
            results += [v, inverse, projected(w, inverse, v.flip(0), over, 1, 1.0)]
        results.append(
            montecarlo.figures("tanh", (), 0.0, 1.0, 7, range(16), 300_001, torch.float64, x.device)
        )
        return results

    first = everything()
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(first, everything(), strict=True))


def test_another_stream():
    x = torch.randn(2**24, device="cuda")
    wanted = activation.forward("silu", (), x, SHIFT, FORWARD)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        late = x * 1.0
        got = activation.forward("silu", (), late, SHIFT, FORWARD)
    stream.synchronize()
    assert torch.equal(got, wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_another_device():
    x = torch.randn(1_023, device="cuda:1")
    y = activation.forward("silu", (), x, SHIFT, FORWARD)
    assert y.device == x.device
    wanted = (torch.nn.functional.silu(x) - SHIFT) / FORWARD
    assert torch.allclose(y, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["relu", "gelu", "softplus"])
def test_what_was_compiled_is_started_without_a_look_up(name, monkeypatch):
    x = torch.randn(1_023, device="cuda")
    w = torch.randn(96, 24, 3, 3, device="cuda")

    def everything(shift, forward):
        torch.manual_seed(7)
        y = activation.forward(name, (), x, shift, forward)
        dx = activation.backward(name, (), x, y, shift, forward, BACKWARD, from_output=False)
        v, inverse = scaled(w, "fan-out", 1, forward)
        dropped = dropout.forward(x, 0.3, shift, forward)[0]
        return y, dx, v, projected(w, inverse, v.flip(0), "fan-out", 1, forward), dropped

    def look_up(*arguments, **options):
        raise AssertionError("Triton was asked for a kernel that was there")

    wanted = [everything(*line) for line in ((SHIFT, FORWARD), (0.5, 2.0))]
    monkeypatch.setattr(type(activation._forward_kernel), "run", look_up)
    for line, results in zip(((SHIFT, FORWARD), (0.5, 2.0)), wanted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(everything(*line), results, strict=True))
    plain = getattr(torch.nn.functional, name)
    assert torch.allclose(everything(0.5, 2.0)[0], (plain(x) - 0.5) / 2.0, rtol=1e-5, atol=1e-6)


# Graphs


def captured(call):
    """A graph of the call, and what it writes."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # Compiles the kernels, which a capture must not.
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


@pytest.mark.parametrize("name", list(CASES))
def test_a_graph_of_an_activation(name):
    x = torch.randn(1_023, 65, device="cuda", dtype=torch.bfloat16)
    params, read = CASES[name][0], name in READ

    def call():
        y = activation.forward(name, params, x, SHIFT, FORWARD, save_output=read)
        return y, activation.backward(
            name, params, y if read else x, y, SHIFT, FORWARD, BACKWARD, from_output=read
        )

    graph, result = captured(call)
    x.normal_()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(result, call(), strict=True))


@pytest.mark.parametrize("leading", [0, 2])
def test_a_graph_of_dropout_draws_anew(leading):
    x = torch.ones(300, 40, 5, device="cuda")

    def call():
        y, seed = dropout.forward(x, 0.5, 0.0, 1.0, leading=leading)
        return y, dropout.backward(x, seed, 0.5, 1.0, y.stride(), leading=leading)

    graph, (y, dx) = captured(call)
    drawn = []
    for _ in range(3):
        graph.replay()
        assert torch.equal(y, dx)
        drawn.append(y.clone())
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    # torch's seed governs replays too.
    again = []
    for _ in range(2):
        torch.manual_seed(11)
        graph.replay()
        again.append(y.clone())
    assert torch.equal(*again)


@pytest.mark.parametrize("over", ["fan-in", "fan-out", "all"])
def test_a_graph_of_a_weight(over):
    w = torch.randn(96, 24, 3, 3, device="cuda")

    def call():
        v, inverse = scaled(w, over, 2, 1.5)
        return v, projected(w, inverse, v.flip(0), over, 2, 1.5)

    graph, result = captured(call)
    w.normal_()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(result, call(), strict=True))


@pytest.mark.parametrize("method", ["normalize", "project"])
def test_a_graph_of_a_step_of_a_fused_network(method):
    torch.manual_seed(0)
    layers = [
        nnp.Conv2d(3, 8, 3, method=method),
        nnp.ReLU(),
        nnp.Conv2d(8, 8, 3, groups=2, method=method),
        nnp.ReLU(),
        nn.Flatten(),
        nnp.Linear(128, 5, method=method),
    ]
    x = torch.randn(4, 3, 8, 8, device="cuda")
    fused = normprop.fuse(nn.Sequential(*layers).cuda(), x)

    def step(network):
        for p in network.parameters():
            p.grad = None
        network(x).square().mean().backward()
        with torch.no_grad():
            for p in network.parameters():
                p.sub_(p.grad, alpha=1e-2)
        nnp.project_(network)

    graph, _ = captured(lambda: step(fused))
    plain = copy.deepcopy(fused)
    for _ in range(3):
        graph.replay()
        step(plain)
        for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


# Compiled


def test_compiled_by_inductor():
    torch.compiler.reset()
    x = torch.randn(1_023, 65, device="cuda", requires_grad=True)
    w = torch.randn(65, 65, device="cuda", requires_grad=True)

    def network(x):
        y = x @ functional.normalize_weight(w, "forward")
        y = functional.gelu(y, scaling="separate")
        return functional.dropout(y, 0.3, backend="eager").sum()

    torch._inductor.config.fallback_random = True
    compiled = torch.compile(network, fullgraph=True)
    results = []
    for road in (network, compiled):
        torch.manual_seed(3)
        loss = road(x)
        results.append((loss, *torch.autograd.grad(loss, (x, w))))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("prelu", "rrelu")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_eager_function_on_cuda_is_met(name, dtype):
    x = torch.randn(1_000_003, device="cuda", dtype=dtype, requires_grad=True)
    params, kinks = CASES[name][0], CASES[name][3]
    if name.startswith("gelu"):
        name, params = "gelu", ("tanh" if name == "gelu_tanh" else "none",)
    constants = Constants(SHIFT, FORWARD, BACKWARD)
    results = []
    for backend in ("eager", "triton"):
        y = fused(name, x, params, constants, backend)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        results.append((y.detach().double(), dx.double()))
    (y, dx), (got, gradient) = results
    # Both roads: sixteen roundings of numbers up to 1 + |x|, and the store.
    error = 2 * 16 * unit(compute(dtype)) * (1 + x.detach().double().abs()) / FORWARD
    assert ((got - y).abs() <= error + 4 * unit(dtype) * y.abs()).all()
    away = torch.ones_like(y, dtype=torch.bool)
    # At a kink the two may differ in float32, by the rule of the functions.
    for kink in kinks:
        away &= (x.detach() - kink).abs() > 1e-6
    assert ((gradient - dx).abs() <= error + 4 * unit(dtype) * dx.abs())[away].all()


def test_many_replicates():
    # More than the second dimension of a grid has.
    device = torch.device("cuda")
    arguments = ("relu", (), 0.0, 1.0, 7, range(70_001), 65, torch.float32, device)
    figures = montecarlo.figures(*arguments)
    assert figures[:, 0, 0].eq(65).all()
    later = montecarlo.figures(*arguments[:5], range(70_000, 70_001), *arguments[6:])
    assert torch.equal(figures[-1], later[0])


def test_a_simulation_seeds_the_device_it_is_given():
    state = torch.cuda.get_rng_state()
    torch.manual_seed(5)
    first = [simulate(torch.nn.Dropout(0.3), 4_000, replicates=4, seed=1, device="cuda")]
    torch.manual_seed(6)
    first += [simulate(torch.nn.Dropout(0.3), 4_000, replicates=4, seed=1, device="cuda")]
    assert first[0] == first[1]
    torch.cuda.set_rng_state(state)
