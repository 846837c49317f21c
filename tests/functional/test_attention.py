"""Normalised attention: its formula in both passes, and its scale by simulation."""

import math

import pytest
import torch
from torch import nn

from normprop import functional
from normprop.functional.attention import attention_constants

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
