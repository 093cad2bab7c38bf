"""A batch of token ids in one of two layouts, and the one thing in which they differ.

Everything in a transformer encoder but attention, and everything after it but the mean, treats
each token by itself. So the model is written once over tensors ``[..., D]``, and only attention
and the mean ask a batch to lay its tokens out in rectangular blocks, a text to a row:

* **padded** ``[B, T]``: every text is filled up to the longest. One block, with a mask. This is
  the textbook's and the reference's layout, and it gives the reference's bits.
* **packed** ``[N]``: the tokens of all texts in one line, no padding. One block for each run of
  neighbouring texts of equal length, none of which needs a mask. The fast road.

``B`` texts, ``T`` tokens in the longest of them, ``N`` tokens in all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Layout: TypeAlias = Literal["padded", "packed"]
TokenIds: TypeAlias = Sequence[Sequence[int]]  # one list of ids for each text
Block: TypeAlias = tuple[list[Tensor], "Tensor | None"]


@dataclass(frozen=True)
class PaddedBatch:
    """Texts as the rows of a matrix, each filled up on the right.

    Attributes:
        input_ids: int64 ``[B, T]``.
        lengths: the number of tokens of each text, ``B`` of them.
    """

    input_ids: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def from_ids(cls, ids: TokenIds, pad_token_id: int = 0) -> PaddedBatch:
        """A batch on the CPU from one list of token ids for each text."""
        lengths = tuple(map(len, ids))
        longest = max(lengths, default=0)
        rows = [[*row, *[pad_token_id] * (longest - len(row))] for row in ids]
        return cls(torch.tensor(rows, dtype=torch.int64).view(len(rows), longest), lengths)

    @cached_property
    def attention_mask(self) -> Tensor:
        """int64 ``[B, T]``: 1 where a token is, 0 where padding is."""
        lengths = torch.tensor(self.lengths, device=self.input_ids.device)
        return (self.position_ids < lengths[:, None]).long()

    @cached_property
    def position_ids(self) -> Tensor:
        """int64 ``[1, T]``: 0, 1, 2 … for every row alike."""
        return torch.arange(self.input_ids.shape[1], device=self.input_ids.device)[None]

    @cached_property
    def _mask(self) -> Tensor | None:
        """bool ``[B, T]``, or None when no row has padding: the reference drops the mask then too,
        and the kernel without a mask rounds differently from the one with it."""
        full = all(length == self.input_ids.shape[1] for length in self.lengths)
        return None if full else self.attention_mask.bool()

    def blocks(self, *tensors: Tensor) -> Iterator[Block]:
        """The tokens as rectangles ``[rows, tokens, ...]``, each with its mask: here, just one."""
        yield list(tensors), self._mask

    def join(self, blocks: Sequence[Tensor]) -> Tensor:
        """Puts tensors shaped like those of :meth:`blocks` back into this layout, ``[B, T, ...]``."""
        (block,) = blocks
        return block

    def texts(self, hidden: Tensor) -> list[Tensor]:
        """Splits ``[B, T, ...]`` into one tensor ``[tokens, ...]`` for each text, without padding."""
        return [row[:length] for row, length in zip(hidden, self.lengths, strict=True)]

    def to(self, device: torch.device | str) -> PaddedBatch:
        """The batch with its ids on ``device``."""
        return PaddedBatch(self.input_ids.to(device), self.lengths)


@dataclass(frozen=True)
class PackedBatch:
    """Texts one after the other in a line, without padding. Put texts of equal length next to each
    other: each such run is one call of the attention kernel.

    Attributes:
        input_ids: int64 ``[N]``.
        lengths: the number of tokens of each text, ``B`` of them, ``N`` in sum.
    """

    input_ids: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def from_ids(cls, ids: TokenIds) -> PackedBatch:
        """A batch on the CPU from one list of token ids for each text."""
        line = [token for row in ids for token in row]
        return cls(torch.tensor(line, dtype=torch.int64), tuple(map(len, ids)))

    @cached_property
    def position_ids(self) -> Tensor:
        """int64 ``[N]``: 0, 1, 2 … from anew for each text."""
        counts = torch.arange(max(self.lengths, default=0), device=self.input_ids.device)
        return torch.cat([counts[:length] for length in self.lengths] or [counts])

    @cached_property
    def _runs(self) -> list[tuple[int, int]]:
        """(rows, tokens in each) of every run of neighbouring texts of equal length."""
        return [(len(list(run)), length) for length, run in groupby(self.lengths)]

    def blocks(self, *tensors: Tensor) -> Iterator[Block]:
        """The tokens as rectangles ``[rows, tokens, ...]``, one for each run; no mask is needed."""
        start = 0
        for rows, length in self._runs:
            stop = start + rows * length
            yield [x[start:stop].unflatten(0, (rows, length)) for x in tensors], None
            start = stop

    def join(self, blocks: Sequence[Tensor]) -> Tensor:
        """Puts tensors shaped like those of :meth:`blocks` back into this layout, ``[N, ...]``."""
        return torch.cat([block.flatten(0, 1) for block in blocks])

    def texts(self, hidden: Tensor) -> list[Tensor]:
        """Splits ``[N, ...]`` into one tensor ``[tokens, ...]`` for each text."""
        return list(hidden.split(self.lengths))

    def to(self, device: torch.device | str) -> PackedBatch:
        """The batch with its ids on ``device``."""
        return PackedBatch(self.input_ids.to(device), self.lengths)


Batch: TypeAlias = PaddedBatch | PackedBatch
