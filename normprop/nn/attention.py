"""Normalised multi-head attention."""

import inspect
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.attention import (
    AttentionConstants,
    BallOfHeads,
    attended,
    attention_constants,
    multi_head_constants,
)
from normprop.functional.keywords import Given
from normprop.functional.scale import Constants
from normprop.gaussian import Law
from normprop.nn.settings import Settings

__all__ = ["MultiheadAttention", "ScaledDotProductAttention"]


class ScaledDotProductAttention(Settings, rules.ScaledDotProductAttention):
    """Normalised attention: see :func:`normprop.functional.scaled_dot_product_attention`.

    Attributes:
        constants: shift and divisors, as :func:`normprop.convert` sets them; ``None`` where they
            follow from the shapes of the inputs.
    """

    _keywords: ClassVar[type] = Given
    constants: Constants | None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attend and normalise; the arguments are those of the function."""
        given = attn_mask, dropout_p, is_causal, scale, enable_gqa
        if self.constants is None:
            law = self._chosen()
            return functional.scaled_dot_product_attention(query, key, value, *given, **law)
        return attended(query, key, value, AttentionConstants.alike(*self.constants), *given)

    def constants_of(
        self,
        query: tuple[int, ...],
        key: tuple[int, ...],
        value: tuple[int, ...],
        scale: float | None = None,
        is_causal: bool = False,
        dropout_p: float = 0.0,
        enable_gqa: bool = False,
    ) -> AttentionConstants:
        """Shift and divisors for inputs of these shapes, and for arguments of ``forward``."""
        if self.constants is not None:
            return AttentionConstants.alike(*self.constants)
        law = self.scaling, self.mean, self.std
        given = scale, is_causal, dropout_p, enable_gqa
        return attention_constants(query, key, value, *law, *given)

    def _forget(self) -> None:
        self.constants = None

    def extra_repr(self) -> str:
        """The arguments, and the constants that were set."""
        own = "" if self.constants is None else f", constants={tuple(self.constants)}"
        return super().extra_repr() + own

    def _moments(self, law: Law, shape: tuple[int, ...] | None) -> rules.Moments:
        constants = () if shape is None else (self.constants_of(shape, shape, shape),)
        return rules.independent_attention(self, law, shape, *constants)


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
        given = inspect.signature(MultiheadAttention).bind(*args, **options).arguments
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
        own = self.num_heads, weights, tuple(biases), self.out_proj.weight, self.out_proj.bias
        how = mask, self.dropout if self.training else 0.0, causal, need_weights
        output, probabilities = functional.multi_head_attention(
            query, key, value, *own, *how, **self._chosen()
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

        def on_ball(weight, gain=1.0):
            return self._on_ball(weight.detach().to("cpu", torch.float64), self._ball(), gain)

        own = [on_ball(weight) for weight in self._projections()]
        keys = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        found = dict(zip(keys, own, strict=True))
        if self._qkv_same_embed_dim:
            found = {"in_proj_weight": torch.cat(own)}
        found["out_proj.weight"] = on_ball(self.out_proj.weight, self.gain / constants.forward)
        return {key: value.to(self.out_proj.weight) for key, value in found.items()}

    def _ball(self) -> str:
        return "backward" if self.scaling == "backward" else "forward"

    def _on_ball(self, weight: Tensor, ball: str, gain: float) -> Tensor:
        return functional.normalize_weight(weight, ball, self.per, gain=gain)

    def _moments(self, law: Law, shape: tuple[int, ...] | None) -> rules.Moments:
        length, law = rules.self_attention(self, law, shape)
        weights, shifts = rules.projections(self)
        plain = [torch.from_numpy(weight) for weight in weights]
        gains = (1.0, 1.0, 1.0, self.gain)
        balls = (self._ball(), "backward" if self.scaling == "separate" else self._ball())
        used, back = (
            [self._on_ball(w, ball, g).numpy() for w, g in zip(plain, gains, strict=True)]
            for ball in balls
        )
        divisors = self.constants_of(*((length, self.embed_dim),) * 3)[1:]
        dropout = self.dropout if self.training else 0.0
        spread = length, self.head_dim, law.std
        return rules.projected_attention(*spread, used, shifts, dropout, divisors, back)

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
