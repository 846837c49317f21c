"""The two networks for images: what their names say, at scales that their methods promise."""

import itertools
import math

import pytest
import torch
from torch import nn

import normprop
from normprop.companion import images
from normprop.companion.images import ACTIVATIONS, LAYERS, METHODS, build

EXAMPLE = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CONVERTED = ("converted", "dropped")
PAIRS = [
    (method, activation)
    for method in METHODS
    for activation in ACTIVATIONS
    # A conversion takes seconds, whatever the activation.
    if activation == "relu" or method not in ("calibrated", *CONVERTED)
]
PAIRS += [("calibrated", "gelu"), ("calibrated", "tanh"), ("converted", "leaky_relu")]


def maps(model, size=(3, 3)):
    return [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == size]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("method", "activation"), PAIRS)
def test_every_network_builds_and_has_gradients(method, activation, kind):
    model = build(method, activation, kind, EXAMPLE, 7, 4)
    output = model(EXAMPLE)
    assert output.shape == (3, 7)
    nn.functional.cross_entropy(output, torch.arange(3)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    has = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert has == (method == "batchnorm")
    if method in CONVERTED:
        assert normprop.report(model).converted


@pytest.mark.parametrize("method", ["plain", "batchnorm", "calibrated"])
def test_layers_are_as_many_as_the_names_say(method):
    chain = build(method, "relu", "vgg", EXAMPLE, 10, 4)
    assert len(maps(chain)) == LAYERS["vgg"] == 21
    resnet = build(method, "relu", "resnet", EXAMPLE, 10, 4)
    # The head is the last of them, and ways around blocks are in no name.
    assert len(maps(resnet)) + 1 == LAYERS["resnet"] == 26
    assert len(maps(resnet, (1, 1))) == 2
    for model in (chain, resnet):
        assert {layer.out_channels for layer in maps(model)} == {4, 8, 16}


@pytest.mark.parametrize("kind", LAYERS)
def test_activations_are_as_many_as_the_calibration_counts(kind):
    model, calls = build("calibrated", "relu", kind, EXAMPLE, 10, 4), []
    for module in model.modules():
        if isinstance(module, normprop.nn.Calibrated):
            assert module.depth == images.ACTIVATIONS_BELOW[kind]
            module.register_forward_hook(lambda *_: calls.append(1))
    model(EXAMPLE)
    assert len(calls) == images.ACTIVATIONS_BELOW[kind]


@pytest.mark.parametrize(("activation", "square"), [("relu", 2), ("leaky_relu", 2 / 1.64)])
@pytest.mark.parametrize("method", ["he", "batchnorm"])
def test_weights_are_hes(method, activation, square):
    torch.manual_seed(0)
    for layer in maps(build(method, activation, "vgg", EXAMPLE, 10, 16))[1:]:
        count = layer.weight.numel()
        found = layer.weight.square().mean().item() * layer.weight[0].numel()
        # The mean square of so many normal numbers, at five standard errors.
        assert found == pytest.approx(square, rel=5 * math.sqrt(2 / count))
        assert (layer.bias is None) == (method == "batchnorm")
        assert layer.bias is None or not layer.bias.any()


def test_batchnorm_stands_behind_every_convolution():
    for kind in LAYERS:
        modules = list(build("batchnorm", "relu", kind, EXAMPLE, 10, 4).modules())
        behind = [b for a, b in itertools.pairwise(modules) if isinstance(a, nn.Conv2d)]
        assert behind
        assert all(isinstance(module, nn.BatchNorm2d) for module in behind)


def test_the_sum_by_hand_keeps_its_variance():
    block = images.BasicBlock(4, 4, 1, images._calibrated("relu", "resnet", math.e, "normalize"))
    block.conv2, block.relu = nn.Identity(), nn.Identity()
    block.conv1 = nn.Identity()
    output = block(EXAMPLE)
    # Branch and way around are the same here, each at √½.
    torch.testing.assert_close(output, math.sqrt(2) * EXAMPLE)


@pytest.mark.parametrize("method", ["plain", "he", "batchnorm", "calibrated"])
def test_orthogonal_weights_are_orthogonal_at_the_same_scale(method):
    drawn, rows = (
        maps(build(method, "relu", "vgg", EXAMPLE, 10, 8, orthogonal=orthogonal))[8].weight
        for orthogonal in (False, True)
    )
    scale, rows = drawn.square().mean().item(), rows.detach().flatten(1)
    gram = rows @ rows.T / rows.square().sum(1).mean()
    # Orthogonality of a QR decomposition in float32.
    assert (gram - torch.eye(len(rows))).abs().max() < 1e-5
    # The mean square of so many random numbers, at five standard errors.
    assert rows.square().mean().item() == pytest.approx(scale, rel=5 * (2 / drawn.numel()) ** 0.5)


def test_a_converted_network_has_the_weights_of_the_plain_one():
    models = []
    for method in ("plain", "converted"):
        torch.manual_seed(3)
        models.append(build(method, "relu", "vgg", EXAMPLE, 10, 4))
    for one, other in zip(*map(maps, models), strict=True):
        ratio = one.weight / other.weight
        # Their norms are the converted layer's own, a row at a time.
        assert (ratio / ratio.flatten(1)[:, :1, None, None] - 1).abs().max() < 1e-5


def test_the_ball_is_as_asked_for():
    for ball in ("normalize", "project"):
        model = build("calibrated", "relu", "resnet", EXAMPLE, 10, 4, ball=ball)
        assert {layer.method for layer in (*maps(model), model.fc)} == {ball}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "kaiming"}, "method must be one of plain, .*; it was 'kaiming'"),
        ({"activation": "silu"}, "activation must be one of relu, .*; it was 'silu'"),
        ({"kind": "unet"}, "kind must be one of vgg, resnet; it was 'unet'"),
        ({"width": 0}, "width must be at least 1; it was 0"),
        ({"example": EXAMPLE[..., :3]}, "side must be at least 4; it was 3"),
        ({"method": "calibrated", "activation": "leaky_relu"}, "it was 'leaky_relu'"),
    ],
)
def test_a_wrong_argument_is_refused(changed, message):
    settings = {"method": "he", "activation": "relu", "kind": "vgg", "example": EXAMPLE}
    with pytest.raises(ValueError, match=message):
        build(**{**settings, "classes": 3, "width": 4, **changed})
