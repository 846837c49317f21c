"""A step that is captured is the step: on a processor, with what records and replays stood in for.

The stand-in keeps the contract of a CUDA graph: what is captured does not run, and a replay reads
and writes the tensors that it was captured with.
"""

import pytest
import torch

from normprop.companion import data, graphs, thousand, training
from normprop.companion.networks import build


@pytest.fixture
def stood_in(monkeypatch):
    """A graph that is replayed by running the step again, and a count of the replays."""
    counts = {"warm": 0, "replayed": 0}

    def warm_up(step):
        for _ in range(graphs.WARM_UP):
            step()
            counts["warm"] += 1

    def captured(step):
        loss = torch.zeros(())

        def replay():
            loss.copy_(step())
            counts["replayed"] += 1

        return replay, loss

    monkeypatch.setattr(graphs, "_on_gpu", lambda tensor: True)
    monkeypatch.setattr(graphs, "_warm_up", warm_up)
    monkeypatch.setattr(graphs, "_captured", captured)
    return counts


def result(method, optimizer, graph, **options):
    torch.manual_seed(0)
    model = build(method, "tanh", 4, 16, 10, 64, orthogonal=True, **options)
    found = training.train(
        model, data.digits(), optimizer=optimizer, lr=0.01, steps=6, test=True, graph=graph
    )
    figures = {key: value for key, value in vars(found).items() if key != "seconds"}
    return figures, [tensor.detach().clone() for tensor in model.state_dict().values()]


@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
@pytest.mark.parametrize(
    ("method", "options"),
    [("calibrated", {"ball": "project"}), ("calibrated", {}), ("batchnorm", {}), ("critical", {})],
)
def test_a_captured_step_is_the_step(stood_in, method, options, optimizer):
    plain, weights = result(method, optimizer, False, **options)
    captured, others = result(method, optimizer, True, **options)
    assert stood_in == {"warm": graphs.WARM_UP, "replayed": 6}
    # The rate is a number for one and a tensor of float32 for the other.
    assert captured["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    assert captured["steps"] == plain["steps"] == 6
    if method == "batchnorm":
        # Biases in front of it have no gradient but rounding, which Adam makes steps of.
        return
    for one, other in zip(weights, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_ends_a_captured_run(stood_in):
    torch.manual_seed(0)
    model = build("he", "relu", 4, 16, 10, 64)
    found = training.train(model, data.digits(), lr=1e30, steps=6, graph=True)
    assert found.diverged
    assert found.steps < 6


def test_a_graph_needs_a_gpu():
    model = build("he", "relu", 2, 8, 10, 64)
    with pytest.raises(ValueError, match="graph must be for a CUDA device; the data are on cpu"):
        training.train(model, data.digits(), lr=0.01, steps=2, graph=True)


def test_the_command_passes_it_on(tmp_path):
    places = ["--results", str(tmp_path), "--journal", str(tmp_path), "--graph"]
    sizes = ["--depth", "3", "--width", "8", "--steps", "3", "--seeds", "1", "--normal"]
    with pytest.raises(ValueError, match="graph must be for a CUDA device"):
        thousand.main([*sizes, "--methods", "he", *places])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
def test_on_a_gpu_a_captured_run_is_the_run(optimizer):
    split, found = data.digits().to("cuda"), []
    for graph in (False, True):
        torch.manual_seed(0)
        model = build("calibrated", "tanh", 30, 16, 10, 64, orthogonal=True, ball="project")
        model = model.to("cuda")
        found.append(
            training.train(model, split, optimizer=optimizer, lr=0.01, steps=20, graph=graph)
        )
    assert found[1].loss == pytest.approx(found[0].loss, rel=1e-2)
