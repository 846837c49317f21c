"""Normalised activations.

:mod:`normprop.functional.fused` says how they are computed, what they keep for the backward pass
and what is promised of half precision.
"""

from functools import lru_cache

from torch import Tensor, nn

from normprop import rules
from normprop.functional.fused import Backend, fused
from normprop.functional.scale import (
    Constants,
    Scaling,
    constant_when_compiled,
    literal,
    refuse_inplace,
)


def relu(
    input: Tensor,
    inplace: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised ReLU.

    .. math:: y = \frac{\max(x, 0) - \mu}{\sigma}

    with μ = E max(x, 0) for x ~ N(mean, std²); σ = σ_f, the standard deviation of max(x, 0),
    under ``"forward"``, and σ = σ_b, the root mean square of its slope, under
    ``"backward"``; both have the true gradient.  Under ``"separate"`` σ = σ_f, and the
    gradient is the true one times σ_f/σ_b.  At mean 0 and std 1, μ = 1/√(2π),
    σ_f = √(½ - 1/2π) and σ_b = √½.

    Args:
        input: any shape.
        inplace: must be ``False``; there so that torch's arguments fit.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        constants: the constants, where they are at hand; then scaling, mean and std have no
            say.
        backend: ``"eager"`` for PyTorch's operations; ``"triton"`` for one kernel each way, an
            error where it cannot run; ``"auto"`` for the kernel on a GPU wherever it can.

    Returns:
        Tensor of the shape and type of ``input``.

    Raises:
        ValueError: the scaling is unknown, std is not greater than 0, or the law is so far
            from the kink that nothing passes.
    """
    refuse_inplace(inplace)
    return _call("relu", input, (), scaling, mean, std, constants, backend)


def celu(
    input: Tensor,
    alpha: float = 1.0,
    inplace: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised CELU, :math:`y = (\max(x, 0) + \min(\alpha(e^{x/\alpha} - 1), 0) - \mu)/\sigma`.

    Args:
        input: any shape.
        alpha: width of the exponential, greater than 0.
        inplace: must be ``False``.
        scaling: as all that follow, and what is returned and raised, as in :func:`relu`.
        mean: mean of the input.
        std: standard deviation of the input.
        constants: the constants, where they are at hand.
        backend: who computes.
    """
    refuse_inplace(inplace)
    return _call("celu", input, (alpha,), scaling, mean, std, constants, backend)


def elu(
    input: Tensor,
    alpha: float = 1.0,
    inplace: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised ELU, :math:`y = (\max(x, 0) + \min(\alpha(e^x - 1), 0) - \mu)/\sigma`.

    Args:
        input: any shape.
        alpha: depth of the exponential.
        inplace: must be ``False``.
        scaling: as all that follow, and what is returned and raised, as in :func:`relu`.
        mean: mean of the input.
        std: standard deviation of the input.
        constants: the constants, where they are at hand.
        backend: who computes.
    """
    refuse_inplace(inplace)
    return _call("elu", input, (alpha,), scaling, mean, std, constants, backend)


def gelu(
    input: Tensor,
    approximate: str = "none",
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised GELU, :math:`y = (x\Phi(x) - \mu)/\sigma`.

    Of the exact function at mean 0 and std 1, μ = 1/(2√π), σ_f = 0.58791497… and σ_b =
    0.67516729….

    Args:
        input: any shape.
        approximate: ``"none"``, or ``"tanh"`` for Φ by a hyperbolic tangent.
        scaling: as all that follow, and what is returned and raised, as in :func:`relu`.
        mean: mean of the input.
        std: standard deviation of the input.
        constants: the constants, where they are at hand.
        backend: who computes.
    """
    return _call("gelu", input, (approximate,), scaling, mean, std, constants, backend)


def hardshrink(
    input: Tensor,
    lambd: float = 0.5,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised hard shrinkage, :math:`y = (x\,[|x| > \lambda] - \mu)/\sigma`.

    Args:
        input: any shape.
        lambd: λ, not negative.
        scaling: as all that follow, and what is returned and raised, as in :func:`relu`.
        mean: mean of the input.
        std: standard deviation of the input.
        constants: the constants, where they are at hand.
        backend: who computes.
    """
    return _call("hardshrink", input, (lambd,), scaling, mean, std, constants, backend)


def hardsigmoid(
    input: Tensor,
    inplace: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised hard sigmoid, :math:`y = (\min(\max(x/6 + 1/2, 0), 1) - \mu)/\sigma`.

    Its gradient is exact in float64, where torch's own uses a float32 sixth.

    Arguments, return and errors are those of :func:`relu`.
    """
    refuse_inplace(inplace)
    return _call("hardsigmoid", input, (), scaling, mean, std, constants, backend)


def hardswish(
    input: Tensor,
    inplace: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised hard swish, :math:`y = (x\min(\max(x/6 + 1/2, 0), 1) - \mu)/\sigma`.

    Arguments, return and errors are those of :func:`relu`.
    """
    refuse_inplace(inplace)
    return _call("hardswish", input, (), scaling, mean, std, constants, backend)


def hardtanh(
    input: Tensor,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised hard tanh, :math:`y = (\min(\max(x, \mathrm{min}), \mathrm{max}) - \mu)/\sigma`.

    Args:
        input: any shape.
        min_val: least value.
        max_val: greatest value, above min_val.
        inplace: must be ``False``.
        scaling: as all that follow, and what is returned and raised, as in :func:`relu`.
        mean: mean of the input.
        std: standard deviation of the input.
        constants: the constants, where they are at hand.
        backend: who computes.
    """
    refuse_inplace(inplace)
    return _call("hardtanh", input, (min_val, max_val), scaling, mean, std, constants, backend)


def identity(
    input: Tensor,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised identity, :math:`y = (x - m)/s`.

    It takes the law of its input back to mean 0, and under ``"forward"`` to standard deviation 1;
    σ_b is 1.

    Arguments, return and errors are those of :func:`relu`.
    """
    return _call("identity", input, (), scaling, mean, std, constants, backend)


def leaky_relu(
    input: Tensor,
    negative_slope: float = 0.01,
    inplace: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised leaky ReLU, :math:`y = (\max(x, 0) + a\min(x, 0) - \mu)/\sigma`.

    Args:
        input: any shape.
        negative_slope: a.
        inplace: must be ``False``.
        scaling: as all that follow, and what is returned and raised, as in :func:`relu`.
        mean: mean of the input.
        std: standard deviation of the input.
        constants: the constants, where they are at hand.
        backend: who computes.
    """
    refuse_inplace(inplace)
    return _call("leaky_relu", input, (negative_slope,), scaling, mean, std, constants, backend)


def logsigmoid(
    input: Tensor,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised logarithm of the sigmoid, :math:`y = (-\log(1 + e^{-x}) - \mu)/\sigma`.

    Arguments, return and errors are those of :func:`relu`.
    """
    return _call("logsigmoid", input, (), scaling, mean, std, constants, backend)


def mish(
    input: Tensor,
    inplace: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised Mish, :math:`y = (x\tanh(\log(1 + e^x)) - \mu)/\sigma`.

    Arguments, return and errors are those of :func:`relu`.
    """
    refuse_inplace(inplace)
    return _call("mish", input, (), scaling, mean, std, constants, backend)


def relu6(
    input: Tensor,
    inplace: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised ReLU6, :math:`y = (\min(\max(x, 0), 6) - \mu)/\sigma`.

    Arguments, return and errors are those of :func:`relu`.
    """
    refuse_inplace(inplace)
    return _call("relu6", input, (), scaling, mean, std, constants, backend)


def selu(
    input: Tensor,
    inplace: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised SELU, :math:`y = (\mathrm{selu}(x) - \mu)/\sigma`.

    Arguments, return and errors are those of :func:`relu`.
    """
    refuse_inplace(inplace)
    return _call("selu", input, (), scaling, mean, std, constants, backend)


def sigmoid(
    input: Tensor,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised sigmoid, :math:`y = (1/(1 + e^{-x}) - \mu)/\sigma`.

    At mean 0 and std 1, μ = ½, σ_f = 0.20827634… and σ_b = 0.21174570….

    Arguments, return and errors are those of :func:`relu`.
    """
    return _call("sigmoid", input, (), scaling, mean, std, constants, backend)


def silu(
    input: Tensor,
    inplace: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised SiLU, :math:`y = (x/(1 + e^{-x}) - \mu)/\sigma`.

    At mean 0 and std 1, μ = 0.20662096…, σ_f = 0.55953847… and σ_b = 0.61602139….

    Arguments, return and errors are those of :func:`relu`.
    """
    refuse_inplace(inplace)
    return _call("silu", input, (), scaling, mean, std, constants, backend)


def softplus(
    input: Tensor,
    beta: float = 1.0,
    threshold: float = 20.0,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised softplus, :math:`y = (\log(1 + e^{\beta x})/\beta - \mu)/\sigma`.

    Just below the threshold, where the function has all but become x, its slope in float64 is
    off by no more than e^-threshold.

    Args:
        input: any shape.
        beta: β, greater than 0.
        threshold: βx beyond which the function is x.
        scaling: as all that follow, and what is returned and raised, as in :func:`relu`.
        mean: mean of the input.
        std: standard deviation of the input.
        constants: the constants, where they are at hand.
        backend: who computes.
    """
    return _call("softplus", input, (beta, threshold), scaling, mean, std, constants, backend)


def softshrink(
    input: Tensor,
    lambd: float = 0.5,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised soft shrinkage, :math:`y = (x - \min(\max(x, -\lambda), \lambda) - \mu)/\sigma`.

    Args:
        input: any shape.
        lambd: λ, not negative.
        scaling: as all that follow, and what is returned and raised, as in :func:`relu`.
        mean: mean of the input.
        std: standard deviation of the input.
        constants: the constants, where they are at hand.
        backend: who computes.
    """
    return _call("softshrink", input, (lambd,), scaling, mean, std, constants, backend)


def softsign(
    input: Tensor,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised softsign, :math:`y = (x/(1 + |x|) - \mu)/\sigma`.

    Arguments, return and errors are those of :func:`relu`.
    """
    return _call("softsign", input, (), scaling, mean, std, constants, backend)


def tanh(
    input: Tensor,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised tanh, :math:`y = (\tanh x - \mu)/\sigma`.

    At mean 0 and std 1, μ = 0, σ_f = 0.62792873… and σ_b = 0.68147113….

    Arguments, return and errors are those of :func:`relu`.
    """
    return _call("tanh", input, (), scaling, mean, std, constants, backend)


def tanhshrink(
    input: Tensor,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised tanh shrinkage, :math:`y = (x - \tanh x - \mu)/\sigma`.

    Arguments, return and errors are those of :func:`relu`.
    """
    return _call("tanhshrink", input, (), scaling, mean, std, constants, backend)


def threshold(
    input: Tensor,
    threshold: float,
    value: float,
    inplace: bool = False,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Normalised threshold, :math:`y = (t(x) - \mu)/\sigma`.

    Here t(x) is x above ``threshold`` and ``value`` elsewhere.

    Args:
        input: any shape.
        threshold: where the line begins.
        value: what stands for x up to it.
        inplace: must be ``False``.
        scaling: as all that follow, and what is returned and raised, as in :func:`relu`.
        mean: mean of the input.
        std: standard deviation of the input.
        constants: the constants, where they are at hand.
        backend: who computes.
    """
    refuse_inplace(inplace)
    return _call("threshold", input, (threshold, value), scaling, mean, std, constants, backend)


def _call(name, input, params, scaling, mean, std, constants, backend):
    params = tuple(p if isinstance(p, str) else literal(p) for p in params)
    if constants is None:
        constants = activation_constants(name, params, scaling, literal(mean), literal(std))
    return fused(name, input, params, constants, backend)


@constant_when_compiled
def activation_constants(
    name: str, params: tuple, scaling: Scaling, mean: float, std: float
) -> Constants:
    """Constants of the activation of that name, with these parameters, at this input law."""
    return _cached(name, params, scaling, mean, std)


@lru_cache(maxsize=1024, typed=True)
def _cached(name, params, scaling, mean, std) -> Constants:
    return Constants.of(rules.moments(_LAYERS[name](*params), mean, std), scaling)


# The layer of torch.nn whose arguments are the function's.
_LAYERS = {
    "celu": nn.CELU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hardshrink": nn.Hardshrink,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "logsigmoid": nn.LogSigmoid,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "softshrink": nn.Softshrink,
    "softsign": nn.Softsign,
    "tanh": nn.Tanh,
    "tanhshrink": nn.Tanhshrink,
    "threshold": nn.Threshold,
}
