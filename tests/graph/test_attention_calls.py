"""scaled_dot_product_attention in a forward: exchanged for a layer of unit scale, or listed."""

import copy
import functools
import pickle
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normprop
import normprop.nn as nnp
from normprop import convert, report
from tests.graph import planned
from tests.graph.test_sites import exchanged, run, written  # noqa: F401

HEADS = """
    def heads(self, x):
        return x.unflatten(-1, (2, 4)).transpose(1, 2)

    def forward(self, x):
        x = self.map(x)
        q, k, v = self.heads(x), self.heads(x.flip(-1)), self.heads(x.roll(1, -1))
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        return self.last({call}.transpose(1, 2).flatten(2))
"""
CALLS = {
    "by place": "F.scaled_dot_product_attention(q, k, v)",
    "by name": "torch.nn.functional.scaled_dot_product_attention(value=v, query=q, key=k)",
    "as an attribute": "self.attend(q, k, v, is_causal=True)",
    "under another name": "attend(q, k, v)",
    "starred": "F.scaled_dot_product_attention(*(q, k), v, **dict(is_causal=True))",
    "a mask made here": "F.scaled_dot_product_attention(q, k, v, attn_mask=mask)",
    "a mask of the input": (
        "F.scaled_dot_product_attention(q, k, v, x[:, None, None, :, 0] > -1e3)"
    ),
    "a mask to add": "F.scaled_dot_product_attention(q, k, v, torch.where(mask, 0.0, -1e9))",
    "dropout": "F.scaled_dot_product_attention(q, k, v, None, self.p if self.training else 0.0)",
    "dropout by a name": (
        "F.scaled_dot_product_attention(q, k, v, dropout_p=self.p * self.training, is_causal=True)"
    ),
    "always dropout": "F.scaled_dot_product_attention(q, k, v, dropout_p=0.25)",
    "scale": "F.scaled_dot_product_attention(q, k, v, scale=self.slope)",
    "a scale of tensors' sizes": "F.scaled_dot_product_attention(q, k, v, scale=q.size(-1) ** -1)",
    "other keys": "F.scaled_dot_product_attention(q, k[:, :, :3], v[:, :, :3])",
    "causal, other keys": "F.scaled_dot_product_attention(q[:, :, :3], k, v, is_causal=True)",
    "shared heads": "F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)",
    "one tensor": "F.scaled_dot_product_attention(q, q, q)",
    "by a condition": "F.scaled_dot_product_attention(q, k, v, is_causal=mask is None)",
    "queries of its own": "F.scaled_dot_product_attention(self.latent.expand(4, 2, 3, 4), k, v)",
    "values of its own": "F.scaled_dot_product_attention(q, k, self.latent.repeat(4, 2, 2, 1))",
}
MORE = """
    attend = staticmethod(F.scaled_dot_product_attention)

    def __getattr__(self, name):
        if name == "latent":
            return torch.linspace(-1, 1, 12).view(3, 4)
        return super().__getattr__(name)
"""
calls = pytest.mark.parametrize("kind", CALLS)


@pytest.fixture
def model(written):  # noqa: F811
    """A model that calls it so, its input, and what else stands below its constructor."""

    def make(call, more=""):
        methods = HEADS.format(call=call) + MORE + more
        made = written(methods)
        sys_module = sys.modules["written"]
        sys_module.attend = F.scaled_dot_product_attention
        torch.manual_seed(1)
        return made, torch.randn(4, 6, 8)

    return make


@calls
def test_a_layer_is_called_with_whatever_the_function_was(model, kind):
    net, x = model(CALLS[kind])
    made, _, found, stays = exchanged(net, x)
    assert list(found) == ["scaled_dot_product_attention"]
    assert stays == {}
    assert "at written.py:" in found["scaled_dot_product_attention"]
    assert list(made.state_dict()) == list(net.state_dict())
    for mode in (True, False):
        assert torch.equal(run(made.train(mode), x), run(net.train(mode), x))


@calls
def test_what_it_gives_has_unit_scale_by_prediction_and_by_measurement(model, kind):
    net, _ = model(CALLS[kind])
    net(torch.randn(4, 6, 8))
    x = torch.randn(4, 6, 8)
    made = convert(net, x)
    layer = made.scaled_dot_product_attention
    assert isinstance(layer, nnp.ScaledDotProductAttention)
    row = report(made).after["scaled_dot_product_attention"]
    assert row.fwd_std == pytest.approx(1.0, abs=0.01)
    assert abs(row.fwd_mean) < 0.02
    assert "scaled_dot_product_attention" not in report(made).functions
    given = {}
    layer.register_forward_hook(lambda *call: given.update(y=call[-1]))
    stds = []
    for seed in range(20):
        torch.manual_seed(seed)
        with torch.no_grad():
            made.map.weight.normal_()
            made(torch.randn(4, 6, 8))
        stds.append(given["y"].std())
    assert 0.5 < torch.stack(stds).mean() < 2.0


@calls
def test_the_gradient_is_the_derivative_and_every_verb_takes_it(model, kind):
    net, x = model(CALLS[kind])
    net(x)
    net, x = net.double(), x.double()
    if "own" in kind:
        return
    made = convert(net, x).eval()
    wanted = run(made, x)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(run(other, x), wanted)
    fused, folded = normprop.fuse(made, x).eval(), normprop.fold(made, x)
    for other in (fused, folded):
        torch.testing.assert_close(run(other, x), wanted, rtol=1e-12, atol=1e-12)
        assert "scaled_dot_product_attention" in report(other).moved
    assert not isinstance(fused.scaled_dot_product_attention, nnp.ScaledDotProductAttention)
    plain = type(folded.scaled_dot_product_attention)
    assert not any(parent.__module__.startswith("normprop") for parent in plain.__mro__)
    assert normprop.check(made, x).legal
    for verb in (normprop.predict, normprop.probe):
        (row,) = (r for r in verb(made, x) if r.path == "scaled_dot_product_attention")
        assert row.op == "ScaledDotProductAttention"
    assert torch.autograd.gradcheck(lambda x: run(made, x), x[:1, :3].clone().requires_grad_())
    net.load_state_dict(made.state_dict())
    made.load_state_dict(net.state_dict())


STAYS = {
    "(lambda f: f(q, k, v))(F.scaled_dot_product_attention)": "is called as f",
    "functools.partial(F.scaled_dot_product_attention, q)(k, v)": "is called as functools.partial",
    "half(q, v)": "is called inside of half",
    "helper(q, k, v)": "no method of Model",
    "(F.scaled_dot_product_attention(q, k, v) - F.scaled_dot_product_attention(k, q, v))": "to sub",
    "F.scaled_dot_product_attention(q, k, v).exp()": "goes into exp",
    "torch.where(mask[:, :4], F.scaled_dot_product_attention(q, k, v), q)": "goes into where",
    "(self.slope + F.scaled_dot_product_attention(q, k, v))": "goes into add",
    "[F.scaled_dot_product_attention(q, k, v) for _ in self.modules()][0]": "counts its layers",
}


@pytest.mark.parametrize("call", STAYS)
def test_what_a_layer_would_not_be_stays_and_the_report_has_line_and_reason(model, call):
    net, x = model(call)
    names = vars(sys.modules["written"])
    names["functools"] = functools
    names["half"] = functools.partial(F.scaled_dot_product_attention, torch.ones(4, 2, 6, 4))
    names["helper"] = lambda q, k, v: F.scaled_dot_product_attention(q, k, v)
    made, _, found, stays = exchanged(net, x)
    assert made is net
    assert found == {}
    assert STAYS[call] in stays["scaled_dot_product_attention"]
    said = report(convert(net, x)).functions["scaled_dot_product_attention"]
    assert STAYS[call] in said
    assert ".py:" in said


def test_values_that_are_all_alike_have_nothing_to_divide_by(model):
    net, x = model("F.scaled_dot_product_attention(q, k, torch.ones_like(v))")
    net(x)
    made = convert(net, x)
    found = report(made)
    assert made.scaled_dot_product_attention.constants == (0.0, 1.0, 1.0)
    assert found.after["scaled_dot_product_attention"].fwd_std == 0.0
    assert made(x).isfinite().all()


class Attending(nn.Module):
    """Attention in a block, whose output the trunk may take as it is."""

    def __init__(self, width=64, projects=True, heads=4):
        super().__init__()
        self.qkv, self.heads = nn.Linear(width, 3 * width), heads
        self.proj = nn.Linear(width, width) if projects else nn.Identity()

    def forward(self, x, causal=True):
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.proj(y.transpose(1, 2).flatten(2))


class Stack(nn.Module):
    def __init__(self, blocks, width=64):
        super().__init__()
        self.first, self.head = nn.Linear(8, width), nn.Linear(width, 5)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def _rows(scales, end):
    return [row for row in scales if row.path.endswith(end)]


@pytest.mark.parametrize("common", [0.0, 0.9])
def test_what_places_have_in_common_is_not_averaged_away(common):
    torch.manual_seed(0)
    x = common * torch.randn(256, 1, 8) + (1 - common**2) ** 0.5 * torch.randn(256, 12, 8)
    net = convert(nn.Sequential(nn.Linear(8, 64), Attending(), nn.Linear(64, 3)), x)
    layer = net[1].scaled_dot_product_attention
    # Twelve values that are one another's keep their size; independent ones lose most of it.
    assert (layer.constants.forward > 0.85) == (common > 0)
    assert report(net).after["1.scaled_dot_product_attention"].fwd_std == pytest.approx(1, abs=0.01)
    measured = normprop.probe(net, x)["1.scaled_dot_product_attention"]
    assert measured.fwd_std == pytest.approx(1.0, abs=0.2)
    # What the layer divides by is not made up for once more behind it.
    assert net[1].proj.gain == pytest.approx(1.0, abs=0.02)


def test_each_block_has_constants_of_its_own_and_a_branch_its_share():
    torch.manual_seed(0)
    x = torch.randn(32, 12, 8)
    for projects in (True, False):
        net = convert(Stack([Attending(projects=projects) for _ in range(3)]), x)
        found = report(net)
        assert not any("std" in said for said in found.outside.values())
        assert "3 of 3 sums" in str(found)
        assert len({b.scaled_dot_product_attention.constants for b in net.blocks}) == 3
        size = 1.0 if projects else 3**-0.5
        stds = [row.fwd_std for row in _rows(found.after, "scaled_dot_product_attention")]
        assert stds == pytest.approx([size] * 3, rel=0.02)
        (last,) = _rows(found.after, "add")[-1:]
        assert last.fwd_std == pytest.approx(2**0.5, rel=0.03)
        fused = normprop.fuse(net, x)
        torch.testing.assert_close(fused(x), net(x), rtol=1e-4, atol=1e-4)


def test_a_block_that_is_called_again_is_one_layer_and_says_where_the_laws_differ():
    torch.manual_seed(0)
    shared = Attending()
    x = torch.randn(32, 12, 8)
    norm = nn.LayerNorm(64)
    net = convert(nn.Sequential(nn.Linear(8, 64), norm, shared, norm, shared), x)
    assert net[2] is net[4]
    assert report(net).notes == {}
    net = convert(Stack([shared, Attending(), shared]), x)
    assert net.blocks[0] is net.blocks[2]
    note = report(net).notes["blocks.0.scaled_dot_product_attention"]
    assert "in its first call" in note


def test_a_loop_at_one_line_is_one_layer():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps = nn.ModuleList(nn.Linear(64, 192) for _ in range(2))
            self.outs = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))

        def forward(self, x):
            for maps, out in zip(self.maps, self.outs, strict=True):
                x = out(F.scaled_dot_product_attention(*maps(x).chunk(3, -1)))
            return x

    x = torch.randn(64, 12, 64)
    net = convert(Loop(), x)
    assert list(report(net).exchanged) == ["scaled_dot_product_attention"]
    for i in range(2):
        assert report(net).after[f"outs.{i}"].fwd_std == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("name", ["GPT", "GPT, tied, functions"])
def test_a_gpt_is_as_wide_on_its_trunk_as_it_was_planned(name):
    torch.manual_seed(0)
    make, inputs = planned.NETWORKS[name]
    net, x = make(), inputs()
    before, net = net, convert(net, x)
    found = report(net)
    assert found.outside == {}
    assert "scaled_dot_product_attention" in str(report(net).exchanged)
    assert [k for k in found.functions if "attention" in k] == []
    for row in _rows(found.after, "scaled_dot_product_attention"):
        assert row.fwd_std == pytest.approx(1.0, abs=0.01)
    for row in _rows(found.before, "scaled_dot_product_attention"):
        assert row.fwd_std < 0.8
    for block in net.blocks:
        assert block.proj.gain == pytest.approx(6**-0.5, rel=0.15)
    assert list(net.state_dict()) == list(before.state_dict())


@pytest.mark.parametrize("scaling", ["backward", "separate"])
def test_another_scaling_has_the_constants_of_the_shapes_that_come(scaling):
    torch.manual_seed(0)
    x = torch.randn(4, 6, 8)
    net = convert(nn.Sequential(Attending(8, heads=2)), x, scaling=scaling)
    layer = net[0].scaled_dot_product_attention
    assert layer.constants is None
    q = torch.randn(2, 2, 6, 4)
    own = normprop.functional.scaled_dot_product_attention(q, q, q, is_causal=True, scaling=scaling)
    assert torch.equal(layer(q, q, q, is_causal=True), own)
    fused, folded = normprop.fuse(net, x), normprop.fold(net, x)
    for other in (fused, folded):
        torch.testing.assert_close(other(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("shared heads", "enable_gqa must be False for a scaling of gradients"),
        ("causal, other keys", "as many queries as keys"),
    ],
)
def test_what_has_no_constants_under_a_scaling_is_kept_with_the_reason(model, call, why):
    net, x = model(CALLS[call])
    net(x)
    made = convert(net, x, scaling="backward")
    assert why in report(made).kept["scaled_dot_product_attention"]
    assert made(x).isfinite().all()
    assert type(made.scaled_dot_product_attention).__name__ == "ScaledDotProductAttention"
    planned_one = convert(net, x)
    assert "scaled_dot_product_attention" in report(planned_one).converted


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
def test_it_compiles_to_what_it_is():
    torch.manual_seed(0)
    x = torch.randn(4, 6, 8)
    net = convert(nn.Sequential(nn.Linear(8, 64), Attending()), x)
    torch.compiler.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))
