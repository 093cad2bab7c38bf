"""What is encoded: distinct texts from the docstring corpus, or from any file."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minilm.errors import InputError
from minilm.text_files import read_lines
from minilm.tokens import Tokenizer
from minilm.training.docstrings import docstring_pairs, split

CALIBRATION_TEXTS = 300  # as many as sentence-transformers' export takes
SENTENCE_WORDS = (4, 30)  # the same limits as a summary line's
SEED = 0


@dataclass(frozen=True)
class Corpus:
    """Distinct texts.

    Attributes:
        name: ``"short"`` or ``"long"``.
        source: where they are from, in words.
        lengths: the number of tokens of each that the model reads.
    """

    name: str
    source: str
    texts: list[str]
    lengths: list[int]

    def facts(self) -> dict[str, object]:
        """What is reported of it: not the texts."""
        return {
            "source": self.source,
            "texts": len(self.texts),
            "tokens": sum(self.lengths),
            "longest": max(self.lengths),
        }


@dataclass(frozen=True)
class Docstrings:
    """The docstring corpus, in a fixed random order.

    Attributes:
        summaries: summary lines, the short texts.
        bodies: what follows them, the long texts.
        sentences: single sentences of the bodies: many short texts.
        pairs: columns to train on.
        calibration: other docstrings' texts, half of them short, for int8.
    """

    summaries: list[str]
    bodies: list[str]
    sentences: list[str]
    pairs: dict[str, list[str]]
    calibration: list[str]


def read_docstrings() -> Docstrings:
    """The corpus of this machine. Calibration texts are from families of their own."""
    used, held_out = split(docstring_pairs())
    random.Random(SEED).shuffle(used)
    random.Random(SEED).shuffle(held_out)
    half = CALIBRATION_TEXTS // 2
    return Docstrings(
        summaries=[pair.summary for pair in used],
        bodies=[pair.rest for pair in used],
        sentences=_shuffled(sentence for pair in used for sentence in _sentences(pair.rest)),
        pairs={"anchor": [pair.summary for pair in used], "positive": [pair.rest for pair in used]},
        calibration=[pair.summary for pair in held_out[:half]] + [pair.rest for pair in held_out[half : 2 * half]],
    )


def _sentences(body: str) -> Iterable[str]:
    for paragraph in body.split("\n\n"):
        for sentence in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())):
            if SENTENCE_WORDS[0] <= len(sentence.split()) <= SENTENCE_WORDS[1]:
                yield sentence


def read_file(path: str, columns: Sequence[int] | None) -> list[str]:
    """The distinct texts of a file, blank ones left out, in a fixed random order: one a line, or, with
    ``columns`` (counted from 1), the cells of a CSV file.

    Raises:
        InputError: a row has no such column, or there is no text at all.
        OSError: the file cannot be read.
    """
    if columns is None:
        found: Iterable[str] = read_lines(path)
    else:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
        for number, row in enumerate(rows, 1):
            if row and len(row) < max(columns):
                raise InputError(f"{path}, row {number} has {len(row)} columns, expected at least {max(columns)}")
        found = (row[column - 1] for row in rows if row for column in columns)
    texts = _shuffled(text for text in found if text.strip())
    if not texts:
        raise InputError(f"{path} has no text")
    return texts


def _shuffled(texts: Iterable[str]) -> list[str]:
    distinct = list(dict.fromkeys(texts))
    random.Random(SEED).shuffle(distinct)
    return distinct


def make_corpus(name: str, source: str, texts: Sequence[str], count: int, tokenizer: Tokenizer) -> Corpus:
    """The first ``count`` texts, or all where there are fewer."""
    texts = list(texts[:count])
    return Corpus(name, source, texts, [len(ids) for ids in tokenizer(texts).ids])


def text_of_length(tokens: int, tokenizer: Tokenizer) -> str:
    """A text of exactly so many tokens, ``[CLS]`` and ``[SEP]`` counted: words that are one token each."""
    words = sorted(set(re.findall(r"[a-z]{3,}", (__doc__ + make_corpus.__doc__ + read_file.__doc__).lower())))
    single = [word for word, ids in zip(words, tokenizer(words).ids, strict=True) if len(ids) == 3]
    random.Random(SEED).shuffle(single)
    return " ".join(single[i % len(single)] for i in range(tokens - 2))
