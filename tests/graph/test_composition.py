"""convert() plans a network: its scales hold from input to output, predicted and measured."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normprop
import normprop.nn as nnp
from normprop import convert, report
from normprop.graph.exchange import exchange
from tests.graph import planned
from tests.graph.planned import CLASSES, NETWORKS

NAMES = list(NETWORKS)
NORMALISED = {"chain with BatchNorm", "Mixer", "GPT", "GPT, tied, functions"}


def _given(name, **sizes):
    torch.manual_seed(0)
    make, inputs = NETWORKS[name]
    return make(), inputs(**sizes)


@pytest.fixture(scope="module")
def made():
    """Converted networks with an input, each made once."""
    known = {}

    def get(name):
        if name not in known:
            model, x = _given(name)
            known[name] = convert(model, x), x
        return known[name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_is_predicted_is_within_the_bounds(made, name):
    net, _ = made(name)
    found = report(net)
    # Pooling of correlated places loses what differs between them; nothing else is outside.
    assert all("pools is correlated" in text for text in found.outside.values()), str(found)
    assert not any("std" in text for text in found.outside.values())
    for path in found.kept:
        reason = found.kept[path]
        assert "statistics" in reason or "range" in reason
    head = [row for row in found.after if row.path in ("head", "last", str(len(net) - 1)
            if isinstance(net, nn.Sequential) else "")][-1:]  # fmt: skip
    if head and "squeeze" not in name:
        assert head[0].fwd_std == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_measured_is_what_was_predicted(made, name):
    net, x = made(name)
    torch.manual_seed(1)
    measured = normprop.probe(net, x)
    predicted = {}
    for row in report(net).after:
        predicted.setdefault(row.path, []).append(row)
    seen = 0
    for row in measured:
        if row.path not in predicted or not predicted[row.path] or row.path.startswith("input"):
            continue
        wanted = predicted[row.path].pop(0)
        if wanted.fwd_std and row.fwd_std and len(row.shape) > 1 and row.shape[-1] > 1:
            assert 0.5 < row.fwd_std / wanted.fwd_std < 2.0, (row.path, row.fwd_std, wanted)
            seen += 1
        # Sixteen channels stand in front of a gate, too few for mean field.
        if wanted.bwd_std and row.bwd_std and "gate" not in row.path:
            assert 0.5 < row.bwd_std / wanted.bwd_std < 2.0, (row.path, row.bwd_std, wanted)
    assert seen > 5


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_begins_where_nothing_is_known(made, name):
    # A copy, because its running statistics move.
    net, x = copy.deepcopy(made(name))
    if name in ("squeeze and excite", "GPT, tied, functions"):
        # Probabilities; and logits of tied weights, which know the word that was read.
        return
    torch.manual_seed(2)
    with torch.no_grad():
        logits = net(x).movedim(1, -1) if name == "U-Net" else net(x)
    logits = logits.reshape(-1, CLASSES)
    loss = F.cross_entropy(logits, torch.randint(CLASSES, (len(logits),)))
    # Logits of variance 1 cost about a half more than logits of 0.
    assert math.log(CLASSES) - 0.3 < loss < math.log(CLASSES) + 1.2


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_through_the_other_verbs(made, name):
    # A copy, because the weights change below and others look at the same network.
    net, x = copy.deepcopy(made(name))
    net, x = net.double().eval(), x[:6]
    x = x.double() if x.is_floating_point() else x
    model = NETWORKS[name][0]().double()
    fused, folded = normprop.fuse(net, x).eval(), normprop.fold(net, x)
    wanted = net(x)
    torch.testing.assert_close(fused(x), wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(folded(x), wanted, rtol=1e-9, atol=1e-9)
    assert normprop.check(net, x).legal
    for one, other in zip(_gradients(net, x), _gradients(fused, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
    # A plain checkpoint goes in, and what was converted goes back.
    assert list(net.state_dict()) == list(model.state_dict())
    state = {k: torch.randn_like(v) if v.is_floating_point() else v
             for k, v in model.state_dict().items() if "running" not in k}  # fmt: skip
    model.load_state_dict(state, strict=False)
    net.load_state_dict(state, strict=False)
    for key, value in model.state_dict().items():
        assert torch.equal(value, net.state_dict()[key])


def _gradients(net, x):
    return torch.autograd.grad(net(x).square().sum(), list(net.parameters()))


def test_the_gradient_is_the_derivative():
    torch.manual_seed(0)
    block = planned.Basic(2, 2, 1, nn.Identity)
    model = nn.Sequential(nn.Conv2d(2, 2, 3), block, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 2))
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    net = convert(model.double(), x)
    names, parameters = zip(*net.named_parameters(), strict=True)

    def run(*values):
        return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, [p.detach().clone().requires_grad_() for p in parameters])


# Sums


def test_branches_have_their_share_of_a_stage():
    torch.manual_seed(0)
    model = planned.resnet(blocks=3)
    net = convert(model, planned.images())
    after = report(net).after
    shares = [after[f"{i}.bn2"].fwd_std for i in range(2, 11)]
    # The first block of the later stages has a convolution on its way around, too.
    wanted = [1.0, 2**-0.5, 3**-0.5, 2**-0.5, 2**-0.5, 3**-0.5, 2**-0.5, 2**-0.5, 3**-0.5]
    assert shares == pytest.approx(wanted, rel=0.02)
    assert after["5.downsample.1"].fwd_std == pytest.approx(2**-0.5, rel=0.02)
    # Both calls of an activation have the law that it is made for.
    assert net[3].relu.std == pytest.approx(1.5**0.5, rel=0.02)
    assert after["3.bn1"].fwd_std == pytest.approx(1.5**0.5, rel=0.02)


@pytest.mark.parametrize("blocks", [2, 6])
def test_sums_in_a_row_end_at_the_root_of_two(blocks):
    torch.manual_seed(0)
    model = planned.preactivation(blocks=blocks)
    found = report(convert(model, planned.images()))
    for i in range(1, blocks + 1):
        end = found.after[f"{i}.branch.3"]
        assert end.fwd_std == pytest.approx(blocks**-0.5, rel=0.02)
    last = found.after[f"{blocks}.add"]
    assert last.fwd_std == pytest.approx(2**0.5, rel=0.03)


def test_a_sum_that_nothing_can_scale_is_left_and_the_activation_takes_it():
    model = planned.resnet(normalization=nn.BatchNorm2d)
    net = convert(model, planned.images())
    assert all("pools is correlated" in text for text in report(net).outside.values())
    assert "0 of 6 sums" in str(report(net))
    assert net[3].relu.std == pytest.approx(2**0.5, rel=0.05)


def test_a_sum_of_a_sum_is_shared_by_all():
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(64, 64) for _ in range(3))
            self.act, self.head = nn.ReLU(), nn.Linear(64, 3)

        def forward(self, x):
            return self.head(self.act(self.a(x) + (self.b(x) - self.c(x))))

    after = report(convert(Three(), torch.randn(64, 64))).after
    for path in ("a", "b", "c"):
        assert after[path].fwd_std == pytest.approx(3**-0.5, rel=0.02)


class Branch(nn.Module):
    """What stands in a branch, beside its input."""

    def __init__(self, end, last=nn.Identity):
        super().__init__()
        self.map, self.last, self.end = nn.Linear(64, 64), last(), end
        self.gamma = nn.Parameter(torch.full((64,), 1e-3))

    def forward(self, x):
        return x + self.end(self, self.last(self.map(x)))


def _branches(end, last=nn.Identity, count=6):
    torch.manual_seed(0)
    body = [Branch(end, last) for _ in range(count)]
    model = nn.Sequential(nn.Linear(8, 64), *body, nn.Linear(64, 5)).double()
    return model, torch.randn(64, 8, dtype=torch.float64)


def _mask(x, keep=0.8):
    return (keep + torch.rand(len(x), 1, dtype=x.dtype)).floor()


WHOLE = {
    "transformers": lambda _, x: x.div(0.8) * _mask(x),
    "timm": lambda _, x: x * _mask(x).div_(0.8),
    "torchvision": lambda _, x: x * torch.empty(len(x), 1, dtype=x.dtype).bernoulli_(0.8) / 0.8,
}


@pytest.mark.parametrize("style", WHOLE)
def test_branches_that_are_dropped_as_a_whole_have_their_share(style):
    model, x = _branches(WHOLE[style])
    found = report(convert(model, x))
    assert "6 of 6 sums" in str(found)
    assert found.outside == {}
    assert found.after["6.add"].fwd_std == pytest.approx(2**0.5, rel=0.03)


def test_a_branch_that_a_parameter_scales_keeps_that():
    model, x = _branches(lambda self, y: self.gamma * y)
    net = convert(model, x)
    assert "0 of 6 sums" in str(report(net))
    assert all(0.5 < net[i].map.gain < 2.0 for i in range(1, 7))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh, nn.SiLU])
def test_branches_that_end_in_an_activation_have_their_share(activation):
    model, x = _branches(lambda self, y: F.dropout(y, 0.1, self.training), activation)
    net = convert(model, x)
    found = report(net)
    assert "6 of 6 sums" in str(found)
    assert found.outside == {}
    assert found.after["6.add"].fwd_std == pytest.approx(2**0.5, rel=0.03)
    assert "its share of a sum" in found.notes["3.last"]
    net.eval()
    wanted = net(x)
    for other in (normprop.fuse(net, x).eval(), normprop.fold(net, x), copy.deepcopy(net)):
        torch.testing.assert_close(other(x), wanted, rtol=1e-12, atol=1e-12)


class Pooled(nn.Module):
    """Attention of equal weights, and the average of all places."""

    def __init__(self):
        super().__init__()
        self.values, self.last, self.head = (nn.Linear(64, n) for n in (64, 64, 3))

    def forward(self, x):
        v = self.values(x)
        y = F.scaled_dot_product_attention(0 * v, 0 * v, v)
        return self.head(self.last(y).mean(1))


def test_a_gradient_that_all_places_share_passes_attention_whole():
    torch.manual_seed(0)
    x = torch.randn(64, 16, 64)
    net = convert(Pooled(), x)
    found = report(net).after
    values, mixed = found["values"], found["scaled_dot_product_attention"]
    divisor = net.scaled_dot_product_attention.constants.forward
    # The signal falls by about the root of the number of places, and the gradient does not.
    assert values.fwd_std / (divisor * mixed.fwd_std) > 3.5
    assert divisor * values.bwd_std == pytest.approx(mixed.bwd_std, rel=1e-6)
    # That is what the growth gives there.
    assert not any("growth gives" in text for text in report(net).outside.values())


def test_pools_of_the_same_windows_are_judged_alike():
    said = []
    for first, last in (
        (nn.MaxPool2d(4), nn.MaxPool2d(4)),
        (nn.AdaptiveMaxPool2d(4), nn.AdaptiveMaxPool2d(1)),
    ):
        torch.manual_seed(0)
        maps = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        net = nn.Sequential(maps[0], nn.ReLU(), first, maps[1], nn.ReLU(), last, nn.Flatten())
        net.append(nn.Linear(16, 4))
        said.append(report(convert(net, torch.randn(4, 3, 16, 16))).outside)
    assert said[0]
    assert said[1] == said[0]


def test_calls_that_want_different_constants_are_named():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.map, self.act, self.norm = nn.Linear(64, 64), nn.Sigmoid(), nn.LayerNorm(64)
            self.last = nn.Linear(64, 64)

        def forward(self, x):
            x = self.act(self.norm(self.map(x)))
            return self.last(self.act(5.0 * self.norm(x)))

    net = convert(Twice(), torch.randn(32, 64))
    assert "in another call it is" in report(net).notes["act"]


def test_where_the_laws_are_lost_there_is_no_plan_and_the_report_says_so(monkeypatch):
    def lost(*_):
        raise IndexError("list index out of range")

    monkeypatch.setattr("normprop.graph.prediction.Steps.step", lost)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net = convert(model, torch.randn(2, 4))
    assert report(net).plan == ("none, as the laws were lost: IndexError: list index out of range",)
    assert [type(m) for m in net] == [nnp.Linear, nnp.ReLU, nnp.Linear]
    assert [m.gain for m in (net[0], net[2])] == [1.0, 1.0]


@pytest.mark.parametrize("name", NAMES)
def test_every_network_here_has_a_plan(made, name):
    plan = report(made(name)[0]).plan
    assert "activations on the longest way" in plan[0]
    assert any("std on the trunk, predicted" in line for line in plan)


# Gates and outputs


def test_gates_and_outputs_keep_their_range(made):
    net, x = made("squeeze and excite")
    found = report(net)
    paths = {path for path in found.kept if "range" in found.kept[path]}
    assert paths == {"2.gate.4", "3.gate.4", "4.gate.4", "8"}
    out = net(x)
    assert 0.0 <= out.min() <= out.max() <= 1.0
    nn.BCELoss()(out, torch.ones_like(out))
    assert "a product" in found.kept["2.gate.4"]
    assert "an output" in found.kept["8"]
    # Logits are what the sigmoid is given.
    assert found.after["7"].fwd_std == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    "activation", [nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardsigmoid, nn.Hardtanh, nn.LogSigmoid]
)
def test_ranges_are_kept_at_ends_and_normalised_in_between(activation):
    model = nn.Sequential(
        nn.Linear(8, 64), activation(), nn.Linear(64, 64), activation(), nn.Flatten()
    )
    net = convert(model, torch.randn(32, 8))
    assert type(net[3]) is activation
    assert isinstance(net[1], (nnp.Calibrated, getattr(nnp, activation.__name__)))


def test_a_recurrent_cell_by_hand_keeps_its_gates():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps, self.sigmoid, self.tanh = nn.Linear(32, 64), nn.Sigmoid(), nn.Tanh()
            self.head = nn.Linear(16, 3)

        def forward(self, x, h, c):
            i, f, g, o = self.maps(torch.cat([x, h], 1)).chunk(4, 1)
            c = self.sigmoid(f) * c + self.sigmoid(i) * self.tanh(g)
            return self.head(self.sigmoid(o) * self.tanh(c))

    given = torch.randn(8, 16), torch.randn(8, 16), torch.randn(8, 16)
    found = report(convert(Cell(), *given))
    assert set(found.kept) == {"sigmoid", "tanh"}


def test_a_recurrence_by_hand_is_made_for_its_later_steps():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.given, self.state = nn.Linear(8, 64), nn.Linear(64, 64)
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            h = x.new_zeros(len(x), 64)
            for t in range(x.shape[1]):
                h = torch.tanh(self.given(x[:, t]) + self.state(h))
            return self.head(h)

    torch.manual_seed(0)
    net = convert(Recurrent(), torch.randn(64, 6, 8))
    found = report(net)
    assert found.outside == {}
    assert "tanh" not in found.notes
    assert 0.5 < net.state.gain < 1.5


# Options


def test_the_growth_decides_what_is_calibrated():
    x = planned.images()
    deep, short = planned.chain(nn.ReLU), planned.chain(nn.ReLU, depth=2)
    for growth in (math.e, math.exp(3)):
        net = convert(deep, x, growth=growth)
        layer = net[1]
        assert isinstance(layer, nnp.Calibrated)
        assert (layer.depth, layer.growth) == (24, growth)
        assert layer.calibration.chi.value**24 == pytest.approx(growth, rel=1e-9)
    # Two of them grow by 2.15, as they are.
    assert type(convert(short, x)[1]) is nnp.ReLU
    assert isinstance(convert(short, x, growth=1.5)[1], nnp.Calibrated)


def test_activations_that_cannot_be_calibrated_say_so():
    model = planned.chain(nn.RReLU, depth=12, width=16)
    net = convert(model, planned.images())
    assert type(net[1]) is nnp.RReLU
    assert "is not calibrated" in report(net).notes["1"]


def test_logits_have_the_size_that_is_asked_for():
    model, x = _given("VGG")
    for logits in (0.1, 1.0, 3.0):
        found = report(convert(model, x, logits=logits))
        assert found.after["23"].fwd_std == pytest.approx(logits, rel=0.03)


def test_orthogonal_weights_are_drawn_where_that_is_asked_for():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    x = planned.images()
    kept, drawn = convert(model, x), convert(model, x, orthogonal=True)
    longer = (kept[0].weight / model[0].weight).flatten(1)
    torch.testing.assert_close(longer, longer[:, :1].expand_as(longer))
    for layer, before in ((drawn[0], model[0]), (drawn[3], model[3])):
        rows = nn.functional.normalize(layer.weight.detach().flatten(1))
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), atol=1e-5, rtol=0)
        assert not torch.equal(layer.weight, before.weight)
        assert torch.equal(layer.bias, before.bias)


def test_the_post_is_one_word_away():
    model, x = _given("ResNet")
    for scaling in ("backward", "separate"):
        net = convert(model, x, scaling=scaling)
        assert all(m.gain == 1.0 for m in net.modules() if isinstance(m, nnp.Conv2d))
        assert not any(isinstance(m, nnp.Calibrated) for m in net.modules())
        assert report(net).plan == ()


def test_without_an_example_there_is_no_plan_and_the_report_says_so():
    model, _ = _given("ResNet")
    net = convert(model)
    assert "plan: none" in str(report(net))
    assert net[0].scaling == "forward"
    assert all(m.gain == 1.0 for m in net.modules() if isinstance(m, nnp.Conv2d))


@pytest.mark.parametrize("number", [0.0, 1.0])
def test_an_example_of_one_number_counts_as_a_normal_one(number):
    model, x = _given("ResNet")
    net = convert(model, torch.full((2, 3, 8, 8), number))
    found = report(net)
    assert "is constant, and taken for N(0, 1)" in str(found)
    assert not any("std" in text for text in found.outside.values())
    with torch.no_grad():
        assert 0.5 < net(x).std() < 2.0
    # One sample that varies is enough.
    alone = report(convert(model, x[:1]))
    assert "constant" not in str(alone)
    assert not any("std" in text for text in alone.outside.values())


def test_what_the_report_says(made):
    net, _ = made("ResNet")
    text = str(report(net))
    assert (
        "13 activations on the longest way, growth 2.72: 7 layers calibrated for it, 0 that" in text
    )
    assert "logits of std 1 from 10" in text
    assert "std on the trunk, predicted" in text
    assert report(net).before["0"].fwd_std < 0.7


# Normalisation


def test_batchnorm_is_dropped_and_its_shift_goes_to_the_map():
    torch.manual_seed(0)
    model = planned.resnet(normalization=nn.BatchNorm2d)
    x = planned.images()
    net = convert(model, x, normalization="drop")
    found = report(net)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert type(net[3].bn1) is nn.Identity
    assert (net[3].conv1.bias == 0).all()
    assert "3.bn1.weight, 3.bn1.bias" in found.exchanged["3.bn1"]
    assert "a bias of 3.conv1 now" in found.exchanged["3.bn1"]
    assert all("pools is correlated" in text for text in found.outside.values())
    gone = set(model.state_dict()) - set(net.state_dict())
    assert all(any(key in text for text in found.exchanged.values()) for key in gone)
    assert isinstance(model[3].bn1, nn.BatchNorm2d)


def test_layernorm_is_dropped_and_the_sums_keep_their_scale():
    model, x = _given("GPT")
    net = convert(model, x, normalization="drop")
    found = report(net)
    assert not any(isinstance(m, nn.LayerNorm) for m in net.modules())
    assert not any("std" in text for text in found.outside.values())
    # Nothing stands in front of them but sums.
    assert not any("a bias of" in text for text in found.exchanged.values())


def test_a_subclass_of_a_norm_is_dropped_where_it_is_called_like_one():
    class ChannelsFirst(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)

    class Conditional(nn.LayerNorm):
        def forward(self, x, by):
            return super().forward(x) * by

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.one = nn.Conv2d(3, 8, 3), ChannelsFirst(8)
            self.two, self.head = Conditional(8), nn.Linear(8, 2)

        def forward(self, x):
            x = self.one(self.conv(x)).mean((2, 3))
            return self.head(self.two(x, x.sigmoid()))

    net = convert(Two(), planned.images(), normalization="drop")
    assert type(net.one) is nn.Identity
    assert type(net.two) is Conditional
    assert "one.weight, one.bias go" in report(net).exchanged["one"]
    convnext = pytest.importorskip("transformers.models.convnext.modeling_convnext")
    layer = convnext.ConvNextLayerNorm(3, data_format="channels_first")
    net = convert(nn.Sequential(layer, nn.Conv2d(3, 4, 3)), planned.images(), normalization="drop")
    assert type(net[0]) is nn.Identity


def test_a_map_that_gives_to_others_gets_no_bias():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.map, self.norm = nn.Linear(8, 8, bias=False), nn.LayerNorm(8)

        def forward(self, x):
            x = self.map(x)
            return x + self.norm(x)

    net = convert(Two(), torch.randn(4, 8), normalization="drop")
    assert net.map.bias is None
    assert "a bias" not in report(net).exchanged["norm"]


# Classes from elsewhere


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


def test_a_class_from_elsewhere_is_exchanged_where_that_is_asked_for():
    model = nn.Sequential(nn.Linear(8, 8), Swish(), nn.Linear(8, 8))
    x = torch.randn(4, 8)
    assert "Swish" in report(convert(model, x)).kept["1"]
    for example in ((x,), ()):
        net = convert(model, *example, replace={Swish: lambda layer: nn.SiLU()})
        found = report(net)
        assert found.converted["1"] == "SiLU"
        assert "Swish became SiLU" in found.exchanged["1"]
    own = convert(model, x, replace={Swish: lambda layer: nnp.SiLU(scaling="forward")})
    assert type(own[1]) is nnp.SiLU


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("GELUActivation", nn.GELU()), ("NewGELUActivation", nn.GELU("tanh")),
        ("FastGELUActivation", nn.GELU("tanh")), ("SiLUActivation", nn.SiLU()),

    ],
)  # fmt: skip
def test_activations_of_transformers_are_known_by_name(name, wanted):
    kind = type(name, (nn.Module,), {"forward": lambda self, x: wanted(x)})
    kind.__module__ = "transformers.activations"
    model = nn.Sequential(nn.Linear(8, 8), kind(), nn.Linear(8, 8))
    found = report(convert(model, torch.randn(4, 8)))
    assert found.converted["1"] == type(wanted).__name__


def test_what_transformers_has_is_what_is_known():
    activations = pytest.importorskip("transformers.activations")
    from normprop.graph.exchange import KNOWN

    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    for (_, name), factory in KNOWN.items():
        kind = getattr(activations, name, None)
        if kind is not None:
            layer = kind()
            made = factory(layer)
            plain = getattr(made, "function", made)
            torch.testing.assert_close(plain(x), layer(x), atol=1e-6, rtol=1e-6)


def test_transformers_transposed_maps_become_torchs():
    utils = pytest.importorskip("transformers.pytorch_utils")
    torch.manual_seed(0)
    layer = utils.Conv1D(12, 8)
    nn.init.normal_(layer.bias)
    x = torch.randn(4, 8)
    plain, found = exchange(nn.Sequential(layer), None)
    torch.testing.assert_close(plain(x), layer(x))
    assert "0.weight is the other way round" in found["0"]
    net = convert(nn.Sequential(layer, nn.Tanh(), nn.Linear(12, 4)), x)
    assert type(net[0]) is nnp.Linear
    assert set(report(net).exchanged) == {"0"}


def test_layers_of_transformers_by_the_root_mean_square_become_torchs():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    layer = llama.LlamaRMSNorm(8, eps=1e-5)
    layer.weight.data.normal_()
    model, x = nn.Sequential(nn.Linear(8, 8), layer, nn.Linear(8, 8)), torch.randn(4, 8)
    net = convert(model, x)
    assert type(net[1]) is nn.RMSNorm
    assert list(net.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(net[1](x), layer(x))
    gemma = pytest.importorskip("transformers.models.gemma.modeling_gemma")
    # Its weight is another.
    other = convert(nn.Sequential(nn.Linear(8, 8), gemma.GemmaRMSNorm(8)), x)
    assert type(other[1]) is gemma.GemmaRMSNorm


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"growth": 1.0}, ValueError, "growth must be finite and greater than 1"),
        ({"growth": "e"}, TypeError, "growth"),
        ({"logits": 0.0}, ValueError, "logits must be finite and greater than 0"),
        ({"orthogonal": 1}, TypeError, "orthogonal must be True or False"),
        ({"normalization": "no"}, ValueError, "normalization must be 'keep' or 'drop'"),
        ({"replace": [Swish]}, TypeError, "replace must map classes"),
        ({"replace": {Swish: nn.SiLU()}}, TypeError, "replace must map classes"),
        ({"replace": {Swish: lambda layer: "silu"}}, TypeError, "replace must make a module"),
    ],
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        convert(nn.Sequential(nn.Linear(2, 2), Swish()), torch.randn(2, 2), **options)


def test_dropping_needs_an_example():
    with pytest.raises(ValueError, match="an example input must be given"):
        convert(nn.Sequential(nn.BatchNorm1d(2)), normalization="drop")


@pytest.mark.parametrize("name", ["VGG", "ResNet", "pre-activation, ReLU"])
def test_adaptive_pooling_has_the_constants_of_the_plan_at_every_size(made, name):
    net, x = made(name)
    pools = [m for m in net.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    (pool,) = pools
    row = next(row for row in report(net).after if row.op == "AdaptiveAvgPool2d")
    assert row.fwd_mean == pytest.approx(0.0, abs=0.02)
    assert row.fwd_std == pytest.approx(1.0, abs=0.01)
    shift, divisor, _ = pool.constants
    for side in (2, 5):
        y = torch.randn(2, 3, side, side)
        wanted = (nn.functional.adaptive_avg_pool2d(y, 1) - shift) / divisor
        torch.testing.assert_close(pool(y), wanted)
    # So that they can move into the map behind, and what stands in front with them.
    said = report(normprop.fuse(net, x[:4]))
    assert not any("shape of its input" in reason for reason in said.kept.values())
    assert next(p for p, m in net.named_modules() if m is pool) in said.moved
