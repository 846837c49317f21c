"""A fused network trains as the normalised one does, and keeps no more than the plain one."""

import copy
import itertools

import pytest
import torch
from torch import nn

import normprop
import normprop.nn as nnp
from normprop.functional import fused
from normprop.graph import check, fold, fuse, separate_on_bridges_
from normprop.graph.affine import Affine, Clamp
from normprop.nn.parametric import Parametric
from tests.graph.networks import NETWORKS, WIDTH, Block, build, filled, options, residual, roundings

SCALINGS = ("forward", "backward", "separate")


def run(model, x):
    """The output, and the gradients of the input and of every parameter, masks seeded."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    y = model(x)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]
    found = torch.autograd.grad(y, [x, *model.parameters()], dy.to(y.dtype), allow_unused=True)
    return dict(zip(["output", "input", *names], [y.detach(), *found], strict=True))


def assert_same(fused, model, x):
    """Up to two units of rounding for each sum on the way there and back."""
    got, wanted = run(fused, x), run(model, x)
    assert list(got) == list(wanted)
    # Every sum runs over fan-in there, over fan-out and over the batch's positions back.
    bound = 2 * (roundings(model) + x.numel()) * torch.finfo(x.dtype).eps
    for name, value in wanted.items():
        if value is None:
            assert got[name] is None
            continue
        # What a bias gets is a sum of what its weight gets, and in front of BatchNorm it is 0.
        beside = wanted.get(f"{name.removesuffix('.bias')}.weight", value)
        size = max(value.abs().max(), beside.abs().max())
        assert (got[name] - value).abs().max() <= bound * size, name


@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_the_same(name, scaling, per):
    model, x = build(name, scaling, per)
    for lean in (False, True):
        fused = fuse(model, x, lean=lean)
        assert_same(fused.train(), model.train(), x)
        assert_same(fused.eval(), model.eval(), x)


@pytest.mark.parametrize("method", ["normalize", "project"])
@pytest.mark.parametrize(("of_maps", "of_acts"), list(itertools.permutations(SCALINGS, 2)))
@pytest.mark.parametrize("name", NETWORKS)
def test_so_they_are_where_maps_and_activations_scale_otherwise(name, of_maps, of_acts, method):
    # The gradient to a map's input may have a factor that the one to its weight has not.
    maps, acts = {"scaling": of_maps, "per": "layer", "method": method}, {"scaling": of_acts}
    model, x = filled(*NETWORKS[name], maps, acts)
    nnp.project_(model)
    assert_same(fuse(model, x).train(), model.train(), x)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("method", ["normalize", "project"])
def test_they_stay_the_same_while_they_learn(method, scaling):
    maps, acts = options(scaling)
    model = residual("post")({**maps, "method": method}, acts).double()
    x = torch.randn(2, 3, 12, 12).double()
    fused = fuse(model, x)
    for network in (model, fused):
        optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
        for _ in range(3):
            optimiser.zero_grad()
            network(x).square().sum().backward()
            optimiser.step()
            nnp.project_(network)
    # Three times there and back.
    bound = 6 * (roundings(model) + x.numel()) * torch.finfo(x.dtype).eps
    state = fused.state_dict()
    assert list(state) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert (state[name] - value).abs().max() <= bound * value.abs().max(), name


def test_a_separate_scale_is_not_the_forward_one():
    # What the gradients above are the same as: with the factors dropped they are others.
    separate, x = build("residual, pre", "separate")
    forward = fuse(build("residual, pre", "forward")[0], x)
    forward.load_state_dict(separate.state_dict())
    fused = fuse(separate, x)
    got, other = run(fused, x), run(forward, x)
    assert torch.allclose(got["output"], other["output"])
    assert not torch.allclose(got["0.weight"], other["0.weight"], rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "stay"),
    [
        ("mlp", 0), ("calibrated", 0), ("residual, pre", 0), ("residual, post", 0),
        ("one activation everywhere", 0), ("mixed", 0), ("shared", 0), ("resampled", 0),
        ("activations in a row", 0), ("ends in an activation", 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scaling", ["backward", "separate"])
def test_constants_move(name, stay, scaling):
    model, x = build(name, scaling)
    fused = fuse(model, x)
    report = normprop.report(fused)
    assert len(report.kept) == stay
    assert sum(hasattr(m, "constants") for m in fused.modules()) == stay
    if not stay:
        own = {type(m) for m in fused.modules() if type(m).__module__.startswith("normprop.graph")}
        assert not own
        lean = fuse(model, x, lean=True)
        own = {type(m) for m in lean.modules() if type(m).__module__.startswith("normprop.graph")}
        assert own <= {Clamp}


@pytest.mark.parametrize("name", ["mlp", "residual, post", "dropouts", "among norms"])
def test_parameters_are_those_of_the_model(name):
    model, x = build(name)
    fused = fuse(model, x)
    assert list(fused.state_dict()) == list(model.state_dict())
    fused.load_state_dict(model.state_dict())
    model.load_state_dict(fused.state_dict())
    assert fused.training == model.training
    for (name, mine), (_, theirs) in zip(model.named_modules(), fused.named_modules(), strict=True):
        if isinstance(mine, Parametric):
            assert type(theirs) is type(mine), name


def activation_bytes(model, x) -> int:
    """Bytes that autograd keeps for a batch, less those that do not grow with it."""

    def kept(x):
        storages, alive = {}, []

        def pack(tensor):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            alive.append(model(x))
        return sum(storages.values())

    return kept(torch.cat([x, x])) - kept(x)


def plain_network(order, activation):
    """The same residual network of torch's layers."""

    def conv(inputs, outputs, size, stride=1, **arguments):
        return nn.Conv2d(inputs, outputs, size, stride, size // 2, **arguments)

    maps, acts = options()
    model = residual(order, getattr(nnp, activation))(maps, acts)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, nnp.Conv2d):
                made = conv(
                    child.in_channels, child.out_channels, child.kernel_size[0], child.stride,
                    bias=child.bias is not None,
                )  # fmt: skip
            elif isinstance(child, nnp.Linear):
                made = nn.Linear(child.in_features, child.out_features)
            elif hasattr(child, "constants"):
                made = getattr(nn, activation)()
            else:
                continue
            parent._modules[name] = made
    return model.double()


@pytest.mark.parametrize("activation", ["ReLU", "GELU", "Tanh"])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("order", ["pre", "post"])
def test_no_more_is_kept_than_by_the_plain_network(order, scaling, activation, monkeypatch):
    # Activations of few elements, of which Python is what they cost, may keep f beside y.
    monkeypatch.setitem(fused.SMALL, "cpu", 0)
    maps, acts = options(scaling)
    model = residual(order, getattr(nnp, activation))(maps, acts).double()
    x = torch.randn(2, 3, 12, 12).double()
    wanted = activation_bytes(plain_network(order, activation), x)
    assert wanted > 0
    assert activation_bytes(fuse(model, x, lean=True), x) <= wanted


@pytest.mark.parametrize("scaling", ["backward", "separate"])
@pytest.mark.parametrize("name", ["mlp", "residual, pre", "residual, post", "shared"])
def test_check_finds_the_same_factors(name, scaling):
    model, x = build(name, scaling, "layer")
    wanted, found = check(model, x), check(fuse(model, x), x)
    assert set(found.factors) == set(wanted.factors)
    assert found.legal == wanted.legal
    for key, factor in wanted.factors.items():
        got = found.factors[key]
        assert got.legal == factor.legal, key
        if factor.legal:
            assert got.value == pytest.approx(factor.value, rel=1e-12), key


def test_the_bridge_rule_comes_before_fusing():
    model, x = build("residual, post", "separate", "layer")
    separate_on_bridges_(model, x)
    fused = fuse(model, x)
    assert check(fused, x).legal
    assert_same(fused, model, x)
    with pytest.raises(ValueError, match="scales must be chosen before the model is fused"):
        separate_on_bridges_(fuse(*build("residual, post", "separate", "layer")), x)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
@pytest.mark.parametrize("scaling", ["backward", "separate"])
@pytest.mark.parametrize("name", ["padded", "residual, post"])
def test_it_compiles_in_one_piece(name, scaling):
    torch.compiler.reset()
    model, x = build(name, scaling)
    fused = fuse(model, x)
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    got, wanted = run(compiled, x), run(fused, x)
    bound = 2 * (roundings(model) + x.numel()) * torch.finfo(x.dtype).eps
    for (name, a), b in zip(wanted.items(), got.values(), strict=True):
        assert (a - b).abs().max() <= bound * a.abs().max(), name
    torch.compiler.reset()


def test_functional_transforms():
    model, x = build("padded", "separate")
    fused = fuse(model, x)

    def loss(network):
        def call(parameters):
            return torch.func.functional_call(network, parameters, (x,)).square().sum()

        return torch.func.grad(call)(dict(network.named_parameters()))

    wanted, got = loss(model), loss(fused)
    bound = 4 * (roundings(model) + x.numel()) * torch.finfo(x.dtype).eps
    for name, value in wanted.items():
        assert (got[name] - value).abs().max() <= bound * value.abs().max(), name


def test_a_curve_before_zero_padding_is_followed_by_its_shift():
    model = nn.Sequential(nnp.Conv2d(3, 4, 3), nnp.GELU(), nnp.Conv2d(4, 4, 3, padding=1))
    fused = fuse(model, torch.randn(1, 3, 6, 6))
    report = normprop.report(fused)
    assert [type(m) for m in fused[1]] == [nn.GELU, Affine]
    assert report.kept == {"1": "the shift alone, for 2"}
    # torch's sigmoid keeps its output, which nobody may shift in place.
    model[1] = nnp.Sigmoid()
    assert type(fuse(model, torch.randn(1, 3, 6, 6))[1]) is nnp.Sigmoid


def test_a_fused_network_folds():
    model, x = build("residual, post", "separate")
    folded = fold(fuse(model, x), x)
    assert not [m for m in folded.modules() if type(m).__module__.startswith("normprop")]
    with torch.no_grad():
        error = (folded(x) - model.eval()(x)).abs().max()
    assert error <= roundings(model) * torch.finfo(x.dtype).eps * model(x).abs().max()


@pytest.mark.parametrize("fused", [False, True], ids=["converted", "fused"])
@pytest.mark.parametrize("method", ["normalize", "project"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_verb_takes_a_network_that_has_learnt(scaling, method, fused):
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 5)).double()
    x = torch.randn(6, 3, 4, 4).double()
    network = normprop.convert(plain, x, scaling=scaling, method=method)
    network = fuse(network, x) if fused else network
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        network(x).square().sum().backward()
        optimiser.step()
        nnp.project_(network)
    wanted = network(x)
    same = [copy.deepcopy(network), fold(network, x)] + ([] if fused else [fuse(network, x)])
    for other in same:
        assert torch.allclose(other(x), wanted, rtol=0, atol=1e-12)
    assert len(check(network, x).factors) == 4
    assert len(normprop.predict(network, x)) == len(normprop.probe(network, x)) == 5
    # Nobody has left anything in it.
    assert torch.equal(network(x), wanted)


@pytest.mark.parametrize("verb", [normprop.convert, fuse, fold])
def test_what_a_verb_returns_where_nothing_is_learnt_can_learn(verb):
    plain = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(6, 4)
    model = plain if verb is normprop.convert else normprop.convert(plain, x)
    with torch.inference_mode():
        made = verb(model, x)
    made(x).sum().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_a_fused_network_is_not_converted_again():
    plain = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(2, 4)
    fused = fuse(normprop.convert(plain, x), x)
    for model in (fused, nn.Sequential(fused, nn.ReLU()), nn.DataParallel(fused)):
        with pytest.raises(ValueError, match="model must not be fused"):
            normprop.convert(model, x)


@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("method", ["normalize", "project"])
def test_a_map_is_measured_with_what_it_absorbed(method, scaling, per):
    kind = {"scaling": scaling, "per": per, "method": method}
    model = nn.Sequential(
        nnp.Conv2d(3, 4, 3, **kind), nnp.Softplus(scaling=scaling),
        nnp.ConvTranspose2d(4, 4, 3, **kind), nnp.ReLU(scaling=scaling, mean=0.5),
        nnp.Conv2d(4, 5, 3, bias=False, **kind), nnp.Tanh(scaling=scaling), nn.Flatten(),
        nnp.Linear(80, 6, **kind), nnp.Sigmoid(scaling=scaling), nnp.Linear(6, 7, **kind),
    ).double()  # fmt: skip
    x = torch.randn(2, 3, 6, 6).double()
    fused = fuse(model, x)
    maps = [m for m in fused if isinstance(m, Parametric)]
    assert sum(m.absorbed is not None for m in maps) > 2
    for layer in maps:
        exact, measured = normprop.moments(layer), normprop.simulate(layer, 20_000, seed=3)
        for name in ("fwd_mean", "fwd_std", "bwd_std"):
            apart = abs(getattr(exact, name) - getattr(measured, name))
            assert (apart <= 6 * getattr(measured, f"{name}_se")).all(), (layer, name)


def test_it_says_what_it_absorbed_and_can_be_copied():
    model, x = build("mlp")
    fused = fuse(model, x)
    assert "absorbed=Absorbed(before=Meaning(scale=" in str(fused)
    assert "absorbed" not in str(model)
    assert_same(copy.deepcopy(fused), model, x)


def test_random_numbers_and_statistics_are_left_alone():
    model, x = build("among norms")
    model.append(nn.Dropout(0.5))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    fused = fuse(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    for network in (model, fused):
        assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_refusals():
    model, x = build("mlp")
    with pytest.raises(ValueError, match="must not be fused already"):
        fuse(fuse(model, x), x)
    with pytest.raises(ValueError, match="example inputs must be given"):
        fuse(model)


def test_a_block_alone():
    maps, acts = options("separate")
    model, x = Block("pre", maps, acts).double(), torch.randn(2, WIDTH, 5, 5).double()
    assert_same(fuse(model, x), model, x)


@pytest.mark.parametrize("name", ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d"])
@pytest.mark.parametrize("mean", [0.0, 0.3])
def test_the_constants_of_a_dropout_move(name, mean):
    shape = (2, 4, *[3] * int(name[-2])) if name.endswith("d") else (2, 4)
    drop = getattr(nnp, name)(0.3, mean=mean)
    model = nn.Sequential(drop, nn.Flatten(), nnp.Linear(torch.ones(shape)[0].numel(), 3)).double()
    assert not normprop.report(fuse(model, torch.randn(shape).double())).kept


@pytest.mark.parametrize("name", ["AlphaDropout", "FeatureAlphaDropout"])
@pytest.mark.parametrize("mean", [0.0, 0.3])
def test_those_of_an_alpha_dropout_stay(name, mean):
    drop = getattr(nnp, name)(0.3, mean=mean)
    model = nn.Sequential(nnp.Linear(4, 4), nnp.ReLU(), drop, nnp.Linear(4, 3)).double()
    fused, x = fuse(model, torch.randn(6, 4).double()), torch.randn(6, 4).double()
    assert normprop.report(fused).kept == {"2": "its constants are others in evaluation"}
    assert_same(fused, model, x)


RELATIVE = {
    "adaptive average": lambda: nnp.AdaptiveAvgPool2d(2, scaling="forward", mean=0.2, std=1.3),
    "adaptive maximum": lambda: nnp.AdaptiveMaxPool2d(2, scaling="forward", std=0.7),
    "bilinear": lambda: nnp.Upsample((7, 8), mode="bilinear", scaling="forward", mean=-0.4),
}


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("residual", [False, True])
def test_a_layer_with_constants_of_a_shape_takes_others_by_its_law(name, residual):
    maps, acts = options("forward")
    stem = nnp.Conv2d(WIDTH, WIDTH, 3, padding=1, **maps)
    body = Block("post", maps, acts) if residual else nn.Sequential(stem, nnp.ReLU(**acts))
    model, x = nn.Sequential(body, RELATIVE[name]()).double(), torch.randn(2, WIDTH, 5, 6).double()
    assert model[1].constants is None
    fused = fuse(model, x)
    assert "1" in normprop.report(fused).kept
    assert not any(path.startswith("0") for path in normprop.report(fused).kept)
    assert_same(fused, model, x)


@pytest.mark.parametrize("shape", [(2, 3, 9, 9), (3, 9, 9)], ids=["batch", "sample"])
@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2)], ids=str)
def test_a_pool_of_a_shape_is_plain_then_with_a_batch_and_without(pool, shape):
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), pool, nn.Flatten(-3), nn.Linear(16, 2)
    x = torch.randn(shape).double()
    model = normprop.convert(nn.Sequential(*layers).double(), x, scaling="forward")
    fused = fuse(model, x)
    assert type(fused[2]) is type(pool)
    assert_same(fused, model, x)


@pytest.mark.parametrize("scaling", ["backward", "separate"])
def test_it_does_not_where_its_divisor_is_not_of_its_law(scaling):
    maps, acts = options("forward")
    pool = nnp.AdaptiveAvgPool2d(2, scaling=scaling)
    model = nn.Sequential(nnp.Conv2d(WIDTH, WIDTH, 3, **maps), nnp.ReLU(**acts), pool).double()
    x = torch.randn(2, WIDTH, 5, 6).double()
    fused = fuse(model, x)
    assert scaling == "separate" or (fused[2].mean, fused[2].std) == (0.0, 1.0)
    assert_same(fused, model, x)
