"""Normalised transposed convolution, in one to three dimensions."""

from functools import partial

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop.functional.conv import Size
from normprop.functional.parametric import Absorbed, apply
from normprop.functional.scale import Scaling
from normprop.functional.weight import Method, Per


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    scaling: Scaling = "backward",
    per: Per = "neuron",
    method: Method = "normalize",
    absorbed: Absorbed | None = None,
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
        input: shape (N, in, L) or (in, L).
        weight: shape (in, out/groups, k).
        bias: shape (out,), not normalised.
        stride: as in torch; likewise padding, output_padding, groups and dilation.
        padding: as in torch.
        output_padding: as in torch.
        groups: as in torch.
        dilation: as in torch.
        scaling: which ball the weights are on in which pass.
        per: ``"neuron"`` for one norm a channel, ``"layer"`` for one factor.
        method: as in :func:`linear`.
        absorbed: as in :func:`linear`, without a shift of the input, of which the phases of the
            stride would make different numbers.

    Returns:
        Tensor of the shape that torch's transposed convolution gives.

    Raises:
        ValueError: an option is unknown, or a shift of the input is to be absorbed.
    """
    function = partial(
        torch_functional.conv_transpose1d,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
    )
    return _apply(function, input, weight, bias, scaling, per, method, absorbed)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    scaling: Scaling = "backward",
    per: Per = "neuron",
    method: Method = "normalize",
    absorbed: Absorbed | None = None,
) -> Tensor:
    """Transposed convolution in two dimensions whose weights are on the unit ℓ2 ball.

    ``input`` has shape (N, in, H, W) or (in, H, W), ``weight`` (in, out/groups, kH, kW);
    everything else is as in :func:`conv_transpose1d`.
    """
    function = partial(
        torch_functional.conv_transpose2d,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
    )
    return _apply(function, input, weight, bias, scaling, per, method, absorbed)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    scaling: Scaling = "backward",
    per: Per = "neuron",
    method: Method = "normalize",
    absorbed: Absorbed | None = None,
) -> Tensor:
    """Transposed convolution in three dimensions whose weights are on the unit ℓ2 ball.

    ``input`` has shape (N, in, D, H, W) or (in, D, H, W), ``weight``
    (in, out/groups, kD, kH, kW); everything else is as in :func:`conv_transpose1d`.
    """
    function = partial(
        torch_functional.conv_transpose3d,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
    )
    return _apply(function, input, weight, bias, scaling, per, method, absorbed)


def _apply(function, input, weight, bias, scaling, per, method, absorbed) -> Tensor:
    if absorbed is not None and absorbed.before.shift:
        raise ValueError(
            "a shift of the input must be 0 for a transposed convolution, whose outputs see "
            f"different taps; it was {absorbed.before.shift}"
        )
    options = function.keywords
    return apply(
        function,
        input,
        weight,
        bias,
        scaling,
        per,
        method,
        options["stride"],
        options["groups"],
        absorbed,
        transposed=True,
    )
