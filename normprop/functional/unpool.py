"""Normalised max unpooling."""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.factory import named
from normprop.functional.pool import Size
from normprop.functional.scale import (
    Constants,
    Scaling,
    constant_when_compiled,
    literal,
    normalized,
)

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
        constants: the constants, where they are at hand; then scaling, mean and std have no
            say.

    Returns:
        Tensor of the shape that torch's unpooling gives.

    Raises:
        ValueError: an argument is out of its range.
    """


def _max_unpool(dims: int, shapes: str) -> Callable:
    run = getattr(torch_functional, f"max_unpool{dims}d")

    def unpool(
        input: Tensor,
        indices: Tensor,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        output_size: Sequence[int] | None = None,
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
        constants: Constants | None = None,
    ) -> Tensor:
        constants = constants or _constants(
            dims, kernel_size, stride, scaling, literal(mean), literal(std)
        )
        return normalized(
            lambda x: run(x, indices, kernel_size, stride, padding, output_size), input, constants
        )

    return named(unpool, f"max_unpool{dims}d", _DOC.replace("SHAPES", shapes))


max_unpool1d = _max_unpool(1, "(N, C, L) or (C, L)")
max_unpool2d = _max_unpool(2, "(N, C, H, W) or (C, H, W)")
max_unpool3d = _max_unpool(3, "(N, C, D, H, W) or (C, D, H, W)")


@constant_when_compiled
def _constants(dims, kernel_size, stride, scaling, mean, std) -> Constants:
    window = rules.window_of(kernel_size, dims, "kernel_size")
    steps = rules.window_of(kernel_size if stride is None else stride, dims, "stride")
    law = rules.check_law(mean, std)
    return Constants.of(rules.max_unpool(window, steps, (0,) * dims, law), scaling)
