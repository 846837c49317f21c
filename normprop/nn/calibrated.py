"""Activations whose input law is chosen for a depth."""

import contextlib
import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal, Unpack

import torch
from torch import Tensor, nn

from normprop import rules
from normprop.checks import finite, whole
from normprop.functional.activation import NAMES
from normprop.functional.fused import Params, affine
from normprop.functional.keywords import LawOnBackend
from normprop.functional.scale import check_real, constant_when_compiled, normalized, upcast
from normprop.gaussian import Function, Law, Normal
from normprop.gaussian.calibration import Calibration, calibrate, calibrate_mean, calibrate_std
from normprop.names import CLASSES, NAMED, arguments_of, canonical
from normprop.nn.activation import Activation
from normprop.nn.twin import Twin

__all__ = ["Calibrated"]

Vary = Literal["both", "std", "mean"]
_TYPES = {name: layer_type for layer_type, name in CLASSES.items()}


class Calibrated(Activation, nn.Module):
    r"""Normalised activation at the input law that suits a depth.

    .. math:: y = \frac{f(m + s\,(x - \mathrm{mean})/\mathrm{std}) - \mu}{\sigma}

    A forward-normalised layer multiplies the squared gradient by χ(m, s) ≥ 1, whatever the
    activation, and a small deviation of the signal's second moment by Q'(1).  A stack of L of them
    multiplies the squared gradient by ``growth`` where χ^L is that, and keeps its signal where
    Q'(1) < 1.  Of the laws that have both, the layer runs f at the least linear one:
    :mod:`normprop.gaussian.calibration` says what that is.

    Under ``scaling="forward"`` σ is the standard deviation of f(m + s z), z ~ N(0, 1), and the
    gradient the true one; ``"backward"`` and ``"separate"`` are as in :class:`ReLU`, with the root
    mean square of s f'(m + s z)/std.

    Args:
        activation: a name that :func:`normprop.moments` knows, such as ``"tanh"``; an elementwise
            module without parameters, such as ``nn.LeakyReLU(0.1)``, which is kept as it is, a part
            of the arguments and no child; or a function on tensors.
        depth: number L of such layers in the stack, at least 1.
        growth: χ^L, greater than 1; by default e.
        vary: ``"both"`` of m and s; or one of them alone, and a law that may not be stable, which
            is warned of: ``"std"`` for the smallest s at m = ``at``, ``"mean"`` for the smallest
            m ≥ 0 at s = 1.
        at: m under ``vary="std"``.
        scaling: which standard deviation divides in which pass; ``"forward"`` by default, as the
            depth is one of layers that are normalised so.
        mean: mean of the input that arrives.
        std: standard deviation of the input that arrives, greater than 0.
        backend: who computes, as in :class:`ReLU`.

    Attributes:
        constants: shift and divisors, Python floats.
        overwritten: ``"output"`` where the network writes into what the layer gives before the
            backward pass, as in :class:`ReLU`.  Its input is the layer's own.

    Raises:
        TypeError: the activation is none, has parameters, or draws random numbers.
        ValueError: no law has this growth and keeps the signal, or an argument is out of its range.

    Warns:
        UserWarning: ``vary`` is ``"std"`` or ``"mean"``, and the law has Q'(1) ≥ 1.
    """

    _defaults: ClassVar = {"scaling": "forward"}

    def __init__(
        self,
        activation: str | nn.Module | Callable[[Tensor], Tensor] = "tanh",
        *,
        depth: int,
        growth: float = math.e,
        vary: Vary = "both",
        at: float = 0.0,
        **law: Unpack[LawOnBackend],
    ) -> None:
        nn.Module.__init__(self)
        self.activation, self.depth, self.growth = activation, depth, growth
        self.vary, self.at = vary, at
        super().__init__(**law)
        self._warn()

    def __setattr__(self, name: str, value) -> None:
        if name == "activation":
            # Past nn.Module, which would make a child of it.
            self.__dict__[name] = _checked_activation(value)
            self._forget()
        else:
            super().__setattr__(name, value)
        if self._made and name in self._settings and "_calibration" in self.__dict__:
            self._warn()

    def _checked(self, name: str, value):
        return _CHECKS[name](value) if name in _CHECKS else super()._checked(name, value)

    @property
    def plain(self) -> nn.Module | None:
        """The activation as a new layer of torch; None where torch has no such layer."""
        own = self.activation
        if isinstance(own, str):
            return nn.GELU("tanh") if own == "gelu_tanh" else _TYPES[own]()
        found = _type_of_torch(own)
        return found and found(**{name: getattr(own, name) for name in arguments_of(found)})

    @property
    def function(self) -> Callable[[Tensor], Tensor]:
        """The activation, to be called."""
        return NAMED[self.activation] if isinstance(self.activation, str) else self.activation

    @property
    def calibration(self) -> Calibration:
        """The m and s that were found, with χ and Q'(1) there and their error bounds."""
        known = self.__dict__
        if "_calibration" not in known:
            known["_calibration"] = self._found_law()
        return known["_calibration"]

    def _found_law(self) -> Calibration:
        function = _described(self.activation)
        if self.vary == "both":
            return calibrate(function, self.depth, self.growth)
        if self.vary == "mean":
            return calibrate_mean(function, self.depth, self.growth)
        return calibrate_std(function, self.depth, self.growth, self.at)

    def _warn(self) -> None:
        """Say so, two calls up, where the law that was asked for is not stable."""
        found = self.calibration
        if not found.stable:
            warnings.warn(
                f"at N({found.mean:.4g}, {found.std:.4g}²), where vary={self.vary!r} puts "
                f"{self.activation}, each layer multiplies a deviation of the signal's second "
                f"moment by {found.slope.value:.4g}, so that {self.depth} of them lose its scale; "
                "vary='both' takes a law that keeps it",
                stacklevel=3,
            )

    def _forget(self) -> None:
        for own in ("_calibration", "_kernel"):
            self.__dict__.pop(own, None)
        super()._forget()

    @property
    def line(self) -> tuple[float, float]:
        """Scale and shift between the input and the function, f(scale·x + shift)."""
        scale = self.calibration.std / self.std
        return scale, self.calibration.mean - scale * self.mean

    def _plain(self, law: Law) -> rules.Moments:
        if not isinstance(law, Normal):
            raise ValueError("after= does not apply to an activation; layer was Calibrated")
        scale, shift = self.line
        return self._moments_at(Normal(shift + scale * law.mean, scale * law.std))

    def _declared(self, law: Law, shape: tuple[int, ...] | None) -> rules.Moments:
        return self._moments_at(Normal(self.calibration.mean, self.calibration.std))

    def _moments_at(self, law: Normal) -> rules.Moments:
        inner, scale = rules.activation(_described(self.activation), law), self.line[0]
        return replace(inner, bwd_std=scale * inner.bwd_std, error=inner.error * max(1.0, scale))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function at its place and normalise."""
        check_real(input)
        scale, shift = self._placed(self._told if torch.compiler.is_compiling() else "")
        # In the type that computes: next to m, half precision loses what is of the order of s.
        at = affine(upcast(input), scale, shift)
        if self._row() is None:
            return normalized(self.function, at, self._constants(None)).to(input.dtype)
        return self._fused(at).to(input.dtype)

    @constant_when_compiled
    def _placed(self, told: str) -> tuple[float, float]:
        return self.line

    def _tell(self) -> None:
        super()._tell()
        with contextlib.suppress(TypeError, ValueError):
            self.__dict__["_told"] += f", {self.line}"

    def _row(self) -> tuple[str, Params] | None:
        """The row of ``MAPS`` and its parameters; None of a function that has none."""
        known = self.__dict__
        if "_kernel" not in known:
            own, name = self.plain, NAMES.get(type(self.plain))
            arguments = arguments_of(type(own)) if name else ()
            known["_kernel"] = name and (name, tuple(getattr(own, a) for a in arguments))
        return known["_kernel"]

    def extra_repr(self) -> str:
        """The arguments, and what was found."""
        own = self.activation
        shown = own if isinstance(own, nn.Module) else repr(getattr(own, "__name__", own))
        chosen = "" if self.vary == "both" else f", vary={self.vary!r}"
        found = f"input_mean={self.calibration.mean:.6g}, input_std={self.calibration.std:.6g}"
        return (
            f"{shown}, depth={self.depth}, growth={self.growth:g}{chosen}, "
            f"{super().extra_repr()}, {found}"
        )


def _type_of_torch(activation) -> type[nn.Module] | None:
    """The class of torch whose forward a module runs."""
    own = type(activation)
    for parent in own.__mro__ if isinstance(activation, nn.Module) else ():
        if parent.__module__.startswith("torch.nn.") and own.forward is parent.forward:
            return parent if getattr(nn, parent.__name__, None) is parent else None
    return None


def _described(activation) -> Function:
    """The activation, as integration sees it."""
    if isinstance(activation, nn.Module) and _type_of_torch(activation) is None:
        return rules.function_of(activation.forward)
    return rules.function_of(activation)


def _checked_activation(activation):
    """The activation as it is kept: a name as torch has it, a module as a copy."""
    if isinstance(activation, str):
        return canonical(activation, "activation")
    if isinstance(activation, nn.Module):
        if isinstance(activation, (Twin, nn.RReLU)) or any(activation.state_dict()):
            raise TypeError(
                "activation must be a plain elementwise module that learns and draws nothing, such "
                f"as nn.LeakyReLU(0.1); it was {activation}"
            )
        activation = copy.deepcopy(activation)
        if hasattr(activation, "inplace"):
            # The line in front is not the model's to overwrite, and what is kept is its output.
            activation.inplace = False
    _described(activation)
    return activation


_CHECKS = {
    "depth": partial(whole, "depth"),
    "growth": partial(
        finite, "growth", above=1.0, must=" and greater than 1, which only straight lines reach"
    ),
    "at": partial(finite, "mean"),
}
