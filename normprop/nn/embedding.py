"""Normalised embeddings."""

import torch
from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.embedding import normalize_rows
from normprop.functional.weight import Method
from normprop.nn.parametric import Parametric


class Embedding(Parametric, nn.Embedding):
    """Embedding with rows of norm √dim: see :func:`normprop.functional.embedding`.

    It has one scale, as no gradient reaches a token, so that there is no ``scaling`` to choose.

    Args:
        num_embeddings: as in torch.
        embedding_dim: as in torch.
        padding_idx: as in torch; its row is zero, and stays.
        max_norm: must be ``None``: the norm of a row is √dim.
        norm_type: as in torch, without effect, as ``max_norm`` is ``None``.
        scale_grad_by_freq: as in torch.
        sparse: as in torch.
        device: as in torch.
        dtype: as in torch.
        method: ``"normalize"`` in each forward pass, or ``"project"`` by ``project_()``
            after each step of the optimiser.

    Raises:
        ValueError: ``max_norm`` is given, or ``method`` is unknown.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device=None,
        dtype=None,
        *,
        method: Method = "normalize",
    ) -> None:
        if max_norm is not None:
            raise ValueError(
                "max_norm must be None: a normalised embedding gives its rows the norm √dim; "
                f"it was {max_norm}"
            )
        if _weight is not None and method == "project":
            # The caller's tensor is not ours to project.
            _weight = _weight.clone()
        super().__init__(
            num_embeddings,
            embedding_dim,
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            _weight,
            _freeze,
            device,
            dtype,
        )
        self._declare("forward", "neuron", method)

    def _on_ball(self, weight: Tensor, ball: str) -> Tensor:
        return normalize_rows(weight)

    def forward(self, input: Tensor) -> Tensor:
        """Look up."""
        self._check_place()
        return functional.embedding(
            input,
            self.weight,
            self.padding_idx,
            self.scale_grad_by_freq,
            self.sparse,
            method=self.method,
        )

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{nn.Embedding.extra_repr(self)}, method={self.method!r}"


def _moments(layer: Embedding, law) -> rules.Moments:
    rules.check_no_law(layer, law)
    rows = rules.rows_of(layer)
    if layer.method == "normalize":
        rows = normalize_rows(torch.from_numpy(rows)).numpy()
    return rules.embedding(rows)


rules.register(Embedding, _moments, note=rules.entry_of_type(nn.Embedding).note)
