"""Normalised transposed convolution."""

from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.conv import Size
from normprop.functional.scale import Scaling
from normprop.functional.weight import Method, Per
from normprop.nn.parametric import MapFromWeight, weights_that_run


class _ConvTranspose(MapFromWeight):
    """Arguments and the call; a subclass adds the function."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device=None,
        dtype=None,
        *,
        scaling: Scaling = "backward",
        per: Per = "neuron",
        method: Method = "normalize",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,
            device,
            dtype,
        )
        self._declare(scaling, per, method)

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
        return type(self)._function(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            tuple(output_padding),
            self.groups,
            self.dilation,
            scaling=self.scaling,
            per=self.per,
            method=self.method,
            absorbed=self.absorbed,
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


def _moments(layer: nn.Module, law) -> rules.Moments:
    forward, bias, backward = weights_that_run(layer)
    return rules.conv_transpose(
        forward,
        bias,
        law,
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
        backward_weight=backward,
    )


for _type in (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d):
    rules.register(_type, _moments)
