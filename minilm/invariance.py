"""Does a text's vector depend on what it is encoded with? Scanned for, since it is a property of the machine too.

``encode`` promises the same bits for a text whatever else is in the call, in any order and batch size, on every
road but ``layout="padded"``, at a fixed number of threads. Why it can is said in fused.py; that the products of this
processor and this torch keep to it, only trying shows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from minilm.layouts import Layout
from minilm.parity import TEXTS

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder

_WORDS = " ".join(TEXTS).split()
_BATCH_SIZES = (1, 2, 3, 7, 16, 32, 100)


@dataclass(frozen=True)
class BatchInvariance:
    """What :func:`check_batch_invariance` found.

    Attributes:
        compositions: calls of ``encode``, each with other texts in another order and batch size.
        vectors: how many vectors were compared with the same text's, encoded alone.
        differ: how many of them had other bits.
        largest: the largest absolute difference of a number.
    """

    compositions: int
    vectors: int
    differ: int
    largest: float


def check_batch_invariance(
    model: SentenceEncoder,
    texts: Sequence[str] | None = None,
    compositions: int = 100,
    seed: int = 0,
    layout: Layout = "packed",
) -> BatchInvariance:
    """Encodes texts in many compositions, and compares each vector with that of the text alone, bit by bit.

    Args:
        model: the model, on the device and with the number of threads that it will be used with.
        texts: what to compose from; None makes some of all lengths.
        compositions: how many; most are of a few texts, some of hundreds.
        seed: of the random choices.
        layout: ``"padded"`` shows what the difference is without the promise.
    """
    rng = random.Random(seed)
    if texts is None:
        texts = [*TEXTS, *(" ".join(rng.choices(_WORDS, k=length)) for length in range(1, 120))]

    def encode(texts: list[str], batch_size: int = 32) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        vectors: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = model.encode(
            texts, batch_size=batch_size, layout=layout, truncation="silent", show_progress_bar=False
        )
        return vectors

    alone = np.concatenate([encode([text]) for text in texts])
    vectors, differ, largest = 0, 0, 0.0
    for _ in range(compositions):
        # As many small compositions as large ones: 2 texts, or 4, 8 … all of them.
        most = min(len(texts), 2 ** rng.randint(1, len(texts).bit_length()))
        chosen = rng.sample(range(len(texts)), rng.randint(min(2, most), most))
        together = encode([texts[i] for i in chosen], rng.choice(_BATCH_SIZES))
        vectors += len(chosen)
        differ += int((together != alone[chosen]).any(axis=1).sum())
        largest = max(largest, float(abs(together - alone[chosen]).max()))
    return BatchInvariance(compositions, vectors, differ, largest)
