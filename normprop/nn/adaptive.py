"""Normalised pooling whose windows follow from the sizes of its input and output."""

from torch import Tensor, nn

from normprop.functional.constants import sample_of
from normprop.nn.twin import TwinBehind

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d", "AdaptiveMaxPool3d", "FractionalMaxPool2d", "FractionalMaxPool3d",
]  # fmt: skip


class _InDimensions(TwinBehind):
    """A pooling whose constants follow from the sizes of its input."""

    @property
    def _dims(self) -> int:
        return int(self.torch_type.__name__[-2])

    def _shape_for(self, input: Tensor) -> tuple[int, ...]:
        return sample_of(input, self._dims)


class AdaptiveAvgPool1d(_InDimensions, nn.AdaptiveAvgPool1d):
    """Normalised adaptive average pooling: see :func:`normprop.functional.adaptive_avg_pool1d`.

    Args:
        output_size: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input, or of the input of ``after``.
        std: standard deviation of the input, or of the input of ``after``.
        after: the activation that stands before the pooling, as in :class:`MaxPool1d`.
    """


class AdaptiveAvgPool2d(_InDimensions, nn.AdaptiveAvgPool2d):
    """Normalised adaptive average pooling in two dimensions; as :class:`AdaptiveAvgPool1d`."""


class AdaptiveAvgPool3d(_InDimensions, nn.AdaptiveAvgPool3d):
    """Normalised adaptive average pooling in three dimensions; as :class:`AdaptiveAvgPool1d`."""


class AdaptiveMaxPool1d(_InDimensions, nn.AdaptiveMaxPool1d):
    """Normalised adaptive max pooling: see :func:`normprop.functional.adaptive_max_pool1d`.

    Args:
        output_size: as in torch.
        return_indices: also return where the maxima are.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input, or of the input of ``after``.
        std: standard deviation of the input, or of the input of ``after``.
        after: the activation that stands before the pooling, as in :class:`MaxPool1d`.
    """


class AdaptiveMaxPool2d(_InDimensions, nn.AdaptiveMaxPool2d):
    """Normalised adaptive max pooling in two dimensions; as :class:`AdaptiveMaxPool1d`."""


class AdaptiveMaxPool3d(_InDimensions, nn.AdaptiveMaxPool3d):
    """Normalised adaptive max pooling in three dimensions; as :class:`AdaptiveMaxPool1d`."""


class FractionalMaxPool2d(_InDimensions, nn.FractionalMaxPool2d):
    """Normalised fractional max pooling: see :func:`normprop.functional.fractional_max_pool2d`.

    Args:
        kernel_size: the window.
        output_size: size of the output; either it or the ratio.
        output_ratio: size of the output over that of the input, between 0 and 1.
        return_indices: also return where the maxima are.
        _random_samples: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input, or of the input of ``after``.
        std: standard deviation of the input, or of the input of ``after``.
        after: the activation that stands before the pooling, as in :class:`MaxPool1d`.
    """


class FractionalMaxPool3d(_InDimensions, nn.FractionalMaxPool3d):
    """Normalised fractional max pooling in three dimensions; as :class:`FractionalMaxPool2d`."""
