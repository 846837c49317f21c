"""Normalised dropout."""

from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.dropout import Keeps, alpha_dropout_constants, dropout_constants
from normprop.functional.scale import Scaling
from normprop.nn.law import joined, law_repr, refuse_inplace


class _Normalized:
    """Arguments, constants and printing; the call is what a subclass adds."""

    _constants_at = staticmethod(dropout_constants)

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        scaling: Scaling = "backward",
        mean: float = 0.0,
        std: float = 1.0,
        eval: Keeps = "variance",
    ) -> None:
        rules.check_probability(p)
        super().__init__(p)
        refuse_inplace(inplace)
        law = rules.check_law(mean, std)
        self.scaling, self.mean, self.std = scaling, law.mean, law.std
        # nn.Module has a method of the name eval.
        self.eval_keeps = eval
        self.constants = self._constants_at(float(p), scaling, law.mean, law.std, eval)

    def extra_repr(self) -> str:
        """The arguments."""
        return joined(super().extra_repr(), law_repr(self), f"eval={self.eval_keeps!r}")


class Dropout(_Normalized, nn.Dropout):
    """Normalised dropout: see :func:`normprop.functional.dropout`.

    Args:
        p: probability of dropping, 0 ≤ p < 1.
        inplace: must be ``False``; there so that the twin's arguments fit.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        eval: what evaluation keeps of training, ``"variance"`` or ``"mean"``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop and normalise in training; shift and scale in evaluation."""
        return functional.dropout(input, self.p, self.training, constants=self.constants)


class Dropout1d(_Normalized, nn.Dropout1d):
    """Normalised dropout of channels, (N, C, L); arguments as in :class:`Dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop and normalise in training; shift and scale in evaluation."""
        return functional.dropout1d(input, self.p, self.training, constants=self.constants)


class Dropout2d(_Normalized, nn.Dropout2d):
    """Normalised dropout of channels, (N, C, H, W); arguments as in :class:`Dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop and normalise in training; shift and scale in evaluation."""
        return functional.dropout2d(input, self.p, self.training, constants=self.constants)


class Dropout3d(_Normalized, nn.Dropout3d):
    """Normalised dropout of channels, (N, C, D, H, W); arguments as in :class:`Dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop and normalise in training; shift and scale in evaluation."""
        return functional.dropout3d(input, self.p, self.training, constants=self.constants)


class AlphaDropout(_Normalized, nn.AlphaDropout):
    """Normalised alpha dropout: see :func:`normprop.functional.alpha_dropout`.

    Arguments as in :class:`Dropout`.
    """

    _constants_at = staticmethod(alpha_dropout_constants)

    def forward(self, input: Tensor) -> Tensor:
        """Drop and normalise in training; shift and scale in evaluation."""
        return functional.alpha_dropout(input, self.p, self.training, constants=self.constants)


class FeatureAlphaDropout(_Normalized, nn.FeatureAlphaDropout):
    """Normalised alpha dropout of channels, (N, C, …); arguments as in :class:`Dropout`."""

    _constants_at = staticmethod(alpha_dropout_constants)

    def forward(self, input: Tensor) -> Tensor:
        """Drop and normalise in training; shift and scale in evaluation."""
        return functional.feature_alpha_dropout(
            input, self.p, self.training, constants=self.constants
        )


def _moments(layer: _Normalized, law) -> rules.Moments:
    training, factor = layer.constants
    if layer.training:
        return rules.affine(rules.dropout(layer.p, law), *training)
    return rules.affine(rules.dropout(0.0, law), training.shift, 1.0 / factor, 1.0 / factor)


for _type in (Dropout, Dropout1d, Dropout2d, Dropout3d):
    rules.register(_type, _moments)


def _alpha_moments(layer: _Normalized, law) -> rules.Moments:
    training, center, factor = layer.constants
    if layer.training:
        return rules.affine(rules.alpha_dropout(layer.p, law), *training)
    return rules.affine(rules.copied(law), center, 1.0 / factor, 1.0 / factor)


for _type in (AlphaDropout, FeatureAlphaDropout):
    rules.register(_type, _alpha_moments)
