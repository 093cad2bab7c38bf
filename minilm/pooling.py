"""Token vectors → one sentence vector: the mean over the tokens, scaled to length one.

Reimers and Gurevych 2019, "Sentence-BERT" (https://arxiv.org/abs/1908.10084), section 3; the
reference is sentence-transformers' ``Pooling(pooling_mode="mean")`` and ``Normalize``.
Dimensions as in encoder.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minilm.layouts import Batch


class MeanPooling(nn.Module):
    """The mean of a text's token vectors, ``[CLS]`` and ``[SEP]`` included, padding not."""

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """``[..., D]`` in the batch's layout → ``[B, D]``."""
        return torch.cat([masked_mean(block, mask) for (block,), mask in batch.blocks(hidden)])


def masked_mean(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """``Σ_t m_t h_t / max(Σ_t m_t, 1e-9)``: ``[B, T, D]`` and a mask ``[B, T]`` → ``[B, D]``; without, the plain mean.

    Sums of half-precision vectors are taken in float32 and rounded once, as the reference does.
    """
    accumulate = torch.promote_types(hidden.dtype, torch.float32)
    if mask is None:
        return (hidden.sum(dim=1, dtype=accumulate) / hidden.shape[1]).to(hidden.dtype)
    weight = mask[..., None].to(hidden.dtype)  # [B, T, 1]
    total = (hidden * weight).sum(dim=1, dtype=accumulate)  # [B, D]
    count = weight.sum(dim=1, dtype=accumulate).clamp(min=1e-9)  # [B, 1]
    return (total / count).to(hidden.dtype)


class L2Normalize(nn.Module):
    """Scales each vector to length one, so that a dot product is a cosine."""

    def forward(self, vectors: Tensor) -> Tensor:
        """``[B, D]`` → ``[B, D]``: ``v / max(‖v‖₂, 1e-12)``."""
        return F.normalize(vectors, p=2, dim=-1)
