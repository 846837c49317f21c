"""Normalised losses; :mod:`normprop.functional.loss` says what that means for a loss."""

from torch import Tensor, nn

from normprop import functional, rules
from normprop.nn.shaped import Shaped

_TARGET = {"target_mean": (0.0, float), "target_std": (1.0, float)}


class _Loss(Shaped):
    """Refuses the arguments of torch's losses that the constants know nothing of."""

    def __init__(self, *args, **keywords) -> None:
        super().__init__(*args, **keywords)
        for name in ("weight", "pos_weight"):
            if getattr(self, name, None) is not None:
                raise ValueError(f"{name} must be None: with it not all elements have the same law")

    def extra_repr(self) -> str:
        """The arguments."""
        return f"reduction={self.reduction!r}, {super().extra_repr()}"


class _Regression(_Loss):
    """The law of the target."""

    _options = _TARGET

    def __init__(
        self, *args, target_mean: float = 0.0, target_std: float = 1.0, **keywords
    ) -> None:
        super().__init__(*args, **keywords)
        target = rules.check_law(target_mean, target_std)
        self.target_mean, self.target_std = target.mean, target.std

    def _law(self) -> dict[str, object]:
        target = {"target_mean": self.target_mean, "target_std": self.target_std}
        return {**super()._law(), **target}

    def extra_repr(self) -> str:
        """The arguments."""
        target = f"target_mean={self.target_mean:g}, target_std={self.target_std:g}"
        return f"{super().extra_repr()}, {target}"


class CrossEntropyLoss(_Loss, nn.CrossEntropyLoss):
    """Normalised cross-entropy: see :func:`normprop.functional.cross_entropy`.

    Args:
        weight: must be ``None``.
        size_average: as in torch; likewise ignore_index, reduce, reduction, label_smoothing.
        ignore_index: as in torch.
        reduce: as in torch.
        reduction: as in torch.
        label_smoothing: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0 and at most 20.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss, normalised."""
        own = (self.ignore_index, self.reduction, self.label_smoothing)
        return functional.cross_entropy(input, target, *own, **self._law())


class NLLLoss(_Loss, nn.NLLLoss):
    """Normalised -x_t: see :func:`normprop.functional.nll_loss`; as :class:`CrossEntropyLoss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss, normalised."""
        own = (self.ignore_index, self.reduction)
        return functional.nll_loss(input, target, *own, **self._law())


class MSELoss(_Regression, nn.MSELoss):
    """Normalised squared error: see :func:`normprop.functional.mse_loss`.

    Args:
        size_average: as in torch; likewise reduce and reduction.
        reduce: as in torch.
        reduction: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        target_mean: mean of the target.
        target_std: standard deviation of the target, greater than 0.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss, normalised."""
        return functional.mse_loss(input, target, self.reduction, **self._law())


class L1Loss(_Regression, nn.L1Loss):
    """Normalised absolute error: see :func:`normprop.functional.l1_loss`; as :class:`MSELoss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss, normalised."""
        return functional.l1_loss(input, target, self.reduction, **self._law())


class SmoothL1Loss(_Regression, nn.SmoothL1Loss):
    """Normalised smooth L1: see :func:`normprop.functional.smooth_l1_loss`; as :class:`MSELoss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss, normalised."""
        return functional.smooth_l1_loss(input, target, self.reduction, self.beta, **self._law())


class HuberLoss(_Regression, nn.HuberLoss):
    """Normalised Huber loss: see :func:`normprop.functional.huber_loss`; as :class:`MSELoss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss, normalised."""
        return functional.huber_loss(input, target, self.reduction, self.delta, **self._law())


class BCEWithLogitsLoss(_Loss, nn.BCEWithLogitsLoss):
    """Normalised binary cross-entropy of logits.

    See :func:`normprop.functional.binary_cross_entropy_with_logits`; ``weight`` and
    ``pos_weight`` must be ``None``, everything else is as in :class:`CrossEntropyLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss, normalised."""
        return functional.binary_cross_entropy_with_logits(
            input, target, self.reduction, **self._law()
        )


class SoftMarginLoss(_Loss, nn.SoftMarginLoss):
    """Normalised log(1 + e^(-tx)): see :func:`normprop.functional.soft_margin_loss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss, normalised."""
        return functional.soft_margin_loss(input, target, self.reduction, **self._law())


class MultiLabelSoftMarginLoss(_Loss, nn.MultiLabelSoftMarginLoss):
    """Normalised loss of many labels: see :func:`normprop.functional.multilabel_soft_margin_loss`.

    ``weight`` must be ``None``, everything else is as in :class:`CrossEntropyLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss, normalised."""
        return functional.multilabel_soft_margin_loss(input, target, self.reduction, **self._law())


class HingeEmbeddingLoss(_Loss, nn.HingeEmbeddingLoss):
    """Normalised hinge embedding loss: see :func:`normprop.functional.hinge_embedding_loss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss, normalised."""
        return functional.hinge_embedding_loss(
            input, target, self.margin, self.reduction, **self._law()
        )
