"""torch's own multi-head attention after a pruning: fewer heads, narrower heads, a model width of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeopt.errors import UsageError

__all__ = ["Heads", "PrunedAttention", "heads_left"]

Cut = Mapping[str, Mapping[int, list[int]]]
"""A layer's own tensor -> axis -> the indices that stay."""


@dataclass(frozen=True)
class Heads:
    """What is left of query, key and value."""

    heads: int
    query_width: int
    """Of a head's query and key."""
    value_width: int


def heads_left(kept: list[int], rows: int, heads: int) -> Heads | None:
    """What stays of a packed projection [3 * heads * width, ...] when its rows `kept` do; None where heads would differ
    in width, or query and key.
    """
    stays = torch.zeros(rows, dtype=torch.bool)
    stays[kept] = True
    widths = stays.reshape(3, heads, -1).sum(dim=2)
    present = widths.sum(dim=0) > 0
    widths = widths[:, present]
    if not present.any() or (widths != widths[:, :1]).any() or widths[0, 0] != widths[1, 0] or not widths[2, 0]:
        return None
    return Heads(int(present.sum()), int(widths[0, 0]), int(widths[2, 0]))


class PrunedAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` whose heads need not make up the model's width: same parameters, same forward.

    The softmax keeps the scale that the original width of a head gave it.
    """

    head_scale: float
    value_width: int

    @staticmethod
    def check(layer: nn.MultiheadAttention, cut: Cut) -> Heads:
        """What will be left of `layer`. Raises UsageError for a form that is not covered."""
        left = None
        if layer.in_proj_weight is not None and layer.bias_k is None and not layer.add_zero_attn:
            rows = layer.in_proj_weight.shape[0]
            left = heads_left(cut.get("in_proj_weight", {}).get(0, list(range(rows))), rows, layer.num_heads)
        if left is None:
            raise UsageError(
                "an nn.MultiheadAttention with separate projections, bias_k or add_zero_attn, or with heads of several "
                "widths, cannot be pruned in place"
            )
        return left

    @staticmethod
    def adapt(layer: nn.MultiheadAttention, cut: Cut) -> None:
        """Make `layer` one of these, before its tensors are cut. Raises UsageError."""
        left, scale = PrunedAttention.check(layer, cut), layer.head_dim**-0.5
        width = len(cut.get("in_proj_weight", {}).get(1, range(layer.embed_dim)))
        layer.embed_dim = layer.kdim = layer.vdim = width
        layer.num_heads, layer.head_dim = left.heads, left.query_width
        layer.__class__ = PrunedAttention
        assert isinstance(layer, PrunedAttention)
        layer.head_scale = getattr(layer, "head_scale", scale)
        layer.value_width = left.value_width
        layer._qkv_same_embed_dim = False  # keeps TransformerEncoderLayer off its fused kernel, which counts by itself

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
        """As `nn.MultiheadAttention.forward`."""
        batched = query.dim() == 3
        inputs = (query, key, value) if batched else tuple(x.unsqueeze(self._batch_dim) for x in (query, key, value))
        q, k, v = (x if self.batch_first else x.transpose(0, 1) for x in inputs)
        sizes = [self.num_heads * self.head_dim] * 2 + [self.num_heads * self.value_width]
        weights = self.in_proj_weight.split(sizes)
        biases: Any = self.in_proj_bias.split(sizes) if self.in_proj_bias is not None else (None, None, None)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, w, b in zip((q, k, v), weights, biases, strict=True)
        )
        mask = self._bias(attn_mask, key_padding_mask, q)
        scores = (q * self.head_scale) @ k.transpose(-2, -1)
        attention = (scores if mask is None else scores + mask).softmax(dim=-1)
        mixed = F.dropout(attention, self.dropout, self.training) @ v
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        output = output if self.batch_first else output.transpose(0, 1)
        shown = (attention.mean(dim=1) if average_attn_weights else attention) if need_weights else None
        if batched:
            return output, shown
        return output.squeeze(self._batch_dim), None if shown is None else shown.squeeze(0)

    @property
    def _batch_dim(self) -> int:
        return 0 if self.batch_first else 1

    def _bias(self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
        """Both masks as one addend [batch or 1, heads or 1, L or 1, S]."""
        total: Tensor | None = None
        if attn_mask is not None:
            mask = _as_addend(attn_mask, q.dtype)
            total = mask.unflatten(0, (-1, self.num_heads)) if mask.dim() == 3 else mask
        if padding is not None:
            mask = _as_addend(padding, q.dtype).reshape(-1, 1, 1, padding.shape[-1])
            total = mask if total is None else total + mask
        return total


def _as_addend(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Boolean masks forbid where they are True."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
