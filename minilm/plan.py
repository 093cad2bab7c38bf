"""Which texts make a batch, and in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# A packed batch holds up to batch_size times this many tokens: 4,096 at the default of 32, enough to keep the
# matrix kernels busy and few enough for the activations to stay near the processor.
TOKENS_PER_TEXT = 128


def padded_batches(texts: Sequence[str], batch_size: int) -> list[list[int]]:
    """The reference's batches, as lists of indices: sorted by characters, ties included, with NumPy's
    default sort."""
    order = np.argsort([-len(text) for text in texts]).tolist()
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def packed_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Batches of about equally many tokens, as lists of indices: longest texts first (an out-of-memory comes at
    once), equal lengths side by side.

    Args:
        lengths: the number of tokens of each text.
        tokens: the most tokens of a batch, but for what its last text has over.
    """
    total = sum(lengths)
    batches = math.ceil(total / tokens)
    plan: list[list[int]] = [[] for _ in range(batches)]
    done = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        plan[done * batches // total].append(index)
        done += lengths[index]
    return [batch for batch in plan if batch]
