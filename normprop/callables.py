"""Any elementwise function on tensors, as integration sees it: its slope comes from autograd."""

import math
import numbers
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from normprop.gaussian import Function

# Points at which a function is tried: on both sides of zero, near and far, none of them round.
_TRIAL = torch.linspace(-3.1, 3.3, 23, dtype=torch.float64, device="cpu")
_SINGLES = (0, 11, 17)
# Numbers of this many significant bits are no accident of single precision.
_PLAIN_BITS = 18


def from_callable(
    function: Callable[[Tensor], Tensor], name: str, kinks: Sequence[float] | None = None
) -> Function:
    """Describe an elementwise function, run in float64.

    Kinks and steps need no mention: they are looked for where the integrals do not converge.
    Panels end at those that are given, and get ever narrower towards them and, where none is
    given, towards 0.  A feature elsewhere that is narrower than a tenth of a standard deviation
    may be missed.

    Args:
        function: maps a tensor to one of the same shape, each element on its own, the same
            result each time; differentiable by autograd.  One that ignores its input is a
            constant.
        name: what errors call it.
        kinks: where it has kinks or steps, finite, in any order.

    Raises:
        TypeError: it does not return a real tensor, or kinks are no numbers.
        ValueError: it is not elementwise, not deterministic, not finite, not differentiable
            by autograd or not computed in float64; or a kink is not finite.
    """
    features = check_kinks(kinks)
    _check(function, name)

    def seen(x: np.ndarray, finite: bool = True) -> tuple[np.ndarray, np.ndarray]:
        f, slope = _value_and_slope(function, name, torch.from_numpy(x))
        if finite and not (np.isfinite(f).all() and np.isfinite(slope).all()):
            bad = int(np.argmin(np.isfinite(f) & np.isfinite(slope)))
            raise ArithmeticError(
                f"{name} and its slope must be finite; at {x[bad]:.6g} they are {f[bad]:g} and "
                f"{slope[bad]:g}"
            )
        return f, slope

    try:
        values, slopes = seen(_TRIAL.numpy())
    except ArithmeticError as problem:
        raise ValueError(str(problem)) from problem
    _check_precision(values, slopes, name)

    def increment(c: float, h: np.ndarray) -> np.ndarray:
        return seen(c + h)[0] - seen(np.array([c]))[0]

    return Function(
        name=name,
        value=lambda x: seen(x)[0],
        slope=lambda x: seen(x)[1],
        increment=increment,
        width=0.0,
        features=features or (0.0,),
        log_slope=1.0,
        looseness=8.0 * float(np.abs(slopes).max()),
        both=seen,
    )


def check_kinks(kinks: Sequence[float] | None) -> tuple[float, ...]:
    """Kinks in rising order, each once.

    Raises:
        TypeError: they are no sequence of real numbers.
        ValueError: one is not finite.
    """
    if kinks is None:
        return ()
    real = isinstance(kinks, (Sequence, np.ndarray)) and not isinstance(kinks, (str, bytes))
    if not real or any(isinstance(k, bool) or not isinstance(k, numbers.Real) for k in kinks):
        raise TypeError(f"kinks must be a sequence of real numbers; it was {kinks!r}")
    if not all(math.isfinite(k) for k in kinks):
        raise ValueError(f"kinks must be finite; they were {tuple(kinks)}")
    return tuple(sorted({float(k) for k in kinks}))


def _value_and_slope(
    function: Callable[[Tensor], Tensor], name: str, x: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Values and slopes from one evaluation, on a copy: the function may work in place."""
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        y = function(x.clone())
        if y.requires_grad:
            (slope,) = torch.autograd.grad(y, x, torch.ones_like(y), materialize_grads=True)
            return y.detach().numpy(), slope.numpy()
    if not (y == y[0]).all():
        raise ValueError(
            f"{name} must be differentiable by autograd; its values depend on the input, and "
            "no gradient does"
        )
    return y.numpy(), np.zeros(len(x))


def _check(function: Callable[[Tensor], Tensor], name: str) -> None:
    """Refuse what is no elementwise function of real numbers."""
    try:
        whole = _run(function, _TRIAL)
    except TypeError as problem:
        raise TypeError(f"{name} must take one tensor: {problem}") from problem
    if not isinstance(whole, Tensor) or not whole.is_floating_point():
        kind = whole.dtype if isinstance(whole, Tensor) else type(whole).__name__
        raise TypeError(f"{name} must return a tensor of real numbers; it returned {kind}")
    if whole.shape != _TRIAL.shape:
        raise ValueError(
            f"{name} must be elementwise; an input of shape {tuple(_TRIAL.shape)} gave "
            f"{tuple(whole.shape)}"
        )
    if whole.dtype != torch.float64:
        raise ValueError(f"{name} must keep float64; it returned {whole.dtype}")
    if not whole.isfinite().all():
        raise ValueError(f"{name} must be finite; between -3.1 and 3.3 it is not")
    if not torch.equal(whole, _run(function, _TRIAL)):
        raise ValueError(f"{name} must give the same result each time; it did not")
    others = [(_TRIAL.flip(0), whole.flip(0)), (_TRIAL[:, None], whole[:, None])]
    others += [(_TRIAL[k : k + 1], whole[k : k + 1]) for k in _SINGLES]
    for part, wanted in others:
        got = _run(function, part)
        # Vector and scalar code of one function may differ in the last digits.
        if got.shape != wanted.shape or not torch.allclose(got, wanted, rtol=1e-12, atol=1e-15):
            raise ValueError(
                f"{name} must be elementwise; an element's value depends on the others, or on "
                "the shape"
            )


def _run(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return function(x.clone())


def _check_precision(values: np.ndarray, slopes: np.ndarray, name: str) -> None:
    """Refuse values that went through single precision.

    Where f has a slope, a double of 24 significant bits is an accident of one in 2^29.
    Numbers of few bits may be meant: those of a staircase with a slope of its own.
    """
    moving = values[(slopes != 0) & (values != 0)]
    if len(moving) < 3:
        return
    whole = (np.frexp(np.abs(moving))[0] * 2.0**53).astype(np.int64)
    bits = 54 - np.frexp((whole & -whole).astype(float))[1]
    if bits.max() <= 24 and bits.max() >= _PLAIN_BITS:
        raise ValueError(
            f"{name} must compute in float64; its values are numbers of single precision"
        )
