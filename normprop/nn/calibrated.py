"""Activations whose input scale is chosen for a depth."""

import math
from dataclasses import replace
from typing import ClassVar, TypedDict

from torch import Tensor, nn

from normprop import rules
from normprop.functional.scale import Scaling, constant_when_compiled
from normprop.gaussian import Law, Normal
from normprop.gaussian.calibration import Calibration, calibrate_mean, calibrate_std
from normprop.names import NAMED, canonical
from normprop.nn.twin import Twin

__all__ = ["Calibrated"]


class Calibrated(Twin, nn.Module):
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
        scaling: which standard deviation divides in which pass; ``"forward"`` by default, as the
            depth is one of layers that are normalised so.

    Raises:
        ValueError: no s (or m) has this growth, or an argument is out of its range.
    """

    _keywords: ClassVar[type] = TypedDict("keywords", {})
    _followed: ClassVar = frozenset({"vary"})

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
        nn.Module.__init__(self)
        self.activation, self.depth, self.growth = activation, depth, growth
        self.vary, self.mean, self.std, self.scaling = vary, mean, 1.0, scaling
        super().__init__()

    def _checked(self, name: str, value):
        if name != "activation":
            return super()._checked(name, value)
        if not isinstance(value, str):
            raise TypeError(f"activation must be a name such as 'tanh'; it was {value!r}")
        return canonical(value, "activation")

    @property
    def calibration(self) -> Calibration:
        """The m and s that were found, and χ there with its error bound."""
        known = self.__dict__
        if "_calibration" not in known:
            own = self.activation, self.depth, self.growth, self.vary, self.mean
            known["_calibration"] = _calibration(*own)
        return known["_calibration"]

    def _forget(self) -> None:
        self.__dict__.pop("_calibration", None)
        super()._forget()

    def _plain(self, law: Law) -> rules.Moments:
        if not isinstance(law, Normal):
            raise ValueError("after= does not apply to an activation; layer was Calibrated")
        mean, std = self.calibration.mean, self.calibration.std
        inner = rules.moments(self.activation, mean + std * law.mean, std * law.std)
        return replace(inner, bwd_std=std * inner.bwd_std, error=inner.error * max(1.0, std))

    def _declared(self, law: Law, shape: tuple[int, ...] | None) -> rules.Moments:
        return self._plain(Normal(0.0, 1.0))

    def _compute(self, input: Tensor) -> Tensor:
        mean, std = self._place()
        return NAMED[self.activation](mean + std * input)

    @constant_when_compiled
    def _place(self) -> tuple[float, float]:
        return self.calibration.mean, self.calibration.std

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
