"""The weights of a network by kernels: what its layers make by themselves, in few launches."""

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("triton")

import normprop
import normprop.nn as nnp
from normprop import kernels
from normprop.functional import together as module
from normprop.functional.together import Placed, Placer, make, together
from normprop.kernels import table, weight
from tests.functional.test_together import each_alone, gradients, network, values
from tests.graph.networks import NETWORKS, options
from tests.kernels.functions import backward, compute, forward, stored_unit, unit

pytestmark = pytest.mark.usefixtures("poisoned", "used")


@pytest.fixture
def used(monkeypatch):
    """Kernels serve what they could on a GPU, in the interpreter too."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(module, "usable", lambda tensor: tensor.dtype in kernels.DTYPES)


@pytest.fixture
def launches(monkeypatch):
    """What is started: stage and mode of each launch."""
    seen = []
    launch = weight.launch

    def count(kernel, grid, arguments, constants, *rest):
        # On a GPU layers that are left alone have kernels too, without a list of programs.
        if not torch.cuda.is_available() or arguments[-1] >= 0:
            seen.append((constants["STAGE"], constants["MODE"]))
        launch(kernel, grid, arguments, constants, *rest)

    monkeypatch.setattr(weight, "launch", count)
    return seen


@pytest.fixture
def copies(monkeypatch):
    """Tables that are copied to the device."""
    seen = []
    copied = table.copied

    def count(numbers, device):
        seen.append(len(numbers))
        return copied(numbers, device)

    monkeypatch.setattr(table, "copied", count)
    table.shared.cache_clear()
    weight._plan.cache_clear()
    weight._BATCHES.clear()
    return seen


def given(dtype, device, **chosen):
    """A network of every geometry, on the device."""
    parts, weights, biases = network(dtype, **chosen)
    weights, biases = (
        [t if t is None else t.detach().to(device).requires_grad_() for t in tensors]
        for tensors in (weights, biases)
    )
    return parts, weights, biases


def wanted_of(parts, weights, biases):
    """V, c and their gradients in float64, by operations that autograd knows."""
    wide = [
        [t if t is None else t.detach().cpu().double().requires_grad_() for t in tensors]
        for tensors in (weights, biases)
    ]
    pairs = each_alone(parts, *wide)
    return values(pairs), gradients(pairs, *wide)


def assert_near(got, wanted, dtype):
    """Two sums over a layer, each of fewer than 64 products, and a store of each factor."""
    room = 128 * unit(compute(dtype)) + 4 * stored_unit(dtype)
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert a.dtype == dtype
            assert (a.cpu().double() - b).abs().max() <= room * b.abs().max()


@pytest.mark.parametrize("dtype", kernels.DTYPES, ids=str)
def test_every_geometry_in_one_call(dtype, device, launches):
    parts, weights, biases = given(dtype, device)
    with torch.no_grad():
        for w in weights[::5]:
            w[0] = 0
    wanted, wanted_gradients = wanted_of(parts, weights, biases)
    pairs = together(weights, biases, make(parts, weights, biases))
    assert launches == [(1, 0), (2, 0)]
    assert_near(values(pairs), wanted, dtype)
    # The gradients that arrive are rounded to the type, which 64 of them add up in a bias.
    found = gradients(pairs, weights, biases)
    assert launches[2:] == [(1, 1), (2, 1)]
    assert_near(found, wanted_gradients, dtype)


@pytest.mark.parametrize("over", ["fan-in", "fan-out"])
def test_channels_last_is_read_where_it_lies(over, device, launches):
    w = torch.randn(6, 4, 3, 3, dtype=torch.float64, device=device)
    g, c = torch.randn_like(w), torch.randn(6, dtype=torch.float64, device=device)
    layer = weight.Layer(over, 1.5, 2, slope=0.7, outputs=6)
    results = []
    for form in (torch.contiguous_format, torch.channels_last):
        seen, learnt = (t.contiguous(memory_format=form) for t in (w, g))
        made, biases, kept = forward([layer], [seen], [None])
        assert made[0].stride() == seen.stride()
        found, _ = backward([layer], [seen], kept, [learnt], [c])
        assert found[0].stride() == seen.stride()
        results.append((*made, *biases, *found))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_norms_of_the_whole_range_among_others(size, device):
    parts, weights, biases = given(torch.float32, device)
    with torch.no_grad():
        for w in weights[::2]:
            w.mul_(size)
            w[0] *= 1e-6
    wanted, _ = wanted_of(parts, weights, biases)
    pairs = together(weights, biases, make(parts, weights, biases))
    assert_near(values(pairs), wanted, torch.float32)
    assert all(g is None or g.isfinite().all() for g in gradients(pairs, weights, biases))


def test_many_tiles_blocks_and_strips(device, launches, monkeypatch):
    # Sizes of which weights of millions of elements would have to be, made small.
    for name, size in (("_SHORT", 2), ("_LONG", 4), ("_SPAN", 1), ("_MOST_OF_ALL", 2)):
        monkeypatch.setattr(weight, name, size)
    parts, weights, biases = (tensors[::5] for tensors in given(torch.float64, device))
    wanted, wanted_gradients = wanted_of(parts, weights, biases)
    pairs = together(weights, biases, make(parts, weights, biases))
    assert_near(values(pairs), wanted, torch.float64)
    assert_near(gradients(pairs, weights, biases), wanted_gradients, torch.float64)
    assert launches == [(stage, mode) for mode in (0, 1) for stage in (0, 1, 2)]
    launches.clear()
    # On the balls that they have, and on one of their own.
    balls = [p._replace(over=p.over or "all", slope=0.0, shift=0.0, scale=1.0) for p in parts]
    balls = [p._replace(factors=(1.0, 1.0), outputs=0) for p in balls]
    asked = [Placed(p, w.detach()) for p, w in zip(balls, weights, strict=True)]
    given_ = [one.weight.clone() for one in asked]
    placer = Placer(asked)
    assert sorted(placer.done) == list(range(len(asked)))
    placer.place_()
    assert launches == [(0, 2), (1, 2)]
    for one, w in zip(asked, given_, strict=True):
        ((wanted,), _, _) = forward([one.layer], [w], [None])
        assert torch.equal(one.weight, wanted)


def test_types_have_launches_of_their_own(device, launches):
    types = torch.float32, torch.bfloat16
    mixed = [tuple(tensors[::5] for tensors in given(dtype, device)) for dtype in types]
    both = [a + b for a, b in zip(*mixed, strict=True)]
    pairs = together(*both[1:], make(*both))
    # A bias of another type is left to PyTorch.
    both[2][0] = both[2][0].detach().double().requires_grad_()
    launches.clear()
    made = make(*both)
    assert [len(places) for places, _ in made.maker.kernels] == [
        len(mixed[0][0]) - 1,
        len(mixed[1][0]),
    ]
    assert launches == 2 * [(1, 0), (2, 0)]
    half = len(mixed[0][0])
    for (parts, weights, biases), own in zip(mixed, (pairs[:half], pairs[half:]), strict=True):
        assert_near(values(own), wanted_of(parts, weights, biases)[0], weights[0].dtype)


def test_a_step_copies_no_table_that_is_there(device, copies):
    parts, weights, biases = (tensors[::5] for tensors in given(torch.float32, device))

    def step():
        pairs = together(weights, biases, make(parts, weights, biases))
        return gradients(pairs, weights, biases)

    first = step()
    # The plans, and where tensors lie, each way.
    assert len(copies) == 4
    copies.clear()
    second = step()
    # The gradients that arrive, and what is made of them, may lie elsewhere.
    assert len(copies) <= 1
    assert all(a is None or torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_nothing_to_do_starts_nothing_and_copies_nothing(device, launches, copies):
    w = torch.randn(4, 3, device=device)
    layer = weight.Layer(None, 1.0, outputs=4)
    made, biases, kept = forward([layer] * 2, [w, w[:, :0]], [w[:, 0], None])
    assert made[0] is w
    assert biases[1] is None
    found, of_biases = backward([layer] * 2, [w, w[:, :0]], kept, [w, None], biases)
    assert found[0] is w
    assert found[1] is None
    assert of_biases[0] is biases[0]
    assert launches == copies == []


def test_factors_and_gradients_that_do_not_arrive(device):
    parts, weights, biases = given(torch.float64, device, factors=(3.0, 0.5))
    made = make(parts, weights, biases)
    _, wanted = wanted_of(parts, weights, biases)
    factors = [3.0] * len(weights) + [0.5] * sum(b is not None for b in biases)
    scaled = [None if g is None else f * g for f, g in zip(factors, wanted, strict=True)]
    for again in ({}, {"create_graph": True}):
        got = gradients(together(weights, biases, made), weights, biases, **again)
        assert_near([g if g is None else g.detach() for g in got], scaled, torch.float64)
    # Where one of V and c is not used, the other's gradient arrives alone.
    for used in (0, 1):
        inputs = [t for t in (*weights, *biases) if t is not None]
        results = []
        for pairs in (each_alone(parts, weights, biases), together(weights, biases, made)):
            chosen = [pair[used] for pair in pairs if pair[used] is not None]
            loss = sum(t.square().sum() for t in chosen if t.requires_grad)
            results.append(torch.autograd.grad(loss, inputs, allow_unused=True))
        wanted, got = results
        for a, b, factor in zip(got, wanted, factors, strict=True):
            if b is None:
                assert a is None or not a.any()
            else:
                assert torch.allclose(a, factor * b, rtol=1e-10, atol=1e-12)


def test_gradients_of_gradients_and_batches_of_them(device):
    parts, weights, biases = given(torch.float64, device)
    pairs = together(weights, biases, make(parts, weights, biases))
    first = gradients(pairs, weights, biases, create_graph=True)
    inputs = [t for t in (*weights, *biases) if t is not None]
    loss = sum(g.square().sum() for g in first if g is not None and g.requires_grad)
    again = torch.autograd.grad(loss, inputs, allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in again)
    used = pairs[0][0]
    arriving = torch.randn(3, *used.shape, dtype=used.dtype, device=device)
    batch = torch.vmap(lambda g: torch.autograd.grad(used, weights[0], g, retain_graph=True)[0])(
        arriving
    )
    for one, g in zip(batch, arriving, strict=True):
        (alone,) = torch.autograd.grad(used, weights[0], g, retain_graph=True)
        assert torch.allclose(one, alone, rtol=1e-12, atol=1e-14)


def test_empty_and_strided_weights(device):
    full = torch.randn(4, 6, dtype=torch.float64, device=device)
    layers = [
        weight.Layer(over, 1.0, outputs=4, slope=0.5) for over in ("fan-in", "fan-out", "all")
    ]
    layers.append(weight.Layer(None, 0.5, outputs=4, slope=0.5))
    for wide in (full[:, ::2], full.T[:4], full[:, :0]):
        made, biases, kept = forward(layers, [wide] * 4, [None] * 4)
        dense, of_dense, _ = forward(layers, [wide.contiguous()] * 4, [None] * 4)
        # A bias of every other number of a vector, and the gradient of one.
        apart = full.flatten()[:8:2]
        alike = [layer._replace(scale=2.0) for layer in layers]
        for strided, whole in zip(
            (
                *forward(alike, [wide] * 4, [apart] * 4)[1],
                *backward(alike, [wide] * 4, kept, [None] * 4, [apart] * 4)[1],
            ),
            (
                *forward(alike, [wide] * 4, [apart.contiguous()] * 4)[1],
                *[apart / 2.0] * 4,
            ),
            strict=True,
        ):
            assert torch.equal(strided, whole)
        for a, b in ((made, dense), (biases, of_dense)):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        found, _ = backward(layers, [wide] * 4, kept, [wide] * 4, biases)
        assert all(g.shape == wide.shape and g.isfinite().all() for g in found)


def project_layers(device):
    """Every kind of layer that is put on its ball, of two types."""
    made = []
    for scaling in ("forward", "backward"):
        for per in ("neuron", "layer"):
            how = {"scaling": scaling, "per": per, "method": "project", "device": device}
            made += [
                nnp.Linear(5, 7, **how, gain=1.3),
                nnp.Conv1d(4, 6, 3, groups=2, **how, dtype=torch.bfloat16),
                nnp.Conv2d(3, 5, (2, 3), stride=2, **how).to(memory_format=torch.channels_last),
                nnp.Conv3d(2, 4, 2, **how),
                nnp.ConvTranspose1d(4, 6, 3, groups=2, **how),
                nnp.ConvTranspose2d(4, 6, 3, stride=(2, 1), **how, dtype=torch.bfloat16),
            ]
    made += [
        nnp.Embedding(9, 6, padding_idx=2, method="project", gain=0.7, device=device),
        nnp.Bilinear(3, 4, 5, method="project", device=device),
        nnp.Bilinear(3, 4, 5, method="project", scaling="backward", device=device),
        nnp.Linear(3, 3, method="normalize", device=device),
    ]
    return nn.ModuleList(made)


def test_all_layers_are_put_on_their_balls_in_one_launch_a_type(device, launches):
    model = project_layers(device)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0).add_(0.01)
        model[0].weight[1] = 0
    alone = copy.deepcopy(model).to("cpu", torch.float64)
    assert nnp.project_(model) == len(model) - 1
    # One program takes a norm.  Biases are as they were.
    assert launches == 2 * [(1, 2)]
    for layer, wide in zip(model, alone, strict=True):
        if layer.method == "project":
            assert layer._placed[1] == layer.weight._version
            wanted = wide._on_ball(wide.weight.detach(), wide._ball())
            dtype = layer.weight.dtype
            assert_near([layer.weight.detach()], [wanted], dtype)
    assert torch.equal(model[-1].weight.double().cpu(), alone[-1].weight)


def test_what_is_written_since_is_seen_and_what_was_saved_is_not_overwritten(device):
    layer = nnp.Linear(4, 4, method="project", device=device)
    y = layer(torch.randn(2, 4, device=device, requires_grad=True))
    nnp.project_(layer)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with torch.no_grad():
        layer.weight.mul_(2.0)
    with pytest.warns(UserWarning, match="was written since it was put on its ball"):
        layer(torch.randn(2, 4, device=device))


def test_weights_that_share_memory_are_put_there_one_after_the_other(device):
    how = {"scaling": "forward", "method": "project", "device": device}
    both = nn.ModuleList(nnp.Linear(6, 6, **how) for _ in range(4))
    both[1].weight = both[0].weight
    whole = torch.randn(8, 6, device=device)
    both[2].weight = nn.Parameter(whole[:6])
    both[3].weight = nn.Parameter(whole[2:])
    with torch.no_grad():
        both[0].weight.mul_(2.0)
    nnp.project_(both)
    norms = [layer.weight.norm(dim=1) for layer in both]
    assert all(torch.allclose(n, torch.ones_like(n), rtol=1e-5) for n in norms)


@pytest.mark.parametrize("method", ["normalize", "project"])
@pytest.mark.parametrize("name", ["mlp", "padded"])
def test_steps_of_a_fused_network(name, method, device, launches, monkeypatch):
    make_network, shape = NETWORKS[name]
    maps, acts = options("backward" if name == "padded" else "forward")
    torch.manual_seed(0)
    model = make_network({**maps, "method": method}, acts).to(device, torch.float64)
    x = torch.randn(shape, dtype=torch.float64, device=device)
    fused = normprop.fuse(model, x)
    plain = copy.deepcopy(fused)

    def learn(network):
        optimiser = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)
        for _ in range(2):
            optimiser.zero_grad()
            launches.clear()
            (network(x) - 1.0).square().mean().backward()
            of_step = len(launches)
            optimiser.step()
            launches.clear()
            nnp.project_(network)
        return of_step, len(launches)

    of_step, behind = learn(fused)
    assert 0 < of_step <= 6
    assert behind == 0 if method == "normalize" else 0 < behind <= 3
    monkeypatch.setattr(module, "usable", lambda tensor: False)
    assert learn(plain) == (0, 0)
    for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
        assert (a - b).norm() <= 1e-9 * b.norm()


def test_what_hangs_on_projected_weights_is_made_where_it_was(device, launches):
    make_network, shape = NETWORKS["mlp"]
    maps, acts = options("forward")
    model = make_network({**maps, "method": "project"}, acts).to(device)
    x = torch.randn(shape, device=device)
    fused = normprop.fuse(model, x)
    fused(x)
    before = fused._normprop_together.made
    places = [t.data_ptr() for t in (*before.weights, *before.biases) if t is not None]
    with torch.no_grad():
        for p in fused.parameters():
            p.mul_(1.5)
    launches.clear()
    nnp.project_(fused)
    assert launches == [(1, 2), (2, 2)]
    # Nothing is left to be made in the next pass, and a graph that was captured reads there.
    with torch.no_grad():
        fused(x)
    after = fused._normprop_together.made
    assert after is before
    assert [t.data_ptr() for t in (*after.weights, *after.biases) if t is not None] == places
    assert len(launches) == 2
    # Another weight in the place of one.
    fused[0].weight = nn.Parameter(torch.randn_like(fused[0].weight))
    nnp.project_(fused)
    wanted = copy.deepcopy(fused)
    assert torch.allclose(fused(x), wanted(x), rtol=1e-5)
