"""Losses by moments: simulated with every reduction, and every refusal says what must hold."""

import math

import pytest
import torch
from torch import nn

from normprop import moments

LAW = {"mean": 0.3, "std": 1.2}
DRAW = {"dtype": torch.float64}


def classes(count, shape):
    return lambda: torch.randint(count, shape)


def normals(*shape):
    return lambda: torch.randn(shape, **DRAW)


def labels(low, *shape):
    return lambda: torch.randint(2, shape).double() * (1 - low) + low


def estimates(loss, shape, target, replicates=48, n=120):
    """E y, E y² and E dx² by replicate."""
    torch.manual_seed(0)
    lines = []
    for _ in range(replicates):
        sums = torch.zeros(3, **DRAW)
        for _ in range(n):
            x = (torch.randn(shape, **DRAW) * LAW["std"] + LAW["mean"]).requires_grad_()
            y = loss(x, target())
            (dx,) = torch.autograd.grad(y, x, torch.randn_like(y))
            y = y.detach()
            sums += torch.stack([y.mean(), (y * y).mean(), (dx * dx).mean()]) / n
        lines.append(sums)
    return torch.stack(lines)


CASES = [
    *(
        (nn.CrossEntropyLoss(reduction=r, label_smoothing=0.1), (4, 5), classes(5, (4,)))
        for r in ("mean", "sum", "none")
    ),
    (nn.CrossEntropyLoss(), (2, 5, 3), classes(5, (2, 3))),
    (nn.CrossEntropyLoss(), (5,), classes(5, ())),
    (nn.NLLLoss(), (4, 5), classes(5, (4,))),
    (nn.MSELoss(), (3, 2), normals(3, 2)),
    (nn.MSELoss(reduction="none"), (3, 2), normals(3, 2)),
    (nn.L1Loss(), (3, 2), normals(3, 2)),
    (nn.SmoothL1Loss(beta=0.5), (3, 2), normals(3, 2)),
    (nn.HuberLoss(delta=0.7, reduction="sum"), (3, 2), normals(3, 2)),
    (nn.BCEWithLogitsLoss(), (6,), labels(0, 6)),
    (nn.SoftMarginLoss(), (6,), labels(-1, 6)),
    (nn.HingeEmbeddingLoss(0.5), (6,), labels(-1, 6)),
    (nn.MultiLabelSoftMarginLoss(), (4, 3), labels(0, 4, 3)),
]


@pytest.mark.parametrize(("loss", "shape", "target"), CASES)
def test_a_loss_by_simulation(loss, shape, target):
    got = moments(loss, **LAW, shape=shape)
    lines = estimates(loss, shape, target)
    wanted = torch.tensor([got.fwd_mean, got.fwd_std**2 + got.fwd_mean**2, got.bwd_std**2], **DRAW)
    z = (lines.mean(0) - wanted) / (lines.std(0) / math.sqrt(len(lines)))
    assert (z.abs() < 4.5).all(), z
    assert 0 < got.error < 1e-11


def test_a_ranking_of_two_inputs():
    torch.manual_seed(0)
    loss = nn.MarginRankingLoss(0.5, reduction="none")
    got = moments(loss, **LAW)
    lines = []
    for _ in range(48):
        a, b = ((torch.randn(4000, **DRAW) * 1.2 + 0.3).requires_grad_() for _ in range(2))
        y = loss(a, b, labels(-1, 4000)())
        da, db = torch.autograd.grad(y, (a, b), torch.randn_like(y))
        y = y.detach()
        lines.append(torch.stack([y.mean(), (y**2).mean(), (da**2).mean(), (db**2).mean()]))
    lines = torch.stack(lines)
    wanted = [got.fwd_mean, got.fwd_std**2 + got.fwd_mean**2, got.bwd_std**2, got.bwd_std**2]
    z = (lines.mean(0) - torch.tensor(wanted, **DRAW)) / (lines.std(0) / math.sqrt(48))
    assert (z.abs() < 4.5).all(), z


def test_the_law_of_the_target_has_a_say():
    loss = nn.MSELoss(reduction="none")
    loss.target_mean, loss.target_std = 0.3, 0.5
    got = moments(loss, **LAW)
    # x - t ~ N(0, 1.2² + 0.5²), in closed form.
    assert abs(got.fwd_mean - 1.69) < 1e-14
    assert abs(got.fwd_std - math.sqrt(2) * 1.69) < 1e-14
    assert abs(got.bwd_std - 2.6) < 1e-14


def test_reductions_are_those_of_independent_losses():
    one = moments(nn.L1Loss(reduction="none"), **LAW)
    mean = moments(nn.L1Loss(), **LAW, shape=(5, 5))
    total = moments(nn.L1Loss(reduction="sum"), **LAW, shape=(25,))
    assert (mean.fwd_mean, mean.fwd_std, mean.bwd_std) == (one.fwd_mean, one.fwd_std / 5, 1 / 25)
    assert abs(total.fwd_mean - 25 * one.fwd_mean) <= total.error
    assert abs(total.fwd_std - 5 * one.fwd_std) <= total.error
    assert total.bwd_std == 1.0


@pytest.mark.parametrize(
    ("loss", "shape", "message"),
    [
        (nn.CrossEntropyLoss(), None, "shape must be given for CrossEntropyLoss"),
        (nn.CrossEntropyLoss(), (), "must have a dimension of classes"),
        (nn.MSELoss(), None, "depend on how many elements it reduces"),
        (nn.CrossEntropyLoss(torch.ones(5)), (4, 5), "weight must be None"),
        (nn.CrossEntropyLoss(ignore_index=2), (4, 5), "ignore_index must not be a class"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(6)), (6,), "pos_weight must be None"),
        (nn.CrossEntropyLoss(label_smoothing=2.0), (4, 5), r"label_smoothing must lie in \[0, 1\]"),
    ],
)
def test_what_must_hold(loss, shape, message):
    with pytest.raises(ValueError, match=message):
        moments(loss, shape=shape)


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (nn.BCELoss(), "its input is a probability"),
        (nn.KLDivLoss(), "logarithm of a distribution"),
        (nn.PoissonNLLLoss(), "its target is a count"),
        (nn.GaussianNLLLoss(), "its second input is a variance"),
        (nn.CTCLoss(), "sums over alignments"),
        (nn.CosineEmbeddingLoss(), "directions of two whole vectors"),
        (nn.TripletMarginLoss(), "share the anchor"),
        (nn.TripletMarginWithDistanceLoss(), "a function of the user's"),
        (nn.MultiMarginLoss(), "share the score of the target"),
        (nn.MultiLabelMarginLoss(), "share scores"),
        (nn.LinearCrossEntropyLoss(4, 3), "its own weights' doing"),
    ],
)
def test_a_loss_without_constants_says_why(loss, reason):
    with pytest.raises(TypeError, match=f"{type(loss).__name__} has no constants: .*{reason}"):
        moments(loss)


def test_every_loss_of_torch_has_an_answer():
    from normprop.rules import entry_of_type

    names = [n for n in nn.modules.__all__ if n.endswith("Loss")]
    assert len(names) > 20
    assert [n for n in names if entry_of_type(getattr(nn, n)) is None] == []
