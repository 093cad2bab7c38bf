"""A text file → passages that fit the model, each with the line it begins on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from minilm.text_files import read_texts
from minilm.tokens import Tokenizer


@dataclass(frozen=True)
class Passage:
    """A stretch of a file. ``line`` counts from 1."""

    path: str
    line: int
    text: str


def read_passages(path: str, tokenizer: Tokenizer, prompt: str = "") -> list[Passage]:
    """The passages of a text file: its paragraphs, divided where they and the prompt before them are over the model's
    limit. The prompt is no part of a passage.

    A paragraph ends at an empty line. One that is too long is divided between lines, and a line
    that is too long by itself between words, so nothing of a file is cut off. (A single word over
    the limit is left to the model to cut.)

    Raises:
        InputError: the file is not UTF-8 text.
    """
    numbered = enumerate(read_texts(path), start=1)
    passages = []
    for has_text, lines in groupby(numbered, key=lambda numbered_line: bool(numbered_line[1].strip())):
        if has_text:
            pieces = [(number, piece) for number, line in lines for piece in _split(line.strip(), tokenizer, prompt)]
            passages += [Passage(path, number, text) for number, text in _join(pieces, tokenizer, prompt)]
    return passages


def _room(tokenizer: Tokenizer) -> int:
    return tokenizer.max_seq_length - 2  # [CLS] and [SEP]


def _lengths(texts: list[str], tokenizer: Tokenizer) -> list[int]:
    """How many tokens each text has, without [CLS] and [SEP], cut or not."""
    tokenized = tokenizer(texts)
    return [len(ids) + tokenized.tokens_lost.get(i, 0) - 2 for i, ids in enumerate(tokenized.ids)]


def _split(line: str, tokenizer: Tokenizer, prompt: str) -> list[str]:
    if _lengths([prompt + line], tokenizer)[0] <= _room(tokenizer):
        return [line]
    words = line.split()
    return [text for _, text in _join([(0, word) for word in words], tokenizer, prompt)]


def _join(pieces: list[tuple[int, str]], tokenizer: Tokenizer, prompt: str) -> Iterator[tuple[int, str]]:
    """Neighbouring (line, text) pieces joined while they fit. White space separates tokens, so the
    tokens of a joined text are those of its pieces. The prompt may run into the first piece."""
    joined: list[str] = []
    first, used = 0, 0
    texts = [text for _, text in pieces]
    following = _lengths(texts, tokenizer)
    starting = _lengths([prompt + text for text in texts], tokenizer) if prompt else following
    for i, (number, text) in enumerate(pieces):
        if joined and used + following[i] > _room(tokenizer):
            yield first, " ".join(joined)
            joined = []
        if not joined:
            first, used = number, 0
        used += following[i] if joined else starting[i]
        joined.append(text)
    if joined:
        yield first, " ".join(joined)
