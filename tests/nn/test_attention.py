"""Normalised attention: formulas, scale by simulation, and multi-head attention as torch's."""

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
from tests.nn.battery import fill, on_ball

DOUBLE = {"dtype": torch.float64}
SCALINGS = ("forward", "backward", "separate")


def inputs(shapes, mean=0.0, std=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        (torch.randn(s, generator=generator, **DOUBLE) * std + mean).requires_grad_()
        for s in shapes
    )


SHAPES = ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4))
SQUARE = ((2, 6, 8),) * 3


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(
    ("shapes", "options"), [(SHAPES, {}), (SQUARE, {"is_causal": True}), (SHAPES, {"scale": 0.5})]
)
def test_attention_is_its_formula(shapes, options, scaling):
    law = {"mean": 0.3, "std": 1.2}
    tensors = inputs(shapes, **law)
    y = functional.scaled_dot_product_attention(*tensors, **options, scaling=scaling, **law)
    plain = nn.functional.scaled_dot_product_attention(*tensors, **options)
    constants = attention_constants(*(s[-2:] for s in shapes), scaling, 0.3, 1.2, **options)
    assert constants.shift == 0.3
    assert ((y - (plain - 0.3) / constants.forward).abs() <= 1e-14 / constants.forward).all()
    dy = torch.randn_like(y)
    got = torch.autograd.grad(y, tensors, dy)
    true = torch.autograd.grad(plain, tensors, dy)
    for g, t, own in zip(got, true, constants[2:], strict=True):
        assert ((g - t / own).abs() <= 1e-13 * (t / own).abs().max()).all()
    assert (scaling == "separate") == (len(set(constants[1:])) == 4)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"dropout_p": 0.2}])
def test_attention_has_unit_scale_by_simulation(options):
    law = {"mean": 0.3, "std": 1.2}
    lines = []
    torch.manual_seed(0)
    for seed in range(48):
        tensors = inputs(((300, 6, 8),) * 3, **law, seed=seed)
        y = functional.scaled_dot_product_attention(*tensors, **options, scaling="separate", **law)
        gradients = torch.autograd.grad(y, tensors, torch.randn_like(y))
        y = y.detach()
        lines.append(torch.stack([y.mean(), *((v**2).mean() for v in (y, *gradients))]))
    lines = torch.stack(lines)
    z = (lines.mean(0) - torch.tensor([0.0, 1, 1, 1, 1])) / (lines.std(0) / math.sqrt(48))
    assert (z.abs() < 4.5).all(), z


def test_backward_has_unit_gradients_over_all_inputs():
    squares = []
    for seed in range(48):
        tensors = inputs(((64, 6, 8),) * 3, seed=seed)
        y = functional.scaled_dot_product_attention(*tensors)
        parts = torch.autograd.grad(y, tensors, torch.randn_like(y))
        squares.append(torch.cat([p.flatten() for p in parts]).square().mean())
    squares = torch.stack(squares)
    assert abs(squares.mean() - 1) < 4.5 * squares.std() / math.sqrt(48)


def test_a_mask_hides():
    q, k, v = inputs(SQUARE)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    y = functional.scaled_dot_product_attention(q, k, v, mask)
    wanted = nn.functional.scaled_dot_product_attention(q, k, v, mask)
    assert torch.allclose(
        y * attention_constants((6, 8), (6, 8), (6, 8), "backward").forward, wanted
    )


def test_a_single_key():
    q, k, v = inputs(((2, 3, 4), (2, 1, 4), (2, 1, 4)))
    y = functional.scaled_dot_product_attention(q, k, v, scaling="separate")
    assert torch.allclose(y, v.expand(2, 3, 4))
    (dq,) = torch.autograd.grad(y.sum(), q)
    assert (dq == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_attention_keeps_its_type(dtype):
    tensors = [t.detach().to(dtype) for t in inputs(SQUARE)]
    y = functional.scaled_dot_product_attention(*tensors)
    assert y.dtype == dtype
    wide = functional.scaled_dot_product_attention(*(t.double() for t in tensors))
    # Rounded by the kernel, by its probabilities and once here.
    assert ((y.double() - wide).abs() <= 16 * torch.finfo(dtype).eps * wide.abs().max()).all()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
@pytest.mark.parametrize("scaling", SCALINGS)
def test_attention_compiled_is_eager(scaling):
    torch.compiler.reset()
    tensors = inputs(SQUARE)

    def call(q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, scaling=scaling)

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    for f, g in zip(
        torch.autograd.grad(compiled(*tensors).square().sum(), tensors),
        torch.autograd.grad(call(*tensors).square().sum(), tensors),
        strict=True,
    ):
        assert torch.allclose(f, g, rtol=1e-12, atol=1e-13)
    torch.compiler.reset()


def test_integers_are_refused():
    with pytest.raises(TypeError, match="must hold floating-point numbers"):
        functional.scaled_dot_product_attention(*(torch.ones(3, 3).long(),) * 3)


# Multi-head attention


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
