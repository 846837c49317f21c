"""Every verb, on networks that others wrote: what it does, or the reason why it does not."""

from functools import cached_property

import pytest
import torch
from torch import nn

import normprop
from normprop.graph.anatomy import is_layer, single_layers
from normprop.graph.wrappers import tensors_in
from tests.graph.real import NETWORKS

EPS = torch.finfo(torch.float64).eps
# A rounding for each of the few thousand numbers that a value is made of, and each of the layers.
CLOSE = 1e6 * EPS


# Layers whose gradients mean field does not reach, by a part of their path, and why.
APART = {
    "MobileNetV2": ("", "on maps of one place a window of nine sees with its middle alone"),
    "EfficientNet": ("", "so do its depthwise layers, and its gates have two channels in between"),
    "ViT": ("", "its first place alone goes on to the head, and places are taken for alike"),
    "BERT": ("attention.self", "queries and keys: so few words have scores that are not normal"),
    "LSTM classifier": ("", "what a recurrent layer does to a law is not known"),
}


class Case:
    """A network in float64, and what the verbs make of it."""

    def __init__(self, name):
        if NETWORKS[name].by == "Hugging Face":
            pytest.importorskip("transformers")
        self.name = name
        # Fifty norms one behind the other need more of them to agree.
        samples = 32 if name == "ResNet-50" else 16
        self.model, self.args, self.kwargs = NETWORKS[name].build(samples)

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


def no_difference(scales):
    """Whether every row that was measured was predicted, and the other way round."""
    return not any("differ" in note or "no prediction" in note for note in scales.notes)


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
    assert no_difference(scales)
    assert ran <= {row.path for row in scales}
    for row in scales:
        assert row.fwd_std is None or 0.0 <= row.fwd_std < float("inf")
        assert row.bwd_std is None or 0.0 <= row.bwd_std < float("inf")


@pytest.mark.slow
def test_a_converted_network_has_the_same_parameters_and_a_gradient_for_each(case):
    exchanged = normprop.report(case.made).exchanged
    turned = {f"{p}.weight" for p, text in exchanged.items() if "the other way round" in text}
    kept = {
        name: p.T.shape if name in turned else p.shape for name, p in case.model.named_parameters()
    }
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


def test_what_is_predicted_of_a_converted_network_is_measured(case):
    scales = case("probe", case.made)
    assert no_difference(scales)
    part, _ = APART.get(case.name, (None, ""))
    layers = single_layers(case.made)
    for row in [row for row in scales if row.path in layers]:
        signal, gradient = (row.deviation.get(name, 1.0) for name in ("fwd_std", "bwd_std"))
        reached = part is None or part not in row.path
        if reached or case.name != "LSTM classifier":
            assert 0.5 <= signal <= 2.0, row
        if reached:
            assert 0.5 <= gradient <= 2.0, row


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
