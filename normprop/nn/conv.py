"""Normalised convolution."""

from torch import Tensor, nn

from normprop import functional
from normprop.nn.parametric import MapFromWeight

__all__ = ["Conv1d", "Conv2d", "Conv3d"]


class _Conv(MapFromWeight):
    """The call; a subclass adds the function."""

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
        return type(self)._function(
            input,
            self.weight,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            **self._options(),
        )


class Conv1d(_Conv, nn.Conv1d):
    """Convolution with weights on the unit ball: see :func:`normprop.functional.conv1d`.

    Args:
        in_channels: as in torch.
        out_channels: as in torch.
        kernel_size: as in torch.
        stride: as in torch.
        padding: as in torch.
        dilation: as in torch.
        groups: as in torch.
        bias: as in torch.
        padding_mode: as in torch.
        device: as in torch.
        dtype: as in torch.
        scaling: which ball the weights are on in which pass.
        per: ``"neuron"`` for one norm a channel, ``"layer"`` for one factor.
        gain: radius of the ball in the place of 1, greater than 0.
        method: ``"normalize"`` in each forward pass, or ``"project"`` by ``project_()``
            after each step of the optimiser.
    """

    _function = staticmethod(functional.conv1d)


class Conv2d(_Conv, nn.Conv2d):
    """Convolution in two dimensions; arguments as in :class:`Conv1d`."""

    _function = staticmethod(functional.conv2d)


class Conv3d(_Conv, nn.Conv3d):
    """Convolution in three dimensions; arguments as in :class:`Conv1d`."""

    _function = staticmethod(functional.conv3d)
