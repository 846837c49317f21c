"""convert(): every layer that has a twin becomes it, and what stays says why."""

import copy
import re
import warnings

import pytest
import torch
from torch import nn

import normprop
from normprop import convert, fold, rules
from normprop.graph.anatomy import CONTAINERS, PARAMETERS
from normprop.graph.rewrite import arguments_of
from tests.layers import CLASSES, instance


def _entry(name):
    return rules.entry_of_type(getattr(nn, name))


CONVERTED = [
    name for name in CLASSES
    if _entry(name) is not None and _entry(name).converts and not name.startswith("Lazy")
]  # fmt: skip


def test_what_is_converted_has_a_twin():
    assert all(hasattr(normprop.nn, name) for name in CONVERTED)


def test_every_layer_of_torch_is_converted_quiet_or_has_a_reason():
    for name in CLASSES:
        layer, _ = instance(nn, name)
        if type(layer) in (nn.Module, *CONTAINERS, *PARAMETERS):
            continue
        with warnings.catch_warnings():
            # Deprecated names, as they are copied.
            warnings.simplefilter("ignore")
            made = convert(nn.Sequential(layer))
            found = normprop.report(made)
        if type(layer) is nn.DataParallel:
            assert type(made[0]) is normprop.nn.ReLU
            continue
        kind = type(layer).__name__
        if kind in CONVERTED:
            assert found.converted == {"0": kind}
        elif rules.entry_that_applies(type(layer)).quiet:
            assert found.converted == found.kept == {}
        else:
            assert found.converted == {}
            assert len(found.kept["0"]) > 8, name


@pytest.mark.parametrize("name", CONVERTED)
def test_a_twin_has_the_arguments_and_the_parameters_of_its_layer(name):
    layer, _ = instance(nn, name)
    layer.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = convert(layer, scaling="forward")
    wanted = getattr(normprop.nn, name)
    assert type(made) is wanted
    assert not made.training
    assert getattr(made, "scaling", "forward") == "forward"
    assert made.state_dict().keys() == layer.state_dict().keys()
    for key, value in layer.state_dict().items():
        assert torch.equal(made.state_dict()[key], value)
    assert arguments_of(made, type(layer)) == arguments_of(layer, type(layer))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 1), 2, (1, 0), 1, 2, bias=False, padding_mode="reflect"),
        nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1, dilation=2, dtype=torch.float64),
        nn.MultiheadAttention(8, 2, bias=False, batch_first=True),
        nn.Embedding(5, 3, padding_idx=2),
        nn.MaxPool2d(3, 2, 1, return_indices=True, ceil_mode=True),
        nn.AvgPool2d(2, count_include_pad=False),
        nn.Softplus(2.0, 30.0),
        nn.GELU("tanh"),
        nn.PReLU(3, 0.1),
        nn.Upsample(scale_factor=3, mode="bilinear", align_corners=True),
    ],
    ids=str,
)
def test_arguments_that_are_not_the_defaults_come_along(layer):
    made = convert(layer)
    assert isinstance(made, type(layer))
    assert type(made) is not type(layer)
    assert arguments_of(made, type(layer)) == arguments_of(layer, type(layer))
    assert list(made.state_dict()) == list(layer.state_dict())
    assert {p.dtype for p in made.parameters()} == {p.dtype for p in layer.parameters()}
    printed = repr(layer).rstrip(")").rstrip("\n")
    assert layer._modules or repr(made).startswith(printed)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = nn.functional.gelu(self.pool(self.branch(x)) + x[..., ::2, ::2])
        return self.head(x.mean((2, 3)))


class Written(Residual):
    """The same, with a layer for the function."""

    def forward(self, x):
        x = self.gelu(self.pool(self.branch(x)) + x[..., ::2, ::2])
        return self.head(self.mean(x))


def test_a_network_is_what_one_would_have_written():
    torch.manual_seed(0)
    model = Residual().double()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    made = convert(model, x, scaling="separate", per="layer")
    found = normprop.report(made)
    wanted = Written().double()
    options = {"scaling": "separate", "per": "layer"}
    conv = normprop.nn.Conv2d(4, 4, 3, padding=1, dtype=torch.float64, **options)
    relu = normprop.nn.ReLU(scaling="separate")
    wanted.branch = nn.Sequential(conv, relu)
    wanted.pool = normprop.nn.MaxPool2d(2, scaling="separate", after=relu)
    wanted.gelu = normprop.nn.GELU(scaling="separate")
    wanted.mean = nn.Sequential(
        normprop.nn.AdaptiveAvgPool2d(1, scaling="separate", after=wanted.gelu), nn.Flatten()
    )
    wanted.head = normprop.nn.Linear(4, 3, dtype=torch.float64, **options)
    wanted.load_state_dict(model.state_dict())
    assert torch.equal(made(x), wanted(x))
    assert found.converted == {
        "branch.0": "Conv2d", "branch.1": "ReLU", "pool": "MaxPool2d", "head": "Linear",
        "gelu": "GELU", "mean.0": "AdaptiveAvgPool2d",
    }  # fmt: skip
    assert found.kept == {}
    assert set(found.functions) == {"add"}
    assert "branches" in found.functions["add"]
    assert re.fullmatch(
        r"gelu at test_conversion\.py:\d+ became GELU\(approximate='none'\)",
        found.exchanged["gelu"],
    )


def test_the_model_itself_is_not_changed():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.2))
    before = copy.deepcopy(model.state_dict())
    convert(model, torch.randn(6, 4))
    assert [type(m) for m in model] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    assert model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_projected_weights_are_on_their_ball():
    made = convert(nn.Linear(5, 3), method="project", scaling="backward")
    assert torch.allclose(made.weight.square().sum(0), torch.ones(5))
    made = convert(nn.Linear(5, 3), method="project")
    assert torch.allclose(made.weight.square().sum(1), torch.ones(3))


def test_a_shared_layer_stays_shared_and_tied_weights_tied():
    relu, first, second = nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    made = convert(nn.Sequential(first, relu, second, relu, first))
    assert made[1] is made[3]
    assert made[0] is made[4]
    assert made[0].weight is made[2].weight


def test_what_stays_says_why():
    class Mine(nn.ReLU):
        def forward(self, x):
            return super().forward(x)

    watched = nn.Tanh()
    watched.register_forward_hook(lambda *_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.ModuleDict({
            "norm": nn.LayerNorm(4),
            "softmax": nn.Softmax(1),
            "mine": Mine(),
            "hook": watched,
            "drop": nn.Dropout(1.0),
            "block": nn.TransformerEncoderLayer(8, 2),
            "lstm": nn.LSTM(2, 3),
            "loss": nn.MSELoss(),
            "lazy": nn.LazyLinear(3),
            "done": normprop.nn.ReLU(),
            "flat": nn.Flatten(),
        })  # fmt: skip
    made = convert(model)
    found = normprop.report(made)
    assert found.converted == {}
    for path, reason in (
        ("norm", "statistics"), ("softmax", "sum to 1"), ("mine", "Mine"), ("hook", "hooks"),
        ("drop", "p"), ("block", "composed"), ("lstm", "no normalised form"), ("loss", "loss"),
        ("lazy", "no weights yet"), ("done", "already"),
    ):  # fmt: skip
        assert reason in found.kept[path], path
        assert type(made[path]) is type(model[path])
        assert path in str(found)
    assert "flat" not in found.kept
    assert "not looked for" in str(found)


def test_a_composed_layer_of_torch_keeps_its_parts():
    # In evaluation it hands the weights of its parts to one kernel, and never calls them.
    block = nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
    made = convert(nn.Sequential(block, nn.ReLU())).eval()
    x = torch.randn(2, 3, 8)
    assert torch.equal(made[0](x), block(x))


def test_pooling_that_its_activation_has_no_constants_for_stays():
    model = nn.Sequential(nn.GELU(), nn.MaxPool1d(2))
    made = convert(model, torch.randn(1, 2, 8))
    found = normprop.report(made)
    assert type(made[1]) is nn.MaxPool1d
    assert "no normalised form" in found.kept["1"]


def test_pooling_behind_different_layers_stays():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.pool = nn.ReLU(), nn.MaxPool1d(2)

        def forward(self, x):
            return self.pool(self.relu(x)) + self.pool(x)

    made = convert(Twice(), torch.randn(1, 2, 8))
    found = normprop.report(made)
    assert type(made.pool) is nn.MaxPool1d
    assert "different" in found.kept["pool"]


def test_a_layer_at_two_places_stays_or_goes_at_both():
    pool, relu = nn.MaxPool1d(2), nn.ReLU()

    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.pool, self.again = relu, pool, nn.Sequential(pool)

        def forward(self, x):
            return self.pool(self.relu(x)) + self.again(x)

    made = convert(Places(), torch.randn(1, 2, 8))
    assert set(normprop.report(made).kept) == {"pool", "again.0"}
    assert type(made.pool) is type(made.again[0]) is nn.MaxPool1d


def test_what_the_example_does_not_reach_is_said():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))

        def forward(self, x):
            return self.used(x)

    found = normprop.report(convert(Lazy(), torch.randn(2, 4)))
    assert set(found.converted) == {"used", "unused.0"}
    assert set(found.notes) == {"unused.0"}
    assert "not reached" in str(found)


def test_it_trains_and_folds():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(8 * 16, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 4),
    ).double()  # fmt: skip
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    made = convert(model, x)
    made(x).square().sum().backward()
    assert all(p.grad is not None for p in made.parameters())
    made.eval()
    folded = fold(made, x)
    assert torch.allclose(folded(x), made(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: convert("relu"), TypeError, "model must be"),
        (lambda: convert(nn.ReLU(), scaling="both"), ValueError, "scaling must be"),
        (lambda: convert(nn.ReLU(), method="no"), ValueError, "method must be"),
        (lambda: convert(nn.ReLU(), per="row"), ValueError, "per must be"),
        (lambda: convert(nn.ReLU(), 3), ValueError, "example inputs"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
