"""Normalised max unpooling."""

from torch import Tensor, nn

from normprop import functional
from normprop.nn.interior import Interior


class _MaxUnpool(Interior):
    """Max unpooling; a subclass adds the twin and the function."""

    def forward(
        self, input: Tensor, indices: Tensor, output_size: list[int] | None = None
    ) -> Tensor:
        """Put the values where the indices say, and normalise."""
        return type(self)._function(
            input,
            indices,
            self.kernel_size,
            self.stride,
            self.padding,
            output_size,
            constants=self.constants,
        )


class MaxUnpool1d(_MaxUnpool, nn.MaxUnpool1d):
    """Normalised max unpooling: see :func:`normprop.functional.max_unpool1d`.

    Args:
        kernel_size: the window.
        stride: step of the window, by default its size.
        padding: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    _function = staticmethod(functional.max_unpool1d)


class MaxUnpool2d(_MaxUnpool, nn.MaxUnpool2d):
    """Normalised max unpooling in two dimensions; arguments as in :class:`MaxUnpool1d`."""

    _function = staticmethod(functional.max_unpool2d)


class MaxUnpool3d(_MaxUnpool, nn.MaxUnpool3d):
    """Normalised max unpooling in three dimensions; arguments as in :class:`MaxUnpool1d`."""

    _function = staticmethod(functional.max_unpool3d)
