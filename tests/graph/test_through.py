"""Through a map whose weight stays on its ball by itself, a scale goes at no cost."""

import pytest
import torch
from torch import nn

import normprop
import normprop.nn as nnp
from benchmarks import networks
from normprop.graph.plan import Plan
from normprop.nn.parametric import MapFromWeight
from tests.graph.networks import IMAGE, NETWORKS, VECTOR, WIDTH, Called, filled, options
from tests.graph.test_cost import OPTIMISERS
from tests.graph.test_fusion import SCALINGS, assert_same


class Wired(nn.Module):
    """Layers by name, and the function that calls them."""

    def __init__(self, wire, **layers):
        super().__init__()
        self.wire, self.layers = wire, nn.ModuleDict(layers)

    def forward(self, x):
        return self.wire(x, **self.layers)


def linear(maps, inputs=WIDTH, outputs=WIDTH, **more):
    return nnp.Linear(inputs, outputs, **{**maps, **more})


def conv(maps, inputs=WIDTH, outputs=WIDTH, kernel=3, **more):
    return nnp.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **{**maps, **more})


def dense(depth, activation=nnp.ReLU):
    def make(maps, acts):
        layers = [m for _ in range(depth) for m in (linear(maps), activation(**acts))]
        return nn.Sequential(linear(maps, 6), *layers, linear(maps, WIDTH, 3))

    return make


def images(depth, *behind, **more):
    """Convolutions that pad with zeros, each with a ReLU."""

    def make(maps, acts):
        layers = [conv(maps, 3), nnp.ReLU(**acts)]
        for _ in range(depth - 1):
            layers += [*(b(**acts) for b in behind), conv(maps, **more), nnp.ReLU(**acts)]
        return nn.Sequential(*layers, nn.Flatten(), linear(maps, WIDTH * 144, 3))

    return make


def branches(maps, acts):
    """A sum of branches with one ReLU, two and none."""

    def wire(x, stem, act, one, two, three, act_one, act_two, head):
        x = act(stem(x))
        return head(x + three(act_two(two(act_one(one(x))))) + one(x))

    maps_of = {name: linear(maps) for name in ("one", "two", "three")}
    acts_of = {name: nnp.ReLU(**acts) for name in ("act", "act_one", "act_two")}
    head = linear(maps, WIDTH, 3)
    return Wired(wire, stem=linear(maps, 6), head=head, **maps_of, **acts_of)


def unet(maps, acts):
    """What came before two more ReLUs, beside what comes back from there."""

    def wire(x, into, down, up, out, head):
        x = into(x)
        return head(out(torch.cat([up(down(x)), x], 1)))

    def block(one):
        return nn.Sequential(one, nnp.ReLU(**acts))

    return Wired(
        wire,
        into=block(conv(maps, 3)),
        down=nn.Sequential(nn.MaxPool2d(2), *block(conv(maps))),
        up=block(nnp.ConvTranspose2d(WIDTH, WIDTH, 2, 2, **maps)),
        out=block(conv(maps, 2 * WIDTH)),
        head=conv(maps, WIDTH, 3),
    )


def two_outputs(maps, acts):
    def wire(x, body, act, last):
        y = body(x)
        return torch.cat([y, last(act(y)), y.mean(1, keepdim=True)], 1)

    return Wired(wire, body=dense(3)(maps, acts), act=nnp.ReLU(**acts), last=linear(maps, 3))


def again_and_again(maps, acts):
    """One map, called three times."""

    def wire(x, first, cell, act, head):
        x = first(x)
        for _ in range(3):
            x = act(cell(x))
        return head(x)

    cell, head = linear(maps), linear(maps, WIDTH, 3)
    return Wired(wire, first=linear(maps, 6), cell=cell, act=nnp.ReLU(**acts), head=head)


def kinks(maps, acts):
    layers = [
        nnp.LeakyReLU(0.2, **acts), nnp.Threshold(-0.3, -0.3, **acts), nnp.PReLU(**acts),
        nn.PReLU(), nn.ReLU(), nnp.Dropout(0.3), nnp.ReLU(**acts), nn.LeakyReLU(0.1),
    ]  # fmt: skip
    layers = [m for act in layers for m in (act, conv(maps))]
    return nn.Sequential(conv(maps, 3), *layers, nn.Flatten(), linear(maps, WIDTH * 144, 3))


def both_methods(maps, acts):
    first, *layers = dense(5)(maps, acts)
    for layer in layers[1::4]:
        layer.method = "normalize"
    return nn.Sequential(first, *layers)


def with_a_number(maps, acts):
    return Called(dense(2)(maps, acts), lambda x: torch.relu(x) + 1.0, linear(maps, 3, 3))


# By name: how it is made, for what, and the most maps that have to multiply their weight.
OWN = {
    "twenty layers": (dense(20), VECTOR, 5),
    "GELU": (dense(4, nnp.GELU), VECTOR, 4),
    "images": (images(16), IMAGE, 4),
    "grouped": (images(4, groups=2, bias=False), IMAGE, 1),
    "averaged": (images(4, lambda **a: nnp.AvgPool2d(3, 1, 1, **a)), IMAGE, 2),
    "begins with a ReLU": (lambda m, a: nn.Sequential(nnp.ReLU(**a), *dense(3)(m, a)), VECTOR, 1),
    "branches": (branches, VECTOR, 3),
    "U-net": (unet, IMAGE, 2),
    "two outputs": (two_outputs, VECTOR, 2),
    "again and again": (again_and_again, VECTOR, 3),
    "kinks": (kinks, IMAGE, 3),
    "both methods": (both_methods, VECTOR, 2),
    "a number": (with_a_number, VECTOR, 2),
}
ALL = {**{name: (*parts, None) for name, parts in NETWORKS.items()}, **OWN}


def built(name, scaling="forward", per="neuron", dtype=torch.float64):
    make, shape, _ = ALL[name]
    maps, acts = options(scaling, per)
    model, x = filled(make, shape, {**maps, "method": "project"}, acts, dtype)
    # In this type.
    nnp.project_(model)
    return model, x


def maps_of(network):
    return [m for m in network.modules() if isinstance(m, MapFromWeight)]


def multiplied(network):
    """How many maps cannot run with the weight that is on its ball."""
    absorbed = [m.absorbed for m in maps_of(network) if m.method == "project" and m.absorbed]
    return sum(before.scale != after.scale for before, after, _ in absorbed)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", ALL)
def test_it_is_the_same_network_and_no_worse_than_where_none_goes_through(
    name, scaling, monkeypatch
):
    model, x = built(name, scaling, "layer" if scaling == "separate" else "neuron")
    fused = normprop.fuse(model, x)
    for mode in (True, False):
        assert_same(fused.train(mode), model.train(mode), x)
    fused.load_state_dict(model.state_dict())
    model.load_state_dict(fused.state_dict())
    most = ALL[name][2]
    assert most is None or multiplied(fused) <= most
    monkeypatch.setattr(Plan, "costs", lambda plan, maps: ())
    other = normprop.fuse(model, x)
    assert multiplied(fused) <= multiplied(other)
    assert len(normprop.report(fused).kept) <= len(normprop.report(other).kept)


@pytest.mark.parametrize(("make", "least"), [(networks.vgg16, 2), (networks.resnet18, 10)])
def test_networks_that_people_train(make, least):
    x = torch.randn(2, 3, 32, 32)
    fused = normprop.fuse(make(networks.Kit("normprop projected", "ReLU"), width=2), x)
    assert multiplied(fused) == least


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", [name for name in OWN if name != "twenty layers"])
def test_it_takes_the_same_steps(name, optimiser):
    model, x = built(name)
    fused = normprop.fuse(model, x)
    for network in (model, fused):
        torch.manual_seed(3)
        step = OPTIMISERS[optimiser](network.parameters())
        for _ in range(10):
            step.zero_grad()
            # So small that no step leads far away, where rounding would grow.
            (0.01 * (network(x) - 1.0).square().mean()).backward()
            step.step()
            nnp.project_(network)
    for mine, own in zip(fused.parameters(), model.parameters(), strict=True):
        assert (mine - own).norm() <= 1e-12 * own.norm()


@pytest.mark.parametrize("name", ["images", "residual, post", "U-net", "branches"])
def test_half_precision_does_as_well(name):
    model, x = built(name)
    fused, wanted = normprop.fuse(model, x), model(x)
    for dtype in (torch.float16, torch.bfloat16):
        off = [(n.to(dtype)(x.to(dtype)) - wanted).norm() for n in (model, fused)]
        # Two draws of the same rounding errors.
        assert off[1] <= 4.0 * off[0]


@pytest.mark.parametrize("scaling", ["forward", "backward"])
def test_scales_do_not_pile_up(scaling):
    model, x = built("twenty layers", scaling)
    scales = [m.absorbed.after.scale for m in maps_of(normprop.fuse(model, x)) if m.absorbed]
    assert 2.0**2 < max(scales) <= 2.0**3


def test_a_map_that_has_nothing_to_do_runs_by_itself():
    maps, acts = options()
    model, x = filled(images(4, bias=False), IMAGE, {**maps, "method": "project"}, acts)
    fused = normprop.fuse(model, x)
    # The others have a shift to take, or to give to the ReLU behind them.
    assert [m.runs_as_it_is for m in maps_of(fused)] == [False, False, False, True, False]


@pytest.mark.parametrize("name", ["images", "residual, pre"])
def test_maps_that_divide_by_a_norm_take_their_scale_at_once(name):
    make, shape, _ = ALL[name]
    fused = normprop.fuse(*filled(make, shape, *options()))
    given = [m.absorbed.after.scale for m in maps_of(fused) if m.absorbed]
    assert given == [1.0] * len(given)


def test_a_bias_that_comes_later_is_in_the_units_of_the_model():
    maps, acts = options()
    model, x = filled(images(4, bias=False), IMAGE, {**maps, "method": "project"}, acts)
    nnp.project_(model)
    fused = normprop.fuse(model, x)
    for network in (model, fused):
        for layer in maps_of(network):
            layer.bias = nn.Parameter(torch.ones(layer.outputs, dtype=x.dtype))
    assert_same(fused, model, x)
