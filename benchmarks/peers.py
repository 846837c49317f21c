"""The others: what people do instead, each as small as its formula."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

import normprop
from benchmarks.case import UnavailableError

UNIT_SCALING = ("gelu", "silu")
"""Activations that the package unit-scaling has a function for."""


class NaiveActivation(nn.Module):
    """(f(x) - μ)/σ, as one would write it.

    Args:
        function: f.
        shift: μ.
        scale: σ.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], shift: float, scale: float) -> None:
        super().__init__()
        self.function, self.shift, self.scale = function, shift, scale

    def forward(self, input: Tensor) -> Tensor:
        return (self.function(input) - self.shift) / self.scale


class ScaledActivation(nn.Module):
    """γ f(x), as normaliser-free networks have it (Brock, De, Smith 2021, arXiv 2101.08692).

    Args:
        function: f.
        gain: γ, 1/σ_f.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], gain: float) -> None:
        super().__init__()
        self.function, self.gain = function, gain

    def forward(self, input: Tensor) -> Tensor:
        return self.gain * self.function(input)


class StandardizedConv2d(nn.Conv2d):
    r"""Convolution with scaled weight standardisation (Brock, De, Smith 2021).

    .. math:: \hat W_{i\cdot} = g_i\,\frac{W_{i\cdot} - \mathrm{mean}(W_{i\cdot})}
              {\sqrt{n}\,\mathrm{std}(W_{i\cdot})}

    over the fan-in n of each output channel i, with a gain g that is learned.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, input: Tensor) -> Tensor:
        dims = (1, 2, 3)
        variance, mean = torch.var_mean(self.weight, dims, correction=0, keepdim=True)
        fan_in = self.weight[0].numel()
        # The floor is their 10⁻⁴, there against channels whose weights are all alike.
        scale = self.gain * torch.rsqrt((variance * fan_in).clamp(min=1e-4))
        return self._conv_forward(input, (self.weight - mean) * scale, self.bias)


class NaiveLinear(nn.Linear):
    """Each input's weights divided by their norm, written in plain operations."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, on_ball(self.weight, 1), self.bias)


class NaiveConv2d(nn.Conv2d):
    """Each input channel's weights on the ball of its stride, written in plain operations."""

    def forward(self, input: Tensor) -> Tensor:
        weight = on_ball(self.weight, math.prod(self.stride))
        return self._conv_forward(input, weight, self.bias)


def on_ball(weight: Tensor, period: int) -> Tensor:
    """The weight with Σ W² = ``period`` over the outputs and taps of each input."""
    dims = tuple(d for d in range(weight.ndim) if d != 1)
    return weight * math.sqrt(period) / torch.linalg.vector_norm(weight, dim=dims, keepdim=True)


def unit_scaling():
    """The package unit-scaling (Blake et al. 2023).

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        import unit_scaling
    except ImportError as problem:
        raise UnavailableError(f"unit-scaling is not installed ({problem})") from problem
    return unit_scaling


def unit_activation(name: str) -> nn.Module:
    """The module of unit-scaling for an activation, as its defaults have it."""
    module = unit_scaling()
    return {"gelu": module.GELU, "silu": module.SiLU}[name]()


def unit_scale(name: str) -> float:
    """What unit-scaling multiplies f(x) by, from its documented fit at multiplier 1.

    Its default constraint gives the backward pass the same factor.  The fit interpolates
    between 2 and √(2/(1 - 1/π)) on a logarithmic scale, at the share 1/(1 + ¼).
    """
    if name not in UNIT_SCALING:
        raise ValueError(f"name must be one of {', '.join(UNIT_SCALING)}; it was {name!r}")
    share = 1 / (1 + 0.25)
    return 2.0 ** (1 - share) * (2 / (1 - 1 / math.pi)) ** (0.5 * share)


def quad_moments(
    value: Callable[[float], float],
    slope: Callable[[float], float],
    mean: float,
    std: float,
    kinks: tuple[float, ...],
    tolerance: float,
) -> tuple[float, float, float]:
    """μ, σ_f and σ_b by ``scipy.integrate.quad``, split at the kinks, to a tolerance.

    Args:
        value: f, on floats.
        slope: its derivative.
        mean: of the input.
        std: of the input.
        kinks: where f' jumps.
        tolerance: absolute and relative, of each integral.
    """
    from scipy.integrate import quad

    # φ(10) is 10⁻²²: beyond, nothing counts.
    low, high = mean - 10 * std, mean + 10 * std
    factor = 1 / (std * math.sqrt(2 * math.pi))

    def expectation(function):
        def integrand(x):
            z = (x - mean) / std
            return function(x) * factor * math.exp(-0.5 * z * z)

        ends = [low, *sorted(k for k in kinks if low < k < high), mean, high]
        ends = sorted(set(ends))
        return math.fsum(
            quad(integrand, a, b, epsabs=tolerance, epsrel=tolerance, limit=200)[0]
            for a, b in itertools.pairwise(ends)
        )

    mu = expectation(value)
    variance = expectation(lambda x: (value(x) - mu) ** 2)
    return mu, math.sqrt(variance), math.sqrt(expectation(lambda x: slope(x) ** 2))


def autoinit_moments(
    function: Callable[[float], float], mean: float, std: float
) -> tuple[float, float]:
    """μ and σ_f as AutoInit finds them (Bingham and Miikkulainen, arXiv 2109.08958).

    Two calls of ``scipy.integrate.quad`` over the whole line at its default tolerance, of
    f·density and f²·density with ``scipy.stats.norm``; the variance is the second less the
    square of the first.  AutoInit has no backward figure.
    """
    from scipy.integrate import quad
    from scipy.stats import norm

    law = norm(loc=mean, scale=std)
    first = quad(lambda x: function(x) * law.pdf(x), -math.inf, math.inf)[0]
    second = quad(lambda x: function(x) ** 2 * law.pdf(x), -math.inf, math.inf)[0]
    return first, math.sqrt(second - first**2)


def naive(module: nn.Module) -> NaiveActivation:
    """(f(x) - μ)/σ_b for a module of ``torch.nn``."""
    moments = normprop.moments(module)
    return NaiveActivation(module, moments.fwd_mean, moments.bwd_std)


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *weights):
        return tuple(torch._foreach_mul(weights, 1.0))

    @staticmethod
    def backward(ctx, *gradients):
        return tuple(torch._foreach_mul(gradients, 1.0))


def copied(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """A plain network whose linear maps and convolutions run with copies of their weights.

    Each weight, and each gradient, goes once through memory, all in one call each way: what such a
    call costs before anything is computed.  Copies that each map makes as it runs, while the cache
    holds them, cost less.
    """
    model.__dict__["maps"] = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    model.register_forward_pre_hook(_hand_out)
    model.register_forward_hook(_take_back)
    return model


def _hand_out(network: nn.Module, _) -> None:
    maps = network.maps
    copies = _Copied.apply(*[layer._parameters["weight"] for layer in maps])
    for layer, copy in zip(maps, copies, strict=True):
        layer.__dict__["weight"] = copy


def _take_back(network: nn.Module, *_) -> None:
    for layer in network.maps:
        del layer.__dict__["weight"]
