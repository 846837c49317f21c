"""The training loop: the same by seed, learns, and records what goes wrong."""

import pytest
import torch
from torch import nn

from normprop.companion import data, training
from normprop.companion.networks import build
from normprop.companion.training import train


@pytest.fixture(scope="module")
def split():
    return data.digits()


def network(method="forward", activation="tanh", **options):
    torch.manual_seed(0)
    return build(method, activation, 4, 32, 10, 64, **options)


def without_time(result):
    return {key: value for key, value in vars(result).items() if key != "seconds"}


@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
def test_the_seed_decides(split, optimizer):
    def run(seed):
        return without_time(
            train(network(), split, optimizer=optimizer, lr=0.01, steps=12, seed=seed)
        )

    first, again, other = run(1), run(1), run(2)
    assert first == again
    assert first["loss"] != other["loss"]


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.03), ("adam", 0.003)])
@pytest.mark.parametrize("method", ["he", "batchnorm", "forward", "separate-layer"])
def test_digits_are_learnt(split, method, optimizer, lr):
    result = train(network(method), split, optimizer=optimizer, lr=lr, steps=120, test=True)
    # Chance is 0.1, and a linear classifier reaches 0.95 on this split when it is trained out.
    assert result.validation > 0.8
    assert result.test > 0.8
    assert result.loss < 0.7
    assert not result.diverged
    assert result.steps == 120


def test_the_test_part_is_looked_at_only_when_asked(split):
    class Untouchable(tuple):
        def __iter__(self):
            raise AssertionError("the test part was touched")

    guarded = data.Split(split.train, split.validation, Untouchable(split.test), split.classes)
    assert train(network(), guarded, lr=0.01, steps=2).test is None
    with pytest.raises(AssertionError, match="touched"):
        train(network(), guarded, lr=0.01, steps=2, test=True)


def test_loss_and_validation_look_at_as_much_as_they_may(split):
    whole = train(network(), split, lr=0.01, steps=3, test=True)
    part = data.Split(
        split.train, tuple(t[:40] for t in split.validation), split.test, split.classes
    )
    some = train(network(), split, lr=0.01, steps=3, test=True, seen=40)
    assert some.validation == train(network(), part, lr=0.01, steps=3).validation
    assert some.loss != whole.loss
    assert some.test == whole.test
    assert train(network(), split, lr=0.01, steps=3, seen=10**6).loss == whole.loss


def test_a_divergence_is_recorded(split):
    result = train(network("he", "relu"), split, lr=1e30, steps=50, test=True)
    assert result.diverged
    assert (result.loss, result.validation, result.test) == (None, None, None)
    assert result.steps < 50


def test_a_divergence_at_the_last_step_is_recorded(split):
    result = train(network("he", "relu"), split, lr=1e38, steps=1)
    assert result.diverged
    assert result.steps == 1


def test_projected_weights_end_on_their_ball(split):
    model = network(ball="project")
    train(model, split, lr=0.1, steps=5)
    norms = model[1][0].weight.detach().norm(dim=1)
    # Four roundings of float32.
    assert (norms - 1).abs().max() < 5e-7


def test_every_sample_comes_once_an_epoch():
    labels = torch.arange(10)
    batches = list(training._batches((labels.clone(), labels), 6, 3, seed=0))
    for epoch in (batches[:3], batches[3:]):
        seen = torch.cat([chosen for chosen, _ in epoch])
        assert len(seen.unique()) == 9


def test_evaluation_counts_every_sample():
    inputs = torch.randn(5000, 2)
    labels = (inputs[:, 1] > inputs[:, 0]).long()
    labels[:50] = 1 - labels[:50]
    _, accuracy = training.evaluate(nn.Identity(), inputs, labels)
    assert accuracy == 4950 / 5000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adam; it was 'lion'"),
        ({"lr": 0.0}, "lr must be finite and greater than 0; it was 0.0"),
        ({"lr": float("nan")}, "lr must be finite"),
        ({"steps": 0}, "steps must be at least 1; it was 0"),
        ({"seen": 0}, "seen must be at least 1, or None for all; it was 0"),
        ({"batch_size": 2000}, "batch_size must lie between 1 and the 1078 .* it was 2000"),
    ],
)
def test_a_wrong_argument_is_refused(split, options, message):
    with pytest.raises(ValueError, match=message):
        train(network(), split, **{"lr": 0.1, "steps": 1, **options})
