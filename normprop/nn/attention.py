"""Normalised multi-head attention."""

import inspect
import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.attention import AttentionConstants, BallOfHeads, multi_head_constants
from normprop.functional.weight import Per
from normprop.nn.settings import Settings

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Settings, nn.MultiheadAttention):
    """Multi-head attention on the unit ball: see :func:`normprop.functional.multi_head_attention`.

    The three projections usually share one input, where their gradients meet: only factors that
    are the same in both passes leave the gradient's direction alone there.  So the default is
    ``"forward"``.

    Args:
        num_heads: as in torch.
        dropout: as in torch.
        add_bias_kv: must be ``False``: such a key is no normal variable; likewise add_zero_attn.
        add_zero_attn: must be ``False``.
    """

    _keywords: ClassVar[type] = BallOfHeads
    _defaults: ClassVar = {"scaling": "forward"}
    gain: float = 1.0

    def __init__(self, *args: Any, **options: Any) -> None:
        given = inspect.signature(type(self)).bind(*args, **options).arguments
        if given.get("add_bias_kv") or given.get("add_zero_attn"):
            raise ValueError(
                "add_bias_kv and add_zero_attn must be False: such keys are no normal variables; "
                f"they were {given.get('add_bias_kv', False)} and "
                f"{given.get('add_zero_attn', False)}"
            )
        super().__init__(*args, **options)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments and results as in torch."""
        if is_causal and attn_mask is None:
            raise ValueError("attn_mask must be given where is_causal says what it is")
        batched = query.ndim == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        # is_causal is a promise about the mask, which then is not needed, but for padding.
        causal = is_causal and key_padding_mask is None
        mask = self._mask(query, None if causal else attn_mask, key_padding_mask, batched)
        weights = self._projections()
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        output, probabilities = functional.multi_head_attention(
            query,
            key,
            value,
            self.num_heads,
            weights,
            tuple(biases),
            self.out_proj.weight,
            self.out_proj.bias,
            mask,
            self.dropout if self.training else 0.0,
            causal,
            need_weights,
            **self._chosen(),
        )
        if probabilities is not None and average_attn_weights:
            probabilities = probabilities.mean(1)
        if not batched:
            return output[0], None if probabilities is None else probabilities[0]
        return output if self.batch_first else output.transpose(0, 1), probabilities

    def _projections(self) -> tuple[Tensor, ...]:
        if self._qkv_same_embed_dim:
            return tuple(self.in_proj_weight.chunk(3))
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def constants_of(
        self,
        query: tuple[int, ...],
        key: tuple[int, ...],
        value: tuple[int, ...],
        causal: bool = False,
    ) -> AttentionConstants:
        """What divides in the heads, for inputs of these shapes; ``causal`` as in ``forward``."""
        length = 1 if self.batch_first else 0
        sizes = (shape[length if len(shape) == 3 else 0] for shape in (query, key, value))
        return multi_head_constants(
            tuple((size, self.head_dim) for size in sizes),
            tuple(tuple(weight.shape) for weight in self._projections()),
            self.scaling,
            self.std,
            causal,
            self.dropout if self.training else 0.0,
        )

    def weights_that_run(self, constants: AttentionConstants) -> dict[str, Tensor]:
        """By key, the weights with which torch's layer gives what this one gives."""
        ball = "backward" if self.scaling == "backward" else "forward"

        def on_ball(weight, gain=1.0):
            wide = weight.detach().to("cpu", torch.float64)
            return functional.normalize_weight(wide, ball, self.per, gain=gain)

        own = [on_ball(weight) for weight in self._projections()]
        keys = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        found = dict(zip(keys, own, strict=True))
        if self._qkv_same_embed_dim:
            found = {"in_proj_weight": torch.cat(own)}
        found["out_proj.weight"] = on_ball(self.out_proj.weight, self.gain / constants.forward)
        return {key: value.to(self.out_proj.weight) for key, value in found.items()}

    def _mask(self, query, attn_mask, key_padding_mask, batched) -> Tensor | None:
        """One mask to add to the logits, shape (L, n) or (N, heads or 1, L, n)."""
        total = None
        if attn_mask is not None:
            total = _added(attn_mask, query.dtype)
            if total.ndim == 3:
                total = total.unflatten(0, (-1, self.num_heads))
        if key_padding_mask is not None:
            padding = _added(key_padding_mask, query.dtype)
            padding = padding[:, None, None, :] if batched else padding[None, None, None, :]
            total = padding if total is None else total + padding
        return total


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add, from one that is true where nothing may be seen."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
    return mask.to(dtype)


def _moments(layer: MultiheadAttention, law, shape) -> rules.Moments:
    length, law = rules.self_attention(layer, law, shape)
    weights, shifts = rules.projections(layer)
    ball = "backward" if layer.scaling == "backward" else "forward"
    gains = (1.0, 1.0, 1.0, layer.gain)
    used = [_on_ball(w, ball, layer.per, g) for w, g in zip(weights, gains, strict=True)]
    back = used
    if layer.scaling == "separate":
        back = [_on_ball(w, "backward", layer.per, g) for w, g in zip(weights, gains, strict=True)]
    head, dropout = layer.head_dim, layer.dropout if layer.training else 0.0
    constants = multi_head_constants(
        ((length, head),) * 3,
        ((layer.embed_dim, layer.embed_dim),) * 3,
        layer.scaling,
        layer.std,
        False,
        dropout,
    )
    divisors = constants[1:]
    return rules.projected_attention(length, head, law.std, used, shifts, dropout, divisors, back)


def _on_ball(weight: np.ndarray, ball: str, per: Per, gain: float) -> np.ndarray:
    return functional.normalize_weight(torch.from_numpy(weight), ball, per, gain=gain).numpy()


rules.inherit(MultiheadAttention, nn.MultiheadAttention, _moments)
