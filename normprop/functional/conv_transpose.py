"""Normalised transposed convolution, in one to three dimensions."""

from collections.abc import Callable
from functools import partial
from typing import Unpack

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop.functional.conv import Size, in_dimensions
from normprop.functional.keywords import Ball, takes
from normprop.functional.parametric import Absorbed, apply

__all__ = ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]

_DOC = r"""Transposed convolution whose weights are on the unit ℓ2 ball.

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
        input: shape SHAPES.
        weight: shape (in, out/groups, k…).
        bias: shape (out,), not normalised.
        stride: as in torch; likewise padding, output_padding, groups and dilation.
        padding: as in torch.
        output_padding: as in torch.
        groups: as in torch.
        dilation: as in torch.
        scaling: which ball the weights are on in which pass.
        per: ``"neuron"`` for one norm a channel, ``"layer"`` for one factor.
        gain: as in :func:`linear`.
        method: as in :func:`linear`.
        absorbed: as in :func:`linear`, without a shift of the input, of which the phases of the
            stride would make different numbers.

    Returns:
        Tensor of the shape that torch's transposed convolution gives.

    Raises:
        ValueError: an option is unknown, or a shift of the input is to be absorbed.
    """


def _conv_transpose(dims: int) -> Callable:
    run = getattr(torch_functional, f"conv_transpose{dims}d")

    @takes(Ball)
    def conv(
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
        if absorbed is not None and absorbed.before.shift:
            raise ValueError(
                "a shift of the input must be 0 for a transposed convolution, whose outputs see "
                f"different taps; it was {absorbed.before.shift}"
            )
        geometry = {"stride": stride, "groups": groups}
        window = {"padding": padding, "output_padding": output_padding, "dilation": dilation}
        function = partial(run, **geometry, **window)
        more = {"absorbed": absorbed, "transposed": True}
        return apply(function, input, weight, bias, **ball, **geometry, **more)

    return conv


conv_transpose1d = in_dimensions(_conv_transpose, 1, "conv_transpose", _DOC)
conv_transpose2d = in_dimensions(_conv_transpose, 2, "conv_transpose", _DOC)
conv_transpose3d = in_dimensions(_conv_transpose, 3, "conv_transpose", _DOC)
