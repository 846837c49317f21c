"""Normalised multi-head attention is torch's, with weights on the ball and one scale."""

import copy
import inspect
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import normprop
from normprop import functional, moments
from normprop.functional.attention import attention_constants
from normprop.functional.scale import Constants
from tests.nn.battery import fill, on_ball

DOUBLE = {"dtype": torch.float64}
SCALINGS = ("forward", "backward", "separate")


def inputs(shapes, mean=0.0, std=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        (torch.randn(s, generator=generator, **DOUBLE) * std + mean).requires_grad_()
        for s in shapes
    )


def layer_of(scaling="forward", per="neuron", **arguments):
    arguments = {"embed_dim": 8, "num_heads": 2, **arguments}
    layer = normprop.nn.MultiheadAttention(**arguments, scaling=scaling, per=per).double()
    fill(layer)
    return layer


def twin_of(layer, sigma, **arguments):
    """Torch's layer with the weights on the ball, and attention's scale in the output's."""
    arguments = {"embed_dim": 8, "num_heads": 2, **arguments}
    plain = nn.MultiheadAttention(**arguments).double()
    ball = "backward" if layer.scaling == "backward" else "forward"
    state = {}
    for name, value in layer.state_dict().items():
        if name == "in_proj_weight":
            parts = [on_ball(w, ball, layer.per, (), 1) for w in value.chunk(3)]
            value = torch.cat(parts)
        elif name.endswith("weight"):
            value = on_ball(value, ball, layer.per, (), 1)
        state[name] = value / sigma if name == "out_proj.weight" else value
    plain.load_state_dict(state)
    return plain


CALLS = [
    ({}, {}),
    ({"bias": False}, {}),
    ({"batch_first": True}, {}),
    ({"kdim": 5, "vdim": 3}, {}),
    ({}, {"need_weights": False}),
    ({}, {"average_attn_weights": False}),
    ({}, {"key_padding_mask": torch.tensor([[False, True, False, False, True, False]] * 3)}),
    ({}, {"attn_mask": torch.ones(6, 6, dtype=torch.bool).triu(1)}),
    ({}, {"attn_mask": torch.linspace(-1, 1, 36).double().view(6, 6)}),
    ({}, {"attn_mask": torch.rand(6, 6, 6).double()}),
    (
        {},
        {
            "attn_mask": torch.ones(6, 6, dtype=torch.bool).triu(1),
            "key_padding_mask": torch.tensor([[False] * 5 + [True]] * 3),
        },
    ),
]


# torch warns that its own masks of two types will be.
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("arguments", "call"), CALLS)
def test_every_argument_is_that_of_torch(arguments, call, scaling, per):
    layer = layer_of(scaling, per, **arguments)
    length, batch = 6, 3
    widths = (8, layer.kdim, layer.vdim)
    order = (batch, length) if arguments.get("batch_first") else (length, batch)
    tensors = inputs([(*order, width) for width in widths])
    ratios = [math.sqrt(w / 8) if scaling == "backward" else 1.0 for w in widths]
    figures = normprop.rules.attention(
        (6, 4), (6, 4), (6, 4), tuple(normprop.gaussian.Normal(0.0, r) for r in ratios)
    )
    sigma = figures.std
    if scaling == "backward":
        sigma = normprop.rules.attention_slope(figures, (24, 24, 24))
    got, weights = layer(*tensors, **call)
    wanted, wanted_weights = twin_of(layer, sigma, **arguments)(*tensors, **call)
    assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-13)
    assert (weights is None) == (wanted_weights is None)
    if weights is not None:
        assert torch.allclose(weights, wanted_weights, rtol=1e-12, atol=1e-14)


def test_a_sample_needs_no_batch():
    layer = layer_of()
    (x,) = inputs([(6, 8)])
    y, weights = layer(x, x, x)
    whole, whole_weights = layer(x[:, None], x[:, None], x[:, None])
    assert torch.allclose(y, whole[:, 0])
    assert torch.allclose(weights, whole_weights[0])


def test_a_causal_mask_has_constants_of_its_own():
    layer = layer_of(batch_first=True)
    (x,) = inputs([(3, 6, 8)])
    mask = torch.ones(6, 6, dtype=torch.bool).triu(1)
    for need in (True, False):
        plain, _ = layer(x, x, x, attn_mask=mask, need_weights=need)
        causal, _ = layer(x, x, x, attn_mask=mask, need_weights=need, is_causal=True)
        full = attention_constants((6, 4), (6, 4), (6, 4), "forward").forward
        masked = attention_constants((6, 4), (6, 4), (6, 4), "forward", is_causal=True).forward
        bias = layer.out_proj.bias
        assert torch.allclose((causal - bias) * masked, (plain - bias) * full)
    with pytest.raises(ValueError, match="attn_mask must be given where is_causal"):
        layer(x, x, x, is_causal=True)


def test_a_gradient_is_the_derivative():
    for scaling in ("forward", "backward"):
        layer = layer_of(scaling, batch_first=True)
        (x,) = inputs([(2, 4, 8)])
        for need in (True, False):
            assert torch.autograd.gradcheck(
                lambda x, layer=layer, need=need: layer(x, x, x, need_weights=need)[0],
                (x,),
                fast_mode=True,
            )


def test_checkpoints_go_both_ways():
    ours, theirs = layer_of(), nn.MultiheadAttention(8, 2).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


def test_it_is_torchs_with_more_arguments():
    mine = inspect.signature(normprop.nn.MultiheadAttention).parameters.values()
    shared = {p.name: p.default for p in mine if p.kind is not p.KEYWORD_ONLY}
    theirs = inspect.signature(nn.MultiheadAttention).parameters.values()
    assert shared == {p.name: p.default for p in theirs}
    assert "scaling='forward', per='neuron', std=1" in repr(layer_of())


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_the_same_layer(clone):
    layer = layer_of("separate")
    (x,) = inputs([(6, 3, 8)])
    other = clone(layer)
    assert repr(other) == repr(layer)
    assert torch.equal(other(x, x, x)[0], layer(x, x, x)[0])


@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_it_measures_as_what_it_is(scaling, per):
    # Independent inputs keep the projections independent but for the overlap of their rows, of
    # the order n/embed_dim here 4/64; each channel has figures of its own.
    lines = []
    for seed in range(10):
        torch.manual_seed(seed)
        layer = layer_of(scaling, per, embed_dim=64, num_heads=4, bias=False, batch_first=True)
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        figures = moments(layer, shape=(4, 64))
        (x,) = inputs([(64, 4, 64)], seed=seed)
        y, _ = layer(x, x, x)
        (dx,) = torch.autograd.grad(y, x, torch.randn_like(y))
        forward = (y.detach() ** 2).mean((0, 1)).numpy() / figures.fwd_std**2
        backward = (dx**2).mean((0, 1)).numpy() / figures.bwd_std**2
        lines.append((forward.mean(), backward.mean()))
    lines = np.array(lines)
    error = lines.std(0, ddof=1) / math.sqrt(len(lines))
    assert (np.abs(lines.mean(0) - 1) < 4.5 * error + 4 / 64).all()
    if scaling == "forward" and per == "neuron":
        assert np.abs(figures.fwd_std - 1).max() < 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"add_bias_kv": True}, "must be False"),
        ({"add_zero_attn": True}, "must be False"),
        ({"scaling": "both"}, "scaling must be one of"),
        ({"per": "head"}, "per must be 'neuron' or 'layer'"),
        ({"std": 0.0}, "std must be finite and greater than 0"),
    ],
)
def test_what_must_hold(arguments, message):
    with pytest.raises(ValueError, match=message):
        normprop.nn.MultiheadAttention(8, 2, **arguments)


class _SelfAttention(nn.Module):
    def __init__(self, scaling):
        super().__init__()
        self.attention = normprop.nn.MultiheadAttention(
            8, 2, batch_first=True, scaling=scaling, per="layer"
        )

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def test_separate_scales_are_not_legal_where_one_input_is_all_three():
    x = torch.randn(3, 5, 8)
    for scaling in ("forward", "backward"):
        found = normprop.check(_SelfAttention(scaling), x)
        assert found.legal
        assert {factor.value for factor in found.factors.values()} == {1.0}
    model = _SelfAttention("separate")
    assert not normprop.check(model, x).legal
    assert normprop.graph.separate_on_bridges_(model, x).legal
    assert model.attention.scaling == "forward"


@pytest.mark.parametrize("scaling", SCALINGS)
def test_attention_without_weights_is_its_function(scaling):
    law = {"scaling": scaling, "mean": 0.3, "std": 1.2}
    layer = normprop.nn.ScaledDotProductAttention(**law)
    tensors = inputs([(2, 6, 8)] * 3)
    given = {"is_causal": True, "scale": 0.5}
    wanted = functional.scaled_dot_product_attention(*tensors, **given, **law)
    assert torch.equal(layer(*tensors, **given), wanted)
    assert torch.equal(copy.deepcopy(layer)(*tensors, **given), wanted)
    shapes = [(6, 8)] * 3
    assert layer.constants_of(*shapes, **given) == attention_constants(*shapes, **law, **given)
    figures = moments(layer, mean=0.3, std=1.2, shape=(6, 8))
    unit = figures.fwd_std if scaling == "forward" else figures.bwd_std
    assert unit == pytest.approx(1.0, abs=1e-12)
    assert figures.fwd_mean == pytest.approx(0.0, abs=1e-12)


def test_attention_keeps_the_constants_that_were_set_until_a_law_is():
    layer = normprop.nn.ScaledDotProductAttention(scaling="forward")
    tensors = inputs([(2, 6, 8)] * 3)
    plain = nn.functional.scaled_dot_product_attention(*tensors)
    own = moments(layer, shape=(6, 8))
    layer.constants = Constants(0.5, 0.25, 2.0)
    assert "constants=(0.5, 0.25, 2.0)" in repr(layer)
    for length in (6, 3):
        cut = [t[:, :length] for t in tensors]
        plain = nn.functional.scaled_dot_product_attention(*cut)
        torch.testing.assert_close(layer(*cut), (plain - 0.5) / 0.25)
        dy = torch.randn_like(plain)
        got = torch.autograd.grad(layer(*cut), cut, dy)
        for g, t in zip(got, torch.autograd.grad(plain, cut, dy), strict=True):
            torch.testing.assert_close(g, t / 2.0)
    found, divisor = moments(layer, shape=(6, 8)), layer.constants_of((6, 8), (6, 8), (6, 8))
    assert divisor == (0.5, 0.25, 2.0, 2.0, 2.0)
    sigma = attention_constants((6, 8), (6, 8), (6, 8), "forward").forward
    assert found.fwd_mean == -2.0
    assert found.fwd_std == pytest.approx(sigma / 0.25, rel=1e-12)
    assert found.bwd_std == pytest.approx(own.bwd_std * sigma / 2.0, rel=1e-12)
    layer.std = 1.5
    assert layer.constants is None
    assert "std=1.5" in repr(layer)
    with pytest.raises(ValueError, match="shape must be given"):
        moments(layer)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_attention_is_predicted_as_it_is_measured(scaling):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(3))
            self.attend = normprop.nn.ScaledDotProductAttention(scaling=scaling)

        def forward(self, x):
            q, k, v = (f(x).unflatten(-1, (4, 16)).transpose(1, 2) for f in self.maps)
            return self.attend(query=q, value=v, key=k)

    torch.manual_seed(0)
    model, x = Model(), torch.randn(256, 8, 64)
    for layer in model.maps:
        nn.init.normal_(layer.weight, std=0.125)
    found = normprop.probe(model, x)
    for row in found:
        if row.bwd_std:
            assert row.bwd_std / row.predicted.bwd_std == pytest.approx(1.0, abs=0.15), row
    layers = normprop.check(model, x).layers
    assert [*layers] == (["attend"] if scaling == "separate" else [])
