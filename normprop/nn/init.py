"""Weights that are on both balls at once."""

import itertools

import torch
from torch import Tensor

from normprop import rules
from normprop.functional.weight import stride_period


@torch.no_grad()
def orthogonal_(
    weight: Tensor,
    *,
    stride: int | tuple[int, ...] = 1,
    groups: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Fill a weight so that the layer is an isometry, in place.

    Fan-in norms of 1 and fan-out norms of :math:`\sqrt T`, T = ∏stride, add up to the same
    Frobenius norm only where outputs = inputs·T.  There, a linear map gets an orthogonal
    matrix; a convolution is delta-orthogonal: T blocks of as many outputs as there are inputs
    each look through an orthogonal matrix at one tap of their own, the T taps together
    covering one cell of the stride around the centre of the window.  Every input then reaches
    the outputs once, with its length kept, in both passes, away from the border.  A transposed
    convolution is that convolution's backward pass: its weight, of shape (in, out/groups, k…),
    needs inputs = outputs·T, and is filled alike.

    Args:
        weight: shape (out, in/groups, k…), or transposed (in, out/groups, k…), as in torch.
        stride: of the convolution.
        groups: of the convolution.
        generator: of the random numbers.

    Returns:
        ``weight``.

    Raises:
        ValueError: outputs are not inputs·∏stride, or the window is smaller than the stride.

    References:
        Saxe et al. (2014); Xiao et al. (2018) for delta-orthogonal convolutions.
    """
    window = tuple(weight.shape[2:])
    steps = rules.window_of(stride, len(window), "stride") if window else ()
    period = stride_period(steps, len(window))
    inputs = weight.shape[1]
    if weight.shape[0] != inputs * groups * period:
        raise ValueError(
            "outputs must be inputs times the product of the stride, or no weight is on both "
            f"balls; the weight has {weight.shape[0]} outputs for {inputs * groups} inputs, "
            f"and the stride is {stride}"
        )
    if any(k < t for k, t in zip(window, steps, strict=True)):
        raise ValueError(
            f"the window must be at least as large as the stride; it was {window} with {stride}"
        )
    # The cell of t taps that lies as near to the centre of the window as it can.
    starts = [(k - t + 1) // 2 for k, t in zip(window, steps, strict=True)]
    taps = itertools.product(
        *(range(start, start + t) for start, t in zip(starts, steps, strict=True))
    )
    weight.zero_()
    by_group = weight.unflatten(0, (groups, period, inputs))
    for block, tap in enumerate(taps):
        for group in range(groups):
            square = torch.empty(inputs, inputs, dtype=weight.dtype, device=weight.device)
            torch.nn.init.orthogonal_(square, generator=generator)
            by_group[(group, block, slice(None), slice(None), *tap)] = square
    return weight
