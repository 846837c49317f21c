"""Softmax and its relatives over a dimension, the angle and the distance between two vectors."""

from torch import nn

from normprop.gaussian import Law
from normprop.gaussian import softmax as ground
from normprop.gaussian.lengths import cosine, distance
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


def _cosine(layer: nn.CosineSimilarity, law: Law, shape: Shape) -> Moments:
    shape, law = need_shape(layer, shape, "how many entries a vector has"), need_normal(layer, law)
    if law.mean != 0:
        raise ValueError(
            "mean must be 0 for CosineSimilarity, so that directions are uniform; "
            f"it was {law.mean}"
        )
    # torch counts the batch.
    place = layer.dim - 1 if layer.dim >= 0 else layer.dim + len(shape)
    if not 0 <= place < len(shape):
        raise ValueError(
            f"dim must be a dimension of the sample, from 1 to {len(shape)} as the batch is 0; "
            f"it was {layer.dim} for a sample of shape {shape}"
        )
    return moments_of(cosine(shape[place], law.std, float(layer.eps)))


def _distance(layer: nn.PairwiseDistance, law: Law, shape: Shape) -> Moments:
    shape, law = need_shape(layer, shape, "how many entries a vector has"), need_normal(layer, law)
    if not shape:
        raise ValueError("shape must have a dimension for PairwiseDistance; it was ()")
    return moments_of(distance(shape[-1], law.std, layer.norm, float(layer.eps)))


for _type, _rule, _where in (
    (nn.CosineSimilarity, _cosine, "a mean of 0"),
    (nn.PairwiseDistance, _distance, "p = 1 or 2"),
):
    _note = f"two independent inputs of one law; the gradient is that of either; for {_where}"
    register(_type, _rule, note=_note, shaped=True, family="distance")
