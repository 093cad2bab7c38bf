"""Text → token ids: WordPiece by the ``tokenizers`` library, the limit, and what it cuts off.

How text is split stands in the model's folder (see tokenizer_files.py). all-MiniLM-L6-v2's
``tokenizer.json`` bakes in a limit of 128 tokens and padding to 128; the model's real limit of 256
stands elsewhere (``sentence_bert_config.json``), so both settings are switched off and the limit is
applied here, where it can be counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, MappingView, Reversible, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
from tokenizers import normalizers

from minilm.errors import CheckpointError, InputError, TextTypeError

# A hieroglyph: no vocabulary is likely to have it.
UNKNOWN = "\U00013080"

# What the tokenizers library returns for a text takes some kilobytes; only the ids are kept.
TEXTS_AT_A_TIME = 4096


T = TypeVar("T")


@dataclass(frozen=True)
class TokenizedTexts:
    """The tokens of some texts.

    Attributes:
        ids: for each text its token ids, ``[CLS]`` first and ``[SEP]`` last (``<s>`` and ``</s>`` in XLM-R's).
        tokens_lost: text index → number of tokens beyond the limit, for the texts that were cut.
    """

    ids: list[list[int]]
    tokens_lost: dict[int, int]


class Tokenizer:
    """Splits texts into the ids that the encoder takes.

    Immutable after construction but for :attr:`max_seq_length`, so threads may share it (a
    ``tokenizers.Tokenizer`` whose truncation is switched per call fails with "Already borrowed").

    Args:
        tokenizer: a ``tokenizers.Tokenizer`` that puts one token before and one after a text. Its
            padding, if it has one, says which token fills batches; else it is ``[PAD]``.
        max_seq_length: the most tokens of a text, ``[CLS]`` and ``[SEP]`` counted.

    Attributes:
        pad_token_id: the id that fills the rows of a padded batch.

    Raises:
        CheckpointError: the tokenizer does not do that, or has no token for unknown words.
        InputError: the limit is not a whole number from 3 on.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, max_seq_length: int):
        padding = tokenizer.padding or {"pad_token": "[PAD]", "pad_id": tokenizer.token_to_id("[PAD]") or 0}
        self.pad_token_id: int = padding["pad_id"]
        self._pad_token: str = padding["pad_token"]
        known = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        if self._pad_token not in known and tokenizer.token_to_id(self._pad_token) == self.pad_token_id:
            tokenizer.add_special_tokens([self._pad_token])  # transformers does, so texts that name it agree
        tokenizer.no_truncation()
        tokenizer.no_padding()
        try:
            empty, probe = tokenizer.encode(""), tokenizer.encode(UNKNOWN)
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"tokenizer.json cannot split a text: {error}") from None
        if len(empty) != 2 or probe.ids[:1] + probe.ids[-1:] != empty.ids or any(probe.type_ids):
            raise CheckpointError(
                "tokenizer.json does not put one token before and one after a text, as [CLS] and [SEP], "
                "which BertModel needs"
            )
        self._tokenizer = tokenizer
        self._positions: int | None = None
        self.max_seq_length = max_seq_length

    @property
    def max_seq_length(self) -> int:
        """The most tokens of a text, ``[CLS]`` and ``[SEP]`` counted; longer texts are cut."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self._max_seq_length = self._checked(value, self._positions)

    def limit_to(self, positions: int) -> None:
        """From now on the limit may not exceed the positions of the encoder that takes the ids.

        Raises:
            InputError: it does already.
        """
        self._checked(self._max_seq_length, positions)
        self._positions = min(positions, self._positions or positions)

    @staticmethod
    def _checked(value: object, most: int | None) -> int:
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 3 <= value <= (most or value):
            return int(value)
        raise InputError(f"max_seq_length is {value!r}, expected {f'3 … {most}' if most else 'at least 3'}")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], max_seq_length: int) -> Tokenizer:
        """Reads a ``tokenizer.json`` as it stands. :func:`minilm.tokenizer_files.read_tokenizer` reads a
        model's folder, where other files may have a say."""
        if not Path(path).is_file():
            raise CheckpointError(f"{path} does not exist; save the model with a fast tokenizer first")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(os.fspath(path))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{path} is not a tokenizer that can be read: {error}") from None
        return cls(tokenizer, max_seq_length)

    def __call__(self, texts: Sequence[str]) -> TokenizedTexts:
        """Token ids of each text, cut to :attr:`max_seq_length` as the reference cuts:
        ``[CLS]``, the first ``max_seq_length - 2`` pieces, ``[SEP]``.

        Raises:
            TextTypeError: a text has a lone surrogate, which no UTF-8 text can have.
        """
        ids: list[list[int]] = []
        lost: dict[int, int] = {}
        for start in range(0, len(texts), TEXTS_AT_A_TIME):
            some = texts[start : start + TEXTS_AT_A_TIME]
            try:
                encodings = self._tokenizer.encode_batch_fast(some)
            except TypeError:  # the library does not say which text, nor why
                check_texts(some, first=start)
                raise
            for encoding in encodings:
                row = self._cut(encoding.ids)
                if len(encoding) > len(row):
                    lost[len(ids)] = len(encoding) - len(row)
                ids.append(row)
        return TokenizedTexts(ids, lost)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, special tokens included; the number of pieces where no id
        is left out."""
        return max(self.vocabulary().values()) + 1

    def vocabulary(self) -> dict[str, int]:
        """Every word piece, special tokens included, and its id."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The word pieces behind token ids, e.g. ``["[CLS]", "token", "##ize", "[SEP]"]``."""
        return [self._tokenizer.id_to_token(i) or "" for i in ids]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where in the text each of its tokens comes from: its first character, and one past its last;
        (0, 0) for ``[CLS]`` and ``[SEP]``. Cut as :meth:`__call__` cuts."""
        return self._cut(self._tokenizer.encode(text).offsets)

    def words(self, text: str) -> list[int | None]:
        """For each token of a text the number of the word that it is of; None for ``[CLS]`` and ``[SEP]``.
        Cut as :meth:`__call__` cuts."""
        return self._cut(self._tokenizer.encode(text).word_ids)

    def _cut(self, row: list[T]) -> list[T]:
        return row if len(row) <= self._max_seq_length else [*row[: self._max_seq_length - 1], row[-1]]

    @property
    def lower_cases_first(self) -> bool:
        """Whether a text is lower-cased before all else, as ``do_lower_case`` of sentence_bert_config.json does."""
        parts = self._tokenizer.normalizer
        return isinstance(parts, normalizers.Sequence) and isinstance(parts[0], normalizers.Lowercase)

    def to_json(self) -> str:
        """The content of a ``tokenizer.json`` with the same pieces, which neither cuts nor pads."""
        return self._tokenizer.to_str(pretty=True)

    def to_cutting_json(self) -> str:
        """The content of a ``tokenizer.json`` that also cuts at the limit and pads the texts of a batch."""
        copy = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        copy.enable_truncation(self.max_seq_length)
        copy.enable_padding(pad_id=self.pad_token_id, pad_token=self._pad_token)
        return copy.to_str(pretty=True)


def check_texts(texts: Any, first: int = 0) -> list[str]:
    """The texts as a list of ``str``. ``first`` is the number of the first one.

    Raises:
        TextTypeError: ``texts`` is no collection of texts, see :func:`text_items`; or an item is not
            a string, or holds a lone surrogate; names the item.
    """
    checked = []
    for index, item in enumerate(text_items(texts), first):
        text = as_python(item)
        if not isinstance(text, str):
            hint = {
                "bytes": " Decode it first: text.decode().",
                "NoneType": " Drop it, or put an empty string in its place.",
                "NAType": " Drop it, or put an empty string in its place.",
                "float": " A missing value of a table is a float (nan); drop it or fill it.",
                "list": " Lists of lists are not supported; flatten the list.",
                "dict": " Give one field of each: [row[field] for row in rows].",
            }.get(type(text).__name__, "")
            raise TextTypeError(f"text {index} is {_short(text)}, expected a string.{hint}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TextTypeError(
                f"text {index} has a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, "
                "which is half a character. Clean it first, e.g. text.encode(errors='replace').decode()."
            ) from None
        checked.append(str.__str__(text))  # a subclass such as numpy.str_ becomes str, whatever it prints as
    return checked


def text_items(texts: Any) -> Iterable[object]:
    """``texts``, if iterating over it gives its items, one by one and in an order of their own: a list, a tuple,
    a generator, an array or column of NumPy, pandas, polars, pyarrow or ``datasets``, the keys of a dict.

    Raises:
        TextTypeError: it is one text, a whole table, an array of several dimensions or a set. Iterating over
            these would give characters, column names, rows, or texts in an order that is chance.
    """
    kind = type(texts).__name__
    columns = texts if isinstance(texts, Mapping) else getattr(texts, "column_names", getattr(texts, "columns", None))
    if columns is not None or hasattr(texts, "column_names"):  # an IterableDataset may not know its own
        names = list(columns) if isinstance(columns, Iterable) else []
        column = "text" if "text" in names else next(iter(names), "NAME")
        raise TextTypeError(f"found {kind} in place of texts; give one column of it, e.g. data[{column!r}]")
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        hint = {"bytes": "decode it first: text.decode()", "str": "put it in a list"}.get(
            kind, "give a string, or a list, generator, array or column of strings"
        )
        raise TextTypeError(f"found {kind} in place of texts; {hint}")
    if isinstance(texts, Set) and not isinstance(texts, (Reversible, MappingView)):
        raise TextTypeError(f"found {kind} in place of texts, which has no order; give a list, e.g. sorted(texts)")
    if getattr(texts, "ndim", 1) != 1:
        shape = tuple(getattr(texts, "shape", ()))
        raise TextTypeError(f"found {kind} of shape {shape}, expected one dimension of texts; use array.ravel()")
    return texts


def as_python(value: Any) -> Any:
    """A scalar of NumPy, pyarrow or xarray as the Python object that it stands for; anything else as it is."""
    if isinstance(value, str):
        return value
    if hasattr(value, "as_py"):
        return value.as_py()
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _short(value: object, most: int = 40) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= most else shown[:most] + '…'}"
