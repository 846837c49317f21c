"""What the experiments compare: what each method is, where it is from, and what was checked of it.

``checked`` names the analytic number or formula of the source that a test of this package
reproduces, or is empty where the source has none that could be.
"""

from dataclasses import dataclass

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    """A method of scaling a network.

    Attributes:
        label: its name in tables and figures.
        what: what it does, in a few words.
        source: where it is from; keys of the book's bibliography.
        checked: what of its source a test reproduces.
        chain: whether it is one for networks without skips.
        skips: whether it is one for residual networks.
        own: the activation that it brings along, whichever is named.
    """

    label: str
    what: str
    source: tuple[str, ...]
    checked: str
    chain: bool = True
    skips: bool = True
    own: str | None = None


METHODS = {
    "he": Method(
        "He",
        "weights of std gain/√fan-in, with PyTorch's gains: √2 for ReLU, 5/3 for tanh",
        ("he2015",),
        "√2 keeps the second moment of ReLU",
    ),
    "critical": Method(
        "critical",
        "the gain at which the squared gradient of the plain network grows by 1: tanh 1, ReLU √2",
        ("schoenholz2017", "pennington2017", "roberts2022"),
        "GELU's point, C_W = 1.98305 and C_b = 0.17292",
    ),
    "leaky": Method(
        "leaky ReLU .8",
        "a leaky ReLU of slope 0.8 behind He's weights, gain √(2/(1 + 0.8²))",
        ("he2015",),
        "the gain keeps the second moment",
        own="leaky ReLU",
    ),
    "selu": Method(
        "SELU",
        "a self-normalising activation, gain 1",
        ("klambauer2017",),
        "its fixed point (0, 1)",
        own="SELU",
    ),
    "lsuv": Method(
        "LSUV",
        "each layer's weights divided by the std of its outputs on one batch of the data",
        ("mishkin2016",),
        "",
    ),
    "dks": Method(
        "DKS",
        "the activation scaled and shifted inside and outside: C(0) = 0, C′(1)^L = 1.5, Q′(1) = 1",
        ("martens2021",),
        "the parameters that its authors' code finds for tanh, softplus, GELU and leaky ReLU",
    ),
    "tat": Method(
        "TAT",
        "as DKS, with C′(1) = 1 and L·C″(1) = 0.3; ReLU becomes leaky, C_L(0) = 0.9",
        ("zhang2022",),
        "the parameters that its authors' code finds for tanh, softplus and leaky ReLU",
    ),
    "batchnorm": Method(
        "BatchNorm",
        "He's weights, a batch normalisation before each activation",
        ("ioffe2015",),
        "growth π/(π − 1) of the squared gradient, chapter 8",
    ),
    "layernorm": Method(
        "LayerNorm",
        "He's weights, a layer normalisation before each activation",
        ("ba2016",),
        "",
    ),
    "weight-standardization": Method(
        "WS + LayerNorm",
        "rows of the weights centred and divided by their std, before a layer normalisation",
        ("qiao2019",),
        "",
    ),
    "scaled-ws": Method(
        "scaled WS",
        "rows centred and of norm 1, with a gain each, activation times 1/σ_f: NFNets' layer",
        ("brock2021signal", "brock2021nfnet"),
        "ReLU's γ = √(2/(1 − 1/π))",
    ),
    "unit-scaling": Method(
        "unit scaling",
        "weights of std 1, constants in the forward and in the backward pass",
        ("blake2023",),
        "unit variance of outputs and of all gradients",
    ),
    "fixup": Method(
        "Fixup",
        "branches that begin at 0, a scalar multiplier and scalar biases",
        ("zhang2019",),
        "",
        chain=False,
    ),
    "skipinit": Method(
        "SkipInit, ReZero",
        "branches multiplied by a scalar that begins at 0",
        ("de2020", "bachlechner2021"),
        "",
        chain=False,
    ),
    "forward": Method(
        "forward σ",
        "fan-in weights on the ball, activation (f − μ)/σ_f",
        (),
        "growth χ of the squared gradient",
    ),
    "backward": Method(
        "backward σ",
        "fan-out weights on the ball, activation (f − μ)/σ_b: the post's method",
        ("wang2016backward",),
        "the post's table, chapter 6",
    ),
    "separate-layer": Method(
        "sep. layer",
        "one scale for each pass, per layer: the post's closing idea",
        ("wang2016backward",),
        "both variances are 1",
    ),
    "separate-neuron": Method(
        "sep. neuron",
        "one scale for each pass, per neuron",
        ("wang2016backward",),
        "both variances are 1",
    ),
    "separate-bridge": Method(
        "sep. bridges",
        "separate per layer outside the residual blocks, the forward scale inside",
        ("blake2023",),
        "the gradient's direction is exact",
    ),
    "calibrated": Method(
        "calibrated",
        "forward σ at the input law where χ^L = e: a small std for tanh, a shifted mean for ReLU",
        (),
        "growth e of the squared gradient",
    ),
}
"""By the name that :func:`normprop.companion.networks.build` takes."""
