"""Networks as people write them, for what convert() plans."""

import torch
from torch import nn
from torch.nn import functional as F

CLASSES = 10


def chain(activation, depth=24, width=48, normalization=None):
    layers, channels = [], 3
    for _ in range(depth):
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=normalization is None))
        layers += [] if normalization is None else [normalization(width)]
        layers.append(activation())
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 64, CLASSES))


def vgg(width=32):
    layers, channels = [], 3
    for stage in range(3):
        layers += [nn.MaxPool2d(2)] if stage else []
        for _ in range(3):
            layers += [nn.Conv2d(channels, width << stage, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width << stage
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1),
        nn.Linear(channels, CLASSES),
    )  # fmt: skip


class Basic(nn.Module):
    """A block of torchvision's ResNet-18, one activation for both places."""

    def __init__(self, inputs, outputs, stride, normalization):
        super().__init__()
        bias = normalization is nn.Identity
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)
        self.bn1 = normalization(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.bn2 = normalization(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=bias)
            self.downsample = nn.Sequential(conv, normalization(outputs))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    def __init__(self, inputs, outputs, stride, normalization):
        super().__init__()
        inner = outputs // 4
        self.convs = nn.ModuleList([
            nn.Conv2d(inputs, inner, 1), nn.Conv2d(inner, inner, 3, stride, 1),
            nn.Conv2d(inner, outputs, 1),
        ])  # fmt: skip
        self.relu, self.downsample = nn.ReLU(), None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        out = self.relu(self.convs[0](x))
        out = self.convs[2](self.relu(self.convs[1](out)))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def resnet(block=Basic, normalization=nn.Identity, width=32, blocks=2):
    layers, channels = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()], width
    for stage in range(3):
        for k in range(blocks):
            stride = 2 if stage and not k else 1
            layers.append(block(channels, width << stage, stride, normalization))
            channels = width << stage
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)
    )


class PreActivation(nn.Module):
    def __init__(self, width, activation):
        super().__init__()
        self.branch = nn.Sequential(
            activation(), nn.Conv2d(width, width, 3, padding=1),
            activation(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x):
        return x + self.branch(x)


def preactivation(activation=nn.GELU, width=48, blocks=6):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        *[PreActivation(width, activation) for _ in range(blocks)],
        activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES),
    )  # fmt: skip


class Mixing(nn.Module):
    def __init__(self, tokens, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 64), nn.GELU(), nn.Linear(64, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width))

    def forward(self, x):
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self, width=64, blocks=4):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, 2)
        self.blocks = nn.Sequential(*[Mixing(16, width) for _ in range(blocks)])
        self.head = nn.Linear(16 * width, CLASSES)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.blocks(x).flatten(1))


class Attending(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.act, self.down = (
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )  # fmt: skip
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        x = x + self.drop(self.mixed(self.norm1(x)))
        return x + self.drop(self.down(self.act(self.up(self.norm2(x)))))

    def mixed(self, x):
        samples, length, width = x.shape
        shape = samples, length, self.heads, width // self.heads
        q, k, v = (t.view(shape).transpose(1, 2) for t in self.qkv(x).split(width, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(x.shape))


class AttendingByFunctions(Attending):
    def __init__(self, width, heads):
        super().__init__(width, heads)
        del self.act, self.drop
        self.dropout = 0.1

    def forward(self, x):
        x = x + F.dropout(self.mixed(self.norm1(x)), self.dropout, self.training)
        y = self.down(F.gelu(self.up(self.norm2(x))))
        return x + F.dropout(y, p=self.dropout, training=self.training)


class GPT(nn.Module):
    def __init__(self, width=64, blocks=3, tied=False, block=Attending):
        super().__init__()
        self.tokens, self.places = nn.Embedding(CLASSES, width), nn.Embedding(16, width)
        self.blocks = nn.ModuleList([block(width, 4) for _ in range(blocks)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, index):
        x = self.tokens(index) + self.places(torch.arange(index.shape[1], device=index.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Dense(nn.Module):
    def __init__(self, growth=16, layers=5):
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.layers = nn.ModuleList([
            nn.Sequential(nn.ReLU(), nn.Conv2d(32 + growth * i, growth, 3, padding=1))
            for i in range(layers)
        ])  # fmt: skip
        self.last = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(32 + growth * layers, CLASSES)

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(self.last(x))


class UNet(nn.Module):
    def __init__(self, width=24):
        super().__init__()

        def double(inputs, outputs):
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(),
            )  # fmt: skip

        self.down, self.deep = double(3, width), double(width, 2 * width)
        self.pool, self.up = nn.MaxPool2d(2), nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join, self.last = double(2 * width, width), nn.Conv2d(width, CLASSES, 1)

    def forward(self, x):
        x = self.down(x)
        y = self.up(self.deep(self.pool(x)))
        return self.last(self.join(torch.cat([x, y], 1)))


class Squeezing(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.act = nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width // 4, 1), nn.ReLU(),
            nn.Conv2d(width // 4, width, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x):
        y = self.conv(x)
        return self.act(x + y * self.gate(y))


def squeezing(width=64, blocks=3):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), *[Squeezing(width) for _ in range(blocks)],
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES), nn.Sigmoid(),
    )  # fmt: skip


class LeNet(nn.Module):
    """As in PyTorch's tutorial, a little smaller: its forward calls functions."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 32, 3)
        self.fc1, self.fc2 = nn.Linear(32 * 4, 120), nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, CLASSES)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = F.dropout(F.relu(self.fc1(x)), 0.1, training=self.training)
        return self.fc3(self.fc2(x).relu())


class Functions(nn.Module):
    """A block whose forward calls functions, as in many a ResNet for small images."""

    def __init__(self, inputs, outputs, stride, normalization):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride))

    def forward(self, x):
        out = F.relu(self.conv1(x))
        out = self.conv2(out)
        out += self.shortcut(x)
        return F.relu(out)


class ResNetOfFunctions(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        body = resnet(Functions, width=width)
        self.conv1, self.layers, self.linear = body[0], body[2:-3], body[-1]

    def forward(self, x):
        out = self.layers(F.relu(self.conv1(x)))
        out = F.avg_pool2d(out, 2)
        return self.linear(out.view(out.size(0), -1))


def images(samples=48, side=8):
    return torch.randn(samples, 3, side, side)


def words(samples=48):
    return torch.randint(CLASSES, (samples, 16))


NETWORKS = {
    "chain of ReLU": (lambda: chain(nn.ReLU), images),
    "chain of GELU": (lambda: chain(nn.GELU), images),
    "chain of tanh": (lambda: chain(nn.Tanh), images),
    "chain of SiLU": (lambda: chain(nn.SiLU), images),
    "chain with BatchNorm": (lambda: chain(nn.ReLU, normalization=nn.BatchNorm2d), images),
    "VGG": (vgg, images),
    "ResNet": (resnet, images),
    "ResNet of bottlenecks": (lambda: resnet(Bottleneck, width=64), images),
    "pre-activation, ReLU": (lambda: preactivation(nn.ReLU), images),
    "pre-activation, GELU": (preactivation, images),
    "Mixer": (Mixer, images),
    "GPT": (GPT, words),
    "GPT, tied, functions": (lambda: GPT(tied=True, block=AttendingByFunctions), words),
    "DenseNet": (Dense, images),
    "LeNet, functions": (LeNet, lambda samples=48: images(samples, 14)),
    "ResNet, functions": (ResNetOfFunctions, images),
    "U-Net": (UNet, images),
    "squeeze and excite": (squeezing, images),
}
