"""Normalised pooling."""

from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.pool import After, Size, pool_constants
from normprop.functional.scale import Scaling
from normprop.nn.interior import described
from normprop.nn.law import joined, law_repr
from normprop.nn.twin import Twin


class _MaxPool:
    """Arguments, constants and the call; a subclass adds the dimension and the function."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
        after: After = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)
        _declare(self, "max", scaling, mean, std, after)

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Pool and normalise."""
        return type(self)._function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
            constants=self.constants,
        )

    def extra_repr(self) -> str:
        """The arguments."""
        return joined(super().extra_repr(), law_repr(self))


class MaxPool1d(_MaxPool, nn.MaxPool1d):
    """Normalised max pooling: see :func:`normprop.functional.max_pool1d`.

    Args:
        kernel_size: the window.
        stride: step of the window, by default its size.
        padding: as in torch; likewise dilation, return_indices and ceil_mode.
        dilation: as in torch.
        return_indices: as in torch.
        ceil_mode: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input, or of the input of ``after``.
        std: standard deviation of the input, or of the input of ``after``.
        after: the activation that stands before the pooling, a name or a module; a
            ``normprop.nn`` activation counts as it is, normalised.
    """

    _dims = 1
    _function = staticmethod(functional.max_pool1d)


class MaxPool2d(_MaxPool, nn.MaxPool2d):
    """Normalised max pooling in two dimensions; arguments as in :class:`MaxPool1d`."""

    _dims = 2
    _function = staticmethod(functional.max_pool2d)


class MaxPool3d(_MaxPool, nn.MaxPool3d):
    """Normalised max pooling in three dimensions; arguments as in :class:`MaxPool1d`."""

    _dims = 3
    _function = staticmethod(functional.max_pool3d)


class AvgPool1d(nn.AvgPool1d):
    """Normalised average pooling: see :func:`normprop.functional.avg_pool1d`.

    Args:
        kernel_size: the window.
        stride: step of the window, by default its size.
        padding: as in torch; likewise ceil_mode and count_include_pad.
        ceil_mode: as in torch.
        count_include_pad: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input, or of the input of ``after``.
        std: standard deviation of the input, or of the input of ``after``.
        after: the activation that stands before the pooling, as in :class:`MaxPool1d`.
    """

    _dims = 1

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
        after: After = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        _declare(self, "average", scaling, mean, std, after)

    def forward(self, input: Tensor) -> Tensor:
        """Pool and normalise."""
        return functional.avg_pool1d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            constants=self.constants,
        )

    def extra_repr(self) -> str:
        """The arguments."""
        return joined(super().extra_repr(), law_repr(self))


class _AvgPool:
    """Average pooling in two and three dimensions, where the divisor can be overridden."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
        after: After = None,
    ) -> None:
        super().__init__(
            kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )
        _declare(self, "average", scaling, mean, std, after)

    def forward(self, input: Tensor) -> Tensor:
        """Pool and normalise."""
        return type(self)._function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
            constants=self.constants,
        )

    def extra_repr(self) -> str:
        """The arguments."""
        return joined(super().extra_repr(), law_repr(self))


class AvgPool2d(_AvgPool, nn.AvgPool2d):
    """Normalised average pooling in two dimensions.

    ``divisor_override`` takes the place of the window's size, as in torch; the other
    arguments are those of :class:`AvgPool1d`.
    """

    _dims = 2
    _function = staticmethod(functional.avg_pool2d)


class AvgPool3d(_AvgPool, nn.AvgPool3d):
    """Normalised average pooling in three dimensions; arguments as in :class:`AvgPool2d`."""

    _dims = 3
    _function = staticmethod(functional.avg_pool3d)


class _LPPool(Twin):
    """Pooling by a norm; a subclass adds the twin and the function."""

    def forward(self, input: Tensor) -> Tensor:
        """Pool and normalise."""
        return type(self)._function(
            input,
            self.norm_type,
            self.kernel_size,
            self.stride,
            self.ceil_mode,
            constants=self.constants,
        )


class LPPool1d(_LPPool, nn.LPPool1d):
    """Normalised pooling by a norm: see :func:`normprop.functional.lp_pool1d`.

    Args:
        norm_type: p: 1, 2 or infinite.
        kernel_size: the window.
        stride: step of the window, by default its size.
        ceil_mode: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """

    _function = staticmethod(functional.lp_pool1d)


class LPPool2d(_LPPool, nn.LPPool2d):
    """Normalised pooling by a norm in two dimensions; arguments as in :class:`LPPool1d`."""

    _function = staticmethod(functional.lp_pool2d)


class LPPool3d(_LPPool, nn.LPPool3d):
    """Normalised pooling by a norm in three dimensions; arguments as in :class:`LPPool1d`."""

    _function = staticmethod(functional.lp_pool3d)


def _declare(layer, kind: str, scaling: Scaling, mean: float, std: float, after: After) -> None:
    law = rules.check_law(mean, std)
    layer.scaling, layer.mean, layer.std = scaling, law.mean, law.std
    layer.constants = pool_constants(
        kind,
        layer._dims,
        layer.kernel_size,
        layer.stride,
        getattr(layer, "divisor_override", None),
        scaling,
        law.mean,
        law.std,
        after,
    )
    # A description only: the module itself would become a child of this one.
    layer.after = described(after)


def _max_moments(layer: _MaxPool, law) -> rules.Moments:
    plain = rules.max_pool(*rules.pool_geometry(layer, layer._dims), law)
    return rules.affine(plain, *layer.constants)


def _average_moments(layer, law) -> rules.Moments:
    divisor = getattr(layer, "divisor_override", None)
    plain = rules.avg_pool(*rules.pool_geometry(layer, layer._dims), law, divisor)
    return rules.affine(plain, *layer.constants)


for _type in (MaxPool1d, MaxPool2d, MaxPool3d):
    rules.register(_type, _max_moments)
for _type in (AvgPool1d, AvgPool2d, AvgPool3d):
    rules.register(_type, _average_moments)
