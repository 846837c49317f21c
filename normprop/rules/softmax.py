"""Softmax and its relatives, over a dimension of C independent elements."""

from torch import nn

from normprop.gaussian import Law
from normprop.gaussian import softmax as ground
from normprop.rules.arguments import Shape, need_normal, need_shape
from normprop.rules.registry import Moments, moments_of, refuse, register

__all__ = ["softmax"]


def softmax(classes: int, law: Law) -> Moments:
    """Moments of softmax, or of softmin, over ``classes`` elements."""
    return moments_of(ground.softmax(classes, law.std))


def log_softmax(classes: int, law: Law) -> Moments:
    """Moments of the logarithm of softmax over ``classes`` elements."""
    return moments_of(ground.log_softmax(classes, law.std))


def softmax_classes(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """How many elements a softmax over samples of this shape is over.

    Raises:
        ValueError: the dimension is not named, does not exist, or is that of the batch.
    """
    dim = -3 if isinstance(layer, nn.Softmax2d) else layer.dim
    if dim is None:
        raise ValueError("dim must be given: torch's implicit choice depends on the batch")
    ndim = len(shape) + 1
    if not -ndim <= dim < ndim:
        raise ValueError(f"dim must exist in a batch of samples of shape {shape}; it was {dim}")
    if dim % ndim == 0:
        raise ValueError(f"dim must not be that of the batch; it was {dim} for samples of {shape}")
    return shape[dim % ndim - 1]


def _rule(figures):
    def rule(layer: nn.Module, law: Law, shape: Shape) -> Moments:
        shape = need_shape(layer, shape, "how many elements its dimension has")
        return figures(softmax_classes(layer, shape), need_normal(layer, law))

    return rule


for _type, _figures in (
    (nn.Softmax, softmax),
    (nn.Softmin, softmax),
    (nn.Softmax2d, softmax),
    (nn.LogSoftmax, log_softmax),
):
    register(_type, _rule(_figures), shaped=True, family="softmax")

refuse(
    nn.AdaptiveLogSoftmaxWithLoss,
    "its output is a loss over clusters of its own weights, whose classes have no common law",
    family="loss",
)
