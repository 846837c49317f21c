"""A folded network gives what the normalised one gives, and is plain."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch import fx, nn

import normprop
import normprop.nn as nnp
from normprop.graph import fold
from tests.graph.networks import NETWORKS, WIDTH, Block, Called, build, options, roundings

SCALINGS = ("forward", "backward", "separate")


def assert_same(folded, model, *x):
    """Up to one unit of rounding for each sum on the way; scales near 1 keep them from growing."""
    with torch.no_grad():
        wanted, got = model.eval()(*x), folded(*x)
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    bound = roundings(model) * torch.finfo(wanted.dtype).eps
    assert (got - wanted).abs().max() <= bound * wanted.abs().max()


def conv_pair(activation=nnp.ReLU, **arguments):
    return nn.Sequential(
        nnp.Conv2d(3, 4, 3), activation(), nnp.Conv2d(4, 4, 3, **arguments)
    ).double()


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_the_same(name, scaling):
    model, x = build(name, scaling)
    assert_same(fold(model, x), model, x)
    assert_same(fold(model, x), model, x[:1])


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_the_same_in_single_precision(name):
    model, x = build(name, dtype=torch.float32)
    assert_same(fold(model, x), model, x)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("name", ["mlp", "padded", "homogeneous", "among norms", "mixed"])
def test_what_is_frozen_stays_frozen(name, frozen):
    model, x = build(name)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(not key.endswith(frozen))
    found = {key: p.requires_grad for key, p in fold(model, x).named_parameters()}
    for key, parameter in model.named_parameters():
        assert found[key] == parameter.requires_grad, key


# Where constants stay, and how many. A ReLU before a tanh gets its input scaled and shifted, so
# that its output is what it was; nobody stands behind the last activation.
STAY = {
    "ends in an activation": 1,
    "activations in a row": 0,
    "begins with an activation": 0,
    "mlp": 0,
    "calibrated": 0,
    "residual, pre": 0,
    "residual, post": 0,
    "residual, in place": 0,
    "one activation everywhere": 0,
    "mixed": 0,
    "shared": 0,
    "resampled": 0,
}


@pytest.mark.parametrize(("name", "stay"), STAY.items())
def test_constants_move(name, stay):
    model, x = build(name)
    folded = fold(model, x)
    report = normprop.report(folded)
    assert len(report.kept) == stay
    assert sum(isinstance(m, fx.GraphModule) for m in folded.modules()) == stay
    assert len(report.moved) == sum(
        hasattr(m, "constants") for _, m in model.named_modules(remove_duplicate=False)
    ) - stay  # fmt: skip
    assert str(report).startswith(f"constants moved out of {len(report.moved)} of")
    for path in report.kept:
        assert path in str(report)


@pytest.mark.parametrize("name", [n for n, stay in STAY.items() if stay == 0])
def test_every_layer_is_torch_s(name):
    model, x = build(name)
    own = {type(m).__module__ for m in fold(model, x).modules()}
    assert {m for m in own if m.startswith("normprop")} == set()


@pytest.mark.parametrize("name", ["mlp", "residual, post", "among norms", "homogeneous"])
def test_keys_are_those_of_the_model(name):
    model, x = build(name)
    folded = fold(model, x)
    more = set(folded.state_dict()) - set(model.state_dict())
    assert set(model.state_dict()) <= set(folded.state_dict())
    assert all(key.endswith(".bias") for key in more)
    assert [n for n, _ in folded.named_modules()] == [n for n, _ in model.named_modules()]


def test_the_model_is_not_changed():
    model, x = build("among norms")
    model.train()
    before, text = copy.deepcopy(model.state_dict()), str(model)
    state = torch.get_rng_state()
    folded = fold(model, x)
    assert model.training
    assert not folded.training
    assert str(model) == text
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any("forward" in vars(m) for m in model.modules())


def test_a_relu_before_zero_padding_is_shifted_on_its_way_in():
    model = conv_pair(padding=1)
    folded = fold(model, torch.randn(1, 3, 6, 6).double())
    mean = normprop.moments("relu").fwd_mean
    assert type(folded[1]) is nn.Threshold
    assert folded[1].threshold == folded[1].value == pytest.approx(-mean, rel=1e-15)
    assert torch.allclose(folded[0].bias, model[0].bias - mean, rtol=1e-15)


def test_a_curve_before_zero_padding_keeps_its_shift_alone():
    folded = fold(conv_pair(nnp.GELU, padding=1), torch.randn(1, 3, 6, 6).double())
    report = normprop.report(folded)
    assert [type(m).__name__ for m in folded[1]] == ["GELU", "Line"]
    # One function of torch: the scale has gone.
    assert sum(node.op.startswith("call") for node in folded[1][1].graph.nodes) == 1
    assert report.kept == {"1": "the shift alone, for 2"}


@pytest.mark.parametrize("activation", [nnp.GELU, nnp.ReLU])
def test_without_padding_nothing_stays(activation):
    made = fold(conv_pair(activation), torch.randn(1, 3, 6, 6).double())
    report = normprop.report(made)
    assert report.moved == ("1",)


def test_channels_last_stays():
    model, x = build("residual, post")
    model, x = (t.to(memory_format=torch.channels_last) for t in (model, x))
    folded = fold(model, x)
    assert_same(folded, model, x)
    weights = [m.weight for m in folded.modules() if type(m) is nn.Conv2d and m.kernel_size[0] > 1]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_a_map_alone_and_an_activation_alone():
    x = torch.randn(4, 6).double()
    for layer in (nnp.Linear(6, 3).double(), nnp.Tanh()):
        folded = fold(layer, x)
        with torch.no_grad():
            assert (folded(x) - layer(x)).abs().max() <= 64 * torch.finfo(x.dtype).eps
    assert type(fold(nnp.Linear(6, 3).double(), x)) is nn.Linear


def test_a_projected_weight_is_taken_as_it_is():
    model = nn.Sequential(nnp.Linear(6, WIDTH, method="project"), nnp.ReLU(), nnp.Linear(WIDTH, 3))
    model[0].weight.data *= 1.5
    x = torch.randn(4, 6)
    assert_same(fold(model, x), model, x)


def test_tied_weights_part_and_are_reported():
    model, x = build("mlp")
    model[4].weight = model[2].weight
    folded = fold(model, x)
    report = normprop.report(folded)
    assert_same(folded, model, x)
    assert ("2.weight", "4.weight") in report.split
    assert folded[2].weight is not folded[4].weight


class Tied(nn.Module):
    """A head that shares the weight of an embedding, or is read by a function."""

    def __init__(self, by_function):
        super().__init__()
        self.embedding = nn.Embedding(7, WIDTH)
        self.act, self.head = nnp.ReLU(), nn.Linear(WIDTH, 7, bias=False)
        if not by_function:
            self.head.weight = self.embedding.weight
        self.by_function = by_function

    def forward(self, tokens):
        x = self.head(self.act(self.embedding(tokens)))
        return x @ self.head.weight if self.by_function else x


@pytest.mark.parametrize("by_function", [False, True])
def test_a_weight_that_others_read_is_theirs_too(by_function):
    model, x = Tied(by_function).double(), torch.arange(7)[None]
    folded = fold(model, x)
    report = normprop.report(folded)
    with torch.no_grad():
        assert (folded(x) - model(x)).abs().max() <= 64 * torch.finfo(torch.float64).eps * 8
    # A function reads the head's weight as it is, so that it must stay.
    assert torch.equal(folded.head.weight, model.head.weight) == by_function
    assert ("head" in report.kept) == by_function


def test_an_embedding_and_its_head_part():
    made = fold(Tied(False), torch.arange(7)[None])
    report = normprop.report(made)
    assert ("embedding.weight", "head.weight") in report.split


def test_hooked_and_parametrised_layers_are_left_alone():
    model, x = build("mlp")
    torch.nn.utils.parametrizations.spectral_norm(model[2])
    handle = model[4].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    folded = fold(model.eval(), x)
    assert_same(folded, model, x)
    handle.remove()


def test_what_is_written_in_place_is_seen_by_those_who_share_it():
    def function(x):
        view = x.flatten()
        x += 1.0
        return x * view.view_as(x)

    layers = [nn.Sequential(nnp.Linear(6, WIDTH), nnp.ReLU()), function, nnp.Linear(WIDTH, 3)]
    model, x = Called(*layers).double(), torch.randn(4, 6).double()
    assert_same(fold(model, x), model, x)


class Drops(nn.Module):
    def __init__(self, drop):
        super().__init__()
        self.drop = drop

    def forward(self, x):
        y = self.drop(x)
        y += 1.0
        return y * x


@pytest.mark.parametrize("drop", [nnp.Dropout(0.5), nnp.Identity(mean=0.5, std=2.0)])
def test_a_plain_layer_would_give_back_its_input_itself(drop):
    layers = [nn.Sequential(nnp.Linear(6, WIDTH), nnp.ReLU()), Drops(drop), nnp.Linear(WIDTH, 3)]
    model, x = nn.Sequential(*layers).double(), torch.randn(4, 6).double()
    folded = fold(model, x)
    report = normprop.report(folded)
    assert_same(folded, model, x)
    assert report.kept["1.drop"] == "what it gives is written in place"


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.square()

    @staticmethod
    def backward(ctx, dy):
        raise NotImplementedError


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.exp(),
        lambda x: Square.apply(x),
        lambda x: torch.from_numpy(x.detach().numpy() ** 2),
        lambda x: x[:, x.argsort(1)[0]],
        lambda x: 1.0 - x,
        lambda x: torch.softmax(x, 1) + x.mean(1, keepdim=True),
        lambda x: -x.clone(),
        lambda x: nn.functional.relu(x) + nn.functional.pad(x[:, 1:], (1, 0)),
        lambda x: x.sum(1, keepdim=True) + x.chunk(2, 1)[0].repeat(1, 2),
        lambda x: torch.stack([x, x], 0).mean(0).T.T,
        lambda x: torch.where(x.detach() > 0, x, x / 3),
        lambda x: nn.functional.max_pool1d(x[None], 1)[0] * -2,
    ],
)
def test_functions_in_between(function):
    layers = [nn.Sequential(nnp.Linear(6, WIDTH), nnp.ReLU()), function, nnp.Linear(WIDTH, 3)]
    model, x = Called(*layers).double(), torch.randn(4, 6).double()
    assert_same(fold(model, x), model, x)


def test_more_inputs_and_containers_of_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nnp.Linear(6, WIDTH), nnp.Linear(6, WIDTH)
            self.act, self.head = nnp.ReLU(), nnp.Linear(WIDTH, 3)

        def forward(self, x, more):
            hidden = self.act(self.left(x) + self.right(more["y"]))
            return {"out": self.head(hidden), "hidden": [hidden]}

    model, x, y = Two().double(), torch.randn(4, 6).double(), torch.randn(4, 6).double()
    got, wanted = fold(model, x, {"y": y})(x, {"y": y}), model(x, {"y": y})
    for a, b in ((got["out"], wanted["out"]), (got["hidden"][0], wanted["hidden"][0])):
        assert (a - b).abs().max() <= 200 * torch.finfo(x.dtype).eps


def test_it_can_be_pickled_saved_and_loaded():
    model, x = build("padded")
    folded = fold(model, x)
    again = pickle.loads(pickle.dumps(folded))
    assert torch.equal(again(x), folded(x))
    file = io.BytesIO()
    torch.save(folded.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file))


def test_a_plain_chain_is_unpickled_without_normprop(tmp_path):
    model, x = build("mlp")
    torch.save(fold(model, x), tmp_path / "model.pt")
    code = (
        "import sys, torch\n"
        f"torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        "assert 'normprop' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["padded", "residual, post"])
def test_it_compiles(name):
    torch.compiler.reset()
    model, x = build(name)
    folded = fold(model, x)
    compiled = torch.compile(folded, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert (compiled(x) - folded(x)).abs().max() <= 1e3 * torch.finfo(x.dtype).eps


def test_a_loss_of_scale_on_the_way_down_is_stopped():
    # Each block multiplies what is pending by 1/σ: sixty are more than may pile up.
    model = nn.Sequential(*(Block("post", *options()) for _ in range(60))).double()
    x = torch.randn(1, WIDTH, 4, 4).double()
    folded = fold(model, x)
    report = normprop.report(folded)
    assert "piled up" in "".join(report.kept.values())
    assert_same(folded, model, x)


def test_a_layer_that_the_example_does_not_reach_stays():
    model, x = build("mlp")
    branch = Called(model, lambda y: y, nn.Identity())
    branch.spare = nnp.Tanh()
    folded = fold(branch, x)
    report = normprop.report(folded)
    assert type(folded.spare) is nnp.Tanh
    reason = report.kept["spare"]
    assert reason == "the example does not reach it; where constants have moved, its call raises"


def test_a_model_that_decides_by_values_is_refused():
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nnp.Linear(6, 6)

        def forward(self, x):
            y = self.layer(x)
            return y if y.sum() > 0 else -y

    with pytest.raises(ValueError, match="must not depend on values that it computes"):
        fold(Decides(), torch.randn(2, 6))


def test_refusals():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module; it was function"):
        fold(lambda x: x, torch.randn(2))
    with pytest.raises(ValueError, match="example inputs must be given"):
        fold(nnp.Linear(2, 2))
    with pytest.raises(TypeError, match="must return tensors"):
        fold(Called(nn.Identity(), lambda x: 3, nn.Identity()), torch.randn(2))


def test_the_report_goes_where_the_model_goes():
    folded = fold(nn.Sequential(nnp.Linear(2, 2), nnp.ReLU()), torch.ones(1, 2))
    said = str(normprop.report(folded))
    assert said == str(normprop.report(copy.deepcopy(folded)))
    assert said == str(normprop.report(pickle.loads(pickle.dumps(folded))))
    with pytest.raises(ValueError, match="carries no report"):
        normprop.report(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module; it was list"):
        normprop.report([])
