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


def _activation(layer_type: type[nn.Module], doc: str) -> Callable[..., Tensor]:
    """The normalised function of a class of torch, with its arguments."""
    name = NAMES[layer_type] = CLASSES[layer_type]
    if name not in MAPS:
        MAPS[name] = plain_map(getattr(nn.functional, name))
    taken = (*arguments_of(layer_type), "inplace")
    own = [p for p in by_place(layer_type) if p.name in taken]

    def body(arguments, law):
        input, backend = arguments.pop("input"), law.pop("backend")
        refuse_inplace(arguments.pop("inplace", False))
        params = tuple(v if isinstance(v, str) else literal(v) for v in arguments.values())
        return fused(name, input, params, constants_of(layer_type, law, **arguments), backend)

    return tabled(name, [_INPUT, *own], LawOnBackend, body, doc, raises=_RAISES)


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
    r"""Normalised CELU, :math:`y = (\max(x, 0) + \min(\alpha(e^{x/\alpha} - 1), 0) - \mu)/\sigma`.

    Args:
        alpha: width of the exponential, greater than 0.
    """,
)
elu = _activation(
    nn.ELU,
    r"""Normalised ELU, :math:`y = (\max(x, 0) + \min(\alpha(e^x - 1), 0) - \mu)/\sigma`.

    Args:
        alpha: depth of the exponential.
    """,
)
gelu = _activation(
    nn.GELU,
    r"""Normalised GELU, :math:`y = (x\Phi(x) - \mu)/\sigma`.

    Of the exact function at mean 0 and std 1, μ = 1/(2√π), σ_f = 0.58791497… and σ_b =
    0.67516729….

    Args:
        approximate: ``"none"``, or ``"tanh"`` for Φ by a hyperbolic tangent.
    """,
)
hardshrink = _activation(
    nn.Hardshrink,
    r"""Normalised hard shrinkage, :math:`y = (x\,[|x| > \lambda] - \mu)/\sigma`.

    Args:
        lambd: λ, not negative.
    """,
)
hardsigmoid = _activation(
    nn.Hardsigmoid,
    r"""Normalised hard sigmoid, :math:`y = (\min(\max(x/6 + 1/2, 0), 1) - \mu)/\sigma`.

    Its gradient is exact in float64, where torch's own uses a float32 sixth.
    """,
)
hardswish = _activation(
    nn.Hardswish,
    r"""Normalised hard swish, :math:`y = (x\min(\max(x/6 + 1/2, 0), 1) - \mu)/\sigma`.""",
)
hardtanh = _activation(
    nn.Hardtanh,
    r"""Normalised hard tanh, :math:`y = (\min(\max(x, \mathrm{min}), \mathrm{max}) - \mu)/\sigma`.

    Args:
        min_val: least value.
        max_val: greatest value, above min_val.
    """,
)
identity = _activation(
    nn.Identity,
    r"""Normalised identity, :math:`y = (x - m)/s`.

    It takes the law of its input back to mean 0, and under ``"forward"`` to standard deviation 1;
    σ_b is 1.
    """,
)
leaky_relu = _activation(
    nn.LeakyReLU,
    r"""Normalised leaky ReLU, :math:`y = (\max(x, 0) + a\min(x, 0) - \mu)/\sigma`.

    Args:
        negative_slope: a.
    """,
)
logsigmoid = _activation(
    nn.LogSigmoid,
    r"""Normalised logarithm of the sigmoid, :math:`y = (-\log(1 + e^{-x}) - \mu)/\sigma`.""",
)
mish = _activation(
    nn.Mish, r"""Normalised Mish, :math:`y = (x\tanh(\log(1 + e^x)) - \mu)/\sigma`."""
)
relu6 = _activation(
    nn.ReLU6, r"""Normalised ReLU6, :math:`y = (\min(\max(x, 0), 6) - \mu)/\sigma`."""
)
selu = _activation(nn.SELU, r"""Normalised SELU, :math:`y = (\mathrm{selu}(x) - \mu)/\sigma`.""")
sigmoid = _activation(
    nn.Sigmoid,
    r"""Normalised sigmoid, :math:`y = (1/(1 + e^{-x}) - \mu)/\sigma`.

    At mean 0 and std 1, μ = ½, σ_f = 0.20827634… and σ_b = 0.21174570….
    """,
)
silu = _activation(
    nn.SiLU,
    r"""Normalised SiLU, :math:`y = (x/(1 + e^{-x}) - \mu)/\sigma`.

    At mean 0 and std 1, μ = 0.20662096…, σ_f = 0.55953847… and σ_b = 0.61602139….
    """,
)
softplus = _activation(
    nn.Softplus,
    r"""Normalised softplus, :math:`y = (\log(1 + e^{\beta x})/\beta - \mu)/\sigma`.

    Just below the threshold, where the function has all but become x, its slope in float64 is
    off by no more than e^-threshold.

    Args:
        beta: β, greater than 0.
        threshold: βx beyond which the function is x.
    """,
)
softshrink = _activation(
    nn.Softshrink,
    r"""Normalised soft shrinkage, :math:`y = (x - \min(\max(x, -\lambda), \lambda) - \mu)/\sigma`.

    Args:
        lambd: λ, not negative.
    """,
)
softsign = _activation(
    nn.Softsign, r"""Normalised softsign, :math:`y = (x/(1 + |x|) - \mu)/\sigma`."""
)
tanh = _activation(
    nn.Tanh,
    r"""Normalised tanh, :math:`y = (\tanh x - \mu)/\sigma`.

    At mean 0 and std 1, μ = 0, σ_f = 0.62792873… and σ_b = 0.68147113….
    """,
)
tanhshrink = _activation(
    nn.Tanhshrink, r"""Normalised tanh shrinkage, :math:`y = (x - \tanh x - \mu)/\sigma`."""
)
threshold = _activation(
    nn.Threshold,
    r"""Normalised threshold, :math:`y = (t(x) - \mu)/\sigma`.

    Here t(x) is x above ``threshold`` and ``value`` elsewhere.

    Args:
        threshold: where the line begins.
        value: what stands for x up to it.
    """,
)
