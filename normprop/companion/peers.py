"""Layers and initialisations of other authors' methods, as their papers give them."""

import math

import torch
from torch import Tensor, nn

import normprop

LEAKY_SLOPE = 0.8
BRANCH = 0.2
"""α of a normaliser-free residual network: the branch's share beside the skip."""
_EPS = 1e-4
_TOLERANCE, _ATTEMPTS = 0.1, 10


class _Standardized:
    """W with its rows centred and of norm 1, times a gain a row (Brock, De, Smith 2021).

    Its entries have variance 1/fan-in over a row.  Without the gain it is weight standardisation
    (Qiao et al. 2019) but for that scale, which the normalisation behind it takes away.
    """

    def standardize(self, gain: bool) -> None:
        """Add the gain, or have none."""
        rows = self.weight.flatten(1)
        if rows.shape[1] < 2:
            raise ValueError("a layer must have two inputs at least, or its rows centre to 0")
        shape = (len(rows), *[1] * (self.weight.dim() - 1))
        self.gain = nn.Parameter(torch.ones(shape)) if gain else None

    def standardized(self) -> Tensor:
        """The weight of the forward pass."""
        rows = self.weight.flatten(1)
        variance, mean = torch.var_mean(rows, 1, correction=0, keepdim=True)
        rows = (rows - mean) * (variance * rows.shape[1]).clamp_min(_EPS).rsqrt()
        weight = rows.view_as(self.weight)
        return weight if self.gain is None else weight * self.gain


class StandardizedLinear(_Standardized, nn.Linear):
    """Linear map with standardised weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map."""
        return nn.functional.linear(input, self.standardized(), self.bias)


class StandardizedConv2d(_Standardized, nn.Conv2d):
    """Convolution with standardised weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map."""
        return self._conv_forward(input, self.standardized(), self.bias)


class ScaledActivation(nn.Module):
    """γ·f(x), γ = 1/σ_f at N(0, 1): nothing is subtracted, because centred weights do not see it.

    Args:
        function: f, a module.
        name: by which ``moments`` knows it.
    """

    def __init__(self, function: nn.Module, name: str) -> None:
        super().__init__()
        self.function, self.scale = function, 1.0 / normprop.moments(name).fwd_std

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation and multiply."""
        return self.scale * self.function(input)


class NormalizerFree(nn.Module):
    """x + α·layer(x/β) of Brock, De, Smith (2021).

    Args:
        layer: the branch, which keeps unit variance.
        before: number of such branches below, each of which added α² to the variance 1 of the
            stem: β² is what the skip has become.
    """

    def __init__(self, layer: nn.Module, before: int) -> None:
        super().__init__()
        self.layer, self.expected = layer, math.sqrt(1.0 + before * BRANCH**2)

    def forward(self, input: Tensor) -> Tensor:
        """Add the branch."""
        return input + BRANCH * self.layer(input / self.expected)


class SkipInit(nn.Module):
    """x + α·layer(x) with α = 0 at the start, learned (De, Smith 2020; Bachlechner et al. 2021)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.weight = layer, nn.Parameter(torch.zeros(()))

    def forward(self, input: Tensor) -> Tensor:
        """Add the branch."""
        return input + self.weight * self.layer(input)


class Fixup(nn.Module):
    """x + a·W f(x + b) + c with W = 0, a = 1 and b = c = 0 at the start (Zhang et al. 2019).

    A branch of m layers has the first m - 1 of them divided by L^(1/(2m - 2)) and the last one
    at 0.  Here it has one layer, the last.  The activation comes first: behind a map that is 0 a
    ReLU has no slope.

    Args:
        map_: W, a linear map or a convolution, without effect of its bias.
        function: f, a module.
    """

    def __init__(self, map_: nn.Module, function: nn.Module) -> None:
        super().__init__()
        self.map, self.function = map_, function
        nn.init.zeros_(map_.weight)
        self.scale = nn.Parameter(torch.ones(()))
        self.before, self.behind = (nn.Parameter(torch.zeros(())) for _ in range(2))

    def forward(self, input: Tensor) -> Tensor:
        """Add the branch."""
        branch = self.map(self.function(input + self.before))
        return input + self.scale * branch + self.behind


@torch.no_grad()
def lsuv_(network: nn.Module, inputs: Tensor) -> None:
    """Divide the weights of each map by the deviation of its outputs on a batch, in order.

    Layer-sequential unit variance (Mishkin, Matas 2016), with its tolerance of 0.1 and its ten
    attempts: the first is enough for maps without a bias.

    Args:
        network: its maps are linear maps and convolutions.
        inputs: the batch.
    """

    def scale(map_: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        for _ in range(_ATTEMPTS):
            deviation = output.std(correction=0).item()
            if abs(deviation**2 - 1.0) < _TOLERANCE or not 0 < deviation < math.inf:
                break
            map_.weight /= deviation
            # `forward` itself: a call would come back here.
            output = map_.forward(*arguments)
        return output

    maps = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    handles = [map_.register_forward_hook(scale) for map_ in maps]
    network(inputs)
    for handle in handles:
        handle.remove()


def delta_orthogonal_(weight: Tensor) -> None:
    """An orthogonal matrix at the middle tap of a kernel, 0 elsewhere (Xiao et al. 2018).

    Args:
        weight: of shape (out, in, k…), each k odd.

    Raises:
        ValueError: a k is even.
    """
    if any(size % 2 == 0 for size in weight.shape[2:]):
        raise ValueError(f"the kernel must have a middle; its shape was {tuple(weight.shape[2:])}")
    with torch.no_grad():
        weight.zero_()
        middle = tuple(size // 2 for size in weight.shape[2:])
        weight[(slice(None), slice(None), *middle)] = nn.init.orthogonal_(
            torch.empty(weight.shape[:2], dtype=weight.dtype, device=weight.device)
        )
