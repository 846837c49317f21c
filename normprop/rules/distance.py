"""The angle and the distance between two independent inputs of one law."""

from torch import nn

from normprop.gaussian import Law
from normprop.gaussian.lengths import cosine, distance
from normprop.rules.arguments import Shape, need_normal, need_shape
from normprop.rules.registry import Moments, moments_of, register


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
