"""Normalised convolution and transposed convolution."""

from typing import ClassVar

from torch import Tensor, nn

from normprop import rules
from normprop.nn.parametric import MapFromWeight

__all__ = [
    "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
]  # fmt: skip


class _Conv(MapFromWeight):
    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        padding = self.padding
        if self.padding_mode != "zeros":
            input = nn.functional.pad(
                input, self._reversed_padding_repeated_twice, mode=self.padding_mode
            )
            padding = 0
        geometry = self.stride, padding, self.dilation, self.groups
        return self._run(f"conv{len(self.kernel_size)}d", input, *geometry)


class _ConvTranspose(MapFromWeight):
    _rule: ClassVar = staticmethod(rules.conv_transpose)
    _read: ClassVar = ("stride", "dilation", "groups")

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve.

        Args:
            input: shape (N, in, …) or (in, …).
            output_size: as in torch, to choose among the shapes that a stride leaves open.
        """
        dims = len(self.kernel_size)
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
        )
        geometry = self.stride, self.padding, tuple(output_padding), self.groups, self.dilation
        return self._run(f"conv_transpose{dims}d", input, *geometry)


class Conv1d(_Conv, nn.Conv1d):
    """Convolution with weights on the unit ball: see :func:`normprop.functional.conv1d`."""


class Conv2d(_Conv, nn.Conv2d):
    """Convolution in two dimensions: see :func:`normprop.functional.conv2d`."""


class Conv3d(_Conv, nn.Conv3d):
    """Convolution in three dimensions: see :func:`normprop.functional.conv3d`."""


class ConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d):
    """Transposed convolution on the unit ball: see :func:`normprop.functional.conv_transpose1d`."""


class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    """The same in two dimensions: see :func:`normprop.functional.conv_transpose2d`."""


class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    """The same in three dimensions: see :func:`normprop.functional.conv_transpose3d`."""
