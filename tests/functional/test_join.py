"""Residual sums and concatenations as functions."""

import math

import pytest
import torch

from normprop import functional, rules
from normprop.gaussian import Normal


def test_a_residual_is_its_formula_and_its_gradients():
    skip, branch = (torch.randn(3, 5, dtype=torch.float64).requires_grad_() for _ in range(2))
    y = functional.residual(branch, skip, weight=0.6)
    assert ((y - (0.8 * skip + 0.6 * branch)).abs() <= 1e-15 * (1 + y.abs())).all()
    dy = torch.randn_like(y)
    first, second = torch.autograd.grad(y, (skip, branch), dy)
    assert ((first - 0.8 * dy).abs() <= 1e-15).all()
    assert ((second - 0.6 * dy).abs() <= 1e-15).all()
    assert torch.equal(functional.residual(branch, skip, weight=0.0), skip)
    assert torch.equal(functional.residual(branch, skip, weight=1.0), branch)
    half = functional.residual(branch, skip)
    assert ((half - (skip + branch) / math.sqrt(2)).abs() <= 1e-15 * (1 + half.abs())).all()


def test_a_deep_stack_keeps_unit_scale():
    # 400 blocks with random orthogonal branches Q, for every unit vector as input and as dy.
    depth, width = 400, 64
    weight = depth**-0.5
    generator = torch.Generator().manual_seed(0)
    x = torch.eye(width, dtype=torch.float64).requires_grad_()
    y, variance = x, 0.0
    for _ in range(depth):
        signs = torch.randn(width, generator=generator).sign().double()
        matrix = torch.randn(width, width, generator=generator, dtype=torch.float64)
        orthogonal = torch.linalg.qr(matrix)[0] * signs
        # The square grows by the factor 1 + 2w√(1 - w²) tr(QC)/tr C, C = yᵀy, whose variance
        # given y is 4w²(1 - w²)|C|²/(width tr² C).
        gram = y.detach().T @ y.detach()
        relative = float(gram.square().sum() / gram.trace() ** 2)
        variance += 4 * weight**2 * (1 - weight**2) * relative / width
        y = functional.residual(y @ orthogonal, y, weight=weight)
    (dx,) = torch.autograd.grad(y, x, torch.eye(width, dtype=torch.float64))
    assert variance < 0.1**2
    for tensor in (y.detach(), dx):
        square = float(tensor.square().sum()) / width
        assert abs(math.log(square)) < 4.5 * math.sqrt(variance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    skip, branch = torch.randn(2, 64).to(dtype)
    got = functional.residual(branch, skip, weight=0.3)
    assert got.dtype == dtype
    assert torch.equal(got, functional.residual(branch.float(), skip.float(), weight=0.3).to(dtype))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: functional.residual(x, x[:1]), ValueError, "must have the same shape"),
        (lambda x: functional.residual(x, x, weight=1.5), ValueError, "must lie in .0, 1."),
        (lambda x: functional.residual(x.long(), x), TypeError, "floating-point"),
        (lambda x: functional.residual(x, x.long()), TypeError, "floating-point"),
        (lambda x: functional.cat([]), ValueError, "at least 1 tensor"),
        (lambda x: functional.cat([x, x.long()]), TypeError, "floating-point"),
        (lambda x: functional.cat([x, x], mean=(0.0,) * 3), ValueError, "mean must have 1 entry"),
        (lambda x: functional.cat([x, x], std=(1.0, 0.0)), ValueError, "std must be finite and"),
        (lambda x: functional.cat([x, x], scaling="both"), ValueError, "scaling must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.ones(2, 3))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_a_concatenation_of_unit_parts_is_torchs(dim):
    x = torch.randn(3, 4, dtype=torch.bfloat16)
    for scaling in ("forward", "backward", "separate"):
        got = functional.cat([x, x], dim, scaling=scaling)
        assert torch.equal(got, torch.cat([x, x], dim))


def test_parts_of_different_laws_share_one_scale():
    parts = torch.randn(6, 2, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    laws = [Normal(1.0, 2.0), Normal(-0.5, 0.3)]
    figures = rules.concatenation([rules.copied(law) for law in laws], (2, 5))
    law = {"mean": (1.0, -0.5), "std": (2.0, 0.3)}
    got = functional.cat(parts, 1, scaling="forward", **law)
    wanted = (torch.cat(parts, 1) - figures.fwd_mean) / figures.fwd_std
    assert ((got - wanted).abs() <= 1e-14 * (1 + wanted.abs())).all()
    # The sizes have their say: in the other dimension the shares are equal.
    equal = rules.concatenation([rules.copied(law) for law in laws], (1, 1))
    squares = [x[:2] for x in (parts[0], parts[1][:, :2])]
    other = functional.cat(squares, 0, scaling="forward", **law)
    wanted = (torch.cat(squares) - equal.fwd_mean) / equal.fwd_std
    assert ((other - wanted).abs() <= 1e-14 * (1 + wanted.abs())).all()


def test_separate_scales_the_gradients_of_all_parts_alike():
    parts = [torch.randn(4, n, dtype=torch.float64).requires_grad_() for n in (2, 3)]
    dy = torch.randn(4, 5, dtype=torch.float64)
    y = functional.cat(parts, 1, scaling="separate", std=2.0)
    assert ((y - torch.cat(parts, 1) / 2).abs() <= 1e-15 * (1 + y.abs())).all()
    gradients = torch.cat(torch.autograd.grad(y, parts, dy), 1)
    assert ((gradients - dy).abs() <= 1e-15 * (1 + dy.abs())).all()


def test_empty_parts():
    x = torch.randn(2, 3, dtype=torch.float64)
    assert functional.cat([x, x[:, :0]], 1, mean=(1.0, 5.0)).shape == (2, 3)
    assert torch.equal(
        functional.cat([x, x[:, :0]], 1, mean=(1.0, 5.0)), functional.cat([x], 1, mean=1.0)
    )
