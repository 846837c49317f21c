"""Activations whose input scale is chosen for a depth."""

import math
from dataclasses import replace

from torch import Tensor, nn

from normprop import rules
from normprop.functional.scale import Constants, Scaling, check_real, normalized, upcast
from normprop.gaussian import Normal
from normprop.gaussian.calibration import Calibration, calibrate_mean, calibrate_std
from normprop.names import NAMED, canonical


class Calibrated(nn.Module):
    r"""Normalised activation at the input scale that suits a depth.

    .. math:: y = \frac{f(m + s x) - \mu}{\sigma}

    A forward-normalised layer multiplies the squared gradient by χ(m, s) ≥ 1, whatever the
    activation; a stack of L of them by χ^L.  Where f is smooth, χ → 1 as s → 0, so that for
    every depth there is an s at which the whole stack multiplies it by ``growth``.  ReLU at
    mean 0 has χ = π/(π - 1) at every s: there the mean moves instead, with ``vary="mean"``.

    The input is to have mean 0 and standard deviation 1.  Under ``scaling="forward"`` σ is
    the standard deviation of f(m + sx) and the gradient the true one; ``"backward"`` and
    ``"separate"`` are as in :class:`ReLU`, with the root mean square of s f'(m + sx).

    Args:
        activation: a name that :func:`normprop.moments` knows, such as ``"tanh"``.
        depth: number L of such layers in the stack, at least 1.
        growth: χ^L, greater than 1; by default e.
        vary: ``"std"`` to look for s at the mean ``mean``; ``"mean"`` to look for m at s = 1.
        mean: m, under ``vary="std"``.
        scaling: which standard deviation divides in which pass.

    Attributes:
        calibration: the m and s that were found, and χ there with its error bound.

    Raises:
        ValueError: no s (or m) has this growth, or an argument is out of its range.
    """

    def __init__(
        self,
        activation: str = "tanh",
        *,
        depth: int,
        growth: float = math.e,
        vary: str = "std",
        mean: float = 0.0,
        scaling: Scaling = "forward",
    ) -> None:
        super().__init__()
        if not isinstance(activation, str):
            raise TypeError(f"activation must be a name such as 'tanh'; it was {activation!r}")
        activation = canonical(activation, "activation")
        self.activation, self.depth, self.growth = activation, depth, growth
        self.scaling = scaling
        self.calibration = _calibration(activation, depth, growth, vary, mean)
        moments = rules.moments(activation, self.calibration.mean, self.calibration.std)
        slope = self.calibration.std * moments.bwd_std
        self.constants = Constants.of(replace(moments, bwd_std=slope), scaling)

    def forward(self, input: Tensor) -> Tensor:
        """Shift and scale the input, apply the activation, normalise."""
        check_real(input)
        function = NAMED[self.activation]
        mean, std = self.calibration.mean, self.calibration.std
        return normalized(lambda x: function(mean + std * upcast(x)), input, self.constants)

    def extra_repr(self) -> str:
        """The arguments, and what was found."""
        found = f"input_mean={self.calibration.mean:.6g}, input_std={self.calibration.std:.6g}"
        return (
            f"{self.activation!r}, depth={self.depth}, growth={self.growth:g}, "
            f"scaling={self.scaling!r}, {found}"
        )


def _calibration(activation, depth, growth, vary, mean) -> Calibration:
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise ValueError(f"depth must be an integer of at least 1; it was {depth!r}")
    if not (math.isfinite(growth) and growth > 1):
        raise ValueError(
            f"growth must be finite and greater than 1, which only straight lines reach; "
            f"it was {growth}"
        )
    if vary not in ("std", "mean"):
        raise ValueError(f"vary must be 'std' or 'mean'; it was {vary!r}")
    function = rules.function_of(activation)
    if vary == "mean":
        return calibrate_mean(function, depth, growth)
    rules.check_law(mean, 1.0)
    return calibrate_std(function, depth, growth, mean)


def _moments(layer: Calibrated, law) -> rules.Moments:
    mean, std = layer.calibration.mean, layer.calibration.std
    if not isinstance(law, Normal):
        raise ValueError("after= does not apply to an activation; layer was Calibrated")
    inner = rules.moments(layer.activation, mean + std * law.mean, std * law.std)
    outer = replace(inner, bwd_std=std * inner.bwd_std, error=inner.error * max(1.0, std))
    return rules.affine(outer, *layer.constants)


rules.register(Calibrated, _moments)
