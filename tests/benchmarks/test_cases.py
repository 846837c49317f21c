"""Every case at its smallest: built, held against its reference, run once."""

import pytest
import torch

import normprop
from benchmarks import peers
from benchmarks.case import Context, UnavailableError
from benchmarks.cases import SCALES, activation, all_cases

CONTEXT = Context(torch.device("cpu"))
TINY = [case for case in all_cases("tiny") if torch.cuda.is_available() or not case.graphed]


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
def test_its_gate_is_passed(case):
    unavailable = []
    for name, make in case.implementations.items():
        try:
            prepared = make(CONTEXT)
        except UnavailableError as problem:
            unavailable.append(str(problem))
            continue
        assert prepared.gate() is None, name
        prepared.call()
    assert all("unit-scaling is not installed" in reason for reason in unavailable)


def test_figures_of_a_training_step():
    case = next(case for case in TINY if case.name == "training/dense")
    figures = {
        name: case.implementations[name](CONTEXT).figures()
        for name in ("plain", "normprop", "batchnorm")
    }
    for found in figures.values():
        assert 0 < found["saved_bytes"] < found["peak_bytes"]
    assert figures["normprop"]["saved_bytes"] <= figures["plain"]["saved_bytes"]
    assert figures["batchnorm"]["saved_bytes"] > figures["plain"]["saved_bytes"]


@pytest.mark.parametrize("scale", SCALES)
def test_names_are_unique_and_baselines_there(scale):
    names = [case.name for case in all_cases(scale)]
    assert len(set(names)) == len(names)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="scale must be one of full, quick, tiny"):
        next(all_cases("huge"))


def test_the_full_run_has_all_that_was_promised():
    names = {case.name for case in all_cases("full")}
    for name in ("relu", "sigmoid", "tanh", "gelu", "silu"):
        assert {f"activation/{name}/{10**k}" for k in range(3, 9)} <= names
        assert f"compiled-activation/{name}/1000000" in names
    for net in ("resnet18-64", "resnet18-224", "vgg16-32", "dense", "transformer"):
        assert {
            f"{group}/{net}" for group in ("training", "graphed-training", "inference")
        } <= names
    assert {f"depth/{10**k}" for k in range(1, 5)} <= names
    groups = {name.partition("/")[0] for name in names}
    assert {"block", "compiled-block", "simulate", "moments-callable"} <= groups
    assert {"moments-closed/relu", "moments-quadrature/silu"} <= names


def test_every_elementwise_activation_of_the_package_is_a_case():
    names = {n for n in normprop.nn.__all__ if isinstance(getattr(torch.nn, n, None), type)}
    known = {*activation.MAIN, *activation.other_activations()}
    left = {
        name
        for name in names - known
        if getattr(torch.nn, name).__module__ == "torch.nn.modules.activation"
    }
    # Two halves make one, rows depend on all their numbers, or numbers are drawn.
    assert left <= {
        "GLU", "LogSoftmax", "MultiheadAttention", "RReLU", "Softmax", "Softmax2d", "Softmin",
        "Threshold",
    }  # fmt: skip


def test_sizes_are_what_they_are_called():
    for size, shape in activation.SHAPES.items():
        assert torch.Size(shape).numel() == size
        assert shape[1] == activation.CHANNELS


def test_standardised_weights_have_mean_0_and_norm_1():
    conv = peers.StandardizedConv2d(3, 5, 3).double()
    dirac = torch.zeros(27, 3, 3, 3, dtype=torch.float64)
    dirac.view(27, 27).fill_diagonal_(1)
    with torch.no_grad():
        conv.bias.zero_()
        # The response to each unit input is a weight, as it runs.
        rows = conv(dirac).flatten(1)
    # Sums of 27 numbers of order one.
    assert rows.sum(0).abs().max() < 27 * 2e-16 * 27
    assert (rows.square().sum(0) - 1).abs().max() < 27 * 2e-16 * 4


def test_unit_scaling_s_factor_is_the_package_s_own():
    try:
        peers.unit_scaling()
    except UnavailableError:
        pytest.skip("unit-scaling is not installed")
    x = torch.randn(100, dtype=torch.float64)
    for name in peers.UNIT_SCALING:
        plain = getattr(torch.nn.functional, name)(x)
        # Both sides round a few times.
        torch.testing.assert_close(
            peers.unit_activation(name)(x), peers.unit_scale(name) * plain, rtol=4e-15, atol=0
        )
