"""Normalised pooling, over windows of any kind, and its inverse."""

from torch import Tensor, nn

from normprop.functional.constants import sample_of
from normprop.nn.twin import Twin, TwinBehind

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d", "AdaptiveMaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d",
    "FractionalMaxPool2d", "FractionalMaxPool3d", "LPPool1d", "LPPool2d", "LPPool3d", "MaxPool1d",
    "MaxPool2d", "MaxPool3d", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d",
]  # fmt: skip


class _Shaped(TwinBehind):
    """A pooling whose constants follow from the sizes of its input."""

    def _shape_for(self, input: Tensor) -> tuple[int, ...]:
        return sample_of(input, int(self.torch_type.__name__[-2]))


class MaxPool1d(TwinBehind, nn.MaxPool1d):
    """Normalised max pooling: see :func:`normprop.functional.max_pool1d`."""


class MaxPool2d(TwinBehind, nn.MaxPool2d):
    """Normalised max pooling: see :func:`normprop.functional.max_pool2d`."""


class MaxPool3d(TwinBehind, nn.MaxPool3d):
    """Normalised max pooling: see :func:`normprop.functional.max_pool3d`."""


class AvgPool1d(TwinBehind, nn.AvgPool1d):
    """Normalised average pooling: see :func:`normprop.functional.avg_pool1d`."""


class AvgPool2d(TwinBehind, nn.AvgPool2d):
    """Normalised average pooling: see :func:`normprop.functional.avg_pool2d`."""


class AvgPool3d(TwinBehind, nn.AvgPool3d):
    """Normalised average pooling: see :func:`normprop.functional.avg_pool3d`."""


class LPPool1d(Twin, nn.LPPool1d):
    """Normalised pooling by a norm: see :func:`normprop.functional.lp_pool1d`."""


class LPPool2d(Twin, nn.LPPool2d):
    """Normalised pooling by a norm: see :func:`normprop.functional.lp_pool2d`."""


class LPPool3d(Twin, nn.LPPool3d):
    """Normalised pooling by a norm: see :func:`normprop.functional.lp_pool3d`."""


class AdaptiveAvgPool1d(_Shaped, nn.AdaptiveAvgPool1d):
    """Normalised adaptive average pooling: see :func:`normprop.functional.adaptive_avg_pool1d`."""


class AdaptiveAvgPool2d(_Shaped, nn.AdaptiveAvgPool2d):
    """Normalised adaptive average pooling: see :func:`normprop.functional.adaptive_avg_pool2d`."""


class AdaptiveAvgPool3d(_Shaped, nn.AdaptiveAvgPool3d):
    """Normalised adaptive average pooling: see :func:`normprop.functional.adaptive_avg_pool3d`."""


class AdaptiveMaxPool1d(_Shaped, nn.AdaptiveMaxPool1d):
    """Normalised adaptive max pooling: see :func:`normprop.functional.adaptive_max_pool1d`."""


class AdaptiveMaxPool2d(_Shaped, nn.AdaptiveMaxPool2d):
    """Normalised adaptive max pooling: see :func:`normprop.functional.adaptive_max_pool2d`."""


class AdaptiveMaxPool3d(_Shaped, nn.AdaptiveMaxPool3d):
    """Normalised adaptive max pooling: see :func:`normprop.functional.adaptive_max_pool3d`."""


class FractionalMaxPool2d(_Shaped, nn.FractionalMaxPool2d):
    """Normalised fractional max pooling: see :func:`normprop.functional.fractional_max_pool2d`."""


class FractionalMaxPool3d(_Shaped, nn.FractionalMaxPool3d):
    """Normalised fractional max pooling: see :func:`normprop.functional.fractional_max_pool3d`."""


class MaxUnpool1d(Twin, nn.MaxUnpool1d):
    """Normalised max unpooling: see :func:`normprop.functional.max_unpool1d`."""


class MaxUnpool2d(Twin, nn.MaxUnpool2d):
    """Normalised max unpooling: see :func:`normprop.functional.max_unpool2d`."""


class MaxUnpool3d(Twin, nn.MaxUnpool3d):
    """Normalised max unpooling: see :func:`normprop.functional.max_unpool3d`."""
