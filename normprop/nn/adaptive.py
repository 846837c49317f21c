"""Normalised pooling whose windows follow from the sizes of its input and output."""

from torch import Tensor, nn

from normprop import functional
from normprop.functional.adaptive import sizes_of
from normprop.nn.interior import FittedAfter


class _AdaptiveAvgPool(FittedAfter):
    """Adaptive average pooling; a subclass adds the twin, the dimension and the function."""

    def forward(self, input: Tensor) -> Tensor:
        """Pool and normalise."""
        constants = self.constants_of(sample_of(input, self._dims))
        return type(self)._function(input, self.output_size, constants=constants)


class _AdaptiveMaxPool(FittedAfter):
    """Adaptive max pooling; a subclass adds the twin, the dimension and the function."""

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Pool and normalise."""
        constants = self.constants_of(sample_of(input, self._dims))
        return type(self)._function(
            input, self.output_size, self.return_indices, constants=constants
        )


class _FractionalMaxPool(FittedAfter):
    """Fractional max pooling; a subclass adds the twin, the dimension and the function."""

    def __init__(self, *args, **keywords) -> None:
        super().__init__(*args, **keywords)
        if self.output_ratio is not None:
            # It needs no size: outputs for each input are known.
            self.constants = self.constants_of(None)

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Pool and normalise."""
        constants = self.constants_of(sample_of(input, self._dims))
        return type(self)._function(
            input,
            self.kernel_size,
            self.output_size,
            self.output_ratio,
            self.return_indices,
            self._random_samples,
            constants=constants,
        )


def sample_of(input: Tensor, dims: int) -> tuple[int, ...]:
    """The shape of a sample, for an input with or without a batch."""
    return (1, *sizes_of(input, dims))


class AdaptiveAvgPool1d(_AdaptiveAvgPool, nn.AdaptiveAvgPool1d):
    """Normalised adaptive average pooling: see :func:`normprop.functional.adaptive_avg_pool1d`.

    Args:
        output_size: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input, or of the input of ``after``.
        std: standard deviation of the input, or of the input of ``after``.
        after: the activation that stands before the pooling, as in :class:`MaxPool1d`.
    """

    _dims = 1
    _function = staticmethod(functional.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPool, nn.AdaptiveAvgPool2d):
    """Normalised adaptive average pooling in two dimensions; as :class:`AdaptiveAvgPool1d`."""

    _dims = 2
    _function = staticmethod(functional.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvgPool, nn.AdaptiveAvgPool3d):
    """Normalised adaptive average pooling in three dimensions; as :class:`AdaptiveAvgPool1d`."""

    _dims = 3
    _function = staticmethod(functional.adaptive_avg_pool3d)


class AdaptiveMaxPool1d(_AdaptiveMaxPool, nn.AdaptiveMaxPool1d):
    """Normalised adaptive max pooling: see :func:`normprop.functional.adaptive_max_pool1d`.

    Args:
        output_size: as in torch.
        return_indices: also return where the maxima are.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input, or of the input of ``after``.
        std: standard deviation of the input, or of the input of ``after``.
        after: the activation that stands before the pooling, as in :class:`MaxPool1d`.
    """

    _dims = 1
    _function = staticmethod(functional.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPool, nn.AdaptiveMaxPool2d):
    """Normalised adaptive max pooling in two dimensions; as :class:`AdaptiveMaxPool1d`."""

    _dims = 2
    _function = staticmethod(functional.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPool, nn.AdaptiveMaxPool3d):
    """Normalised adaptive max pooling in three dimensions; as :class:`AdaptiveMaxPool1d`."""

    _dims = 3
    _function = staticmethod(functional.adaptive_max_pool3d)


class FractionalMaxPool2d(_FractionalMaxPool, nn.FractionalMaxPool2d):
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

    _dims = 2
    _function = staticmethod(functional.fractional_max_pool2d)


class FractionalMaxPool3d(_FractionalMaxPool, nn.FractionalMaxPool3d):
    """Normalised fractional max pooling in three dimensions; as :class:`FractionalMaxPool2d`."""

    _dims = 3
    _function = staticmethod(functional.fractional_max_pool3d)
