"""Normalised losses; :mod:`normprop.functional.loss` says what that means for a loss."""

from typing import ClassVar

from torch import Tensor, nn

from normprop.functional.constants import sizes_of
from normprop.functional.keywords import LawsOfBoth
from normprop.functional.loss import check_same_shape, goal_of, refuse_weights
from normprop.nn.twin import Twin

__all__ = [
    "BCEWithLogitsLoss", "CrossEntropyLoss", "HingeEmbeddingLoss", "HuberLoss", "L1Loss",
    "MSELoss", "MultiLabelSoftMarginLoss", "NLLLoss", "SmoothL1Loss", "SoftMarginLoss",
]  # fmt: skip


class _Loss(Twin):
    """Refuses the arguments of torch's losses that the constants know nothing of."""

    def _checked(self, name: str, value):
        # The rule refuses those that a layer is made with.
        refuse_weights({name: value})
        return super()._checked(name, value)

    def _shape_for(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return sizes_of(shape)

    def _compute(self, input: Tensor, target: Tensor) -> Tensor:
        return super()._compute(input, goal_of(target))

    def extra_repr(self) -> str:
        """The arguments."""
        return f"reduction={self.reduction!r}, {super().extra_repr()}"


class _OfElements(_Loss):
    def _compute(self, input: Tensor, target: Tensor) -> Tensor:
        check_same_shape(input, target)
        return super()._compute(input, target)


class _Regression(_OfElements):
    """The law of the target."""

    _keywords: ClassVar[type] = LawsOfBoth


# fmt: off
class CrossEntropyLoss(_Loss, nn.CrossEntropyLoss): ...
class NLLLoss(_Loss, nn.NLLLoss): ...
class MSELoss(_Regression, nn.MSELoss): ...
class L1Loss(_Regression, nn.L1Loss): ...
class SmoothL1Loss(_Regression, nn.SmoothL1Loss): ...
class HuberLoss(_Regression, nn.HuberLoss): ...
class SoftMarginLoss(_OfElements, nn.SoftMarginLoss): ...
class MultiLabelSoftMarginLoss(_OfElements, nn.MultiLabelSoftMarginLoss): ...
class HingeEmbeddingLoss(_OfElements, nn.HingeEmbeddingLoss): ...
# fmt: on


class BCEWithLogitsLoss(_OfElements, nn.BCEWithLogitsLoss):
    """Normalised loss of logits: :func:`normprop.functional.binary_cross_entropy_with_logits`."""
