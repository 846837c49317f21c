"""Normalised convolution and transposed convolution."""

from torch import Tensor, nn

from normprop import functional, rules
from normprop.gaussian import Law
from normprop.nn.parametric import MapFromWeight, weights_that_run

__all__ = [
    "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
]  # fmt: skip


class _Conv(MapFromWeight):
    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        self._check_place()
        made = self._at_hand()
        if made is not None:
            return self._conv_forward(input, *made)
        padding = self.padding
        if self.padding_mode != "zeros":
            input = nn.functional.pad(
                input, self._reversed_padding_repeated_twice, mode=self.padding_mode
            )
            padding = 0
        run = getattr(functional, f"conv{len(self.kernel_size)}d")
        geometry = self.stride, padding, self.dilation, self.groups
        return run(input, self.weight, self.bias, *geometry, **self._options())


class _ConvTranspose(MapFromWeight):
    def _moments(self, law: Law) -> rules.Moments:
        forward, bias, backward = weights_that_run(self)
        return rules.conv_transpose(
            forward,
            bias,
            law,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            backward_weight=backward,
        )

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve.

        Args:
            input: shape (N, in, …) or (in, …).
            output_size: as in torch, to choose among the shapes that a stride leaves open.
        """
        self._check_place()
        dims = len(self.kernel_size)
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
        )
        geometry = self.stride, self.padding, tuple(output_padding), self.groups, self.dilation
        name, made = f"conv_transpose{dims}d", self._at_hand()
        if made is not None:
            return getattr(nn.functional, name)(input, *made, *geometry)
        run = getattr(functional, name)
        return run(input, self.weight, self.bias, *geometry, **self._options())


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
