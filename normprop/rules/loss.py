"""Losses, of a normal prediction and a target that is independent of it.

A regression's target is N(0, 1) unless the layer says otherwise by ``target_mean`` and
``target_std``; a class, or a label of two, is uniform.  With x ~ N(m, s²) and t ~ N(m_t, s_t²) a
loss of the distance is an elementwise function of x - t ~ N(m - m_t, s² + s_t²), whose slope is the
gradient at x; one with labels is another function of x for each of them: figures of the mixture.

``reduction`` is in the figures: the mean of N losses has the standard deviation σ_f/√N and the
gradient σ_b/N, the sum √N σ_f and σ_b, for a gradient of 1 that arrives at the one number.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from normprop.gaussian import FUNCTIONS, Figures, Function, Law, Normal, elementwise, families
from normprop.gaussian.closed import Spline
from normprop.gaussian.law import mixture
from normprop.gaussian.normal import EPS
from normprop.gaussian.softmax import cross_entropy
from normprop.rules.arguments import Shape, need_normal, need_shape
from normprop.rules.registry import CLOSED, Moments, refuse, register


def reduced(figures: Figures, reduction: str, count: int) -> Moments:
    """Moments of the mean or the sum of ``count`` independent losses, or of one by itself."""
    mean, std, slope = figures.mean, figures.std, figures.slope
    error = figures.error
    if reduction == "mean":
        std, slope = std / math.sqrt(count), slope / count
    elif reduction == "sum":
        mean, std = mean * count, std * math.sqrt(count)
        error *= count
    elif reduction != "none":
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none'; it was {reduction!r}")
    error += 4.0 * EPS * max(abs(mean), std, slope)
    return Moments(mean, std, slope, error, figures.method)


def _refuse_weights(layer: nn.Module, *names: str) -> None:
    for name in names:
        if getattr(layer, name, None) is not None:
            raise ValueError(
                f"{name} must be None for {type(layer).__name__}: with it not all elements have "
                "the same law"
            )


def _of_elements(figures: Callable[[nn.Module, Normal], Figures], *weights: str):
    def rule(layer: nn.Module, law: Law, shape: Shape) -> Moments:
        _refuse_weights(layer, *weights)
        one, count = figures(layer, need_normal(layer, law)), 1
        if layer.reduction != "none":
            count = math.prod(need_shape(layer, shape, "how many elements it reduces"))
        return reduced(one, layer.reduction, count)

    return rule


def _of_classes(figures: Callable[[nn.Module, int, Normal], Figures]):
    def rule(layer: nn.Module, law: Law, shape: Shape) -> Moments:
        _refuse_weights(layer, "weight")
        shape = need_shape(layer, shape, "how many classes and samples there are")
        if not shape:
            raise ValueError(f"shape must have a dimension of classes for {type(layer).__name__}")
        classes = shape[1] if len(shape) > 1 else shape[0]
        if 0 <= getattr(layer, "ignore_index", -1) < classes:
            raise ValueError(
                "ignore_index must not be a class, or the count of samples is random; "
                f"it was {layer.ignore_index} of {classes} classes"
            )
        one = figures(layer, classes, need_normal(layer, law))
        return reduced(one, layer.reduction, math.prod(shape) // classes)

    return rule


def _distance(layer: nn.Module, law: Normal) -> Normal:
    """The law of a regression's error."""
    mean, std = getattr(layer, "target_mean", 0.0), getattr(layer, "target_std", 1.0)
    return Normal(law.mean - mean, math.hypot(law.std, std))


def square(law: Normal) -> Figures:
    r"""Figures of x²: m² + s², :math:`s\sqrt{2s^2 + 4m^2}` and :math:`2\sqrt{m^2 + s^2}`."""
    m, s = abs(law.mean), law.std
    figures = (m * m + s * s, s * math.hypot(math.sqrt(2.0) * s, 2.0 * m), 2.0 * math.hypot(m, s))
    return Figures(*figures, 8.0 * EPS * max(figures), CLOSED)


def huber(delta: float = 1.0, scale: float = 1.0) -> Function:
    r"""The function scale·x²/2 up to \|x\| = ``delta``, then scale·delta·(\|x\| - delta/2)."""
    if not (0 < delta < math.inf and 0 < scale < math.inf):
        raise ValueError(
            f"delta and scale must be finite and greater than 0; they were {delta} and {scale}"
        )
    steep = scale * delta
    slopes, curves = (-steep, 0.0, steep), (0.0, 0.5 * scale, 0.0)
    pieces = Spline((-delta, delta), slopes, curves, (0.0, 0.0), 0.0, 0.0)
    return families.of_pieces("huber", pieces)


def smooth_l1(beta: float = 1.0) -> Function:
    r"""The function x²/(2 beta) up to \|x\| = ``beta``, then \|x\| - beta/2; \|x\| for 0."""
    return families.absolute() if beta == 0 else huber(float(beta), 1.0 / beta)


def _of_distance(function: Callable[[nn.Module], Function]):
    return _of_elements(lambda layer, law: elementwise(function(layer), _distance(layer, law)))


def cross_entropy_of_two(law: Normal, chance: float = 0.5) -> Figures:
    r"""Figures of -t log σ(x) - (1 - t) log σ(-x), t = 1 with probability ``chance``, else 0."""
    laws = law, Normal(-law.mean, law.std)
    parts = [elementwise(FUNCTIONS["logsigmoid"], each) for each in laws]
    return mixture([replace(part, mean=-part.mean) for part in parts], [chance, 1.0 - chance])


def hinge_embedding(law: Normal, margin: float) -> Figures:
    """Figures of x for the label 1, of max(margin - x, 0) for the label -1."""
    near = Figures(law.mean, law.std, 1.0, EPS * (abs(law.mean) + law.std), CLOSED)
    far = elementwise(FUNCTIONS["relu"], Normal(margin - law.mean, law.std))
    return mixture([near, far], [0.5, 0.5])


def _of_labels(*weights: str):
    return _of_elements(lambda _, law: cross_entropy_of_two(law), *weights)


def _likelihood(_: nn.Module, classes: int, law: Normal) -> Figures:
    """Figures of -x_t for a uniform class t, the gradient over all ``classes`` elements."""
    error = 2.0 * EPS * (abs(law.mean) + law.std + 1.0)
    return Figures(-law.mean, law.std, 1.0 / math.sqrt(classes), error, CLOSED)


def _ranking(layer: nn.MarginRankingLoss, law: Normal) -> Figures:
    # -y(x₁ - x₂) + margin, whichever the sign of y.
    difference = Normal(float(layer.margin), math.sqrt(2.0) * law.std)
    return elementwise(FUNCTIONS["relu"], difference)


def _many_labels(_: nn.Module, classes: int, law: Normal) -> Figures:
    one = cross_entropy_of_two(law)
    return replace(one, std=one.std / math.sqrt(classes), slope=one.slope / classes)


_OF_CLASS = "for a uniform class"
_OF_TARGET = "for an independent normal target"
_OF_LABELS = "for labels of even chances"

for _type, _rule, _note in (
    (
        nn.CrossEntropyLoss,
        _of_classes(lambda x, c, law: cross_entropy(c, law.std, float(x.label_smoothing))),
        _OF_CLASS,
    ),
    (nn.NLLLoss, _of_classes(_likelihood), _OF_CLASS),
    (nn.MSELoss, _of_elements(lambda x, law: square(_distance(x, law))), _OF_TARGET),
    (nn.L1Loss, _of_distance(lambda _: families.absolute()), _OF_TARGET),
    (nn.SmoothL1Loss, _of_distance(lambda x: smooth_l1(float(x.beta))), _OF_TARGET),
    (nn.HuberLoss, _of_distance(lambda x: huber(float(x.delta))), _OF_TARGET),
    (nn.BCEWithLogitsLoss, _of_labels("weight", "pos_weight"), _OF_LABELS),
    (nn.SoftMarginLoss, _of_labels(), _OF_LABELS),
    (
        nn.HingeEmbeddingLoss,
        _of_elements(lambda x, law: hinge_embedding(law, float(x.margin))),
        _OF_LABELS,
    ),
    (
        nn.MarginRankingLoss,
        _of_elements(_ranking),
        f"{_OF_LABELS}; it has no twin, as its gradient goes to two inputs",
    ),
    (nn.MultiLabelSoftMarginLoss, _of_classes(_many_labels), _OF_LABELS),
):
    register(_type, _rule, shaped=True, family="loss", note=_note)

for _type, _reason in (
    (nn.BCELoss, "its input is a probability, which no normal variable is"),
    (nn.KLDivLoss, "its input is the logarithm of a distribution, which no normal variable is"),
    (nn.PoissonNLLLoss, "its target is a count, whose law is not given"),
    (nn.GaussianNLLLoss, "its second input is a variance, which no normal variable is"),
    (nn.CTCLoss, "its input is the logarithm of a distribution, and it sums over alignments"),
    (nn.CosineEmbeddingLoss, "its gradient depends on the directions of two whole vectors"),
    (nn.TripletMarginLoss, "its two distances share the anchor, so that they are dependent"),
    (nn.TripletMarginWithDistanceLoss, "its distance is a function of the user's"),
    (nn.MultiMarginLoss, "its hinges share the score of the target, so that they are dependent"),
    (nn.MultiLabelMarginLoss, "its hinges share scores, so that they are dependent"),
):
    refuse(_type, _reason, family="loss")
# Older versions of torch do not have it.
if hasattr(nn, "LinearCrossEntropyLoss"):
    refuse(
        nn.LinearCrossEntropyLoss,
        "its logits are its own weights' doing, and dependent",
        family="loss",
    )
