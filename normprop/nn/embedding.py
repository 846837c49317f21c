"""Normalised embeddings."""

import inspect
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.embedding import Placed, refuse_max_norm
from normprop.gaussian import Law
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
    # It has one ball, of one norm a row.
    scaling, per = "forward", "neuron"

    def __init__(self, *args: Any, **options: Any) -> None:
        given = inspect.signature(Embedding).bind(*args, **options)
        refuse_max_norm(given.arguments.get("max_norm"))
        weight = given.arguments.get("_weight")
        if weight is not None and options.get("method") == "project":
            # The caller's tensor is not ours to project.
            given.arguments["_weight"] = weight.clone()
        super().__init__(*given.args, **given.kwargs)

    def _checked(self, name: str, value):
        if name == "max_norm":
            refuse_max_norm(value)
        return super()._checked(name, value)

    def sphere(self, ball: str | None = None) -> tuple[str, float, int]:
        """As of every layer with weights; it has one ball."""
        return "fan-in", self.gain * math.sqrt(self.embedding_dim), 1

    def forward(self, input: Tensor) -> Tensor:
        """Look up."""
        self._check_place()
        own = {"scale_grad_by_freq": self.scale_grad_by_freq, "sparse": self.sparse}
        chosen = self._chosen()
        return functional.embedding(input, self.weight, self.padding_idx, **own, **chosen)

    def _moments(self, law: Law) -> rules.Moments:
        rules.check_no_law(self, law)
        rows = rules.rows_of(self)
        if self.method == "normalize":
            rows = self._on_ball(torch.from_numpy(rows), self._ball()).numpy()
        return rules.embedding(rows)
