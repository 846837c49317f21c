"""Normalised upsampling."""

from torch import Tensor, nn

from normprop.functional.constants import sizes_of
from normprop.nn.twin import Twin

__all__ = ["Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d"]


class _Upsample(Twin):
    """Upsampling, whose constants follow from the shape of its input where they must."""

    def _shape_for(self, input: Tensor) -> tuple[int, ...]:
        return sizes_of(input)[1:]


class Upsample(_Upsample, nn.Upsample):
    """Normalised upsampling: see :func:`normprop.functional.interpolate`."""


class UpsamplingNearest2d(_Upsample, nn.UpsamplingNearest2d):
    """Normalised upsampling of images by copies: see :func:`normprop.functional.interpolate`."""


class UpsamplingBilinear2d(_Upsample, nn.UpsamplingBilinear2d):
    """Normalised upsampling of images that keeps corners: :func:`normprop.functional.interpolate`.

    As torch's it sets ``align_corners``, so that its constants follow from the input's shape.
    """
