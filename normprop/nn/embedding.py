"""Normalised embeddings."""

import inspect
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.embedding import Placed, normalize_rows, refuse_max_norm
from normprop.nn.parametric import Parametric

__all__ = ["Embedding"]


class Embedding(Parametric, nn.Embedding):
    """Embedding with rows of norm √dim: see :func:`normprop.functional.embedding`.

    It has one scale, as no gradient reaches a token, so that there is no ``scaling`` to choose.

    Args:
        padding_idx: as in torch; its row is zero, and stays.

    Raises:
        ValueError: ``max_norm`` is given, or ``method`` is unknown.
    """

    _keywords: ClassVar[type] = Placed
    _named: ClassVar = tuple(Placed.__annotations__)
    # It has one ball, of one norm a row.
    scaling, per = "forward", "neuron"

    def __init__(self, *args: Any, **options: Any) -> None:
        given = inspect.signature(nn.Embedding).bind(*args, **_without(options, self._named))
        refuse_max_norm(given.arguments.get("max_norm"))
        weight = given.arguments.get("_weight")
        if weight is not None and options.get("method") == "project":
            # The caller's tensor is not ours to project.
            given.arguments["_weight"] = weight.clone()
        named = {name: options[name] for name in self._named if name in options}
        super().__init__(*given.args, **given.kwargs, **named)

    def _checked(self, name: str, value):
        if name == "max_norm":
            refuse_max_norm(value)
        return super()._checked(name, value)

    def _on_ball(self, weight: Tensor, ball: str) -> Tensor:
        return normalize_rows(weight, self.gain)

    def sphere(self) -> tuple[str, float]:
        """What the norm of the weight goes over, and what it has to be."""
        return "fan-in", self.gain * math.sqrt(self.embedding_dim)

    def forward(self, input: Tensor) -> Tensor:
        """Look up."""
        self._check_place()
        return functional.embedding(
            input,
            self.weight,
            self.padding_idx,
            scale_grad_by_freq=self.scale_grad_by_freq,
            sparse=self.sparse,
            **self._chosen(),
        )


def _moments(layer: Embedding, law) -> rules.Moments:
    rules.check_no_law(layer, law)
    rows = rules.rows_of(layer)
    if layer.method == "normalize":
        rows = normalize_rows(torch.from_numpy(rows), layer.gain).numpy()
    return rules.embedding(rows)


def _without(options: dict, names: tuple[str, ...]) -> dict:
    return {key: value for key, value in options.items() if key not in names}


rules.inherit(Embedding, nn.Embedding, _moments)
