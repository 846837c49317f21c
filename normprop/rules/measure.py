"""The public entrance: what a layer's figures are."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from normprop.gaussian import Function
from normprop.gaussian.law import in_range
from normprop.rules.activation import activation, image_of, resolve
from normprop.rules.arguments import check_law, shape_of
from normprop.rules.dropout import dropout, dropout_rule
from normprop.rules.parametric import PerChannel
from normprop.rules.registry import Moments, describe, lookup, rule_of

__all__ = ["moments"]


class _Circumstances(TypedDict, total=False):
    inverted: bool
    after: str | nn.Module | Callable[[Tensor], Tensor] | None
    shape: Sequence[int] | None
    kinks: Sequence[float] | None


@overload
def moments(
    layer: PerChannel, mean: float = ..., std: float = ..., **given: Unpack[_Circumstances]
) -> Moments[NDArray[np.float64]]: ...


# Of a module that is known by no more than that, the figures are either.
@overload
def moments(
    layer: nn.Module, mean: float = ..., std: float = ..., **given: Unpack[_Circumstances]
) -> Moments[Any]: ...


@overload
def moments(
    layer: str | Callable[[Tensor], Tensor],
    mean: float = ...,
    std: float = ...,
    **given: Unpack[_Circumstances],
) -> Moments[float]: ...


@in_range
def moments(
    layer: str | nn.Module | Callable,
    mean: float = 0.0,
    std: float = 1.0,
    *,
    inverted: bool = True,
    after: str | nn.Module | Callable | None = None,
    shape: Sequence[int] | None = None,
    kinks: Sequence[float] | None = None,
) -> Moments[Any]:
    r"""Exact mean and standard deviation of a layer, forward and backward.

    For an elementwise function f and :math:`x \sim N(m, s^2)`,

    .. math::
        \mu = E f(x), \qquad \sigma_f = \mathrm{Std}\, f(x), \qquad
        \sigma_b = \sqrt{E f'(x)^2}.

    For pooling over windows of K = ∏k elements with strides t, T = ∏t: the maximum has the
    order statistics of K draws and :math:`\sigma_b = T^{-1/2}`; the average has
    :math:`\sigma_f = s K^{-1/2}` and :math:`\sigma_b = (KT)^{-1/2}`.  For weights W:
    :math:`\mu_i = m \sum_j W_{ij} + b_i`, :math:`\sigma_{f,i} = s\,\|W_{i\cdot}\|` over
    fan-in, and :math:`\sigma_{b,j} = \|W_{\cdot j}\| / \sqrt{T}` over the outputs and taps
    that input channel j feeds; a transposed convolution has the T forward.  For dropout with
    keep probability q = 1 - p: :math:`\sigma_f^2 = (s^2 + p m^2)/q` and
    :math:`\sigma_b = q^{-1/2}` where the kept values are divided by q,
    :math:`\sigma_f^2 = q(s^2 + p m^2)` and :math:`\sigma_b = q^{1/2}` where they are not.

    Args:
        layer: a name (``"relu"``), a module of ``torch.nn`` or ``normprop.nn``, which is
            measured as it is, or any elementwise function on tensors that autograd can
            differentiate.  Of a function that the package does not know, the error bound takes
            torch's values and slopes for correctly rounded.
        mean: mean m of the input.
        std: standard deviation s of the input, greater than 0.
        inverted: whether dropout divides the kept values by the keep probability, as
            PyTorch does; ``False`` gives the figures of the raw mask.  Only for dropout.
        after: the activation that stands before the layer.  The layer's input is then that
            activation's output, and ``mean`` and ``std`` are those of the activation's
            input.  A ``normprop.nn`` activation counts as it is, normalised.
        shape: shape of one sample, without the batch dimension, as for
            :func:`normprop.simulate`; needed for layers whose figures depend on it, such as
            softmax.  For losses, which reduce the batch too, that of the whole input.
        kinks: where a function on tensors has kinks, steps or narrow features, in any order, so
            that integration ends panels there.  Those that are not given are found, unless they
            are narrower than a tenth of a standard deviation.

    Returns:
        :class:`Moments`.

    Raises:
        TypeError: ``layer`` is nothing that has constants here, or an argument has the
            wrong type.
        ValueError: an argument is out of its range.

    Example:
        >>> moments("relu").fwd_std
        0.5838193701035489
    """
    base = check_law(mean, std)
    law = base if after is None else image_of(after, base)
    layer = resolve(layer, kinks=kinks)
    if not inverted:
        entry = lookup(layer) if isinstance(layer, nn.Module) else None
        if entry is None or entry.rule is not dropout_rule or not layer.training:
            raise ValueError(
                "inverted=False is for dropout of torch.nn in training, whose raw mask it "
                f"measures; it came with {describe(layer)}"
            )
        return dropout(layer.p, law, inverted=False)
    plain = isinstance(layer, Function)
    rule = activation if plain else rule_of(layer)
    if not plain and lookup(layer).shaped:
        return rule(layer, law, None if shape is None else shape_of(shape))
    if shape is not None:
        raise ValueError(
            f"shape is for layers whose figures depend on it; those of {describe(layer)} do not, "
            f"and it was {tuple(shape)}"
        )
    return rule(layer, law)
