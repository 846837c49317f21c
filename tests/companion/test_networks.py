"""Every method builds every network, and has at initialisation the scales that it promises."""

import math

import pytest
import torch
from torch import nn

import normprop
from normprop.companion import networks
from normprop.companion.methods import METHODS
from normprop.companion.networks import ACTIVATIONS, KINDS, build

# Widths at which the scale of one network is that of the average one, to what SPREAD allows.
WIDTH, DEPTH, SAMPLES = 512, 5, 256
SPREAD = 0.25
"""Layers of width n change the variance by a random factor of relative deviation of order √(c/n),
c ≈ 5 for ReLU; over five layers of 512 that is 0.22 of the variance, 0.11 of the deviation.  A
forgotten factor is at least 1.17 a layer, 2.2 over five."""


def scales(method, activation, residual=False):
    """Deviation of the last layer's output, and of the gradient at the first's, from the last."""
    torch.manual_seed(1)
    model = build(method, activation, DEPTH + 1, WIDTH, 10, WIDTH, residual=residual)
    first = hidden = model[0](torch.randn(SAMPLES, WIDTH)).detach().requires_grad_()
    for layer in model[1:-1]:
        hidden = layer(hidden)
    hidden.backward(torch.randn_like(hidden))
    return hidden.std().item(), first.grad.std().item()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_every_network_builds_and_has_gradients(method, activation, kind, residual):
    if (residual and not METHODS[method].skips) or (not residual and not METHODS[method].chain):
        with pytest.raises(ValueError, match=f"method '{method}' must have (no )?skips"):
            build(method, activation, 3, 6, 7, 25, kind, residual)
        return
    # TAT asks more of a leaky ReLU than few layers can be, and than any number behind skips.
    depth = 20 if (method, activation) == ("tat", "relu") else 3
    if depth == 20 and residual:
        with pytest.raises(ValueError, match="floor must be below what ReLU reaches in 20 layers"):
            build(method, activation, depth, 6, 7, 25, kind, residual)
        return
    model = build(method, activation, depth, 6, 7, 25, kind, residual)
    shape = (4, 25) if kind == "dense" else (4, 1, 5, 5)
    output = model(torch.randn(shape))
    assert output.shape == (4, 7)
    nn.functional.cross_entropy(output, torch.arange(4)).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    # A branch that begins at 0 sends nothing to what stands before its multiplier.
    assert all(p.grad.any() for p in model[-1].parameters())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("method", ["forward", "separate-layer", "separate-neuron", "calibrated"])
def test_the_signal_keeps_unit_variance(method, activation):
    assert scales(method, activation)[0] == pytest.approx(1, rel=SPREAD)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("method", ["separate-layer", "separate-neuron"])
def test_the_gradient_keeps_unit_variance(method, activation):
    assert scales(method, activation)[1] == pytest.approx(1, rel=SPREAD)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradient_grows_by_chi_under_the_forward_scale(activation):
    moments = normprop.moments(activation)
    growth = (moments.bwd_std / moments.fwd_std) ** DEPTH
    assert scales("forward", activation)[1] == pytest.approx(growth, rel=SPREAD)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_calibration_gives_the_growth_asked_for(activation):
    # e over all DEPTH + 1 layers, of which the gradient passes DEPTH; its square root for the
    # deviation.
    growth = math.exp(0.5 * DEPTH / (DEPTH + 1))
    assert scales("calibrated", activation)[1] == pytest.approx(growth, rel=SPREAD)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("method", ["forward", "separate-layer", "separate-bridge"])
def test_residual_networks_keep_unit_variance(method, activation):
    assert scales(method, activation, residual=True)[0] == pytest.approx(1, rel=SPREAD)


def test_unit_scaling_keeps_both_where_nothing_has_to_be_subtracted():
    # tanh has mean 0.
    assert scales("unit-scaling", "tanh") == pytest.approx((1, 1), rel=SPREAD)


def test_he_keeps_the_second_moment_of_relu():
    torch.manual_seed(0)
    model = build("he", "relu", DEPTH, WIDTH, 10, WIDTH)
    hidden = model[:-1](torch.randn(SAMPLES, WIDTH))
    # A gain of √2 doubles the second moment, and ReLU halves it.
    assert hidden.square().mean().item() == pytest.approx(1, rel=2 * SPREAD)


def plain_moments(activation, second_moment):
    """E f² and E f'² at N(0, q)."""
    at = normprop.moments(activation, 0.0, math.sqrt(second_moment))
    return at.fwd_std**2 + at.fwd_mean**2, at.bwd_std**2


@pytest.mark.parametrize(("activation", "fixed"), [("relu", 1.0), ("gelu", 3.56155281)])
def test_the_critical_gain_makes_the_squared_gradient_grow_by_one(activation, fixed):
    gain, bias = networks.CRITICAL[activation]
    signal, slope = plain_moments(activation, fixed)
    assert gain**2 * slope == pytest.approx(1, abs=1e-8)
    assert gain**2 * signal + bias**2 == pytest.approx(fixed, abs=1e-7)


def test_the_critical_point_of_tanh_is_its_slope_at_zero():
    # Both maps to the first order in q: E tanh² ≈ q and E tanh'² ≈ 1.
    signal, slope = plain_moments("tanh", 1e-8)
    gain, bias = networks.CRITICAL["tanh"]
    assert (gain**2 * slope, gain**2 * signal / 1e-8) == pytest.approx((1, 1), rel=1e-7)
    assert bias == 0


def test_the_critical_point_of_gelu_is_that_of_its_source():
    # Roberts, Yaida, Hanin 2022: C_W = 1.98305 and C_b = 0.17292.
    gain, bias = networks.CRITICAL["gelu"]
    assert (gain**2, bias**2) == pytest.approx((1.98305, 0.17292), abs=1e-5)


def test_a_critical_sigmoid_is_half_a_tanh_of_half():
    torch.manual_seed(0)
    one = build("critical", "sigmoid", 4, 6, 3, 25)
    torch.manual_seed(0)
    other = build("critical", "tanh", 4, 6, 3, 25)
    inputs = torch.randn(8, 25)
    # sigmoid(4x) - ½ = ½ tanh(2x), on the same weights without their factor 4.
    hidden = 0.5 * torch.tanh(2 * other[0][0](inputs))
    for layer in other[1:-1]:
        hidden = 0.5 * torch.tanh(2 * layer[0](hidden))
    torch.testing.assert_close(one[:-1](inputs) - 0.5, hidden)


def gradients(model, inputs):
    model.zero_grad()
    model(inputs).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def cosines(method, residual):
    """Cosine between each parameter's gradient and that of the forward scale's true one."""
    first, truth = (
        build(name, "relu", 6, 16, 5, 16, residual=residual).double()
        for name in (method, "forward")
    )
    if method != "separate-neuron":
        # One norm a layer is not one a neuron: rows of equal norm make the networks the same.
        with torch.no_grad():
            for layer in truth.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight /= layer.weight.norm(dim=1, keepdim=True)
            for layer in truth.modules():
                if isinstance(layer, normprop.nn.Linear):
                    layer.per = "layer"
    first.load_state_dict(truth.state_dict())
    inputs = torch.randn(8, 16, dtype=torch.float64)
    one, other = gradients(first, inputs), gradients(truth, inputs)
    return {
        name: nn.functional.cosine_similarity(one[name].flatten(), other[name].flatten(), dim=0)
        for name in one
    }


@pytest.mark.parametrize("residual", [False, True])
def test_separation_at_bridges_turns_no_gradient(residual):
    for name, cosine in cosines("separate-bridge", residual).items():
        # Rounding of sums of float64, with room for a hundred of them.
        assert 1 - cosine < 1e-12, name


def test_separation_inside_residual_blocks_turns_gradients():
    assert min(cosines("separate-layer", residual=True).values()) < 1 - 1e-6


def test_bridges_on_a_chain_are_all_layers():
    torch.manual_seed(0)
    one = build("separate-bridge", "relu", 4, 8, 3, 8)
    torch.manual_seed(0)
    other = build("separate-layer", "relu", 4, 8, 3, 8)
    inputs = torch.randn(5, 8)
    left, right = gradients(one, inputs), gradients(other, inputs)
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("kind", KINDS)
def test_unit_scaled_weights_have_gradients_of_unit_variance(kind):
    torch.manual_seed(0)
    if kind == "dense":
        layer, inputs = networks.UnitLinear(200, 100), torch.randn(300, 200)
    else:
        layer = networks.UnitConv2d(20, 10, 3, padding=1)
        inputs = torch.randn(50, 20, 12, 12)
    networks._initialise(layer, 1.0, unit=True, orthogonal=False)
    inputs.requires_grad_()
    output = layer(inputs)
    output.backward(torch.randn_like(output))
    # Padding leaves out up to 1/9 of the terms on the border of the image, 5 % of all; the
    # bias has the fewest elements, and 100 or 10 normals know their deviation to 7 or 22 %.
    for value, tolerance in (
        (output, 0.1),
        (inputs.grad, 0.1),
        (layer.weight.grad, 0.1),
        (layer.bias.grad, 0.3 if kind == "dense" else 1.0),
    ):
        assert value.square().mean().sqrt().item() == pytest.approx(1, rel=tolerance)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_unit_of_rates_makes_unit_scaled_steps_as_large_as_plain_ones(optimizer):
    torch.manual_seed(0)
    fan_in, samples = 16, 32
    plain, unit = nn.Linear(fan_in, 8), networks.UnitLinear(fan_in, 8)
    networks._initialise(plain, 1.0, unit=False, orthogonal=False)
    with torch.no_grad():
        unit.weight.copy_(plain.weight * math.sqrt(fan_in))
        unit.bias.zero_()
    inputs, upstream = torch.randn(samples, fan_in), torch.randn(samples, 8)
    for layer, name in ((plain, "he"), (unit, "unit-scaling")):
        rate = 0.01 * networks.rate_unit(name, optimizer, fan_in, samples)
        chosen = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
        stepper = chosen([layer.weight], rate)
        layer(inputs).backward(upstream)
        stepper.step()
    # float32, and Adam's ε of 1e-8 beside gradients of order 1.
    torch.testing.assert_close(unit.weight / math.sqrt(fan_in), plain.weight)


@pytest.mark.parametrize("method", ["he", "forward", "calibrated"])
def test_orthogonal_weights_are_orthogonal(method):
    model = build(method, "tanh", 2, 16, 4, 16, orthogonal=True, ball="project")
    weight = model[0][0].weight.detach()
    gram = weight @ weight.T
    # Orthogonality of a QR decomposition in float32.
    assert (gram / gram[0, 0] - torch.eye(16)).abs().max() < 1e-5


def test_stride_counts_in_the_fan_out():
    weight = torch.zeros(8, 4, 3, 3)
    assert networks._fans(weight, (2, 2)) == (36, 18)
    assert networks._fans(torch.zeros(8, 4), (1,)) == (4, 8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "kaiming"}, "method must be one of he, .*; it was 'kaiming'"),
        ({"activation": "silu"}, "activation must be one of relu, .*; it was 'silu'"),
        ({"kind": "sparse"}, "kind must be one of dense, conv; it was 'sparse'"),
        ({"depth": 0}, "depth must be at least 1; it was 0"),
        ({"kind": "conv", "in_features": 24}, "in_features must be a square .*; it was 24"),
    ],
)
def test_a_wrong_argument_is_refused(changed, message):
    settings = {
        "method": "he",
        "activation": "relu",
        "depth": 2,
        "width": 4,
        "classes": 3,
        "in_features": 16,
    }
    with pytest.raises(ValueError, match=message):
        build(**{**settings, **changed})
