"""Token vectors → one sentence vector: the mean over the tokens, scaled to length one.

Some models take the vector of ``[CLS]`` in place of the mean. Reimers and Gurevych 2019,
"Sentence-BERT" (https://arxiv.org/abs/1908.10084), section 3, compares the two; the reference is
sentence-transformers' ``Pooling`` and ``Normalize``. Dimensions as in encoder.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minilm.layouts import Batch

PoolingMode: TypeAlias = Literal["mean", "cls"]


class MeanPooling(nn.Module):
    """The mean of a text's token vectors, ``[CLS]`` and ``[SEP]`` included, padding not."""

    mode: PoolingMode = "mean"

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """``[..., D]`` in the batch's layout → ``[B, D]``."""
        return torch.cat([masked_mean(block, mask) for (block,), mask in batch.blocks(hidden)])

    def shares(self, hidden: Tensor) -> Tensor:
        """What each token of one text gives to its vector: ``[T, D]`` → ``[T, D]``, whose sum that is."""
        return hidden / len(hidden)


class CLSPooling(nn.Module):
    """The vector of a text's first token, ``[CLS]``."""

    mode: PoolingMode = "cls"

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """``[..., D]`` in the batch's layout → ``[B, D]``."""
        return torch.cat([block[:, 0] for (block,), _ in batch.blocks(hidden)])

    def shares(self, hidden: Tensor) -> Tensor:
        """What each token of one text gives to its vector: all comes from the first."""
        return torch.cat([hidden[:1], torch.zeros_like(hidden[1:])])


POOLING: dict[str, type[MeanPooling] | type[CLSPooling]] = {"mean": MeanPooling, "cls": CLSPooling}


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


def after_pooling(dropouts: Sequence[float | None]) -> nn.Module:
    """The modules that come after pooling, as one: for each probability a Dropout, for None an L2Normalize."""
    modules = [L2Normalize() if p is None else nn.Dropout(p) for p in dropouts]
    if len(modules) == 1:
        return modules[0]
    return nn.Sequential(*modules) if modules else nn.Identity()


def list_after_pooling(module: nn.Module) -> tuple[float | None, ...]:
    """What :func:`after_pooling` made a module of."""
    parts = [m for m in module.modules() if isinstance(m, (nn.Dropout, L2Normalize))]
    return tuple(m.p if isinstance(m, nn.Dropout) else None for m in parts)
