"""Real networks, small: Hugging Face's from their configurations, and some as people write them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORDS, LENGTH, CLASSES = 50, 12, 10


@dataclass(frozen=True)
class Network:
    """A network by name.

    Attributes:
        make: gives it, its weights drawn by its own initialisation.
        inputs: gives what it is called with, for that many samples.
        by: who wrote it.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, Tensor] | tuple[Tensor, ...]]
    by: str = "as people write it"

    def build(self, samples: int, dtype=torch.float64) -> tuple[nn.Module, tuple, dict]:
        """The network, and positional and keyword arguments to call it with."""
        torch.manual_seed(0)
        model, given = self.make().to(dtype), self.inputs(samples)
        keywords = given if isinstance(given, dict) else {}
        inputs = () if keywords else tuple(_real(tensor, dtype) for tensor in given)
        return model, inputs, {name: _real(tensor, dtype) for name, tensor in keywords.items()}


def _real(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def images(samples: int, side: int = 32) -> tuple[Tensor]:
    return (torch.randn(samples, 3, side, side),)


def words(samples: int) -> tuple[Tensor]:
    return (torch.randint(WORDS, (samples, LENGTH)),)


def named(**inputs: Callable[[int], tuple[Tensor]]) -> Callable[[int], dict[str, Tensor]]:
    return lambda samples: {name: draw(samples)[0] for name, draw in inputs.items()}


# Hugging Face.


def hugging_face(name: str, config: str, **sizes) -> Callable[[], nn.Module]:
    def make():
        import transformers

        made = getattr(transformers, config)(**sizes)
        return getattr(transformers, name)(made)

    return make


def _pixels(name: str, config: str, **sizes) -> Network:
    make = hugging_face(name, config, num_labels=CLASSES, **sizes)
    return Network(make, named(pixel_values=images), "Hugging Face")


def _tokens(name: str, config: str, **sizes) -> Network:
    make = hugging_face(name, config, vocab_size=WORDS, **sizes)
    return Network(make, named(input_ids=words), "Hugging Face")


_ENCODER = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
_HUGGING_FACE = {
    "ResNet-18": _pixels(
        "ResNetForImageClassification", "ResNetConfig", embedding_size=16,
        hidden_sizes=[16, 32, 32, 64], depths=[2, 2, 2, 2], layer_type="basic",
    ),
    "ResNet-50": _pixels(
        "ResNetForImageClassification", "ResNetConfig", embedding_size=16,
        hidden_sizes=[32, 32, 64, 64], depths=[3, 4, 6, 3], layer_type="bottleneck",
    ),
    "MobileNetV2": _pixels(
        "MobileNetV2ForImageClassification", "MobileNetV2Config", depth_multiplier=0.25,
        min_depth=8, image_size=32,
    ),
    "RegNet": _pixels(
        "RegNetForImageClassification", "RegNetConfig", embedding_size=16,
        hidden_sizes=[16, 32, 32, 64], depths=[1, 2, 2, 1], groups_width=8, layer_type="y",
    ),
    "EfficientNet": _pixels(
        "EfficientNetForImageClassification", "EfficientNetConfig", image_size=32,
        width_coefficient=0.25, depth_coefficient=0.5, hidden_dim=320, dropout_rate=0.0,
    ),
    "ConvNeXt": _pixels(
        "ConvNextForImageClassification", "ConvNextConfig", hidden_sizes=[16, 32, 32, 64],
        depths=[1, 1, 2, 1], image_size=32,
    ),
    "ViT": _pixels(
        "ViTForImageClassification", "ViTConfig", **_ENCODER, image_size=32, patch_size=8,
    ),
    "Swin": _pixels(
        "SwinForImageClassification", "SwinConfig", image_size=32, patch_size=2, embed_dim=16,
        depths=[2, 2], num_heads=[2, 4], window_size=4,
    ),
    "BERT": _tokens(
        "BertForSequenceClassification", "BertConfig", **_ENCODER, max_position_embeddings=16,
        num_labels=CLASSES,
    ),
    "GPT-2": _tokens(
        "GPT2LMHeadModel", "GPT2Config", n_embd=32, n_layer=4, n_head=4, n_positions=16,
        bos_token_id=0, eos_token_id=0, use_cache=False,
    ),
    "Llama": _tokens(
        "LlamaForCausalLM", "LlamaConfig", **_ENCODER, num_key_value_heads=2,
        max_position_embeddings=16, use_cache=False,
    ),
}  # fmt: skip


# As people write them.


class BasicBlock(nn.Module):
    """Of a residual network as torchvision has it, one activation for both places."""

    def __init__(self, inputs, outputs, stride, norm):
        super().__init__()
        bias = norm is nn.Identity
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)
        self.bn1 = norm(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=bias)
        self.bn2 = norm(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            skip = nn.Conv2d(inputs, outputs, 1, stride, bias=bias)
            self.downsample = nn.Sequential(skip, norm(outputs))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, norm=nn.BatchNorm2d, widths=(16, 32, 32, 64), depth=2):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=norm is nn.Identity)
        self.bn1 = norm(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages, inputs = [], widths[0]
        for place, width in enumerate(widths):
            stride = 1 if place == 0 else 2
            blocks = [BasicBlock(inputs, width, stride, norm)]
            blocks += [BasicBlock(width, width, 1, norm) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            inputs = width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(inputs, CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class VGG(nn.Module):
    """Thirteen convolutions and three linear layers."""

    def __init__(self, widths=(16, 32, 32, 64, 64), depths=(2, 2, 3, 3, 3)):
        super().__init__()
        layers, inputs = [], 3
        for width, depth in zip(widths, depths, strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Sequential(
            nn.Linear(inputs, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(True),
            nn.Dropout(), nn.Linear(64, CLASSES),
        )  # fmt: skip

    def forward(self, x):
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.norm1, self.conv1 = (
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, 4 * growth, 1, bias=False),
        )
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features):
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class DenseBlock(nn.Module):
    def __init__(self, inputs, growth, depth):
        super().__init__()
        layers = [DenseLayer(inputs + place * growth, growth) for place in range(depth)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class Transition(nn.Sequential):
    def __init__(self, inputs, outputs):
        conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        super().__init__(nn.BatchNorm2d(inputs), nn.ReLU(), conv, nn.AvgPool2d(2, 2))


class DenseNet(nn.Module):
    def __init__(self, growth=8, depths=(3, 3, 3)):
        super().__init__()
        width = 2 * growth
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        parts = []
        for place, depth in enumerate(depths):
            parts.append(DenseBlock(width, growth, depth))
            width += depth * growth
            if place < len(depths) - 1:
                parts.append(Transition(width, width // 2))
                width //= 2
        self.body, self.norm = nn.Sequential(*parts), nn.BatchNorm2d(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        x = F.relu(self.norm(self.body(self.stem(x))), inplace=True)
        return self.head(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


class Double(nn.Sequential):
    """Two convolutions of a U-Net."""

    def __init__(self, inputs, outputs):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(True),
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(True),
        )  # fmt: skip


class UNet(nn.Module):
    """Down and up again, with everything on the way beside what comes back."""

    def __init__(self, widths=(16, 32, 32)):
        super().__init__()
        inputs = [3, *widths]
        self.down = nn.ModuleList(map(Double, inputs, widths))
        self.pool = nn.MaxPool2d(2)
        ups = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in ups)
        self.after = nn.ModuleList(Double(2 * o, o) for _, o in ups)
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x):
        kept = []
        for place, part in enumerate(self.down):
            x = part(x if place == 0 else self.pool(x))
            kept.append(x)
        for up, after, skip in zip(self.up, self.after, kept[-2::-1], strict=True):
            x = after(torch.cat([skip, up(x)], dim=1))
        return self.head(x)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, length, width = x.shape
        shape = (batch, length, self.heads, width // self.heads)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(x).split(width, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).contiguous().view(batch, length, width))


class GPTBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1)
        )

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Its head and its table of words may be one."""

    def __init__(self, tied, width=32, depth=4, heads=4):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(WORDS, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(GPTBlock(width, heads) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, WORDS, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight
        self.apply(self._draw)

    @staticmethod
    def _draw(module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, index):
        x = self.wte(index) + self.wpe(torch.arange(index.shape[1], device=index.device))
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class LSTMClassifier(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width, padding_idx=0)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True, bidirectional=True)
        self.dropout, self.fc = nn.Dropout(0.5), nn.Linear(2 * width, CLASSES)

    def forward(self, index):
        _, (hidden, _) = self.lstm(self.embedding(index))
        return self.fc(self.dropout(torch.cat([hidden[-2], hidden[-1]], dim=1)))


_OWN = {
    "torchvision's ResNet": Network(ResNet, images),
    "ResNet without BatchNorm": Network(lambda: ResNet(nn.Identity), images),
    "VGG": Network(VGG, images),
    "DenseNet": Network(DenseNet, images),
    "U-Net": Network(UNet, lambda samples: images(samples, 16)),
    "small GPT": Network(lambda: GPT(tied=False), words),
    "small GPT, tied": Network(lambda: GPT(tied=True), words),
    "LSTM classifier": Network(LSTMClassifier, words),
}
NETWORKS: dict[str, Network] = _HUGGING_FACE | _OWN
