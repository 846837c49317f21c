"""The layers that `test_battery.py` runs over. A new layer is one more row."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import normprop

SCALINGS = ("forward", "backward", "separate")
# A law at which no constant is 0 or 1.
LAW = {"mean": 0.5, "std": 2.0}


@dataclass(frozen=True)
class Row:
    """A layer, an input for it, and what else its twin's arguments may be.

    Attributes:
        name: of the class, in `torch.nn` and in `normprop.nn`.
        shape: of an input, batch first.
        arguments: of both constructors.
        changes: other arguments of both constructors, every one of which changes the output.
        kind: "map" for elementwise functions, "pool", "dropout" or "weights"; "group" for
            functions of several elements, whose figures follow from the shape of a sample;
            "fitted" for pooling and "resized" for upsampling of which that is so; "moved" for
            layers that move elements to a place in a sample, and "border" for those whose
            figures differ at its border.
    """

    name: str
    shape: tuple[int, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    changes: tuple[dict[str, Any], ...] = ()
    kind: str = "map"

    @property
    def dims(self) -> int:
        return len(self.shape) - 2

    def plain(self, **arguments) -> nn.Module:
        """The layer of torch, in float64."""
        return getattr(nn, self.name)(**{**self.arguments, **arguments}).double()

    def layer(self, **arguments) -> nn.Module:
        """The layer of normprop, in float64."""
        return getattr(normprop.nn, self.name)(**{**self.arguments, **arguments}).double()

    def input(self, shape=None, dtype=torch.float64) -> Tensor:
        generator = torch.Generator().manual_seed(7)
        return torch.randn(shape or self.shape, generator=generator, dtype=torch.float64).to(dtype)


def _convolution(dims):
    reflect = {"padding": 1, "padding_mode": "reflect" if dims < 3 else "replicate"}
    return Row(
        f"Conv{dims}d",
        (2, 4, *(7, 6, 5)[:dims]),
        {"in_channels": 4, "out_channels": 6, "kernel_size": 3},
        (
            {"out_channels": 8},
            {"kernel_size": 2},
            {"kernel_size": (2, 3, 1)[:dims]},
            {"stride": 2},
            {"stride": (2, 1, 3)[:dims]},
            {"padding": 1},
            {"padding": "same"},
            {"dilation": 2},
            {"groups": 2},
            {"groups": 2, "stride": 2, "padding": 1},
            {"bias": False},
            reflect,
        ),
        "weights",
    )


def _transposed(dims):
    return Row(
        f"ConvTranspose{dims}d",
        (2, 4, *(5, 4, 3)[:dims]),
        {"in_channels": 4, "out_channels": 6, "kernel_size": 3},
        (
            {"out_channels": 8},
            {"kernel_size": 2},
            {"kernel_size": (2, 3, 1)[:dims]},
            {"stride": 2},
            {"stride": (2, 1, 3)[:dims]},
            {"padding": 1},
            {"stride": 2, "output_padding": 1},
            {"dilation": 2},
            {"groups": 2},
            {"groups": 2, "stride": 2, "padding": 1, "dilation": (1, 3, 2)[:dims]},
            {"bias": False},
        ),
        "weights",
    )


def _max_pool(dims):
    return Row(
        f"MaxPool{dims}d",
        (2, 3, *(9, 7, 5)[:dims]),
        {"kernel_size": 2},
        (
            {"kernel_size": 3},
            {"kernel_size": (3, 2, 1)[:dims]},
            {"stride": 1},
            {"stride": (3, 1, 2)[:dims]},
            {"padding": 1},
            {"dilation": 2},
            {"return_indices": True},
            {"ceil_mode": True},
        ),
        "pool",
    )


def _avg_pool(dims):
    return Row(
        f"AvgPool{dims}d",
        (2, 3, *(9, 7, 5)[:dims]),
        {"kernel_size": 2},
        (
            {"kernel_size": 3},
            {"kernel_size": (3, 2, 1)[:dims]},
            {"stride": 1},
            {"stride": (3, 1, 2)[:dims]},
            {"padding": 1},
            {"padding": 1, "count_include_pad": False},
            {"ceil_mode": True},
            *([{"divisor_override": 3}] if dims > 1 else []),
        ),
        "pool",
    )


def _adaptive(kind, dims):
    return Row(
        f"Adaptive{kind}Pool{dims}d",
        (2, 3, *(9, 7, 5)[:dims]),
        {"output_size": 3},
        (
            {"output_size": (4, 3, 5)[:dims]},
            {"output_size": (2, None, 3)[:dims]},
            *([{"return_indices": True}] if kind == "Max" else []),
        ),
        "fitted",
    )


def _lp_pool(dims):
    return Row(
        f"LPPool{dims}d",
        (2, 3, *(8, 6, 4)[:dims]),
        {"norm_type": 2, "kernel_size": 2},
        (
            {"norm_type": 1},
            {"norm_type": math.inf},
            {"norm_type": -math.inf},
            {"kernel_size": 3},
            {"kernel_size": (3, 2, 1)[:dims] if dims > 1 else 4},
            {"stride": 1},
            {"kernel_size": 3, "ceil_mode": True},
        ),
        "moved",
    )


def _padding(name, dims):
    pads = (2, 1, 0, 1, 3, 2)[: 2 * dims]
    more = {"value": 0.5} if name == "Constant" else {}
    changes = ({"padding": pads}, *([{"value": -2.0}] if more else []))
    shape = (2, 3, *(5, 4, 6)[:dims])
    return Row(f"{name}Pad{dims}d", shape, {"padding": 1, **more}, changes, "border")


def _dropout(name, shape):
    return Row(name, shape, {"p": 0.3}, ({"p": 0.6}, {"p": 0.0}), "dropout")


ROWS = [
    Row("CELU", (4, 7), {}, ({"alpha": 2.0},)),
    Row("ELU", (4, 7), {}, ({"alpha": 0.5}, {"alpha": -0.5})),
    Row("GELU", (4, 7), {}, ({"approximate": "tanh"},)),
    Row("Hardshrink", (4, 7), {}, ({"lambd": 1.0},)),
    Row("Hardsigmoid", (4, 7)),
    Row("Hardswish", (4, 7)),
    Row("Hardtanh", (4, 7), {}, ({"min_val": -0.5}, {"max_val": 0.5})),
    Row("Identity", (4, 7)),
    Row("LeakyReLU", (4, 7), {}, ({"negative_slope": 0.3}, {"negative_slope": -0.2})),
    Row("LogSigmoid", (4, 7)),
    Row("Mish", (4, 7)),
    Row("PReLU", (4, 7), {}, ({"init": 0.5}, {"init": -0.5}, {"num_parameters": 7, "init": 0.75})),
    Row("RReLU", (4, 7), {}, ({"lower": 0.25}, {"upper": 0.75})),
    Row("ReLU", (4, 7)),
    Row("ReLU6", (4, 7)),
    Row("SELU", (4, 7)),
    Row("SiLU", (4, 7)),
    Row("Sigmoid", (4, 7)),
    Row("Softplus", (4, 7), {}, ({"beta": 2.0}, {"threshold": 1.0})),
    Row("Softshrink", (4, 7), {}, ({"lambd": 1.0},)),
    Row("Softsign", (4, 7)),
    Row("Tanh", (4, 7)),
    Row("Tanhshrink", (4, 7)),
    Row(
        "Threshold",
        (4, 7),
        {"threshold": 0.25, "value": -1.0},
        (
            {"threshold": -0.5},
            {"value": 2.0},
        ),
    ),
    Row("GLU", (3, 6, 4), {"dim": 1}, ({"dim": 2}, {"dim": -1})),
    Row("Softmax", (3, 5, 4), {"dim": 1}, ({"dim": -1},), "group"),
    Row("Softmin", (4, 7), {"dim": -1}, (), "group"),
    Row("LogSoftmax", (3, 5, 4), {"dim": 1}, ({"dim": 2},), "group"),
    Row("Softmax2d", (2, 5, 3, 2), kind="group"),
    *(_max_pool(dims) for dims in (1, 2, 3)),
    *(_avg_pool(dims) for dims in (1, 2, 3)),
    *(_adaptive(kind, dims) for kind in ("Avg", "Max") for dims in (1, 2, 3)),
    *(_lp_pool(dims) for dims in (1, 2, 3)),
    *(
        _padding(name, dims)
        for name in ("Zero", "Constant", "Reflection", "Replication", "Circular")
        for dims in (1, 2, 3)
    ),
    Row(
        "Upsample",
        (2, 3, 5, 4),
        {"scale_factor": 3},
        (
            {"scale_factor": (2.0, 3.0)},
            {"scale_factor": None, "size": (6, 3)},
            {"mode": "bilinear", "align_corners": True},
            {"mode": "bicubic", "align_corners": True},
            {"scale_factor": 1.618, "mode": "bilinear"},
            {"scale_factor": 1.618, "mode": "bilinear", "recompute_scale_factor": True},
            {"scale_factor": None, "size": (6, 3), "mode": "area"},
        ),
        "resized",
    ),
    Row("UpsamplingNearest2d", (2, 3, 5, 4), {"size": (6, 9)}, ({"size": (4, 7)},), "resized"),
    Row(
        "UpsamplingBilinear2d",
        (2, 3, 5, 4),
        {"size": (6, 9)},
        ({"size": (4, 7)}, {"size": None, "scale_factor": 2}),
        "resized",
    ),
    Row("PixelShuffle", (2, 18, 3, 4), {"upscale_factor": 3}, ({"upscale_factor": 1},), "moved"),
    Row(
        "PixelUnshuffle", (2, 2, 6, 9), {"downscale_factor": 3}, ({"downscale_factor": 1},), "moved"
    ),
    Row("ChannelShuffle", (2, 6, 3, 4), {"groups": 2}, ({"groups": 3},), "moved"),
    Row("Flatten", (2, 3, 4, 5), {}, ({"start_dim": 2}, {"end_dim": 2}), "moved"),
    Row(
        "Unflatten",
        (2, 6, 5),
        {"dim": 1, "unflattened_size": (2, 3)},
        ({"unflattened_size": (3, 2)}, {"dim": 2, "unflattened_size": (5, 1)}),
        "moved",
    ),
    Row(
        "Unfold",
        (2, 3, 7, 6),
        {"kernel_size": 3},
        (
            {"kernel_size": (3, 2)},
            {"dilation": 2},
            {"padding": 1},
            {"stride": 2},
            {"stride": (1, 3)},
        ),
        "border",
    ),
    Row(
        "Fold",
        (2, 12, 30),
        {"output_size": (7, 6), "kernel_size": 2},
        (
            {"output_size": (6, 7)},
            {"kernel_size": (1, 2), "output_size": (6, 6)},
            {"kernel_size": (3, 2), "output_size": (8, 6)},
            {"dilation": 2, "output_size": (8, 7)},
            {"padding": 1, "output_size": (5, 4)},
            {"stride": (2, 1), "output_size": (12, 6)},
        ),
        "border",
    ),
    _dropout("Dropout", (4, 7)),
    _dropout("Dropout1d", (3, 5, 4)),
    _dropout("Dropout2d", (3, 5, 3, 2)),
    _dropout("Dropout3d", (3, 5, 2, 2, 3)),
    _dropout("AlphaDropout", (4, 7)),
    _dropout("FeatureAlphaDropout", (3, 5, 4)),
    Row(
        "Linear",
        (4, 5),
        {"in_features": 5, "out_features": 3},
        ({"out_features": 4}, {"bias": False}),
        "weights",
    ),
    *(_convolution(dims) for dims in (1, 2, 3)),
    *(_transposed(dims) for dims in (1, 2, 3)),
]


@dataclass(frozen=True)
class Variant:
    """A row with options of its own, as normprop alone has them."""

    row: Row
    options: dict[str, Any]

    def __str__(self) -> str:
        values = (f"{k}={v}" for k, v in self.options.items() if k not in LAW)
        return "-".join([self.row.name, *values])

    @property
    def separate(self) -> bool:
        return self.options["scaling"] == "separate"

    @property
    def asymmetric(self) -> bool:
        """Whether the input's gradient is no multiple of the true one."""
        return self.separate and self.options.get("per") == "neuron"

    def layer(self, **arguments) -> nn.Module:
        layer = self.row.layer(**{**self.options, **arguments})
        if self.row.kind == "weights":
            fill(layer)
        if self.options.get("method") == "project":
            layer.project_()
        return layer

    @cached_property
    def factor(self) -> float:
        """What "separate" multiplies the true gradient of the input by, where it is a factor."""
        if self.row.kind == "weights":
            plain = self.row.plain()
            outs, width = plain.weight.shape[:2]
            period = math.prod(getattr(plain, "stride", ()))
            ratio = width * getattr(plain, "groups", 1) * period / outs
            return math.sqrt(1 / ratio if getattr(plain, "transposed", False) else ratio)
        figures = self.figures()
        return figures.fwd_std / figures.bwd_std

    def simulated(self) -> dict[str, tuple[int, ...]]:
        """The shape of a sample, where a simulation cannot guess one that the layer takes."""
        own = self.row.name == "GLU" or self.row.kind in ("moved", "border")
        return {"shape": self.row.shape[1:]} if own else self.sample()

    def sample(self, shape=None) -> dict[str, tuple[int, ...]]:
        """The shape of a sample, where the figures follow from it."""
        given = self.row.kind in ("group", "fitted", "resized")
        return {"shape": (shape or self.row.shape)[1:]} if given else {}

    def figures(self, shape=None, **arguments):
        """Moments of the plain layer at the law of this variant, for inputs of that shape."""
        known = ("mean", "std", "after")
        law = {k: v for k, v in {**self.options, **arguments}.items() if k in known}
        own = {k: v for k, v in arguments.items() if k not in known}
        return normprop.moments(self.row.plain(**own), **law, **self.sample(shape))

    def formula(self, x: Tensor, layer: nn.Module, **arguments) -> tuple[Tensor, Tensor]:
        """What the layer must put out, by its documented formula, and a bound on the rounding."""
        eps = torch.finfo(torch.float64).eps
        plain = self.row.plain(**arguments)
        if self.row.kind == "weights":
            ball = "backward" if self.options["scaling"] == "backward" else "forward"
            weight = on_ball(layer.weight, ball, self.options["per"], *geometry(plain))
            plain.load_state_dict({**layer.state_dict(), "weight": weight})
            y = plain(x)
            for parameter in plain.parameters():
                parameter.data.abs_()
            # Each road adds as many products as a neuron has weights, and a bias; the norm is
            # a sum over at most all weights.
            return y, 2 * eps * (2 * weight.numel() + 16) * plain(x.abs())
        torch.manual_seed(0)
        output = plain(x)
        y, *_ = output if isinstance(output, tuple) else (output,)
        figures = self.figures(tuple(x.shape), **arguments)
        sigma = figures.bwd_std if self.options["scaling"] == "backward" else figures.fwd_std
        bound = 8 * eps * (y.abs() + abs(figures.fwd_mean)) + 2 * figures.error
        return (y - figures.fwd_mean) / sigma, bound / sigma


def geometry(layer: nn.Module) -> tuple:
    """Stride, groups, and whether the weight is that of a transposed convolution."""
    defaults = {"stride": (), "groups": 1, "transposed": False}
    return tuple(getattr(layer, name, value) for name, value in defaults.items())


def on_ball(weight: Tensor, ball: str, per: str, stride, groups: int, transposed=False) -> Tensor:
    """The weight on its unit ball, one neuron after the other."""
    if transposed:
        ball = {"forward": "backward", "backward": "forward"}[ball]
    result = weight.detach().double().clone()
    period = math.prod(stride)
    outs, width = result.shape[0] // groups, result.shape[1]
    if per == "layer":
        squares = result.shape[0] if ball == "forward" else width * groups * period
        return result * (math.sqrt(squares) / result.norm())
    if ball == "forward":
        for neuron in result:
            neuron /= neuron.norm()
        return result
    for group in range(groups):
        for channel in range(width):
            fan_out = result[group * outs : (group + 1) * outs, channel]
            fan_out *= math.sqrt(period) / fan_out.norm()
    return result


def fill(layer: nn.Module) -> None:
    """Give the layer weights that depend on nothing but their shapes."""
    generator = torch.Generator().manual_seed(3)
    for parameter in layer.parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(values)


def _variants():
    for row in ROWS:
        if row.kind == "weights":
            for scaling in SCALINGS:
                for per in ("neuron", "layer"):
                    yield Variant(row, {"scaling": scaling, "per": per})
            yield Variant(row, {"scaling": "backward", "per": "neuron", "method": "project"})
            yield Variant(row, {"scaling": "separate", "per": "neuron", "method": "project"})
            continue
        for scaling in SCALINGS:
            yield Variant(row, {"scaling": scaling, **LAW})
        if row.kind in ("pool", "fitted"):
            yield Variant(row, {"scaling": "separate", "after": "relu", **LAW})
        if row.kind == "dropout":
            yield Variant(row, {"scaling": "forward", "eval": "mean", **LAW})


VARIANTS = list(_variants())


def first(output) -> Tensor:
    """The tensor of an output that may come with indices."""
    return output[0] if isinstance(output, tuple) else output


def run(layer: nn.Module, x: Tensor, dy: Tensor | None = None) -> list[Tensor]:
    """The output and the gradients of input and parameters, with the same random numbers."""
    torch.manual_seed(0)
    x = x.detach().requires_grad_()
    y = first(layer(x))
    if dy is None:
        generator = torch.Generator().manual_seed(11)
        dy = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), dy)]


def same_up_to_order(got, wanted, terms: int) -> bool:
    """Whether tensors differ by no more than sums of `terms` numbers in another order do."""
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if b.numel() and (a - b).abs().max() > 2 * terms * torch.finfo(b.dtype).eps * b.abs().max():
            return False
    return True
