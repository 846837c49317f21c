"""Normalised activations, a row each.

:mod:`normprop.functional.fused` says how they are computed, what they keep for the backward pass
and what is promised of half precision.
"""

import inspect
from collections.abc import Callable

from torch import Tensor, nn

from normprop.functional.constants import constants_of
from normprop.functional.fused import MAPS, fused, plain_map
from normprop.functional.keywords import LawOnBackend, by_place, tabled
from normprop.functional.scale import literal, refuse_inplace
from normprop.names import CLASSES, arguments_of

__all__ = [
    "celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "identity",
    "leaky_relu", "logsigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus",
    "softshrink", "softsign", "tanh", "tanhshrink", "threshold",
]  # fmt: skip

NAMES: dict[type[nn.Module], str] = {}
"""The function in ``torch.nn.functional``, and here, of an activation of ``torch.nn``."""

_RAISES = (
    "ValueError: an argument is out of its range, or the law is so far from where the function\n"
    "        bends that nothing passes."
)
_INPUT = inspect.Parameter("input", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Tensor)


def _activation(
    layer_type: type[nn.Module], doc: str, formula: str = "", **meanings: str
) -> Callable[..., Tensor]:
    """The normalised function of a class of torch, with its arguments.

    With a formula, of f, the docstring begins with what f is called; else it is given whole.
    """
    name = NAMES[layer_type] = CLASSES[layer_type]
    if name not in MAPS:
        MAPS[name] = plain_map(getattr(nn.functional, name))
    taken = (*arguments_of(layer_type), "inplace")
    own = [p for p in by_place(layer_type) if p.name in taken]
    if formula:
        title, _, more = doc.partition("\n")
        doc = f"Normalised {title}, :math:`y = ({formula} - \\mu)/\\sigma`.\n{more}"

    def body(arguments, law):
        input, backend = arguments.pop("input"), law.pop("backend")
        refuse_inplace(arguments.pop("inplace", False))
        params = tuple(v if isinstance(v, str) else literal(v) for v in arguments.values())
        return fused(name, input, params, constants_of(layer_type, law, **arguments), backend)

    return tabled(name, [_INPUT, *own], LawOnBackend, body, doc, raises=_RAISES, **meanings)


relu = _activation(
    nn.ReLU,
    r"""Normalised ReLU.

    .. math:: y = \frac{\max(x, 0) - \mu}{\sigma}

    with μ = E max(x, 0) for x ~ N(mean, std²); σ = σ_f, the standard deviation of max(x, 0),
    under ``"forward"``, and σ = σ_b, the root mean square of its slope, under
    ``"backward"``; both have the true gradient.  Under ``"separate"`` σ = σ_f, and the
    gradient is the true one times σ_f/σ_b.  At mean 0 and std 1, μ = 1/√(2π),
    σ_f = √(½ - 1/2π) and σ_b = √½.
    """,
)
celu = _activation(
    nn.CELU,
    "CELU",
    r"\max(x, 0) + \min(\alpha(e^{x/\alpha} - 1), 0)",
    alpha="width of the exponential, greater than 0.",
)
elu = _activation(
    nn.ELU, "ELU", r"\max(x, 0) + \min(\alpha(e^x - 1), 0)", alpha="depth of the exponential."
)
gelu = _activation(
    nn.GELU,
    """GELU

    Of the exact function at mean 0 and std 1, μ = 1/(2√π), σ_f = 0.58791497… and σ_b =
    0.67516729….
    """,
    r"x\Phi(x)",
    approximate='``"none"``, or ``"tanh"`` for Φ by a hyperbolic tangent.',
)
hardshrink = _activation(
    nn.Hardshrink, "hard shrinkage", r"x\,[|x| > \lambda]", lambd="λ, not negative."
)
hardsigmoid = _activation(
    nn.Hardsigmoid,
    """hard sigmoid

    Its gradient is exact in float64, where torch's own uses a float32 sixth.
    """,
    r"\min(\max(x/6 + 1/2, 0), 1)",
)
hardswish = _activation(nn.Hardswish, "hard swish", r"x\min(\max(x/6 + 1/2, 0), 1)")
hardtanh = _activation(
    nn.Hardtanh,
    "hard tanh",
    r"\min(\max(x, \mathrm{min}), \mathrm{max})",
    min_val="least value.",
    max_val="greatest value, above min_val.",
)
identity = _activation(
    nn.Identity,
    r"""Normalised identity, :math:`y = (x - m)/s`.

    It takes the law of its input back to mean 0, and under ``"forward"`` to standard deviation 1;
    σ_b is 1.
    """,
)
leaky_relu = _activation(
    nn.LeakyReLU, "leaky ReLU", r"\max(x, 0) + a\min(x, 0)", negative_slope="a."
)
logsigmoid = _activation(nn.LogSigmoid, "logarithm of the sigmoid", r"-\log(1 + e^{-x})")
mish = _activation(nn.Mish, "Mish", r"x\tanh(\log(1 + e^x))")
relu6 = _activation(nn.ReLU6, "ReLU6", r"\min(\max(x, 0), 6)")
selu = _activation(nn.SELU, "SELU", r"\mathrm{selu}(x)")
sigmoid = _activation(
    nn.Sigmoid,
    """sigmoid

    At mean 0 and std 1, μ = ½, σ_f = 0.20827634… and σ_b = 0.21174570….
    """,
    r"1/(1 + e^{-x})",
)
silu = _activation(
    nn.SiLU,
    """SiLU

    At mean 0 and std 1, μ = 0.20662096…, σ_f = 0.55953847… and σ_b = 0.61602139….
    """,
    r"x/(1 + e^{-x})",
)
softplus = _activation(
    nn.Softplus,
    """softplus

    Just below the threshold, where the function has all but become x, its slope in float64 is
    off by no more than e^-threshold.
    """,
    r"\log(1 + e^{\beta x})/\beta",
    beta="β, greater than 0.",
    threshold="βx beyond which the function is x.",
)
softshrink = _activation(
    nn.Softshrink,
    "soft shrinkage",
    r"x - \min(\max(x, -\lambda), \lambda)",
    lambd="λ, not negative.",
)
softsign = _activation(nn.Softsign, "softsign", r"x/(1 + |x|)")
tanh = _activation(
    nn.Tanh,
    """tanh

    At mean 0 and std 1, μ = 0, σ_f = 0.62792873… and σ_b = 0.68147113….
    """,
    r"\tanh x",
)
tanhshrink = _activation(nn.Tanhshrink, "tanh shrinkage", r"x - \tanh x")
threshold = _activation(
    nn.Threshold,
    """threshold

    Here t(x) is x above ``threshold`` and ``value`` elsewhere.
    """,
    "t(x)",
    threshold="where the line begins.",
    value="what stands for x up to it.",
)
