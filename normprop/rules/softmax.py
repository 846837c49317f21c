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


def _classes(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """How many elements a softmax over samples of this shape is over."""
    dim = -3 if isinstance(layer, nn.Softmax2d) else layer.dim
    if dim is None:
        raise ValueError("dim must be given: torch's implicit choice depends on the batch")
    ndim = len(shape) + 1
    if not -ndim <= dim < ndim:
        raise ValueError(f"dim must exist in a batch of samples of shape {shape}; it was {dim}")
    if dim % ndim == 0:
        raise ValueError(f"dim must not be that of the batch; it was {dim} for samples of {shape}")
    return shape[dim % ndim - 1]


def _rule(layer: nn.Module, law: Law, shape: Shape) -> Moments:
    classes = _classes(layer, need_shape(layer, shape, "how many elements its dimension has"))
    figures = ground.log_softmax if isinstance(layer, nn.LogSoftmax) else ground.softmax
    return moments_of(figures(classes, need_normal(layer, law).std))


for _type in (nn.Softmax, nn.Softmin, nn.Softmax2d, nn.LogSoftmax):
    register(_type, _rule, shaped=True, family="softmax")

refuse(
    nn.AdaptiveLogSoftmaxWithLoss,
    "its output is a loss over clusters of its own weights, whose classes have no common law",
    family="loss",
)
