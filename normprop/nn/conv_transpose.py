"""Normalised transposed convolution."""

from torch import Tensor, nn

from normprop import functional, rules
from normprop.gaussian import Law
from normprop.nn.parametric import MapFromWeight, weights_that_run

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


class _ConvTranspose(MapFromWeight):
    """The call; a subclass adds the function."""

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
        made = self._at_hand()
        if made is not None:
            plain = getattr(nn.functional, f"conv_transpose{dims}d")
            geometry = self.stride, self.padding, tuple(output_padding), self.groups, self.dilation
            return plain(input, *made, *geometry)
        return type(self)._function(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            tuple(output_padding),
            self.groups,
            self.dilation,
            **self._options(),
        )


class ConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d):
    """Transposed convolution with weights on the unit ball.

    See :func:`normprop.functional.conv_transpose1d`.

    Args:
        in_channels: as in torch.
        out_channels: as in torch.
        kernel_size: as in torch.
        stride: as in torch.
        padding: as in torch.
        output_padding: as in torch.
        groups: as in torch.
        bias: as in torch.
        dilation: as in torch.
        padding_mode: as in torch, which knows ``"zeros"`` alone here.
        device: as in torch.
        dtype: as in torch.
        scaling: which ball the weights are on in which pass.
        per: ``"neuron"`` for one norm a channel, ``"layer"`` for one factor.
        gain: radius of the ball in the place of 1, greater than 0.
        method: ``"normalize"`` in each forward pass, or ``"project"`` by ``project_()``
            after each step of the optimiser.
    """

    _function = staticmethod(functional.conv_transpose1d)


class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    """Transposed convolution in two dimensions; arguments as in :class:`ConvTranspose1d`."""

    _function = staticmethod(functional.conv_transpose2d)


class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    """Transposed convolution in three dimensions; arguments as in :class:`ConvTranspose1d`."""

    _function = staticmethod(functional.conv_transpose3d)
