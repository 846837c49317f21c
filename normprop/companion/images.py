"""Two networks for images, as people write them, and what is done to them before training.

``"vgg"`` is a chain of 21 convolutions in three stages, with max pooling between them and a linear
head; ``"resnet"`` is the ResNet-26 of He et al. (2016) for small images, with the basic blocks of
torchvision.  Both begin at ``width`` channels and double them at each of the two halvings.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import normprop

LAYERS = {"vgg": 21, "resnet": 26}
"""Kinds of network, and their layers as their names count them: the chain without its head."""
ACTIVATIONS_BELOW = {"vgg": 21, "resnet": 25}
"""Activations on the longest path."""
STAGES = 3
SLOPE = 0.8
"""Of the leaky ReLU, for negative inputs."""
METHODS = ("plain", "he", "batchnorm", "calibrated", "converted", "dropped")
ACTIVATIONS = {
    "relu": partial(nn.ReLU, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, SLOPE, inplace=True),
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True)
class Parts:
    """What a network is made of; by default layers of torch, and no normalisation.

    Attributes:
        convolution, linear, max_pool, average_pool: constructors.
        activation: makes an activation.
        normalization: makes what follows a convolution, of its channels, or ``None``.
        join: gives the sum of a branch and of the way around it.
    """

    convolution: Callable[..., nn.Module] = nn.Conv2d
    linear: Callable[..., nn.Module] = nn.Linear
    max_pool: Callable[..., nn.Module] = nn.MaxPool2d
    average_pool: Callable[..., nn.Module] = nn.AdaptiveAvgPool2d
    activation: Callable[[], nn.Module] = ACTIVATIONS["relu"]
    normalization: Callable[[int], nn.Module] | None = None
    join: Callable[[Tensor, Tensor], Tensor] = operator.iadd

    def convolved(self, inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
        """A convolution that keeps the image, or thins it out, with its normalisation."""
        bias = self.normalization is None
        map_ = self.convolution(inputs, outputs, size, stride=stride, padding=size // 2, bias=bias)
        return [map_] if bias else [map_, self.normalization(outputs)]


class VGG(nn.Module):
    """A chain of 3×3 convolutions in three stages and a linear head.

    Args:
        side: of the square images, which have one channel.
        classes: number of outputs.
        width: channels of the first stage.
        parts: what it is made of.
    """

    def __init__(self, side: int, classes: int, width: int, parts: Parts) -> None:
        super().__init__()
        layers, channels = [], 1
        for stage in range(STAGES):
            if stage:
                layers.append(parts.max_pool(2))
            for _ in range(LAYERS["vgg"] // STAGES):
                layers += parts.convolved(channels, width << stage, 3)
                layers.append(parts.activation())
                channels = width << stage
        self.features = nn.Sequential(*layers)
        self.classifier = parts.linear(channels * (side >> STAGES - 1) ** 2, classes)

    def forward(self, input: Tensor) -> Tensor:
        """Logits of shape (N, classes) of images of shape (N, 1, side, side)."""
        return self.classifier(torch.flatten(self.features(input), 1))


class BasicBlock(nn.Module):
    """Two convolutions and the way around them, a 1×1 convolution where the shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int, parts: Parts) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*parts.convolved(inputs, outputs, 3, stride))
        self.conv2 = nn.Sequential(*parts.convolved(outputs, outputs, 3))
        self.relu = parts.activation()
        self.join = parts.join
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(*parts.convolved(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of shape (N, outputs, height/stride, width/stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.conv2(self.relu(self.conv1(x)))
        out = self.join(out, identity)
        return self.relu(out)


class ResNet(nn.Module):
    """A convolution, three stages of four basic blocks, the average over the image, a linear head.

    The arguments are those of :class:`VGG`, but for ``side``: it takes images of any size.
    """

    def __init__(self, classes: int, width: int, parts: Parts) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*parts.convolved(1, width, 3))
        self.relu = parts.activation()
        blocks, channels = [], width
        for stage in range(STAGES):
            for block in range((LAYERS["resnet"] - 2) // (2 * STAGES)):
                stride = 2 if stage and not block else 1
                blocks.append(BasicBlock(channels, width << stage, stride, parts))
                channels = width << stage
        self.layers = nn.Sequential(*blocks)
        self.avgpool = parts.average_pool(1)
        self.fc = parts.linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (N, classes) of images of shape (N, 1, height, width)."""
        x = self.layers(self.relu(self.conv1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def build(
    method: str,
    activation: str,
    kind: str,
    example: Tensor,
    classes: int,
    width: int,
    *,
    growth: float = math.e,
    orthogonal: bool = False,
    ball: str = "normalize",
) -> nn.Module:
    r"""One of the two networks, made ready for training by a method.

    - ``"plain"``: as torch initialises it.
    - ``"he"``: weights of convolutions of standard deviation gain/√fan-in, with the gain of
      torch's ``calculate_gain``, √2 for GELU as for ReLU, and biases of 0.
    - ``"batchnorm"``: the same weights, and BatchNorm behind each convolution, which has no bias
      then.
    - ``"calibrated"``: written with ``normprop.nn``: forward scaling,
      :class:`normprop.nn.Calibrated` for as many activations as the longest path has, and
      :func:`normprop.functional.residual` for the sums.
    - ``"converted"``: what :func:`normprop.convert` makes of ``"plain"``.
    - ``"dropped"``: what it makes of the network of ``"batchnorm"`` without its BatchNorm.

    Args:
        method: one of ``METHODS``.
        activation: one of ``ACTIVATIONS``.
        kind: one of ``LAYERS``.
        example: images of shape (N, 1, side, side).
        classes: number of outputs.
        width: channels of the first stage.
        growth: of the squared gradient over the whole depth, for the last three methods.
        orthogonal: whether the weights of convolutions begin as orthogonal matrices, from all that
            an output sees to the outputs, at the scale that they would have.
        ball: how weights of ``normprop.nn`` stay on their ball: ``"normalize"`` or
            ``"project"``, which :func:`normprop.companion.training.train` sees to.

    Raises:
        ValueError: a name is unknown, a size is less than 1, or the images are too small for two
            halvings.
    """
    _check(method, activation, kind, side=example.shape[-1], classes=classes, width=width)
    network = partial(_network, kind, example.shape[-1], classes, width)
    if method == "calibrated":
        model = network(_calibrated(activation, kind, growth, ball))
    else:
        normalization = nn.BatchNorm2d if method in ("batchnorm", "dropped") else None
        model = network(Parts(activation=ACTIVATIONS[activation], normalization=normalization))
    if method in ("he", "batchnorm", "dropped"):
        _take_hes_weights(model, activation)
    if orthogonal:
        _make_orthogonal(model)
    if method in ("converted", "dropped"):
        options = {"normalization": "drop"} if method == "dropped" else {}
        model = normprop.convert(model, example, growth=growth, method=ball, **options)
    return model


def _network(kind: str, side: int, classes: int, width: int, parts: Parts) -> nn.Module:
    if kind == "vgg":
        return VGG(side, classes, width, parts)
    return ResNet(classes, width, parts)


def _calibrated(activation: str, kind: str, growth: float, ball: str) -> Parts:
    forward = {"scaling": "forward"}
    maps = {"scaling": "forward", "method": ball}
    # χ of ReLU at mean 0 is π/(π - 1) at every scale, so that its mean has to move.
    vary = "std" if activation == "tanh" else "mean"
    options = {"depth": ACTIVATIONS_BELOW[kind], "growth": growth, "vary": vary}
    return Parts(
        partial(normprop.nn.Conv2d, **maps),
        partial(normprop.nn.Linear, **maps),
        partial(normprop.nn.MaxPool2d, **forward),
        partial(normprop.nn.AdaptiveAvgPool2d, **forward),
        partial(normprop.nn.Calibrated, activation, **options),
        join=normprop.functional.residual,
    )


@torch.no_grad()
def _take_hes_weights(model: nn.Module, activation: str) -> None:
    known = "relu" if activation == "gelu" else activation
    gain = nn.init.calculate_gain(known, SLOPE)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.normal_(std=gain / math.sqrt(layer.weight[0].numel()))
            if layer.bias is not None:
                layer.bias.zero_()


@torch.no_grad()
def _make_orthogonal(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            scale = layer.weight.square().mean().sqrt()
            nn.init.orthogonal_(layer.weight)
            layer.weight *= scale / layer.weight.square().mean().sqrt()


def _check(method: str, activation: str, kind: str, **sizes: int) -> None:
    for name, value, known in (
        ("method", method, METHODS),
        ("activation", activation, ACTIVATIONS),
        ("kind", kind, LAYERS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; it was {value!r}")
    if method == "calibrated" and activation == "leaky_relu":
        raise ValueError("activation must be no leaky ReLU for 'calibrated'; it was 'leaky_relu'")
    for name, value in sizes.items():
        least = 1 << STAGES - 1 if name == "side" else 1
        if value < least:
            raise ValueError(f"{name} must be at least {least}; it was {value}")
