"""Normalised activations: each a row, its twin's arguments and one functional call."""

import inspect
from collections.abc import Callable

from torch import Tensor, nn

from normprop import functional
from normprop.functional.activation import activation_constants
from normprop.functional.fused import MAPS, Backend, Overwritten, Params, check_backend, fused
from normprop.functional.scale import Constants, literal
from normprop.functional.slope import rrelu_constants
from normprop.gaussian import Normal
from normprop.nn.law import joined
from normprop.nn.twin import Twin


class Activation(Twin):
    r"""What the normalised activations share.

    .. math:: y = \frac{f(x) - \mu}{\sigma}

    Every one has its twin's arguments, in its order, and these keywords; the function of the same
    name in :mod:`normprop.functional` says the rest.

    Args:
        inplace: where the twin has it, must be ``False``.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        backend: who computes, ``"eager"``, ``"triton"`` or ``"auto"``.

    Attributes:
        constants: shift and divisors, Python floats.
        overwritten: what the network writes into in place before the backward pass: ``"output"``,
            ``"input"``, or ``None``.  The layer then keeps for its gradient what torch's keeps,
            so that what torch allows is allowed, for more memory and another pass.  Where
            :func:`normprop.convert` sees such a write, it says so here.
    """

    overwritten: Overwritten | None = None

    _function: Callable[..., Tensor]
    # The attributes that the function takes after its input.
    _names: tuple[str, ...]

    def __init_subclass__(cls, function: Callable[..., Tensor] | None = None, **keywords) -> None:
        super().__init_subclass__(**keywords)
        if function is None:
            return
        cls._function = staticmethod(function)
        cls._names = tuple(
            name
            for name, p in list(inspect.signature(function).parameters.items())[1:]
            if p.kind is p.POSITIONAL_OR_KEYWORD and name != "inplace"
        )
        backend = inspect.Parameter(
            "backend", inspect.Parameter.KEYWORD_ONLY, default="auto", annotation=Backend
        )
        signature = cls.__signature__
        cls.__signature__ = signature.replace(parameters=[*signature.parameters.values(), backend])

    def __init__(self, *args, backend: Backend = "auto", **keywords) -> None:
        super().__init__(*args, **keywords)
        check_backend(backend)
        self.backend = backend

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function and normalise."""
        own = [getattr(self, name) for name in self._names]
        row = None if self.overwritten is None else self._row(own)
        if row is not None:
            name, params = row
            params = tuple(p if isinstance(p, str) else literal(p) for p in params)
            return fused(name, input, params, self.constants, self.backend, self.overwritten)
        return self._function(input, *own, constants=self.constants, backend=self.backend)

    @property
    def keeps_output(self) -> bool:
        """Whether the layer keeps its output for its gradient, unless it is overwritten."""
        row = self._row([getattr(self, name) for name in self._names])
        return row is not None and MAPS[row[0]].keeps(*row[1]) == "output"

    def _row(self, own: list) -> tuple[str, Params] | None:
        """The row of ``MAPS`` and its parameters; None where what torch keeps is kept anyway."""
        name = self._function.__name__
        return (name, tuple(own)) if name in MAPS else None

    def extra_repr(self) -> str:
        """The arguments; the backend where one was chosen."""
        chosen = "" if self.backend == "auto" else f"backend={self.backend!r}"
        written = "" if self.overwritten is None else f"overwritten={self.overwritten!r}"
        return joined(super().extra_repr(), chosen, written)


class CELU(Activation, nn.CELU, function=functional.celu):
    """Normalised CELU: see :func:`normprop.functional.celu`."""


class ELU(Activation, nn.ELU, function=functional.elu):
    """Normalised ELU: see :func:`normprop.functional.elu`."""


class GELU(Activation, nn.GELU, function=functional.gelu):
    """Normalised GELU: see :func:`normprop.functional.gelu`."""


class Hardshrink(Activation, nn.Hardshrink, function=functional.hardshrink):
    """Normalised Hardshrink: see :func:`normprop.functional.hardshrink`."""


class Hardsigmoid(Activation, nn.Hardsigmoid, function=functional.hardsigmoid):
    """Normalised Hardsigmoid: see :func:`normprop.functional.hardsigmoid`."""


class Hardswish(Activation, nn.Hardswish, function=functional.hardswish):
    """Normalised Hardswish: see :func:`normprop.functional.hardswish`."""


class Hardtanh(Activation, nn.Hardtanh, function=functional.hardtanh):
    """Normalised Hardtanh: see :func:`normprop.functional.hardtanh`."""


class Identity(Activation, nn.Identity, function=functional.identity):
    """Normalised Identity: see :func:`normprop.functional.identity`."""


class LeakyReLU(Activation, nn.LeakyReLU, function=functional.leaky_relu):
    """Normalised LeakyReLU: see :func:`normprop.functional.leaky_relu`."""


class LogSigmoid(Activation, nn.LogSigmoid, function=functional.logsigmoid):
    """Normalised LogSigmoid: see :func:`normprop.functional.logsigmoid`."""


class Mish(Activation, nn.Mish, function=functional.mish):
    """Normalised Mish: see :func:`normprop.functional.mish`."""


class PReLU(Activation, nn.PReLU, function=functional.prelu):
    """Normalised PReLU: see :func:`normprop.functional.prelu`.

    The constants stay those of ``init`` while the slopes are learnt; :func:`normprop.moments`
    measures the layer as it has become, and :meth:`declare_` makes the slopes that it has then
    those of its constants.
    """

    def _declared_constants(self, law: Normal) -> Constants:
        return activation_constants(
            "leaky_relu", (float(self.init),), self.scaling, law.mean, law.std
        )

    def declare_(self) -> None:
        """Take the constants of the slope as it is now; it must be one, or the same for all."""
        law = Normal(self.mean, self.std)
        self.constants = Constants.of(self._plain_moments(law), self.scaling)


class RReLU(Activation, nn.RReLU, function=functional.rrelu):
    """Normalised randomised leaky ReLU: see :func:`normprop.functional.rrelu`.

    Attributes:
        constants: those of training while the layer trains, else those of evaluation.
    """

    def __init__(self, *args, **keywords) -> None:
        super().__init__(*args, **keywords)
        law = self.scaling, self.mean, self.std
        bounds = float(self.lower), float(self.upper)
        self._modes = {mode: rrelu_constants(*bounds, mode, *law) for mode in (True, False)}

    @property
    def keeps_output(self) -> bool:
        """Whether it does in evaluation."""
        return True

    def _row(self, own: list) -> tuple[str, Params] | None:
        lower, upper, training = own
        return None if training else ("leaky_relu", ((lower + upper) / 2.0,))

    @property
    def constants(self) -> Constants:
        """Shift and divisors in the mode that the layer is in."""
        return self._modes[self.training]

    @constants.setter
    def constants(self, constants: Constants) -> None:
        self._modes = {**self.__dict__.get("_modes", {}), self.training: constants}


class ReLU(Activation, nn.ReLU, function=functional.relu):
    """Normalised ReLU: see :func:`normprop.functional.relu`."""


class ReLU6(Activation, nn.ReLU6, function=functional.relu6):
    """Normalised ReLU6: see :func:`normprop.functional.relu6`."""


class SELU(Activation, nn.SELU, function=functional.selu):
    """Normalised SELU: see :func:`normprop.functional.selu`."""


class Sigmoid(Activation, nn.Sigmoid, function=functional.sigmoid):
    """Normalised Sigmoid: see :func:`normprop.functional.sigmoid`."""


class SiLU(Activation, nn.SiLU, function=functional.silu):
    """Normalised SiLU: see :func:`normprop.functional.silu`."""


class Softplus(Activation, nn.Softplus, function=functional.softplus):
    """Normalised Softplus: see :func:`normprop.functional.softplus`."""


class Softshrink(Activation, nn.Softshrink, function=functional.softshrink):
    """Normalised Softshrink: see :func:`normprop.functional.softshrink`."""


class Softsign(Activation, nn.Softsign, function=functional.softsign):
    """Normalised Softsign: see :func:`normprop.functional.softsign`."""


class Tanh(Activation, nn.Tanh, function=functional.tanh):
    """Normalised Tanh: see :func:`normprop.functional.tanh`."""


class Tanhshrink(Activation, nn.Tanhshrink, function=functional.tanhshrink):
    """Normalised Tanhshrink: see :func:`normprop.functional.tanhshrink`."""


class Threshold(Activation, nn.Threshold, function=functional.threshold):
    """Normalised Threshold: see :func:`normprop.functional.threshold`."""
