"""What check() says of a network is what autograd does, on chains and on joins."""

import copy
import math

import pytest
import torch
from torch import nn

import normprop.nn as nnp
from normprop.graph import check, separate_on_bridges_

WIDTH = 12
EPS = torch.finfo(torch.float64).eps


class Residual(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return x + self.block(x)


class Concatenated(nn.Module):
    def __init__(self, left, right):
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x):
        return torch.cat([self.left(x), self.right(x)], -1)


def block(per="layer", activation=nnp.ReLU, inputs=WIDTH):
    linear = nnp.Linear(inputs, WIDTH, scaling="separate", per=per)
    return nn.Sequential(linear, activation(scaling="separate"))


def chain():
    return nn.Sequential(block(), block(activation=nnp.Sigmoid), block(activation=nnp.Tanh))


def residual():
    return nn.Sequential(block(), Residual(block()), block())


def concatenated():
    branches = Concatenated(block(activation=nnp.Sigmoid), block(activation=nnp.Tanh))
    return nn.Sequential(block(), branches, block(inputs=2 * WIDTH))


def shared():
    twice = block()
    return nn.Sequential(twice, nn.Tanh(), twice)


def forward_scaled(model):
    """The same network with the true gradient."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if getattr(module, "scaling", None) == "separate":
            module.scaling = "forward"
            if hasattr(module, "constants"):
                constants = module.constants
                module.constants = constants._replace(backward=constants.forward)
    return model


def gradients(model, x):
    y = model(x)
    dy = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(y, list(model.parameters()), dy), strict=True))


def case(make):
    torch.manual_seed(0)
    model = make().double()
    x = torch.randn(7, WIDTH, dtype=torch.float64)
    return model, x, gradients(model, x), gradients(forward_scaled(model), x)


@pytest.mark.parametrize("make", [chain, residual, concatenated, shared])
def test_where_there_is_a_factor_the_gradient_is_that_times_the_true_one(make):
    model, x, separate, true = case(make)
    found = check(model, x)
    assert set(found.factors) == set(separate)
    for name, factor in found.factors.items():
        if factor.legal:
            # A few roundings for each of the layers that the gradient came through.
            bound = 200 * EPS * true[name].abs().max()
            assert (separate[name] - factor.value * true[name]).abs().max() <= bound, name


@pytest.mark.parametrize(
    ("make", "illegal"),
    [
        (chain, set()),
        (residual, {"0.0"}),
        (concatenated, {"0.0"}),
        (shared, {"0.0"}),
    ],
)
def test_where_there_is_none_the_gradient_is_turned(make, illegal):
    model, x, separate, true = case(make)
    found = check(model, x)
    turned = {name.rpartition(".")[0] for name, f in found.factors.items() if not f.legal}
    assert turned == illegal
    assert found.legal == (not illegal)
    for name, factor in found.factors.items():
        cosine = nn.functional.cosine_similarity(
            separate[name].flatten(), true[name].flatten(), dim=0
        )
        if not factor.legal:
            assert factor.low < factor.high
            assert cosine < 1 - 1e-6
        else:
            assert cosine == pytest.approx(1, abs=100 * EPS)


def test_a_chain_s_factor_is_the_product_over_the_later_layers():
    torch.manual_seed(0)
    model = chain().double()
    found = check(model, torch.randn(3, WIDTH, dtype=torch.float64))
    ratios = [m.constants.forward / m.constants.backward for m in (b[1] for b in model)]
    for k in range(3):
        assert found.factors[f"{k}.0.weight"].value == pytest.approx(
            math.prod(ratios[k:]), rel=8 * EPS
        )


def test_per_neuron_weights_are_legal_nowhere():
    torch.manual_seed(0)
    model = nn.Sequential(block(), block(per="neuron"), block())
    found = check(model, torch.randn(3, WIDTH))
    assert found.factors["0.0.weight"].asymmetric
    assert not found.factors["0.0.weight"].legal
    # Its own weight gradient is the forward-normalised weight's.
    assert found.factors["1.0.weight"].legal
    assert not found.layers["1.0"].legal
    assert "backward weights are not its forward ones" in str(found)
    with pytest.raises(ValueError, match="paths must agree"):
        _ = found.factors["0.0.weight"].value


@pytest.mark.parametrize("make", [residual, concatenated, shared])
def test_the_bridge_rule_repairs_it(make):
    model, x, _, true = case(make)
    found = separate_on_bridges_(model, x)
    assert found.legal
    repaired = gradients(model, x)
    for name, factor in found.factors.items():
        bound = 200 * EPS * true[name].abs().max()
        assert (repaired[name] - factor.value * true[name]).abs().max() <= bound, name


def test_what_was_legal_keeps_its_scales():
    torch.manual_seed(0)
    model = residual()
    separate_on_bridges_(model, torch.randn(3, WIDTH))
    assert [m[1].scaling for m in (model[0], model[1].block, model[2])] == [
        "separate",
        "forward",
        "separate",
    ]


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="must depend on a parameter"):
        check(nnp.ReLU(), torch.randn(3, 4))
