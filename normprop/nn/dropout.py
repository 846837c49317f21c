"""Normalised dropout."""

from typing import Any, ClassVar

from torch import Tensor, nn

from normprop import rules
from normprop.functional.dropout import (
    AlphaDropoutConstants,
    DropoutConstants,
    alpha_dropout_constants,
    dropout_constants,
    with_alpha,
    with_mask,
)
from normprop.functional.keywords import LawKept
from normprop.gaussian import Law
from normprop.nn.twin import Twin

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]


class _Dropout(Twin):
    """Dropout of elements, or of what ``_kept`` dimensions behind the channels hold together."""

    _keywords: ClassVar[type] = LawKept
    _followed: ClassVar = frozenset({"eval_keeps"})
    _dims: ClassVar[int] = 0

    def __init__(self, p: float = 0.5, *args: Any, **options: Any) -> None:
        rules.check_probability(p)
        super().__init__(p, *args, **options)

    def _found(self, shape: tuple[int, ...] | None) -> DropoutConstants:
        law = self.scaling, self.mean, self.std, self.eval_keeps
        return dropout_constants(float(self.p), *law)

    def forward(self, input: Tensor) -> Tensor:
        """Drop and normalise in training; shift and scale in evaluation."""
        run = getattr(nn.functional, self.torch_type.__name__.lower())
        return with_mask(run, self._dims, input, self.p, self.training, self._constants(None))

    def _measured(self, law: Law) -> rules.Moments:
        training, factor = self.constants
        if self.training:
            return rules.rescaled(self._plain(law), *training)
        return rules.rescaled(self._plain(law), training.shift, 1.0 / factor, 1.0 / factor)


class _AlphaDropout(_Dropout):
    def _found(self, shape: tuple[int, ...] | None) -> AlphaDropoutConstants:
        law = self.scaling, self.mean, self.std, self.eval_keeps
        return alpha_dropout_constants(float(self.p), *law)

    def _measured(self, law: Law) -> rules.Moments:
        training, center, factor = self.constants
        if self.training:
            return rules.rescaled(self._plain(law), *training)
        return rules.rescaled(self._plain(law), center, 1.0 / factor, 1.0 / factor)


class Dropout(_Dropout, nn.Dropout):
    """Normalised dropout: see :func:`normprop.functional.dropout`.

    Args:
        p: probability of dropping, 0 ≤ p < 1.
        inplace: must be ``False``; there so that the twin's arguments fit.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        eval: what evaluation keeps of training, ``"variance"`` or ``"mean"``.
    """


class Dropout1d(_Dropout, nn.Dropout1d):
    """Normalised dropout of channels, (N, C, L); arguments as in :class:`Dropout`."""

    _dims: ClassVar = 1


class Dropout2d(_Dropout, nn.Dropout2d):
    """Normalised dropout of channels, (N, C, H, W); arguments as in :class:`Dropout`."""

    _dims: ClassVar = 2


class Dropout3d(_Dropout, nn.Dropout3d):
    """Normalised dropout of channels, (N, C, D, H, W); arguments as in :class:`Dropout`."""

    _dims: ClassVar = 3


class AlphaDropout(_AlphaDropout, nn.AlphaDropout):
    """Normalised alpha dropout: see :func:`normprop.functional.alpha_dropout`.

    Arguments as in :class:`Dropout`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop and normalise in training; shift and scale in evaluation."""
        run = nn.functional.alpha_dropout
        return with_alpha(run, input, self.p, self.training, self._constants(None))


class FeatureAlphaDropout(_AlphaDropout, nn.FeatureAlphaDropout):
    """Normalised alpha dropout of channels, (N, C, …); arguments as in :class:`Dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop and normalise in training; shift and scale in evaluation."""
        run = nn.functional.feature_alpha_dropout
        return with_alpha(run, input, self.p, self.training, self._constants(None))
