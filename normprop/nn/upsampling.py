"""Normalised upsampling."""

from collections.abc import Sequence

from torch import Tensor, nn

from normprop import functional
from normprop.functional.scale import Constants
from normprop.functional.upsampling import interpolate_constants
from normprop.nn.interior import Fitted


class _Upsample(Fitted):
    """Upsampling; a subclass adds the twin."""

    def forward(self, input: Tensor) -> Tensor:
        """Interpolate and normalise."""
        return functional.interpolate(
            input,
            *self._arguments(),
            scaling=self.scaling,
            mean=self.mean,
            std=self.std,
        )

    def constants_of(self, shape: Sequence[int] | None) -> Constants:
        """Shift and divisors for samples of this shape: of the interior where it tells enough."""
        if shape is None:
            return super().constants_of(None)
        sizes = tuple(shape[1:])
        antialias = False
        return interpolate_constants(
            sizes, *self._arguments(), antialias, self.scaling, self.mean, self.std
        )

    def _arguments(self) -> tuple:
        return (
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            self.recompute_scale_factor,
        )


class Upsample(_Upsample, nn.Upsample):
    """Normalised upsampling: see :func:`normprop.functional.interpolate`.

    Args:
        size: as in torch.
        scale_factor: as in torch.
        mode: as in torch.
        align_corners: as in torch.
        recompute_scale_factor: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
    """


class UpsamplingNearest2d(_Upsample, nn.UpsamplingNearest2d):
    """Normalised upsampling of images by copies; arguments as in :class:`Upsample`."""


class UpsamplingBilinear2d(_Upsample, nn.UpsamplingBilinear2d):
    """Normalised upsampling of images that keeps their corners; arguments as :class:`Upsample`.

    As torch's it sets ``align_corners``, so that its constants follow from the input's shape.
    """
