"""Networks that folding and fusing have to get through, small and in float64."""

import torch
from torch import Tensor, nn

import normprop
import normprop.nn as nnp

WIDTH = 8


def options(scaling="backward", per="neuron"):
    """Arguments of maps, and of layers without weights."""
    return {"scaling": scaling, "per": per}, {"scaling": scaling}


class Block(nn.Module):
    """A residual block; ``order`` says where its activations stand."""

    def __init__(self, order, maps, acts, activation=nnp.ReLU, stride=1, inplace=False):
        super().__init__()
        self.one = nnp.Conv2d(WIDTH, WIDTH, 3, stride, 1, bias=False, **maps)
        self.two = nnp.Conv2d(WIDTH, WIDTH, 3, 1, 1, bias=False, **maps)
        self.act = activation(**acts)
        self.skip = nnp.Conv2d(WIDTH, WIDTH, 1, stride, **maps) if stride > 1 else nn.Identity()
        self.order, self.inplace = order, inplace

    def forward(self, x):
        if self.order == "pre":
            return self.skip(x) + self.two(self.act(self.one(self.act(x))))
        y = self.two(self.act(self.one(x)))
        if self.inplace:
            y += self.skip(x)
        else:
            y = torch.add(y, self.skip(x))
        return self.act(y)


class Dense(nn.Module):
    """What a layer gives, beside what it got."""

    def __init__(self, inputs, outputs, maps, activation):
        super().__init__()
        self.map = nnp.Linear(inputs, outputs, **maps)
        self.activation = activation

    def forward(self, x):
        return torch.cat([x, self.activation(self.map(x))], 1)


class Mixed(nn.Module):
    """√¾·x + ½·layer(x), with numbers of Python."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return 0.75**0.5 * x + self.layer(x) / 2 - 0.25


class Alpha(Mixed):
    """x + ½·layer(x) - 0.2, by the factor that torch's sums have."""

    def forward(self, x):
        return torch.sub(torch.add(x, self.layer(x), alpha=0.5), 0.1, alpha=2)


class Called(nn.Module):
    """A function in the middle of two layers."""

    def __init__(self, before, function, after):
        super().__init__()
        self.before, self.function, self.after = before, function, after

    def forward(self, x):
        return self.after(self.function(self.before(x)))


class Twice(nn.Module):
    """One map and one activation, called again behind something else."""

    def __init__(self, maps, acts, between):
        super().__init__()
        self.map, self.act = nnp.Linear(WIDTH, WIDTH, **maps), nnp.ReLU(**acts)
        self.between = between
        self.head = nnp.Linear(WIDTH, 3, **maps)

    def forward(self, x):
        return self.head(self.act(self.map(self.between(self.act(self.map(x))))))


def mlp(maps, acts):
    return nn.Sequential(
        nnp.Linear(6, WIDTH, **maps), nnp.ReLU(**acts), nnp.Linear(WIDTH, WIDTH, **maps),
        nnp.Tanh(**acts), nnp.Linear(WIDTH, WIDTH, bias=False, **maps), nnp.Sigmoid(**acts),
        nnp.Linear(WIDTH, WIDTH, **maps), nnp.GELU(**acts), nnp.Linear(WIDTH, WIDTH, **maps),
        nnp.SiLU(**acts, mean=0.3, std=2.0), nnp.Linear(WIDTH, 3, **maps),
    )  # fmt: skip


def ends_in_an_activation(maps, acts):
    return nn.Sequential(nnp.Linear(6, WIDTH, **maps), nnp.Tanh(**acts))


def begins_with_an_activation(maps, acts):
    return nn.Sequential(nnp.ReLU(**acts), nnp.Linear(6, WIDTH, **maps))


def activations_in_a_row(maps, acts):
    return nn.Sequential(
        nnp.Linear(6, WIDTH, **maps), nnp.ReLU(**acts), nnp.Tanh(**acts), nnp.ReLU(**acts),
        nnp.ReLU(**acts), nnp.Linear(WIDTH, 3, **maps),
    )  # fmt: skip


def dropouts(maps, acts):
    return nn.Sequential(
        nnp.Linear(6, WIDTH, **maps), nnp.ReLU(**acts), nnp.Dropout(0.3, **acts),
        nnp.Linear(WIDTH, WIDTH, **maps), nnp.Dropout(0.2, eval="mean", **acts),
        nnp.Linear(WIDTH, WIDTH, **maps), nnp.GELU(**acts),
        nnp.Dropout(0.2, mean=0.5, std=2.0, **acts), nnp.Linear(WIDTH, 3, **maps), nn.Dropout(0.1),
    )  # fmt: skip


def homogeneous(maps, acts):
    return nn.Sequential(
        nnp.Linear(6, WIDTH, **maps), nnp.ReLU(**acts), nn.ReLU(), nnp.Linear(WIDTH, WIDTH, **maps),
        nnp.LeakyReLU(0.2, **acts), nnp.Linear(WIDTH, WIDTH, **maps), nnp.ReLU6(**acts),
        nn.LeakyReLU(0.1), nnp.Linear(WIDTH, WIDTH, **maps), nnp.Hardtanh(-0.5, 2.0, **acts),
        nn.PReLU(), nnp.Linear(WIDTH, WIDTH, **maps), nnp.PReLU(**acts),
        nnp.Linear(WIDTH, 3, **maps),
    )  # fmt: skip


def calibrated(maps, acts):
    smooth = nnp.Calibrated("tanh", depth=20, **acts)
    kinked = nnp.Calibrated("relu", depth=20, vary="mean", **acts)
    return nn.Sequential(
        nnp.Linear(6, WIDTH, **maps), smooth, nnp.Linear(WIDTH, WIDTH, **maps), kinked,
        nnp.Linear(WIDTH, 3, **maps),
    )  # fmt: skip


def padded(maps, acts):
    def conv(**arguments):
        return nnp.Conv2d(WIDTH, WIDTH, 3, **arguments, **maps)

    return nn.Sequential(
        nnp.Conv2d(3, WIDTH, 3, padding=1, **maps), nnp.ReLU(**acts), conv(padding=1),
        nnp.GELU(**acts), conv(padding=2, stride=2), nnp.Sigmoid(**acts),
        conv(padding=1, padding_mode="reflect"), nnp.Tanh(**acts), conv(padding=1, groups=2),
        nnp.ReLU(**acts), conv(padding=2, dilation=2, padding_mode="circular"),
        nnp.ReLU(**acts), conv(padding="same"), nnp.ReLU6(**acts), conv(padding=(1, 2), bias=False),
        nnp.ReLU(**acts), nn.Flatten(), nnp.Linear(WIDTH * 63, 3, **maps),
    )  # fmt: skip


def pooled(maps, acts):
    def conv(**arguments):
        return nnp.Conv2d(WIDTH, WIDTH, 3, padding=1, **arguments, **maps)

    return nn.Sequential(
        nnp.Conv2d(3, WIDTH, 3, padding=1, **maps), nnp.ReLU(**acts),
        nnp.MaxPool2d(3, 1, 1, **acts), conv(), nnp.GELU(**acts),
        nnp.AvgPool2d(3, 1, 1, **acts), conv(), nnp.SiLU(**acts),
        nnp.AvgPool2d(3, 1, 1, count_include_pad=False, **acts), conv(), nnp.ReLU(**acts),
        nnp.AvgPool2d(2, 1, divisor_override=3, **acts), conv(), nnp.Tanh(**acts),
        nnp.AvgPool2d(2, ceil_mode=True, **acts), conv(), nnp.ReLU(**acts), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nnp.Linear(WIDTH, 3, **maps),
    )  # fmt: skip


def resampled(maps, acts):
    return nn.Sequential(
        nnp.Conv2d(3, WIDTH, 3, **maps), nnp.ReLU(**acts), nn.Upsample(scale_factor=2),
        nnp.Conv2d(WIDTH, WIDTH, 3, **maps), nnp.ReLU(**acts), nn.ReflectionPad2d(1),
        nnp.Conv2d(WIDTH, WIDTH, 3, **maps), nnp.ReLU(**acts), nn.ZeroPad2d(1),
        nnp.Conv2d(WIDTH, WIDTH, 3, **maps), nnp.ReLU(**acts), nn.PixelShuffle(2),
        nnp.Conv2d(WIDTH // 4, 3, 1, **maps),
    )  # fmt: skip


def residual(order, activation=nnp.ReLU, inplace=False):
    def make(maps, acts):
        stem = [nnp.Conv2d(3, WIDTH, 3, padding=1, **maps)]
        if order == "post":
            stem.append(activation(**acts))
        strides = (1, 2, 1)
        blocks = [Block(order, maps, acts, activation, s, inplace) for s in strides]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nnp.Linear(WIDTH, 3, **maps)]
        return nn.Sequential(*stem, *blocks, *head)

    return make


def one_activation_everywhere(maps, acts):
    model = residual("post")(maps, acts)
    for block in model[2:5]:
        block.act = model[1]
    return model


def dense(maps, acts):
    relu = nnp.ReLU(**acts)
    return nn.Sequential(
        nnp.Linear(6, WIDTH, **maps), relu, Dense(WIDTH, WIDTH, maps, relu),
        Dense(2 * WIDTH, WIDTH, maps, nnp.Tanh(**acts)), Dense(3 * WIDTH, WIDTH, maps, relu),
        nnp.Linear(4 * WIDTH, 3, **maps),
    )  # fmt: skip


def mixed(maps, acts):
    def layer():
        return nn.Sequential(nnp.Linear(WIDTH, WIDTH, **maps), nnp.ReLU(**acts))

    return nn.Sequential(
        nnp.Linear(6, WIDTH, **maps), nnp.ReLU(**acts), Mixed(layer()), Mixed(layer()),
        Alpha(layer()),
        nnp.Linear(WIDTH, 3, **maps),
    )  # fmt: skip


def shared(between):
    def make(maps, acts):
        return nn.Sequential(nnp.Linear(6, WIDTH, **maps), Twice(maps, acts, between()))

    return make


def by_function(maps, acts):
    def function(x):
        return normprop.functional.relu(x, **acts).flip(-1)

    first = nn.Sequential(nnp.Linear(6, WIDTH, **maps), nnp.ReLU(**acts))
    return Called(first, function, nnp.Linear(WIDTH, 3, **maps))


def among_norms(maps, acts):
    return nn.Sequential(
        nnp.Linear(6, WIDTH, **maps), nnp.ReLU(**acts), nn.BatchNorm1d(WIDTH),
        nnp.Linear(WIDTH, WIDTH, **maps), nn.BatchNorm1d(WIDTH), nnp.ReLU(**acts),
        nn.LayerNorm(WIDTH), nnp.Linear(WIDTH, WIDTH, **maps), nnp.ReLU(**acts),
        nn.GroupNorm(2, WIDTH, affine=False), nnp.Linear(WIDTH, 3, **maps),
    )  # fmt: skip


def among_plain_layers(maps, acts):
    return nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, padding=1), nnp.ReLU(**acts), nn.ConvTranspose2d(WIDTH, 4, 3, 2),
        nnp.ReLU(**acts), nn.Conv2d(4, WIDTH, 3, padding=1, bias=False), nn.ReLU(inplace=True),
        nnp.AvgPool2d(2, **acts), nn.Flatten(), nn.LazyLinear(3),
    )  # fmt: skip


VECTOR, IMAGE = (5, 6), (2, 3, 12, 12)
NETWORKS = {
    "mlp": (mlp, VECTOR),
    "ends in an activation": (ends_in_an_activation, VECTOR),
    "begins with an activation": (begins_with_an_activation, VECTOR),
    "activations in a row": (activations_in_a_row, VECTOR),
    "dropouts": (dropouts, VECTOR),
    "homogeneous": (homogeneous, VECTOR),
    "calibrated": (calibrated, VECTOR),
    "padded": (padded, IMAGE),
    "pooled": (pooled, IMAGE),
    "resampled": (resampled, IMAGE),
    "residual, pre": (residual("pre"), IMAGE),
    "residual, post": (residual("post"), IMAGE),
    "residual, in place": (residual("post", inplace=True), IMAGE),
    "residual, GELU": (residual("post", nnp.GELU), IMAGE),
    "residual, tanh": (residual("pre", nnp.Tanh), IMAGE),
    "one activation everywhere": (one_activation_everywhere, IMAGE),
    "dense": (dense, VECTOR),
    "mixed": (mixed, VECTOR),
    "shared": (shared(nn.Identity), VECTOR),
    "shared, unlike": (shared(nn.Tanh), VECTOR),
    "by function": (by_function, VECTOR),
    "among norms": (among_norms, VECTOR),
    "among plain layers": (among_plain_layers, IMAGE),
}


def build(name, scaling="backward", per="neuron", dtype=torch.float64) -> tuple[nn.Module, Tensor]:
    """A network of that name with biases that are not 0, and an input."""
    return filled(*NETWORKS[name], *options(scaling, per), dtype)


def filled(make, shape, maps, acts, dtype=torch.float64) -> tuple[nn.Module, Tensor]:
    """The same of what ``make`` makes."""
    generator = torch.Generator().manual_seed(5)
    model = make(maps, acts)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    model(x.float())
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("bias"):
                value.normal_(std=0.3)
        for value in model.buffers():
            if value.is_floating_point():
                value.add_(torch.rand(value.shape))
    return model.to(dtype), x


def roundings(model) -> int:
    """Number of roundings on a way through the model: each sum, and a few around it."""
    maps = [m for m in model.modules() if isinstance(getattr(m, "weight", None), Tensor)]
    return sum(m.weight[0].numel() + 32 for m in maps) + 32
