"""Any elementwise function on tensors, as integration sees it: its slope comes from autograd."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from normprop.gaussian import Function

# Points at which a function is tried: on both sides of zero, near and far, none of them round.
_TRIAL = torch.linspace(-3.1, 3.3, 23, dtype=torch.float64)


def from_callable(function: Callable[[Tensor], Tensor], name: str) -> Function:
    """Describe an elementwise function, run in float64.

    Kinks and steps need no mention: the panels of the integration shrink around them.

    Args:
        function: maps a tensor to one of the same shape, each element on its own, the same
            result each time; differentiable by autograd.
        name: what errors call it.

    Raises:
        TypeError: it does not return a real tensor.
        ValueError: it is not elementwise, not deterministic, not finite or not differentiable
            by autograd.
    """
    _check(function, name)

    def value(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return function(_tensor(x)).numpy()

    def slope(x: np.ndarray) -> np.ndarray:
        return _slope(function, _tensor(x)).numpy()

    def increment(c: float, h: np.ndarray) -> np.ndarray:
        return value(c + h) - value(np.array([c]))

    return Function(
        name=name,
        value=value,
        slope=slope,
        increment=increment,
        features=(0.0,),
        width=0.0,
        lipschitz=np.inf,
        span=np.inf,
        log_slope=1.0,
        increasing=False,
        exact_increments=False,
    )


def _tensor(x: np.ndarray) -> Tensor:
    # A copy: the function may work in place.
    return torch.tensor(x, dtype=torch.float64)


def _slope(function, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x.requires_grad_()
        (slope,) = torch.autograd.grad(function(x.clone()).sum(), x, materialize_grads=True)
    return slope


def _check(function, name: str) -> None:
    try:
        with torch.no_grad():
            whole, again = function(_TRIAL.clone()), function(_TRIAL.clone())
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
    if not torch.equal(whole, again):
        raise ValueError(f"{name} must give the same result each time; it did not")
    with torch.no_grad():
        parts = torch.cat([function(_TRIAL[k : k + 1].clone()) for k in range(len(_TRIAL))])
    # Vector and scalar code of one function may differ in the last digits.
    if not torch.allclose(parts, whole, rtol=1e-12, atol=1e-15):
        raise ValueError(f"{name} must be elementwise; an element's value depends on the others")
    try:
        _slope(function, _TRIAL.clone())
    except RuntimeError as problem:
        raise ValueError(f"{name} must be differentiable by autograd: {problem}") from problem
