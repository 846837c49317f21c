"""Every function that laws go through, beside a simulation of it."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normprop.nn as nnp
from normprop import predict
from tests.nn.battery import ROWS

RUNS = 8


class Applied(nn.Module):
    """A function of inputs that are moved and scaled first."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*(0.7 * x + 0.4 for x in inputs))


class Centred(Applied):
    def forward(self, *inputs):
        return self.function(*inputs)


def simulated(model, shapes):
    """Mean, std and gradients' std, over independent runs."""
    rows = []
    for seed in range(RUNS):
        generator = torch.Generator().manual_seed(seed)
        inputs = [torch.randn(s, generator=generator, requires_grad=True) for s in shapes]
        torch.manual_seed(1000 + seed)
        output = model(*inputs)
        output = output if isinstance(output, torch.Tensor) else output[0]
        output.backward(torch.randn(output.shape, generator=generator))
        found = [output.mean().item(), output.square().mean().item()]
        rows.append([*found, *(x.grad.square().mean().item() for x in inputs)])
    return torch.tensor(rows, dtype=torch.float64)


def holds(model, *shapes, share=0.02):
    """The prediction is within five standard errors, and a share for what is of order 1/n."""
    scales = predict(model, *(torch.empty(s, device="meta") for s in shapes))
    rows = simulated(model, shapes)
    mean, error = rows.mean(0), rows.std(0) / math.sqrt(RUNS)
    last = scales.rows[-1]
    assert last.assumed == ()
    wanted = [last.fwd_mean, last.fwd_mean**2 + last.fwd_std**2]
    wanted += [scales[i].bwd_std ** 2 for i in range(len(shapes))]
    size = torch.tensor([math.sqrt(wanted[1]), *wanted[1:]])
    gap = (torch.tensor(wanted) - mean).abs()
    assert (gap <= 5.0 * error + share * size).all(), (wanted, mean.tolist(), error.tolist())


VECTORS, IMAGES = (64, 256), (8, 32, 12, 12)
TOKENS = (16, 24, 64)

OF_VECTORS = {
    **{
        name: getattr(F, name)
        for name in (
            "relu", "relu6", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus", "softsign",
            "tanhshrink", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu", "logsigmoid",
            "softshrink", "hardshrink",
        )
    },
    **{
        name: getattr(torch, name)
        for name in ("tanh", "sigmoid", "exp", "sin", "abs", "square", "neg", "erf", "clone", "sgn")
    },
    "gelu by hand": lambda x: 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "swish by hand": lambda x: x * torch.sigmoid(1.5 * x),
    "in place": lambda x: F.relu(x * 1.0, inplace=True),
    "power": lambda x: x**2,
    "clamp": lambda x: x.clamp(-0.3, 0.8),
    "numbers": lambda x: 2.0 - (3.0 * x + 1.0) / 4.0,
    "itself": lambda x: x + x,
    "times itself": lambda x: x * x,
    "rrelu": lambda x: F.rrelu(x, 0.1, 0.9, training=True),
    "dropout": lambda x: F.dropout(x, 0.3),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.3, training=True),
    "chunks": lambda x: x.chunk(2, -1)[0] * x.chunk(2, -1)[1],
    "glu": lambda x: F.glu(x, -1),
    "mean": lambda x: x.mean(-1),
    "sum": lambda x: x.sum(-1, keepdim=True),
    "of positives": lambda x: x.pow(2).mean(-1),
    "view": lambda x: x.view(64, 16, 16).transpose(1, 2).reshape(64, 256),
    "expand": lambda x: x[:, None].expand(-1, 3, -1),
    "repeat": lambda x: x.repeat(1, 3),
    "repeat_interleave": lambda x: x.repeat_interleave(2, -1),
    "slices": lambda x: x[:, 3:200:2],
    "flip": lambda x: x.flip(-1),
    "softmax": lambda x: torch.softmax(2.0 * x, -1),
    "layer_norm": lambda x: F.layer_norm(x, (256,)),
    "rms_norm by hand": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "cat": lambda x: torch.cat([x, torch.relu(x)], -1),
    "stack": lambda x: torch.stack([x, -x], 1),
    "filled": lambda x: x.masked_fill(torch.arange(256) < 64, 0.0),
    "where": lambda x: torch.where(torch.arange(256) < 64, x, 2.0 * x),
    "amax": lambda x: x.amax(-1),
    "max": lambda x: x.view(64, 16, 16).max(1, keepdim=True)[0] * 1.0,
    "min": lambda x: x.view(64, 16, 16).min(1).values * 1.0,
    "normalize": lambda x: F.normalize(x, dim=-1),
    "noise": lambda x: x + torch.randn_like(x) + torch.rand_like(x) + torch.zeros_like(x),
    "coins": lambda x: x * torch.empty_like(x).bernoulli_(0.3) + torch.bernoulli(0 * x + 0.8),
    "outer": lambda x: torch.einsum("ni,nj->nij", x[:, :16], x[:, 16:32]),
}  # fmt: skip

OF_IMAGES = {
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool2d, overlapping": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_pool2d of relu": lambda x: F.max_pool2d(F.relu(x), 3, 3),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 4),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "avg_pool2d, overlapping": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "avg_pool2d, divided": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "avg_pool2d twice": lambda x: F.avg_pool2d(F.avg_pool2d(x, 3, 1), 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive_avg_pool2d, uneven": lambda x: F.adaptive_avg_pool2d(x, 5),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, size=18, mode="bicubic"),
    "zeros": lambda x: F.pad(x, (1, 2, 3, 0)),
    "ones": lambda x: F.pad(x, (1, 1), value=1.0),
    "reflect": lambda x: F.pad(x, (2, 2, 2, 2), mode="reflect"),
    "circular": lambda x: F.pad(x, (2, 1, 1, 2), mode="circular"),
    "dropout2d": lambda x: F.dropout2d(x, 0.4),
    "dropout2d, averaged": lambda x: F.dropout2d(x, 0.4).mean((2, 3)),
    "group_norm": lambda x: F.group_norm(x, 4),
    "instance_norm": lambda x: F.instance_norm(x),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 4),
    "flatten": lambda x: x.flatten(1),
    "permuted": lambda x: x.permute(0, 2, 3, 1),
    "a gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
}

OF_SEVERAL = {
    "add": torch.add,
    "sub": torch.sub,
    "add, alpha": lambda a, b: torch.add(a, b, alpha=0.5),
    "mul": torch.mul,
    "relu and sum": lambda a, b: F.relu(F.relu(a) + b),
    "relu of a product": lambda a, b: F.relu(a) * torch.tanh(b),
    "div": lambda a, b: a / (2.0 + torch.sigmoid(b)),
    "lerp": lambda a, b: 0.3 * a + 0.7 * b,
    "addbmm": lambda a, b: torch.addbmm(
        torch.ones(16, 16), a.view(-1, 16, 16), b.view(-1, 16, 16), beta=0.5
    ),
    "summed alone": lambda a, b: torch.einsum("ij,kj->i", a, b),
}


@pytest.mark.parametrize("name", OF_VECTORS)
def test_functions_of_vectors(name):
    holds(Applied(OF_VECTORS[name]), VECTORS)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_functions_of_images(name):
    holds(Applied(OF_IMAGES[name]), IMAGES)


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_functions_of_two(name):
    holds(Applied(OF_SEVERAL[name]), VECTORS, VECTORS)


BY_NAME = {
    "softmax": ({"dim": -1}, torch.softmax),
    "mean": ({"dim": 1}, torch.mean),
    "amax": ({"dim": 1}, torch.amax),
    "reshape": ({"shape": (4, -1)}, torch.reshape),
    "index_select": ({"dim": 1, "index": torch.tensor([1, 3])}, torch.index_select),
    "matmul": ({"other": torch.ones(12, 3)}, torch.matmul),
    "dropout": ({"p": 0.3}, F.dropout),
    "glu": ({"dim": 1}, F.glu),
    "pad": ({"pad": (1, 2), "value": 1.0}, F.pad),
    "prelu": ({"weight": torch.tensor([0.1])}, F.prelu),
    "normalize": ({"dim": 1}, F.normalize),
    "max_pool1d": ({"kernel_size": 2}, F.max_pool1d),
    "avg_pool1d": ({"kernel_size": 2}, F.avg_pool1d),
    "interpolate": ({"scale_factor": 2}, F.interpolate),
    "conv1d": ({"weight": torch.ones(3, 4, 2)}, F.conv1d),
    "layer_norm": ({"normalized_shape": (12,)}, F.layer_norm),
    "group_norm": ({"num_groups": 2}, F.group_norm),
    "batch_norm": ({"running_mean": None, "running_var": None, "training": True}, F.batch_norm),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_arguments_may_be_given_by_name(name):
    options, function = BY_NAME[name]
    x = torch.empty(8, 4, 12, device="meta")
    by_name = predict(Applied(lambda x: function(input=x, **options)), x)
    assert by_name == predict(Applied(lambda x: function(x, **options)), x)
    assert by_name.rows[-1].op == name


def attention(q, k, v, mask=None):
    weights = q @ k.transpose(-2, -1) / 8.0
    weights = weights if mask is None else weights.masked_fill(mask, -math.inf)
    return torch.softmax(weights, -1) @ v


CAUSAL = torch.ones(24, 24, dtype=torch.bool).triu(1)
ATTENTION = {
    "by function": F.scaled_dot_product_attention,
    "by name": lambda q, k, v: F.scaled_dot_product_attention(query=q, key=k, value=v),
    "causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "by hand": attention,
    "by hand, causal": lambda q, k, v: attention(q, k, v, CAUSAL),
    "added mask": lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, torch.zeros(24, 24).masked_fill(CAUSAL, -math.inf)
    ),
    "einsum": lambda q, k, v: torch.einsum(
        "nij,njd->nid", torch.softmax(torch.einsum("nid,njd->nij", q, k) / 8.0, -1), v
    ),
    "bmm": lambda q, k, v: torch.bmm(torch.softmax(torch.bmm(q, k.mT) / 8.0, -1), v),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    holds(Centred(ATTENTION[name]), TOKENS, TOKENS, TOKENS, share=0.06)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}-{len(row.shape)}")
@pytest.mark.parametrize("kind", ["plain", "normalised"])
def test_every_layer_has_a_row(row, kind):
    if row.name not in dir(nnp) and kind == "normalised":
        pytest.skip("has no twin")
    layer = row.plain() if kind == "plain" else row.layer()
    scales = predict(nn.Sequential(layer), row.input())
    end = scales.rows[-1]
    assert end.path == "0"
    assert end.fwd_std is not None
    assert scales["input"].bwd_std is not None


WITHOUT_WEIGHTS = [row for row in ROWS if row.name in dir(nnp) and not [*row.layer().parameters()]]


@pytest.mark.parametrize("row", WITHOUT_WEIGHTS, ids=lambda row: f"{row.name}-{len(row.shape)}")
def test_a_twin_without_weights_is_the_plain_layer_over_a_constant(row):
    # With the default scaling both passes are divided by the same one; the slope of hardsigmoid is
    # a sixth of float32 in torch.
    plain, twin = (predict(nn.Sequential(m), row.input()) for m in (row.plain(), row.layer()))
    divided = plain.rows[-1].fwd_std / twin.rows[-1].fwd_std
    assert plain["input"].bwd_std / twin["input"].bwd_std == pytest.approx(divided, rel=2.0**-24)
    assert plain.rows[-1].assumed == twin.rows[-1].assumed


@pytest.mark.parametrize(("one", "other"), [(torch.max, torch.maximum), (torch.min, torch.minimum)])
def test_the_extreme_of_two_tensors_has_two_names(one, other):
    x = torch.empty(VECTORS, device="meta")
    first, second = (predict(Applied(f), x, x.clone()).rows[-1] for f in (one, other))
    assert (first.fwd_mean, first.fwd_std) == (second.fwd_mean, second.fwd_std)
    assert all("correlations" in text for text in first.assumed)


class OwnSigmoid(torch.autograd.Function):
    """A function whose inside torch does not show."""

    @staticmethod
    def forward(ctx, x):
        made = torch.sigmoid(x)
        ctx.save_for_backward(made)
        return made

    @staticmethod
    def backward(ctx, gradient):
        (made,) = ctx.saved_tensors
        return gradient * made * (1.0 - made)


def test_a_gate_may_be_any_function():
    x = torch.empty(VECTORS, device="meta")
    one, other = (
        predict(nn.Sequential(nnp.GatedLinear(gate)), x) for gate in ("sigmoid", OwnSigmoid.apply)
    )
    for a, b in zip(one, other, strict=True):
        assert b.assumed == a.assumed
        assert (b.fwd_std, b.bwd_std) == pytest.approx((a.fwd_std, a.bwd_std), rel=1e-9)
