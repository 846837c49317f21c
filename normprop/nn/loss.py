"""Normalised losses; :mod:`normprop.functional.loss` says what that means for a loss."""

from typing import Any, ClassVar

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

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        refuse_weights({name: getattr(self, name, None) for name in ("weight", "pos_weight")})

    def _checked(self, name: str, value):
        refuse_weights({name: value})
        return super()._checked(name, value)

    def _shape_for(self, input: Tensor) -> tuple[int, ...]:
        return sizes_of(input.shape)

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


class CrossEntropyLoss(_Loss, nn.CrossEntropyLoss):
    """Normalised cross-entropy: see :func:`normprop.functional.cross_entropy`."""


class NLLLoss(_Loss, nn.NLLLoss):
    """Normalised -x_t: see :func:`normprop.functional.nll_loss`."""


class MSELoss(_Regression, nn.MSELoss):
    """Normalised squared error: see :func:`normprop.functional.mse_loss`."""


class L1Loss(_Regression, nn.L1Loss):
    """Normalised absolute error: see :func:`normprop.functional.l1_loss`."""


class SmoothL1Loss(_Regression, nn.SmoothL1Loss):
    """Normalised smooth L1: see :func:`normprop.functional.smooth_l1_loss`."""


class HuberLoss(_Regression, nn.HuberLoss):
    """Normalised Huber loss: see :func:`normprop.functional.huber_loss`."""


class BCEWithLogitsLoss(_OfElements, nn.BCEWithLogitsLoss):
    """Normalised loss of logits: :func:`normprop.functional.binary_cross_entropy_with_logits`."""


class SoftMarginLoss(_OfElements, nn.SoftMarginLoss):
    """Normalised log(1 + e^(-tx)): see :func:`normprop.functional.soft_margin_loss`."""


class MultiLabelSoftMarginLoss(_OfElements, nn.MultiLabelSoftMarginLoss):
    """Normalised loss of labels: see :func:`normprop.functional.multilabel_soft_margin_loss`."""


class HingeEmbeddingLoss(_OfElements, nn.HingeEmbeddingLoss):
    """Normalised hinge embedding loss: see :func:`normprop.functional.hinge_embedding_loss`."""
