"""Normalised convolution and transposed convolution, in one to three dimensions."""

from functools import partial
from typing import Unpack

from torch import Tensor

from normprop.functional.keywords import Ball, OfTorch, in_dimensions
from normprop.functional.parametric import Absorbed, apply

__all__ = [
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
]  # fmt: skip

Size = int | tuple[int, ...]


def _conv(
    torch: OfTorch,
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
    r"""Convolution whose weights are on the unit ℓ2 ball.

    Under ``"forward"`` the weights of each output channel have Σ W² = 1, over fan-in and
    taps.  Under ``"backward"`` those of each input channel have Σ W² = ∏stride, over its
    group's outputs and taps: averaged over a period of the stride, a gradient of unit
    variance keeps it, away from the border.  Under ``"separate"`` y comes from the first and
    dx from the second; the gradients of weight and bias are those of the forward weight for
    the dy that arrives.  Per layer, one factor stands in for all norms, and dx is then the
    true one times √(in·∏stride/out); per neuron it is no multiple of the true one.

    Zero padding leaves less variance at the border, in both passes.

    Args:
        input: shape (N, in, …) or (in, …).
        weight: shape (out, in/groups, k…).
        absorbed: as in :func:`linear`; a shift of the input does not go with zero padding.

    Returns:
        Tensor of the shape that torch's convolution gives.

    Raises:
        ValueError: an option is unknown, or a shift is to be absorbed under zero padding.
    """
    _check_shift(absorbed, padding)
    function = partial(torch.run, stride=stride, padding=padding, dilation=dilation, groups=groups)
    geometry = {"stride": stride, "groups": groups}
    return apply(function, input, weight, bias, **ball, **geometry, absorbed=absorbed)


def _check_shift(absorbed: Absorbed | None, padding: Size | str) -> None:
    if absorbed is None or not absorbed.before.shift:
        return
    if padding != "valid" and any((padding,) if isinstance(padding, int | str) else padding):
        raise ValueError(
            "padding must be 0 where a shift of the input is absorbed: the border holds zeros, "
            f"not the shift; it was {padding!r} with a shift of {absorbed.before.shift}"
        )


def _conv_transpose(
    torch: OfTorch,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    absorbed: Absorbed | None = None,
    **ball: Unpack[Ball],
) -> Tensor:
    r"""Transposed convolution whose weights are on the unit ℓ2 ball.

    Under ``"forward"`` the weights of each output channel have Σ W² = ∏stride, over its group's
    inputs and taps: averaged over a period of the stride, a signal of unit variance keeps it,
    away from the border.  Under ``"backward"`` those of each input channel have Σ W² = 1, over
    its group's outputs and taps, whatever the stride.  Under ``"separate"`` y comes from the
    first and dx from the second; the gradients of weight and bias are those of the forward
    weight for the dy that arrives.  Per layer, one factor stands in for all norms, and dx is
    then the true one times √(in/(out·∏stride)); per neuron it is no multiple of the true one.

    The outputs of single phases of the stride differ: a 3×3 window at stride 2 gives them four,
    two, two or one of its nine taps.  At the border, and where ``output_padding`` adds to it,
    fewer inputs meet.

    Args:
        input: shape (N, in, …) or (in, …).
        weight: shape (in, out/groups, k…).
        absorbed: as in :func:`linear`, without a shift of the input, of which the phases of the
            stride would make different numbers.

    Returns:
        Tensor of the shape that torch's transposed convolution gives.

    Raises:
        ValueError: an option is unknown, or a shift of the input is to be absorbed.
    """
    if absorbed is not None and absorbed.before.shift:
        raise ValueError(
            "a shift of the input must be 0 for a transposed convolution, whose outputs see "
            f"different taps; it was {absorbed.before.shift}"
        )
    geometry = {"stride": stride, "groups": groups}
    window = {"padding": padding, "output_padding": output_padding, "dilation": dilation}
    function = partial(torch.run, **geometry, **window)
    more = {"absorbed": absorbed, "transposed": True}
    return apply(function, input, weight, bias, **ball, **geometry, **more)


conv1d, conv2d, conv3d = in_dimensions(_conv, Ball)
conv_transpose1d, conv_transpose2d, conv_transpose3d = in_dimensions(_conv_transpose, Ball)
