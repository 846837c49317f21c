"""Every twin, as it is: what is known of its kind is true, whatever its arguments are."""

import pytest
import torch
from torch import nn

import normprop.nn as nnp
from normprop.graph import fold, fuse
from normprop.graph.affine import Clamp
from normprop.graph.kinds import kind_of, kinds_of
from tests.nn.battery import ROWS


def first(output):
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_its_kind_is_known(row):
    kind = kind_of(row.layer())
    assert kind.plain is row.plain().__class__
    assert not kind.reason


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_alone_it_stays_what_it_is(row):
    x = row.input()
    eps = torch.finfo(x.dtype).eps
    for arguments in ({}, *row.changes):
        layer = row.layer(**arguments, scaling="separate")
        folded, fused = fold(layer, x), fuse(layer, x)
        got, wanted = first(folded(x)), first(layer.eval()(x))
        # A few roundings for each element that a window or a row of weights can have.
        bound = eps * (64 + 8 * x[0].numel())
        assert (got - wanted).abs().max() <= bound * wanted.abs().max()
        layer.train()
        results = []
        for module in (layer, fused):
            torch.manual_seed(1)
            z = x.clone().requires_grad_()
            y = first(module(z))
            # Not of a sum: that of a softmax is 1 whatever its input.
            dy = torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype).view_as(y)
            results.append(torch.autograd.grad(y, [z, *module.parameters()], dy))
        for a, b in zip(*results, strict=True):
            assert (a - b).abs().max() <= bound * x.numel() * a.abs().max()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_between_two_maps_it_says_the_same(row):
    """With lines pending on both sides: a scale and a shift of what comes in, and of what goes."""
    x = row.input()
    pending = nnp.Hardtanh(-1.0, 3.0, mean=0.3)
    for arguments in ({}, *row.changes):
        layer = row.layer(**arguments)
        model = nn.Sequential(nn.Hardtanh(-2.0, 2.0), pending, layer, pending).double().eval()
        if getattr(layer, "return_indices", False):
            model = model[:3]
        got, wanted = first(fold(model, x)(x)), first(model(x))
        bound = torch.finfo(x.dtype).eps * (64 + 8 * x[0].numel())
        assert (got - wanted).abs().max() <= bound * max(1.0, wanted.abs().max())


@pytest.mark.parametrize("module", [nn.ReLU, nn.Linear, nnp.Linear, nnp.Dropout])
def test_what_somebody_has_changed_is_not_known(module):
    def make(kind):
        return kind(2, 2) if issubclass(kind, nn.Linear) else kind()

    class Mine(module):
        def forward(self, x):
            return super().forward(x) + 1

    assert kind_of(make(module)) is not None
    assert kind_of(make(Mine)) is None
    hooked = make(module)
    hooked.register_forward_hook(lambda *_: None)
    assert kinds_of(hooked)[""].reason == "it has hooks"


@pytest.mark.parametrize("front", [nn.Identity(), nnp.Hardtanh(-1.0, 2.0, mean=0.3)], ids=str)
@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize(
    "clamp",
    [Clamp(-0.5), Clamp(0.0), Clamp(-0.5, 0.7), nn.Threshold(-0.5, -0.5), nn.Hardtanh(-0.5, 0.7)],
    ids=str,
)
def test_limits_are_those_of_the_layer(clamp, lean, front):
    x = torch.linspace(-3.0, 3.0, 40, dtype=torch.float64).view(10, 4)
    model = nn.Sequential(nnp.Linear(4, 4), front, clamp, nnp.Linear(4, 3)).double()
    bound = 64 * torch.finfo(x.dtype).eps * model(x).abs().max()
    for network in (fuse(model, x, lean=lean), fold(model, x)):
        assert (network(x) - model(x)).abs().max() <= bound
