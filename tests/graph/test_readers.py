"""convert() where somebody reads a layer's weight past the layer, or shares it."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

import normprop
from normprop import convert, report


def _holders(model):
    """Paths of the modules that hold a parameter."""
    return {
        path
        for path, module in model.named_modules(remove_duplicate=False)
        if any(p is not None for p in module._parameters.values())
    }


def _complete(found, model):
    return _holders(model) <= {*found.converted, *found.kept}


LAYERS = {
    "Linear": lambda: nn.Linear(4, 4),
    "Bilinear": lambda: nn.Bilinear(4, 4, 4),
    "Conv1d": lambda: nn.Conv1d(4, 4, 1),
    "Conv2d": lambda: nn.Conv2d(4, 4, 1),
    "Conv3d": lambda: nn.Conv3d(4, 4, 1),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(4, 4, 1),
    "Embedding": lambda: nn.Embedding(4, 4),
}


class Scaled(nn.Module):
    """A parametrisation that holds a layer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Sequential(nn.Linear(1, 1), nn.Softplus())

    def forward(self, weight):
        return weight * self.scale(weight.new_ones(1))


COMPUTED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": lambda layer: parametrizations.orthogonal(layer, use_trivialization=False),
    "softplus": lambda m: parametrize.register_parametrization(m, "weight", nn.Softplus()),
    "with a layer": lambda m: parametrize.register_parametrization(m, "weight", Scaled()),
    "hook weight_norm": nn.utils.weight_norm,
    "hook spectral_norm": nn.utils.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("computed", COMPUTED)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_whose_weight_is_computed_stays(name, computed):
    torch.manual_seed(0)
    if computed == "orthogonal" and name in ("Bilinear", "Conv3d"):
        return
    with warnings.catch_warnings():
        # The deprecated ones.
        warnings.simplefilter("ignore")
        layer = COMPUTED[computed](LAYERS[name]())
    model = nn.Sequential(nn.Dropout(0.5), layer).eval()
    made = convert(model)
    found = report(made)
    assert found.converted == {"0": "Dropout"}
    assert any(word in found.kept["1"] for word in ("parametrizations", "computes"))
    assert _complete(found, model)
    assert type(made[1]) is type(layer)
    for old, new in zip(model[1].modules(), made[1].modules(), strict=True):
        assert type(old) is type(new)
    assert torch.equal(made[1].weight, model[1].weight)


def test_a_parametrised_block_is_gone_into_but_for_its_parametrisation():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(4))
            self.map = nn.Linear(4, 4)

        def forward(self, x):
            return self.gain * self.map(x)

    block = Block()
    parametrize.register_parametrization(block, "gain", Scaled())
    named = nn.ModuleDict({"map": nn.Linear(4, 4)})
    named.gain = nn.Parameter(torch.ones(4))
    parametrize.register_parametrization(named, "gain", Scaled())
    found = report(convert(named))
    assert found.converted == {"map": "Linear"}
    assert _complete(found, named)
    made = convert(nn.Sequential(block), torch.randn(2, 4))
    found = report(made)
    assert found.converted == {"0.map": "Linear"}
    assert _complete(found, made)
    assert type(made[0].parametrizations.gain[0].scale[1]) is nn.Softplus


class Watched(nn.TransformerEncoderLayer):
    """Keeps torch's forward."""

    def _sa_block(self, x, attn_mask, key_padding_mask, is_causal=False):
        x, self.seen = self.self_attn(
            x, x, x, attn_mask=attn_mask, key_padding_mask=key_padding_mask, is_causal=is_causal
        )
        return self.dropout1(x)


def _subclass(base, **members):
    return type("Mine", (base,), members)


def _forward(self, *args, **kwargs):
    return super(type(self), self).forward(*args, **kwargs)


COMPOSED = {
    "encoder layer": lambda: Watched(8, 2, 16, batch_first=True),
    "encoder layer, own forward": lambda: _subclass(nn.TransformerEncoderLayer, forward=_forward)(
        8, 2, 16, batch_first=True
    ),
    "encoder": lambda: _subclass(nn.TransformerEncoder)(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1
    ),
    "attention": lambda: _subclass(nn.MultiheadAttention, forward=_forward)(8, 2, batch_first=True),
    "plain encoder layer": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "decoder layer": lambda: _subclass(nn.TransformerDecoderLayer)(8, 2, 16, batch_first=True),
    "lstm": lambda: _subclass(nn.LSTM)(8, 8),
}


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("kind", COMPOSED)
def test_a_composed_layer_of_torch_stays_whole_and_so_does_its_subclass(kind, example):
    torch.manual_seed(0)
    plain = COMPOSED[kind]().eval()
    x = torch.randn(3, 4, 8)
    count = {"attention": 3, "decoder layer": 2}.get(kind, 1)
    made = convert(plain, *([x] * count if example else []))
    found = report(made)
    assert found.converted == {}
    assert _complete(found, plain)
    # Its layers are layers, not functions of the model.
    assert not {"linear", "dropout", "layer_norm"} & {*(found.functions or {})}

    def output(model):
        y = model(*[x] * count)
        return y[0] if isinstance(y, tuple) else y

    assert torch.equal(output(made), output(plain))
    with torch.no_grad():
        assert torch.equal(output(made), output(plain))


class LoRA(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, x):
        return F.linear(x, self.weight + self.up.weight @ self.down.weight, self.bias)


def test_a_subclass_that_holds_layers_stays_whole():
    model, x = nn.Sequential(LoRA(4, 4), nn.ReLU()), torch.randn(3, 4)
    for made in (convert(model), convert(model, x)):
        found = report(made)
        assert found.converted == {"1": "ReLU"}
        assert set(found.kept) == {"0", "0.down", "0.up"}
        assert torch.equal(made[0](x), model[0](x))


READERS = {
    "Linear": lambda layer, x: F.linear(x, layer.weight),
    "Conv1d": lambda layer, x: F.linear(x, layer.weight[:, :, 0]),
    "Conv2d": lambda layer, x: F.linear(x, layer.weight.flatten(1)),
    "Conv3d": lambda layer, x: x * layer.bias,
    "ConvTranspose2d": lambda layer, x: x @ layer.weight.flatten(1),
    "Embedding": lambda layer, x: x @ layer.weight.T,
    "Bilinear": lambda layer, x: x + layer.weight.square().mean(),
}


class Reads(nn.Module):
    def __init__(self, layer, read):
        super().__init__()
        self.child, self.other, self.read = layer, nn.Linear(4, 4), read

    def forward(self, x):
        return self.other(self.read(self.child, x))


@pytest.mark.parametrize("name", READERS)
def test_a_layer_whose_weight_the_model_reads_stays(name):
    model, x = Reads(LAYERS[name](), READERS[name]), torch.randn(3, 4)
    made = convert(model, x)
    found = report(made)
    assert found.converted == {"other": "Linear"}
    assert "reads" in found.kept["child"]
    assert torch.equal(made.read(made.child, x), model.read(model.child, x))
    # What says nothing of its values is no reading.
    asks = Reads(LAYERS[name](), lambda layer, x: x.to(layer.weight.dtype) + layer.weight.shape[0])
    assert set(report(convert(asks, x)).converted) == {"child", "other"}
    assert "not looked for" in str(report(convert(model)))


def test_attention_whose_projections_the_model_reads_stays():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, x):
            return F.linear(self.attention(x, x, x)[0], self.attention.out_proj.weight)

    found = report(convert(Reads(), torch.randn(3, 2, 8)))
    assert found.converted == {}
    assert set(found.kept) == {"attention", "attention.out_proj"}


def test_parts_of_a_converted_layer_are_in_the_report():
    found = report(convert(nn.ModuleList([nn.MultiheadAttention(8, 2)])))
    assert found.converted == {"0": "MultiheadAttention"}
    assert "normalises" in found.kept["0.out_proj"]


def test_whoever_holds_a_parameter_is_in_the_report():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.list = nn.ParameterList([torch.ones(4)])
            self.dict = nn.ParameterDict({"a": torch.ones(4)})
            self.space = nn.Module()
            self.space.map = nn.Linear(4, 4)
            self.block = normprop.nn.Residual(nn.Sequential(nn.Linear(4, 4), nn.PReLU()))
            self.norm = nn.BatchNorm1d(4)
            self.more = _subclass(nn.Sequential)(nn.Linear(4, 4))
            self.more.gain = nn.Parameter(torch.ones(4))
            shared = nn.MultiheadAttention(4, 2)
            self.encoders = nn.ModuleList(
                nn.TransformerEncoderLayer(4, 2, 8, batch_first=True) for _ in range(2)
            )
            for encoder in self.encoders:
                encoder.self_attn = shared

        def forward(self, x):
            x = self.block(self.space.map(x)) * self.scale
            return self.norm(x) + self.list[0] + self.dict["a"]

    model = Own()
    for made in (convert(model), convert(model, torch.randn(3, 4))):
        found = report(made)
        assert _complete(found, model)
        assert set(found.converted) == {
            "space.map", "block.branch.0", "block.branch.1", "more.0",
        }  # fmt: skip
        kept = {path for path in found.kept if not path.startswith("encoders")}
        assert kept == {"", "list", "dict", "norm", "more"}


class Tied(nn.Module):
    """A language model's first and last layer share a weight."""

    def __init__(self, head):
        super().__init__()
        self.tokens, self.head = nn.Embedding(7, 4), head
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        return self.head(self.tokens(tokens))


class Plain(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


def test_owners_of_one_weight_that_want_different_balls_normalise_it_in_each_pass():
    tokens = torch.arange(7)
    for head in (nn.Linear(4, 7), Plain(4, 7)):
        model = Tied(head)
        made = convert(model, method="project")
        found = report(made)
        assert made.tokens.weight is made.head.weight
        assert torch.equal(made.tokens.weight, model.tokens.weight)
        assert made.tokens.method == "normalize"
        assert "same weight" in found.notes["tokens"]
        assert "same weight" in str(found)
        rows = made.tokens(tokens)
        assert torch.allclose(rows.square().mean(1), torch.ones(7))
        assert _complete(found, model)
    # A head with a forward of its own is seen to read the weight.
    seen = convert(model, tokens, method="project")
    assert "reads" in report(seen).kept["tokens"]
    assert torch.equal(seen(tokens), model(tokens))
    tied = convert(Tied(nn.Linear(4, 7)), tokens, method="project")
    assert set(report(tied).notes) == {"tokens", "head"}


def test_owners_of_one_weight_that_want_one_ball_share_it():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    made = convert(nn.Sequential(first, second), method="project", scaling="forward")
    assert made[0].weight is made[1].weight
    assert [layer.method for layer in made] == ["project"] * 2
    assert torch.allclose(made[0].weight.square().sum(1), torch.ones(4))
    assert report(made).notes == {}


@pytest.mark.parametrize("method", ["normalize", "project"])
def test_a_weight_that_its_owner_holds_too(method):
    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(4, 4)
            self.weight = self.map.weight

        def forward(self, x):
            return self.map(x) @ self.weight

    model, x = Owner(), torch.randn(3, 4)
    found = report(convert(model, x, method=method))
    assert found.converted == {}
    assert "reads" in found.kept["map"]
    blind = convert(model, method=method)
    assert blind.map.method == "normalize"
    assert torch.equal(blind.weight, model.weight)
    assert set(report(blind).kept) == {""}


def test_subclasses_that_compute_what_torch_computes_are_converted():
    class Conv(nn.Conv2d):
        def __init__(self, inputs, outputs):
            super().__init__(inputs, outputs, 3, padding=1, bias=False)
            self.tag = "mine"

        def extra_repr(self):
            return f"{super().extra_repr()}, tag={self.tag}"

    class Act(nn.LeakyReLU):
        pass

    class Other(nn.ReLU):
        slope = 0.5

    model = nn.Sequential(Conv(2, 3), Act(0.3), Other())
    made = convert(model, torch.randn(1, 2, 5, 5))
    assert report(made).converted == {"0": "Conv2d", "1": "LeakyReLU"}
    assert set(report(made).kept) == {"2"}
    assert type(made[0]) is normprop.nn.Conv2d
    assert made[0].tag == "mine"
    assert made[0].padding == (1, 1)
    assert made[1].negative_slope == 0.3
    assert made.state_dict().keys() == model.state_dict().keys()


def test_what_is_written_on_a_layer_comes_along_unless_its_twin_needs_the_name():
    tagged, lora = nn.Linear(4, 4), nn.Linear(4, 4)
    tagged.group, lora.scaling = "head", 0.5
    made = convert(nn.Sequential(tagged, lora))
    assert made[0].group == "head"
    assert "scaling" in report(made).kept["1"]


HOOKS = {
    "forward": lambda m: m.register_forward_hook(lambda *_: None),
    "forward pre": lambda m: m.register_forward_pre_hook(lambda *_: None),
    "backward": lambda m: m.register_full_backward_hook(lambda *_: None),
    "backward pre": lambda m: m.register_full_backward_pre_hook(lambda *_: None),
    "state dict": lambda m: m.register_state_dict_post_hook(lambda *_: None),
    "state dict pre": lambda m: m.register_state_dict_pre_hook(lambda *_: None),
    "load pre": lambda m: m.register_load_state_dict_pre_hook(lambda *_: None),
    "load post": lambda m: m.register_load_state_dict_post_hook(lambda *_: None),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_a_layer_with_a_hook_stays_and_a_container_keeps_its_own(kind):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    HOOKS[kind](model[0])
    HOOKS[kind](model[1])
    made = convert(model)
    assert report(made).converted == {"1.0": "Linear"}
    assert "hooks" in report(made).kept["0"]


PARTS = {
    "an activation of a composed layer": lambda act: nn.TransformerEncoderLayer(
        4, 2, 8, activation=act, batch_first=True
    ),
    "a parametrisation": lambda act: _parametrised(nn.Linear(4, 4), act),
    "a parametrisation of a block": lambda act: _parametrised(Gain(), act),
    "a subclass": lambda act: _subclass(nn.Linear, forward=lambda self, x: self.act(x))(4, 4),
}


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.map, self.weight = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.map(x) * self.weight


def _parametrised(layer, function):
    parametrize.register_parametrization(layer, "weight", function)
    return layer


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", PARTS)
def test_what_is_a_part_of_something_that_stays_stays_elsewhere_too(kind, first):
    act = nn.Softplus()
    whole = PARTS[kind](act)
    if kind == "a subclass":
        whole.act = act
    model = nn.Sequential(act, whole) if first else nn.Sequential(whole, act)
    made = convert(model, torch.randn(2, 3, 4))
    path = "0" if first else "1"
    assert "part of" in report(made).kept[path]
    assert type(made[int(path)]) is nn.Softplus
    assert sum(type(module) is nn.Softplus for module in made.modules()) == 1
