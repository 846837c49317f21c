"""Normalised activations: a class each."""

from collections.abc import Callable
from typing import ClassVar, Unpack

import torch
from torch import Tensor, nn

from normprop import rules
from normprop.functional.activation import NAMES, Gate, gated, over, with_draws, with_slopes
from normprop.functional.fused import MAPS, Overwritten, Params, fused
from normprop.functional.keywords import Given, LawOnBackend
from normprop.functional.scale import literal
from normprop.gaussian import Image, Law, Normal
from normprop.names import arguments_of
from normprop.nn.twin import Twin

__all__ = [
    "CELU", "ELU", "GELU", "GLU", "SELU", "Elementwise", "GatedLinear", "Hardshrink", "Hardsigmoid",
    "Hardswish", "Hardtanh", "Identity", "LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish", "PReLU",
    "RReLU", "ReLU", "ReLU6", "SiLU", "Sigmoid", "Softmax", "Softmax2d", "Softmin", "Softplus",
    "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Threshold",
]  # fmt: skip


class Activation(Twin):
    r"""What the normalised activations share.

    .. math:: y = \frac{f(x) - \mu}{\sigma}

    Every one has its twin's arguments, in its order, and these keywords; the function of the same
    name in :mod:`normprop.functional` says the rest.

    Attributes:
        constants: shift and divisors, Python floats.
        overwritten: what the network writes into in place before the backward pass: ``"output"``,
            ``"input"``, or ``None``.  The layer then keeps for its gradient what torch's keeps,
            so that what torch allows is allowed, for more memory and another pass.  Where
            :func:`normprop.convert` sees such a write, it says so here.
    """

    _keywords: ClassVar[type] = LawOnBackend
    overwritten: Overwritten | None = None
    # Of the function, known from the class on: a call must not ask for a signature.
    _arguments: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options) -> None:
        super().__init_subclass__(**options)
        if cls.torch_type in NAMES:
            cls._arguments = arguments_of(cls.torch_type)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function and normalise."""
        return self._fused(input)

    def _fused(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            name, params = self._row()
            params = tuple(p if isinstance(p, str) else literal(p) for p in params)
            call = name, params, self._constants(None)
        else:
            # Beside the constants, and let go with them.
            known = self.__dict__.setdefault("_known", {})
            call = known.get("call")
            if call is None:
                call = known["call"] = *self._row(), self._constants(None)
        return fused(call[0], input, *call[1:], self.backend, self.overwritten)

    @property
    def keeps_output(self) -> bool:
        """Whether the layer keeps its output for its gradient, unless it is overwritten."""
        row = self._row()
        return row is not None and MAPS[row[0]].keeps(*row[1]) == "output"

    def _row(self) -> tuple[str, Params] | None:
        """The row of ``MAPS`` and its parameters; None where what torch keeps is kept anyway."""
        own = (getattr(self, name) for name in self._arguments)
        return NAMES[self.torch_type], tuple(own)

    def extra_repr(self) -> str:
        """The arguments; what is overwritten where something is."""
        own = super().extra_repr()
        return own if self.overwritten is None else f"{own}, overwritten={self.overwritten!r}"


class PReLU(Activation, nn.PReLU):
    """Normalised PReLU: see :func:`normprop.functional.prelu`.

    The constants stay those of ``init`` while the slopes are learnt; :func:`normprop.moments`
    measures the layer as it has become, and :meth:`declare_` makes the slope that it has then the
    ``init`` of its constants.
    """

    def _declared(self, law: Law, shape: tuple[int, ...] | None) -> rules.Moments:
        return rules.moments(nn.LeakyReLU(self.init), law.mean, law.std)

    def declare_(self) -> None:
        """Take the constants of the slope as it is now; it must be one, or the same for all."""
        self.init = rules.slope_of(self)

    def _row(self) -> None:
        return None

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function and normalise."""
        return with_slopes(input, self.weight, self._constants(None), self.backend)


class RReLU(Activation, nn.RReLU):
    """Normalised randomised leaky ReLU: see :func:`normprop.functional.rrelu`.

    Attributes:
        constants: those of training while the layer trains, else those of evaluation.
    """

    _followed: ClassVar = frozenset({"training"})

    @property
    def keeps_output(self) -> bool:
        """Whether it does in evaluation."""
        return True

    def _row(self) -> tuple[str, Params] | None:
        return None if self.training else ("leaky_relu", ((self.lower + self.upper) / 2.0,))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function and normalise."""
        if not self.training:
            return self._fused(input)
        own = self.lower, self.upper, self.training
        return with_draws(input, *own, self._constants(None), self.backend)


def _image(layer: "Elementwise", base: Normal) -> Image:
    function = rules.function_of(layer.function)
    return Image(function, base, layer.constants.shift, layer.constants.forward)


class Elementwise(Twin, nn.Module):
    r"""An elementwise function of your own, normalised: y = (f(x) - μ)/σ.

    See :func:`normprop.functional.elementwise`.  The constants are found once, when the layer
    is made.

    Args:
        function: maps a tensor to one of the same shape, each element on its own, the same
            result each time; differentiable by autograd.  A function defined in a module can
            be pickled with the layer, a lambda cannot.

    Raises:
        TypeError: the function does not take or return one tensor of real numbers.
        ValueError: it is not elementwise, not finite or not differentiable, its integrals do
            not converge, or an argument is out of its range.

    Example:
        >>> snake = Elementwise(lambda x: x + x.sin() ** 2, scaling="forward")
    """

    _image_rule: ClassVar = _image

    def __init__(self, function: Callable[[Tensor], Tensor], **law: Unpack[Given]) -> None:
        nn.Module.__init__(self)
        self.function = function
        super().__init__(**law)

    def _checked(self, name: str, value):
        if name == "function" and isinstance(value, nn.Module):
            raise TypeError(
                f"function must be a function, not a module with a state; it was {value}"
            )
        return super()._checked(name, value)

    def _compute(self, input: Tensor) -> Tensor:
        return self.function(input)

    def _plain(self, law: Law) -> rules.Moments:
        return rules.activation(rules.function_of(self.function), law)

    def _declared(self, law: Law, shape: tuple[int, ...] | None) -> rules.Moments:
        return rules.moments(self.function, law.mean, law.std)

    def extra_repr(self) -> str:
        """The arguments."""
        name = getattr(self.function, "__name__", repr(self.function))
        return f"{name}, {super().extra_repr()}"


class GatedLinear(Twin, nn.Module):
    """Normalised a·g(b) with a gate of your choice: :func:`normprop.functional.gated_linear`."""

    def __init__(self, gate: Gate = "silu", dim: int = -1, **law: Unpack[Given]) -> None:
        nn.Module.__init__(self)
        self.gate, self.dim = gate, dim
        super().__init__(**law)

    def _compute(self, input: Tensor) -> Tensor:
        return gated(input, self.gate, self.dim)

    def _plain(self, law: Law) -> rules.Moments:
        return rules.gated_linear(rules.function_of(self.gate), law)

    def _declared(self, law: Law, shape: tuple[int, ...] | None) -> rules.Moments:
        return self._plain(law)

    def extra_repr(self) -> str:
        """The arguments."""
        gate = repr(self.gate) if isinstance(self.gate, str) else self.gate
        return f"gate={gate}, dim={self.dim}, {super().extra_repr()}"


class _Over(Twin):
    """A function of all elements of a dimension, whose size its constants follow from."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply it and normalise."""
        constants = over(self.torch_type, input, self._place(), self._chosen())
        return self._run(self._compute, input, constants)

    def _place(self) -> int:
        """The dimension, which must not be ``None``."""
        if self.dim is None:
            raise ValueError("dim must be given: torch's implicit choice depends on the batch")
        return self.dim


# fmt: off
class CELU(Activation, nn.CELU): ...
class ELU(Activation, nn.ELU): ...
class GELU(Activation, nn.GELU): ...
class Hardshrink(Activation, nn.Hardshrink): ...
class Hardsigmoid(Activation, nn.Hardsigmoid): ...
class Hardswish(Activation, nn.Hardswish): ...
class Hardtanh(Activation, nn.Hardtanh): ...
class Identity(Activation, nn.Identity): ...
class LeakyReLU(Activation, nn.LeakyReLU): ...
class LogSigmoid(Activation, nn.LogSigmoid): ...
class Mish(Activation, nn.Mish): ...
class ReLU(Activation, nn.ReLU): ...
class ReLU6(Activation, nn.ReLU6): ...
class SELU(Activation, nn.SELU): ...
class Sigmoid(Activation, nn.Sigmoid): ...
class SiLU(Activation, nn.SiLU): ...
class Softplus(Activation, nn.Softplus): ...
class Softshrink(Activation, nn.Softshrink): ...
class Softsign(Activation, nn.Softsign): ...
class Tanh(Activation, nn.Tanh): ...
class Tanhshrink(Activation, nn.Tanhshrink): ...
class Threshold(Activation, nn.Threshold): ...
class GLU(Twin, nn.GLU): ...
class Softmax(_Over, nn.Softmax): ...
class Softmin(_Over, nn.Softmin): ...
class LogSoftmax(_Over, nn.LogSoftmax): ...
# fmt: on


class Softmax2d(_Over, nn.Softmax2d):
    """Normalised softmax over channels, (N, C, H, W): see :func:`normprop.functional.softmax`."""

    def _place(self) -> int:
        return -3
