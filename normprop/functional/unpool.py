"""Normalised max unpooling."""

from collections.abc import Callable, Sequence
from typing import Unpack

from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop.functional.constants import constants_of
from normprop.functional.keywords import Law, takes
from normprop.functional.pool import Size, in_dimensions
from normprop.functional.scale import normalized

__all__ = ["max_unpool1d", "max_unpool2d", "max_unpool3d"]

_DOC = r"""Normalised max unpooling: values at the places that the indices say, zeros elsewhere.

    .. math:: y = \frac{u - \mu}{\sigma}, \qquad \mu = r\,\mathrm{mean}, \qquad
        \sigma_f^2 = r\,\mathrm{std}^2 + r(1-r)\,\mathrm{mean}^2, \qquad \sigma_b = 1,

    u the unpooled input and r = 1/∏stride the part of it that is filled, for indices that all
    differ, as those of windows without overlap do.  What ``padding`` and ``output_size`` change is
    not in the constants.

    Args:
        input: shape SHAPES.
        indices: where the values go, as max pooling returns them.
        kernel_size: the window.
        stride: step of the window, by default its size.
        padding: as in torch.
        output_size: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.

    Returns:
        Tensor of the shape that torch's unpooling gives.

    Raises:
        ValueError: an argument is out of its range.
    """


def _max_unpool(dims: int) -> Callable:
    run = getattr(torch_functional, f"max_unpool{dims}d")
    layer_type = getattr(nn, f"MaxUnpool{dims}d")

    @takes(Law)
    def unpool(
        input: Tensor,
        indices: Tensor,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        output_size: Sequence[int] | None = None,
        **law: Unpack[Law],
    ) -> Tensor:
        constants = constants_of(layer_type, law, kernel_size=kernel_size, stride=stride)
        own = kernel_size, stride, padding, output_size
        return normalized(lambda x: run(x, indices, *own), input, constants)

    return unpool


max_unpool1d = in_dimensions(_max_unpool, 1, "max_unpool", _DOC)
max_unpool2d = in_dimensions(_max_unpool, 2, "max_unpool", _DOC)
max_unpool3d = in_dimensions(_max_unpool, 3, "max_unpool", _DOC)
