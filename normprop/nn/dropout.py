"""Normalised dropout."""

from typing import Any, ClassVar

from torch import Tensor, nn

from normprop import rules
from normprop.functional.dropout import KINDS, DropoutConstants, dropout_constants, with_mask
from normprop.functional.keywords import LawKept
from normprop.gaussian import Law
from normprop.nn.twin import Twin

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]


class _Dropout(Twin):
    """Dropout of elements, or of channels."""

    _keywords: ClassVar[type] = LawKept
    _followed: ClassVar = frozenset({"eval_keeps"})

    def __init__(self, p: float = 0.5, *args: Any, **options: Any) -> None:
        rules.check_probability(p)
        super().__init__(p, *args, **options)

    def _found(self, shape: tuple[int, ...] | None) -> DropoutConstants:
        law = self.scaling, self.mean, self.std, self.eval_keeps
        return dropout_constants(float(self.p), *law, KINDS[self.torch_type][2])

    def forward(self, input: Tensor) -> Tensor:
        """Drop and normalise in training; shift and scale in evaluation."""
        run, dims, alpha = KINDS[self.torch_type]
        constants, backend = self._constants(None), "eager" if alpha else "auto"
        return with_mask(run, dims, input, self.p, self.training, constants, backend)

    def _measured(self, law: Law) -> rules.Moments:
        training, factor, center = self.constants
        if self.training:
            return rules.rescaled(self._plain(law), *training)
        return rules.rescaled(self._plain(law), center, 1.0 / factor, 1.0 / factor)


# fmt: off
class Dropout(_Dropout, nn.Dropout): ...
class Dropout1d(_Dropout, nn.Dropout1d): ...
class Dropout2d(_Dropout, nn.Dropout2d): ...
class Dropout3d(_Dropout, nn.Dropout3d): ...
class AlphaDropout(_Dropout, nn.AlphaDropout): ...
class FeatureAlphaDropout(_Dropout, nn.FeatureAlphaDropout): ...
