"""The networks that are trained: one shape, every method's layers in it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

import normprop
from benchmarks import peers

METHODS = (
    "plain",
    "naive",
    "naive activations",
    "normprop",
    "normprop projected",
    "batchnorm",
    "layernorm",
    "groupnorm",
    "weight standardisation",
    "unit-scaling",
)
GROUPS = 8


class Kit:
    """The layers of one method.

    - ``"plain"``: layers of torch.nn, no normalisation.
    - ``"naive"``: (f(x) - μ)/σ and weights over their norms, in plain operations.
    - ``"naive activations"``: those activations, maps of torch.nn.
    - ``"normprop"``: layers of ``normprop.nn`` at their defaults; ``"normprop projected"`` with
      weights that go back to their ball after each step instead of in each forward pass.  Whole
      networks of them run as ``convert`` leaves one, with ``batch_weights_``.
    - ``"batchnorm"``, ``"layernorm"``, ``"groupnorm"``: that normalisation between map and
      activation, and no bias in the map.  For images LayerNorm is GroupNorm with one group.
    - ``"weight standardisation"``: as in normaliser-free networks.
    - ``"unit-scaling"``: layers of that package; linear maps, GELU and SiLU only.

    Args:
        method: one of ``METHODS``.
        activation: a class of ``torch.nn``, such as ``"ReLU"``.

    Raises:
        UnavailableError: the method's package is not installed.
        ValueError: the method has no such layers.
    """

    def __init__(self, method: str, activation: str) -> None:
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; it was {method!r}")
        self.method, self.activation = method, activation
        self.ours = method.startswith("normprop")
        self.normalised = method in ("batchnorm", "layernorm", "groupnorm")
        if method == "unit-scaling":
            peers.unit_scaling()

    def act(self) -> nn.Module:
        """The activation."""
        twin = getattr(nn, self.activation)()
        if self.ours:
            return getattr(normprop.nn, self.activation)()
        if self.method.startswith("naive"):
            return peers.naive(twin)
        if self.method == "weight standardisation":
            return peers.ScaledActivation(twin, 1 / normprop.moments(twin).fwd_std)
        if self.method == "unit-scaling":
            return peers.unit_activation(self.activation.lower())
        return twin

    def conv(self, inputs: int, outputs: int, kernel: int, **options) -> list[nn.Module]:
        """A convolution and its normalisation."""
        kinds = {"naive": peers.NaiveConv2d, "weight standardisation": peers.StandardizedConv2d}
        if self.method == "unit-scaling":
            raise ValueError("unit-scaling has no Conv2d")
        kind = normprop.nn.Conv2d if self.ours else kinds.get(self.method, nn.Conv2d)
        conv = kind(inputs, outputs, kernel, bias=not self.normalised, **options, **self._options())
        norms = {
            "batchnorm": lambda: nn.BatchNorm2d(outputs),
            "layernorm": lambda: nn.GroupNorm(1, outputs),
            "groupnorm": lambda: nn.GroupNorm(GROUPS, outputs),
        }
        return [_initialised(conv), *([norms[self.method]()] if self.normalised else [])]

    def linear(self, inputs: int, outputs: int) -> list[nn.Module]:
        """A linear map and its normalisation."""
        if self.method == "unit-scaling":
            return [peers.unit_scaling().Linear(inputs, outputs, bias=True)]
        linear = self._linear_kind()(inputs, outputs, bias=not self.normalised, **self._options())
        return [_initialised(linear), *self.norm(outputs)]

    def norm(self, features: int) -> list[nn.Module]:
        """The normalisation of features, over the last dimension or over all others."""
        if self.method == "batchnorm":
            return [_RowsNorm(features)]
        return [nn.LayerNorm(features)] if self.method == "layernorm" else []

    def head(self, inputs: int, outputs: int) -> nn.Module:
        """The last linear map, which nothing follows."""
        return self._linear_kind()(inputs, outputs, **self._options())

    def pool(self, kernel: int, **options) -> nn.Module:
        """Maximum pooling."""
        return nn.MaxPool2d(kernel, **options)

    def share(self, blocks: int) -> float:
        """Factor of a branch where it joins the skip path.

        1 where branches are normalised by statistics or not at all.  The others take 1/√blocks,
        so that so many branches of unit variance at most add 1 to the variance.
        """
        return 1.0 if self.normalised or self.method == "plain" else blocks**-0.5

    def _linear_kind(self) -> type[nn.Linear]:
        if self.ours:
            return normprop.nn.Linear
        return peers.NaiveLinear if self.method == "naive" else nn.Linear

    def _options(self) -> dict:
        if not self.ours:
            return {}
        return {"method": "project" if self.method == "normprop projected" else "normalize"}


class _RowsNorm(nn.BatchNorm1d):
    """BatchNorm over all dimensions but the last, of inputs of any shape (…, features)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.reshape(-1, self.num_features)).view(input.shape)


class Join(nn.Module):
    """skip(x) + share·branch(x), one pass over memory whatever the share."""

    def __init__(self, branch: nn.Module, skip: nn.Module, share: float) -> None:
        super().__init__()
        self.branch, self.skip, self.share = branch, skip, share

    def forward(self, input: Tensor) -> Tensor:
        return torch.add(self.skip(input), self.branch(input), alpha=self.share)


def resnet18(kit: Kit, width: int = 64, classes: int = 10) -> nn.Module:
    """ResNet-18 (He et al. 2016): 7×7 stem, four stages of two blocks of two 3×3 convolutions."""
    layers = [
        *kit.conv(3, width, 7, stride=2, padding=3),
        kit.act(),
        kit.pool(3, stride=2, padding=1),
    ]
    inputs = width
    for stage in range(4):
        outputs = width << stage
        for block in range(2):
            stride = 2 if stage and not block else 1
            branch = nn.Sequential(
                *kit.conv(inputs, outputs, 3, stride=stride, padding=1),
                kit.act(),
                *kit.conv(outputs, outputs, 3, padding=1),
            )
            skip = nn.Identity()
            if stride != 1 or inputs != outputs:
                skip = nn.Sequential(*kit.conv(inputs, outputs, 1, stride=stride))
            layers += [Join(branch, skip, kit.share(8)), kit.act()]
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), kit.head(inputs, classes))


def vgg16(kit: Kit, width: int = 64, classes: int = 10) -> nn.Module:
    """The 13 convolutions of VGG-16 (Simonyan and Zisserman 2015) and one linear map."""
    layers: list[nn.Module] = []
    inputs = 3
    for repeats, times in ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8)):
        for _ in range(repeats):
            layers += [*kit.conv(inputs, width * times, 3, padding=1), kit.act()]
            inputs = width * times
        layers.append(kit.pool(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), kit.head(inputs, classes))


def dense(kit: Kit, depth: int = 32, width: int = 256, classes: int = 10) -> nn.Module:
    """A chain of linear maps and activations."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [*kit.linear(width, width), kit.act()]
    return nn.Sequential(*layers, kit.head(width, classes))


def transformer(
    kit: Kit, depth: int = 4, width: int = 128, heads: int = 4, vocabulary: int = 256
) -> nn.Module:
    """Blocks of attention and a perceptron of four times the width, normalised before each."""
    layers: list[nn.Module] = [nn.Embedding(vocabulary, width)]
    share = kit.share(2 * depth)
    for _ in range(depth):
        attention = [*kit.norm(width), Attention(kit, width, heads)]
        perceptron = [
            *kit.norm(width),
            _bare(kit, width, 4 * width),
            kit.act(),
            _bare(kit, 4 * width, width),
        ]
        layers += [
            Join(nn.Sequential(*branch), nn.Identity(), share) for branch in (attention, perceptron)
        ]
    return nn.Sequential(*layers, *kit.norm(width), kit.head(width, vocabulary))


class Attention(nn.Module):
    """Causal self-attention: one map to queries, keys and values, one back."""

    def __init__(self, kit: Kit, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.into, self.out = _bare(kit, width, 3 * width), _bare(kit, width, width)

    def forward(self, input: Tensor) -> Tensor:
        rows, length, width = input.shape
        shape = (rows, length, 3, self.heads, width // self.heads)
        q, k, v = self.into(input).view(shape).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(rows, length, width))


def conv_block(kit: Kit, channels: int = 64) -> nn.Module:
    """A 3×3 convolution and an activation."""
    return nn.Sequential(*kit.conv(channels, channels, 3, padding=1), kit.act())


def linear_block(kit: Kit, width: int = 512) -> nn.Module:
    """A linear map and an activation."""
    return nn.Sequential(*kit.linear(width, width), kit.act())


def terms(model: nn.Module) -> int:
    """The largest number of products in one sum of the model's forward pass."""
    return max(
        (
            math.prod(p.shape[1:])
            for m in model.modules()
            for n, p in m.named_parameters(recurse=False)
            if n == "weight" and p.ndim > 1 and not isinstance(m, nn.Embedding)
        ),
        default=1,
    )


def _bare(kit: Kit, inputs: int, outputs: int) -> nn.Module:
    # In a block that is normalised at its beginning, maps have no normalisation of their own.
    return kit.linear(inputs, outputs)[0]


def _initialised(layer: nn.Module) -> nn.Module:
    # He's weights for all, so that no method's signals fade into denormal numbers, which are slow.
    nn.init.kaiming_normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    if isinstance(layer, normprop.nn.Linear | normprop.nn.Conv2d):
        normprop.nn.project_(layer)
    return layer


Build = Callable[[Kit], nn.Module]
