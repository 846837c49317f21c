"""Every verb, on networks that others wrote: what it does, or the reason why it does not."""

from functools import cached_property

import pytest
import torch
from torch import nn

import normprop
from normprop.graph.anatomy import is_layer
from normprop.graph.wrappers import tensors_in
from tests.graph.real import NETWORKS

EPS = torch.finfo(torch.float64).eps
# A rounding for each of the few thousand numbers that a value is made of, and each of the layers.
CLOSE = 1e6 * EPS


class Case:
    """A network in float64, and what the verbs make of it."""

    def __init__(self, name):
        if NETWORKS[name].by == "Hugging Face":
            pytest.importorskip("transformers")
        self.model, self.args, self.kwargs = NETWORKS[name].build(samples=4)

    @cached_property
    def made(self):
        return self("convert", self.model)

    @cached_property
    def fused(self):
        return self("fuse", self.made)

    def __call__(self, verb, model):
        return getattr(normprop, verb)(model, *self.args, **self.kwargs)

    def run(self, model):
        torch.manual_seed(1)
        results = tensors_in(model(*self.args, **self.kwargs))
        return [result for result in results if result.is_floating_point()]

    def gradients(self, model):
        model.zero_grad()
        sum(result.square().sum() for result in self.run(model)).backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return found


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    return Case(request.param)


def apart(one, other):
    """The largest distance of two lists of tensors, relative to the first of them."""
    size = torch.stack([t.abs().max() for t in one]).max()
    return max((a - b).abs().max() for a, b in zip(one, other, strict=True)) / size


def test_probe_has_a_row_of_every_layer_that_runs(case):
    ran = set()
    handles = [
        module.register_forward_hook(lambda module, *_, path=path: ran.add(path))
        for path, module in case.model.named_modules()
        if is_layer(module)
    ]
    case.run(case.model)
    for handle in handles:
        handle.remove()
    scales = case("probe", case.model)
    assert scales.faults == ()
    assert ran <= {row.path for row in scales}
    for row in scales:
        assert row.fwd_std is None or 0.0 <= row.fwd_std < float("inf")
        assert row.bwd_std is None or 0.0 <= row.bwd_std < float("inf")


def test_a_converted_network_has_the_same_parameters_and_a_gradient_for_each(case):
    kept = {name: p.shape for name, p in case.model.named_parameters()}
    assert {name: p.shape for name, p in case.made.named_parameters()} == kept
    for one, other in zip(case.run(case.model), case.run(case.made), strict=True):
        assert one.shape == other.shape
        assert other.isfinite().all()
    gradients = case.gradients(case.made)
    assert gradients.keys() == case.gradients(case.model).keys()
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_whatever_holds_a_parameter_is_converted_or_kept_for_a_reason(case):
    report = normprop.report(case.made)
    assert report.converted
    held = {path for path, module in case.model.named_modules() if module._parameters}
    assert held <= report.converted.keys() | report.kept.keys()
    assert all(report.kept.values())


def test_a_recurrent_layer_stays():
    case = Case("LSTM classifier")
    report = normprop.report(case.made)
    assert report.kept == {"lstm": "has no normalised form"}
    assert type(case.made.lstm) is nn.LSTM


def test_check_reads_it(case):
    assert case("check", case.model).legal
    case("check", case.made)


@pytest.mark.parametrize("training", [True, False])
def test_a_fused_network_is_the_network(case, training):
    fused, made = case.fused.train(training), case.made.train(training)
    assert apart(case.run(made), case.run(fused)) < CLOSE
    mine, its = case.gradients(made), case.gradients(fused)
    assert apart(list(mine.values()), [its[name] for name in mine]) < CLOSE


def test_a_folded_network_is_the_network(case):
    made = case.made.eval()
    folded = case("fold", made)
    assert apart(case.run(made), case.run(folded)) < CLOSE
    left = {
        path
        for path, module in folded.named_modules()
        if type(module).__module__.startswith("normprop")
    }
    assert left <= set(normprop.report(folded).kept)
