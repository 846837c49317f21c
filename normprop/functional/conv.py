"""Normalised convolution, in one to three dimensions."""

from functools import partial

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop.functional.parametric import Absorbed, apply
from normprop.functional.scale import Scaling
from normprop.functional.weight import Method, Per

Size = int | tuple[int, ...]


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    scaling: Scaling = "backward",
    per: Per = "neuron",
    method: Method = "normalize",
    absorbed: Absorbed | None = None,
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
        input: shape (N, in, L) or (in, L).
        weight: shape (out, in/groups, k).
        bias: shape (out,), not normalised.
        stride: as in torch; likewise padding, dilation and groups.
        padding: as in torch.
        dilation: as in torch.
        groups: as in torch.
        scaling: which ball the weights are on in which pass.
        per: ``"neuron"`` for one norm a channel, ``"layer"`` for one factor.
        method: as in :func:`linear`.
        absorbed: as in :func:`linear`; a shift of the input does not go with zero padding.

    Returns:
        Tensor of the shape that torch's convolution gives.

    Raises:
        ValueError: an option is unknown, or a shift is to be absorbed under zero padding.
    """
    _check_shift(absorbed, padding)
    function = partial(
        torch_functional.conv1d, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return apply(function, input, weight, bias, scaling, per, method, stride, groups, absorbed)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    scaling: Scaling = "backward",
    per: Per = "neuron",
    method: Method = "normalize",
    absorbed: Absorbed | None = None,
) -> Tensor:
    """Convolution in two dimensions whose weights are on the unit ℓ2 ball.

    ``input`` has shape (N, in, H, W) or (in, H, W), ``weight`` (out, in/groups, kH, kW);
    everything else is as in :func:`conv1d`.
    """
    _check_shift(absorbed, padding)
    function = partial(
        torch_functional.conv2d, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return apply(function, input, weight, bias, scaling, per, method, stride, groups, absorbed)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    scaling: Scaling = "backward",
    per: Per = "neuron",
    method: Method = "normalize",
    absorbed: Absorbed | None = None,
) -> Tensor:
    """Convolution in three dimensions whose weights are on the unit ℓ2 ball.

    ``input`` has shape (N, in, D, H, W) or (in, D, H, W), ``weight``
    (out, in/groups, kD, kH, kW); everything else is as in :func:`conv1d`.
    """
    _check_shift(absorbed, padding)
    function = partial(
        torch_functional.conv3d, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return apply(function, input, weight, bias, scaling, per, method, stride, groups, absorbed)


def _check_shift(absorbed: Absorbed | None, padding: Size | str) -> None:
    if absorbed is None or not absorbed.before.shift:
        return
    if padding != "valid" and any((padding,) if isinstance(padding, int | str) else padding):
        raise ValueError(
            "padding must be 0 where a shift of the input is absorbed: the border holds zeros, "
            f"not the shift; it was {padding!r} with a shift of {absorbed.before.shift}"
        )
