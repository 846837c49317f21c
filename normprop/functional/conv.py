"""Normalised convolution, in one to three dimensions."""

from collections.abc import Callable
from functools import partial
from typing import Unpack

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop.functional.constants import SHAPES
from normprop.functional.keywords import Ball, takes, under_name
from normprop.functional.parametric import Absorbed, apply

__all__ = ["conv1d", "conv2d", "conv3d"]

Size = int | tuple[int, ...]

_DOC = r"""Convolution whose weights are on the unit ℓ2 ball.

    Under ``"forward"`` the weights of each output channel have Σ W² = 1, over fan-in and
    taps.  Under ``"backward"`` those of each input channel have Σ W² = ∏stride, over its
    group's outputs and taps: averaged over a period of the stride, a gradient of unit
    variance keeps it, away from the border.  Under ``"separate"`` y comes from the first and
    dx from the second; the gradients of weight and bias are those of the forward weight for
    the dy that arrives.  Per layer, one factor stands in for all norms, and dx is then the
    true one times √(in·∏stride/out); per neuron it is no multiple of the true one.

    Zero padding leaves less variance at the border, in both passes.

    Args:
        input: shape SHAPES.
        weight: shape (out, in/groups, k…).
        bias: shape (out,), not normalised.
        stride: as in torch; likewise padding, dilation and groups.
        padding: as in torch.
        dilation: as in torch.
        groups: as in torch.
        scaling: which ball the weights are on in which pass.
        per: ``"neuron"`` for one norm a channel, ``"layer"`` for one factor.
        gain: as in :func:`linear`.
        method: as in :func:`linear`.
        absorbed: as in :func:`linear`; a shift of the input does not go with zero padding.

    Returns:
        Tensor of the shape that torch's convolution gives.

    Raises:
        ValueError: an option is unknown, or a shift is to be absorbed under zero padding.
    """


def in_dimensions(make: Callable[[int], Callable], dims: int, name: str, doc: str) -> Callable:
    """The convolution that ``make`` makes for so many dimensions, under its name."""
    doc = doc.replace("SHAPES", SHAPES[dims].replace("C", "in"))
    return under_name(make(dims), f"{name}{dims}d", doc)


def _conv(dims: int) -> Callable:
    run = getattr(torch_functional, f"conv{dims}d")

    @takes(Ball)
    def conv(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        *,
        absorbed: Absorbed | None = None,
        **ball: Unpack[Ball],
    ) -> Tensor:
        _check_shift(absorbed, padding)
        function = partial(run, stride=stride, padding=padding, dilation=dilation, groups=groups)
        geometry = {"stride": stride, "groups": groups}
        return apply(function, input, weight, bias, **ball, **geometry, absorbed=absorbed)

    return conv


conv1d = in_dimensions(_conv, 1, "conv", _DOC)
conv2d = in_dimensions(_conv, 2, "conv", _DOC)
conv3d = in_dimensions(_conv, 3, "conv", _DOC)


def _check_shift(absorbed: Absorbed | None, padding: Size | str) -> None:
    if absorbed is None or not absorbed.before.shift:
        return
    if padding != "valid" and any((padding,) if isinstance(padding, int | str) else padding):
        raise ValueError(
            "padding must be 0 where a shift of the input is absorbed: the border holds zeros, "
            f"not the shift; it was {padding!r} with a shift of {absorbed.before.shift}"
        )
