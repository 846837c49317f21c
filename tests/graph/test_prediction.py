"""What a network is predicted to do, beside what it does."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normprop.nn as nnp
from normprop import convert, predict, probe, report

WIDE = 256


def measured(model: nn.Module, *inputs: Tensor) -> dict[str, tuple[float, float]]:
    """Standard deviations of the output of each module, and of the gradient at it."""
    found: dict[str, list[float]] = {}

    def watch(path):
        def hook(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            rows = found.setdefault(path, [])
            rows.append(output.detach().std().item())
            output.register_hook(lambda g: rows.append(g.square().mean().sqrt().item()))

        return hook

    handles = [m.register_forward_hook(watch(p)) for p, m in model.named_modules()]
    torch.manual_seed(7)
    output = model(*inputs)
    generator = torch.Generator().manual_seed(8)
    output.backward(torch.randn(output.shape, generator=generator, dtype=output.dtype))
    for handle in handles:
        handle.remove()
    return {path: tuple(rows) for path, rows in found.items() if len(rows) == 2}


def agrees(model: nn.Module, *inputs: Tensor, depth: int, width: int = WIDE) -> None:
    """Measured figures are the predicted ones, but for what a finite width makes of them.

    The variance behind each layer fluctuates by a factor 1 ± √(c/width), with c = 5 for weights
    and an activation of excess 4 at most; a standard deviation by half of that, over the depth as a
    random walk.  Three of them are allowed.
    """
    found, rows = measured(model, *inputs), predict(model, *inputs)
    allowed = 1.0 + 3.0 * 0.5 * math.sqrt(5.0 * depth / width)
    paths = [row.path for row in rows]
    compared = 0
    for row in rows:
        if paths.count(row.path) == 1 and row.path in found:
            forward, backward = found[row.path]
            assert 1 / allowed < forward / row.fwd_std < allowed, row
            assert 1 / allowed < backward / row.bwd_std < allowed, row
            compared += 1
    assert compared >= depth


def vectors(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), requires_grad=True)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(11)


def mlp(activation, depth, linear=nn.Linear):
    layers = [layer for _ in range(depth) for layer in (linear(WIDE, WIDE), activation())]
    return nn.Sequential(*layers, linear(WIDE, 10))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh, nn.SiLU, nn.LeakyReLU])
def test_chains_of_linear_maps(activation):
    agrees(mlp(activation, 6), vectors(256, WIDE), depth=6)


def test_fifty_layers_of_gelu():
    # The gradient leaves the range of float32.
    agrees(mlp(nn.GELU, 50).double(), vectors(64, WIDE).double(), depth=50)


@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
def test_normalised_chains(scaling):
    options = {"scaling": scaling}
    layers = [
        nnp.Linear(WIDE, WIDE, **options), nnp.ReLU(**options), nnp.Dropout(0.2, **options),
        nnp.Linear(WIDE, WIDE, **options), nnp.GELU(**options),
        nnp.Linear(WIDE, WIDE, **options), nnp.Calibrated("tanh", depth=9, scaling=scaling),
        nnp.Linear(WIDE, WIDE, **options),
    ]  # fmt: skip
    agrees(nn.Sequential(*layers), vectors(256, WIDE), depth=4)


class Block(nn.Module):
    def __init__(self, width, norm, stride=1):
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(width, width, 3, s, padding=1, bias=False) for s in (stride, 1)
        )
        self.norms = nn.ModuleList([norm(width), norm(width)])
        self.down = nn.Conv2d(width, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        out = self.norms[1](self.second(F.relu(self.norms[0](self.first(x)))))
        out += self.down(x)
        return F.relu(out)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d, lambda w: nn.GroupNorm(4, w), lambda w: nn.Identity()]
)
def test_residual_networks(norm):
    width = 64
    model = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), norm(width), nn.ReLU(), nn.MaxPool2d(2),
        Block(width, norm), Block(width, norm, 2), Block(width, norm),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
    )  # fmt: skip
    agrees(model, vectors(16, 3, 24, 24), depth=7, width=width)


def test_transformers():
    layer = nn.TransformerEncoderLayer(128, 4, 256, 0.1, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    agrees(model, vectors(8, 32, 128), depth=6, width=128)


def test_the_model_is_not_run_and_stays_what_it_is():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nnp.ReLU(), nn.Dropout())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(5, 4)
    state = torch.get_rng_state()
    predict(model, x)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_numbers_that_are_not_there_are_assumed():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(64, 64), nnp.Linear(64, 64, scaling="forward"))
    rows = predict(model, torch.empty(8, 64, device="meta"))
    assert all(row.assumed for row in rows)
    assert rows["1"].fwd_std == pytest.approx(rows["0"].fwd_std, rel=0.2)


class Decides(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Asks(nn.Module):
    def forward(self, x):
        return x * x.max().item()


@pytest.mark.parametrize("model", [Decides(), Asks()])
def test_control_flow_that_depends_on_numbers_is_named(model):
    with pytest.raises(ValueError, match=r"test_prediction\.py:\d+: return x"):
        predict(model, torch.randn(3, 4))


def test_what_is_not_known_is_marked():
    class Unknown(nn.Module):
        def forward(self, x):
            return torch.cumsum(x, -1)

    (_, row) = predict(Unknown(), torch.randn(3, 4))
    assert "cumsum" in row.assumed[0]


PLACES = {"some": [1, 3, 5], "all": [3, 2, 1, 0, 7, 6, 5, 4], "again": [0, 0, 0, 0, 1, 1, 1, 1]}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_a_list_of_places_is_no_view(name, kind):
    class Picks(nn.Module):
        def forward(self, x):
            return x[:, kind(PLACES[name])]

    x = vectors(4, 8).detach()
    first, last = predict(Picks(), x)
    assert last.assumed == ("the places that getitem takes are taken to be independent",)
    assert last.fwd_std == pytest.approx(first.fwd_std)
    assert first.bwd_std == pytest.approx(math.sqrt(len(PLACES[name]) / 8))


class FirstPlace(nn.Module):
    """What a classification token does: one place alone goes on."""

    def forward(self, x):
        return (x + x.mean(1, keepdim=True))[:, 0]


@pytest.mark.parametrize(
    ("model", "shape", "said"),
    [
        (FirstPlace(), (8, 5, 16), "some places alone"),
        (nn.ZeroPad2d(1), (8, 16, 1, 1), "most of its places are padding"),
        (nn.ZeroPad2d(1), (8, 16, 8, 8), None),
        (nn.Conv2d(16, 16, 3, padding=1, groups=16), (8, 16, 1, 1), "made of a few inputs"),
        (nn.Conv2d(16, 16, 3, padding=1, groups=16), (8, 16, 8, 8), None),
        (nn.Conv2d(16, 16, 3, padding=1), (8, 16, 1, 1), None),
    ],
)
def test_what_mean_field_does_not_reach_is_marked(model, shape, said):
    last = predict(nn.Sequential(model), vectors(*shape)).rows[-1]
    assert [said in text for text in last.assumed] == [True] if said else last.assumed == ()


class Attends(nn.Module):
    def __init__(self, kind=nn.MultiheadAttention, masks=None, **options):
        super().__init__()
        torch.manual_seed(11)
        self.layer, self.masks = kind(WIDE, 4, batch_first=True, **options), masks or {}

    def forward(self, x):
        masks = {k: mask(x) if callable(mask) else mask for k, mask in self.masks.items()}
        return self.layer(x, x, x, **masks)[0]

    def predicted(self):
        return predict(self, vectors(16, 6, WIDE)).rows[-1]


@pytest.mark.parametrize("kind", [nn.MultiheadAttention, nnp.MultiheadAttention])
def test_masks_hide_the_same_however_they_are_given(kind):
    causal = torch.ones(6, 6, dtype=torch.bool).triu(1)
    padding = (torch.arange(6) > 3).expand(16, 6)
    plain = Attends(kind).predicted()
    for masks in (
        [{"attn_mask": causal}, {"attn_mask": torch.zeros(6, 6).masked_fill(causal, -math.inf)}],
        [{"key_padding_mask": padding}, {"attn_mask": padding[:6]}],
    ):
        one, other = (Attends(kind, given).predicted() for given in masks)
        assert one.assumed == other.assumed == ()
        assert one.fwd_std == pytest.approx(other.fwd_std, rel=1e-9)
        assert one.fwd_std > 1.05 * plain.fwd_std
    unknown = Attends(kind, {"key_padding_mask": lambda x: x[:, :, 0] > 0})
    said = [text for row in predict(unknown, vectors(16, 6, WIDE)) for text in row.assumed]
    assert any("mask hides is not known" in text for text in said)


@pytest.mark.parametrize("keys", ["add_bias_kv", "add_zero_attn"])
def test_attention_has_keys_of_its_own(keys):
    model = Attends(**{keys: True})
    last = model.predicted()
    assert last.assumed == ()
    # A width of 256, at two layers with weights.
    assert last.fwd_std == pytest.approx(model(vectors(16, 6, WIDE)).std().item(), rel=0.1)


class UNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.down, self.inner = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, 2, 1)
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.end = nn.Conv2d(2 * width, width, 3, padding=1)

    def forward(self, x):
        around = F.relu(self.down(x))
        return self.end(torch.cat([around, self.up(F.relu(self.inner(around)))], 1))


class Gated(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width):
        super().__init__()
        self.before, self.after = nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3)
        self.squeeze, self.excite = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x):
        x = F.silu(self.before(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.after(x * gate)


@pytest.mark.parametrize("network", [UNet, Gated])
def test_joins_and_gates(network):
    agrees(network(128), vectors(8, 3, 16, 16), depth=4, width=128)


class Language(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.tokens, self.places = nn.Embedding(100, width), nn.Embedding(64, width)
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, 100)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        heads = (*x.shape[:2], 4, -1)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(x + self.out(mixed.transpose(1, 2).reshape(x.shape)))


def test_tokens():
    tokens = torch.randint(100, (32, 64), generator=torch.Generator().manual_seed(2))
    agrees(Language(), tokens, depth=4, width=128)


@pytest.mark.parametrize("join", [torch.cat, torch.stack])
def test_tokens_without_numbers_are_joined(join):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(9, 16)

        def forward(self, one, other):
            return self.table(join([one, other], 1))

    tokens = torch.empty(4, 3, dtype=torch.int64, device="meta")
    last = predict(Joined(), tokens, tokens.clone()).rows[-1]
    assert last.shape[-1] == 16
    assert last.fwd_std == pytest.approx(1.0, abs=3.0 / math.sqrt(2 * 9 * 16))


def test_what_is_asked_of_tokens_and_masks_is_answered():
    class Masked(nn.Module):
        def forward(self, x, mask):
            if mask.all():
                return x
            return x.masked_fill(~mask, 0.0)[:, : int(mask.sum(-1).max())]

    mask = torch.arange(8) < torch.tensor([[3], [5]])
    assert predict(Masked(), torch.randn(2, 8), mask).rows[-1].shape == (2, 5)
    paths = [row.path for row in predict(Masked(), torch.randn(2, 8), mask | True)]
    assert "masked_fill" not in paths


def test_the_same_layer_twice_and_two_outputs():
    layer = nn.Linear(WIDE, WIDE)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            x = torch.tanh(self.layer(x))
            return x, self.layer(x), x.argmax(-1)

    rows = predict(Twice(), vectors(8, WIDE))
    assert rows["layer", 1].bwd_std == 1.0
    # Its own gradient, and what comes back through the second call.
    assert rows["tanh"].bwd_std == pytest.approx(math.sqrt(1.0 + 1.0 / 3.0), rel=0.02)


MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


@pytest.mark.parametrize("made", MODES, ids=lambda mode: f"made in {mode.__name__}")
@pytest.mark.parametrize("asked", MODES, ids=lambda mode: f"asked in {mode.__name__}")
def test_the_mode_of_the_caller_is_not_the_models(made, asked):
    torch.manual_seed(0)
    with made():
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
        )
        x = torch.randn(16, 3, 6, 6)
    wanted = {row.path: row.bwd_std for row in predict(model, x)}
    assert None not in wanted.values()
    with asked():
        assert {row.path: row.bwd_std for row in predict(model, x)} == wanted
        found = report(convert(model, x))
    assert found.before is not None
    assert any("weights are stored" in text for text in found.plan)


def test_no_gradient_where_there_is_none():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            with torch.no_grad():
                y = self.one(x)
            return self.two(y) + self.two(x.detach())

    rows = predict(Detached(), torch.randn(4, 8))
    assert rows["one"].bwd_std is None
    assert rows["input"].bwd_std is None
    assert rows["two", 0].bwd_std == 1.0


def test_lazy_layers_must_have_run():
    with pytest.raises(ValueError, match="lazy"):
        predict(nn.Sequential(nn.LazyLinear(3)), torch.randn(4, 8))


@pytest.mark.parametrize(
    "layer",
    [nn.ReLU(), nnp.ReLU(), nn.Linear(6, 6), nnp.Linear(6, 6), nn.LayerNorm(6), nn.LSTM(6, 6)],
    ids=lambda layer: f"{type(layer).__module__.split('.')[0]}-{type(layer).__name__}",
)
def test_a_model_that_is_one_layer_has_a_row_of_it(layer):
    rows = probe(layer, torch.randn(4, 6))
    assert [row.path for row in rows][:2] == ["input", ""]
    assert [(row.path, row.op) for row in rows] == [(r.path, r.op) for r in rows.predicted]
    assert not any("differ" in note for note in rows.notes)


UNFILLED = {
    "empty": lambda x: torch.empty(4, 6),
    "empty_like": torch.empty_like,
    "empty_strided": lambda x: torch.empty_strided((4, 6), (6, 1)),
    "empty_permuted": lambda x: torch.empty_permuted((4, 6), (1, 0)),
    "new_empty": lambda x: x.new_empty(4, 6),
    "new_empty_strided": lambda x: x.new_empty_strided((4, 6), (6, 1)),
}


@pytest.mark.parametrize("name", UNFILLED)
def test_memory_that_is_not_filled_has_no_figures(name):
    class Filled(nn.Module):
        def forward(self, x):
            return UNFILLED[name](x).copy_(x)

    rows = probe(Filled(), torch.randn(4, 6))
    assert [row.path for row in rows] == ["input", name, "copy_"]
    assert rows[name].fwd_std is None
    assert [row.path for row in rows.predicted] == ["input", "copy_"]
    assert not any("differ" in note for note in rows.notes)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("seed", range(2))
def test_few_samples_make_no_correlation_of_more_than_one(samples, seed):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()]
    for _ in range(12):
        layers += [nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()]
    model, x = (
        nn.Sequential(*layers, nn.Flatten(), nn.Linear(400, 3)),
        torch.randn(samples, 1, 10, 10),
    )
    rows = predict(model, x)
    assert all(0 < row.fwd_std < 1 + x.std() and 0 < row.bwd_std < 10 for row in rows), rows
