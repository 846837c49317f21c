"""Normalised losses: the documented formula, its scale by simulation, and what they share."""

import copy
import inspect
import math
import pickle

import pytest
import torch
from torch import nn

import normprop
from normprop import moments

DOUBLE = {"dtype": torch.float64}
SCALINGS = ("forward", "backward", "separate")
LAW = {"mean": 0.5, "std": 2.0}


def _class(shape):
    return torch.randint(shape[1], (shape[0], *shape[2:]))


def _normal(shape):
    return 0.7 * torch.randn(shape, **DOUBLE) - 0.2


def _labels(low):
    return lambda shape: torch.randint(2, shape).double() * (1 - low) + low


TARGET = {"target_mean": -0.2, "target_std": 0.7}
# name, shape of the input, target of that shape, own options, changes of torch's arguments
ROWS = [
    ("CrossEntropyLoss", (6, 5), _class, {}, [{"label_smoothing": 0.2}, {"ignore_index": 9}]),
    ("CrossEntropyLoss", (3, 5, 2), _class, {}, []),
    ("NLLLoss", (6, 5), _class, {}, []),
    ("MSELoss", (6, 5), _normal, TARGET, []),
    ("L1Loss", (6, 5), _normal, TARGET, []),
    ("SmoothL1Loss", (6, 5), _normal, TARGET, [{"beta": 0.3}]),
    ("HuberLoss", (6, 5), _normal, TARGET, [{"delta": 0.3}]),
    ("BCEWithLogitsLoss", (6, 5), _labels(0), {}, []),
    ("SoftMarginLoss", (6, 5), _labels(-1), {}, []),
    ("MultiLabelSoftMarginLoss", (6, 5), _labels(0), {}, []),
    ("HingeEmbeddingLoss", (6, 5), _labels(-1), {}, [{"margin": 0.3}]),
]
rows = pytest.mark.parametrize(
    ("name", "shape", "target", "options", "changes"), ROWS, ids=[f"{r[0]}{r[1]}" for r in ROWS]
)


def pair(name, options, scaling, **arguments):
    ours = getattr(normprop.nn, name)(**arguments, scaling=scaling, **LAW, **options)
    theirs = getattr(nn, name)(**arguments)
    for key, value in options.items():
        setattr(theirs, key, value)
    return ours, theirs


def run(loss, x, t, dy=None):
    x = x.detach().requires_grad_()
    y = loss(x, t)
    return y.detach(), torch.autograd.grad(y, x, torch.ones_like(y) if dy is None else dy)[0]


@rows
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_documented_formula(name, shape, target, options, changes, scaling, reduction):
    torch.manual_seed(1)
    x, t = 2 * torch.randn(shape, **DOUBLE) + 0.5, target(shape)
    for change in ({}, *changes):
        ours, theirs = pair(name, options, scaling, reduction=reduction, **change)
        figures = moments(theirs, **LAW, shape=shape)
        sigma = figures.bwd_std if scaling == "backward" else figures.fwd_std
        (y, dx), (loss, true) = run(ours, x, t), run(theirs, x, t)
        eps = 32 * 2.0**-52
        bound = (eps * (loss.abs() + abs(figures.fwd_mean)) + 2 * figures.error) / sigma
        assert ((y - (loss - figures.fwd_mean) / sigma).abs() <= bound).all()
        divisor = figures.bwd_std if scaling == "separate" else sigma
        assert ((dx - true / divisor).abs() <= 1e-12 * (true / divisor).abs() + 1e-15).all()
        constants = ours.constants_of(shape)
        assert (constants.forward, constants.backward) == (sigma, divisor)


@rows
def test_its_scale_by_simulation(name, shape, target, options, changes):
    torch.manual_seed(2)
    lines = []
    loss, _ = pair(name, options, "separate")
    for _ in range(40):
        sums = torch.zeros(3, **DOUBLE)
        for _ in range(60):
            x = 2 * torch.randn(shape, **DOUBLE) + 0.5
            y, dx = run(loss, x, target(shape), torch.randn((), **DOUBLE))
            sums += torch.stack([y, y * y, (dx * dx).mean()]) / 60
        lines.append(sums)
    lines = torch.stack(lines)
    z = (lines.mean(0) - torch.tensor([0.0, 1.0, 1.0], **DOUBLE)) / (lines.std(0) / math.sqrt(40))
    assert (z.abs() < 4.5).all(), z


@rows
@pytest.mark.parametrize("scaling", SCALINGS)
def test_it_measures_as_what_it_is(name, shape, target, options, changes, scaling):
    ours, _ = pair(name, options, scaling)
    got = moments(ours, **LAW, shape=shape)
    assert abs(got.fwd_mean) <= got.error
    if scaling != "backward":
        assert abs(got.fwd_std - 1) <= got.error
    if scaling != "forward":
        assert abs(got.bwd_std - 1) <= got.error


@rows
def test_a_loss_is_its_twin_with_more_arguments(name, shape, target, options, changes):
    ours, theirs = getattr(normprop.nn, name), getattr(nn, name)
    assert issubclass(ours, theirs)
    mine = inspect.signature(ours).parameters.values()
    own = [p.name for p in mine if p.kind is not p.KEYWORD_ONLY]
    assert own == list(inspect.signature(theirs).parameters)
    loss, _ = pair(name, options, "forward")
    text = repr(loss)
    assert "scaling='forward', mean=0.5, std=2" in text
    assert all(f"{key}={value:g}" in text for key, value in options.items())


@rows
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_the_same_loss(name, shape, target, options, changes, clone):
    loss, _ = pair(name, options, "separate")
    x, t = torch.randn(shape, **DOUBLE), target(shape)
    other = clone(loss)
    assert repr(other) == repr(loss)
    assert all(torch.equal(a, b) for a, b in zip(run(loss, x, t), run(other, x, t), strict=True))


@rows
@pytest.mark.parametrize("scaling", ["forward", "backward"])
def test_the_gradient_is_the_derivative(name, shape, target, options, changes, scaling):
    torch.manual_seed(3)
    loss, _ = pair(name, options, scaling)
    x, t = torch.randn(shape, **DOUBLE, requires_grad=True), target(shape)
    assert torch.autograd.gradcheck(lambda x: loss(x, t), (x,))


@rows
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(name, shape, target, options, changes, dtype):
    torch.manual_seed(4)
    loss, _ = pair(name, options, "separate")
    x, t = torch.randn(shape).to(dtype), target(shape)
    t = t.to(dtype) if t.is_floating_point() else t
    wide = t.float() if t.is_floating_point() else t
    (y, dx), (wide_y, wide_dx) = run(loss, x, t), run(loss, x.float(), wide)
    assert y.dtype == dx.dtype == dtype
    assert torch.equal(y, wide_y.to(dtype))
    assert torch.equal(dx, wide_dx.to(dtype))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
@rows
def test_compiled_is_eager(name, shape, target, options, changes):
    torch.compiler.reset()
    loss, _ = pair(name, options, "separate")
    x, t = torch.randn(shape, **DOUBLE), target(shape)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for got, wanted in zip(run(compiled, x, t), run(loss, x, t), strict=True):
        assert ((got - wanted).abs() <= 1e-13 * wanted.abs().max()).all()
    torch.compiler.reset()


def test_the_gradient_has_unit_scale_whatever_the_batch():
    torch.manual_seed(5)
    for samples in (4, 64, 1024):
        loss = normprop.nn.CrossEntropyLoss()
        x = torch.randn(samples, 10, **DOUBLE)
        _, dx = run(loss, x, torch.randint(10, (samples,)))
        # The mean square of the 4 · 10 entries still scatters by a tenth or so.
        assert abs((dx**2).mean() - 1) < 4.5 * 0.7 / math.sqrt(samples)


def test_probabilities_are_a_target():
    x = torch.randn(6, 5, **DOUBLE)
    t = torch.softmax(torch.randn(6, 5, **DOUBLE), 1)
    loss = normprop.nn.CrossEntropyLoss(scaling="forward")
    shift, sigma, _ = loss.constants_of((6, 5))
    wanted = (nn.functional.cross_entropy(x, t) - shift) / sigma
    assert abs(loss(x, t) - wanted) < 1e-14


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: normprop.nn.CrossEntropyLoss(torch.ones(5)), "weight must be None"),
        (lambda: normprop.nn.BCEWithLogitsLoss(pos_weight=torch.ones(5)), "pos_weight must be"),
        (lambda: normprop.nn.MSELoss(scaling="both"), "scaling must be one of"),
        (lambda: normprop.nn.MSELoss(std=0.0), "std must be finite and greater than 0"),
        (lambda: normprop.nn.MSELoss(target_std=-1.0), "std must be finite and greater than 0"),
        (lambda: normprop.nn.MSELoss(reduction="max")(torch.ones(3), torch.ones(3)), "reduction"),
        (lambda: normprop.nn.MSELoss()(torch.ones(3), torch.ones(1)), "must have the same shape"),
        (
            lambda: normprop.nn.CrossEntropyLoss()(torch.ones(3, 1), torch.zeros(3).long()),
            "must let the signal and the gradient through",
        ),
    ],
)
def test_what_must_hold(call, message):
    with pytest.raises(ValueError, match=message):
        call()
