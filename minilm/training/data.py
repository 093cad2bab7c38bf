"""Pairs to train on: columns of texts, from JSONL, CSV or TSV files or from Python, checked once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from minilm.errors import ColumnWarning, InputError, TextTypeError
from minilm.tables import read_table
from minilm.tokens import Tokenizer, check_texts

# Columns of these names are labels, or reserved, in sentence-transformers' trainer.
NOT_TEXT = ("label", "labels", "score", "scores", "dataset_name", "return_loss")

# Where columns of these names usually stand: as sentence-transformers' data collator has it, and "premise".
PLACES = {
    **dict.fromkeys(("anchor", "question", "query", "premise", "hypothesis"), 0),
    **dict.fromkeys(("positive", "answer", "response", "entailment"), 1),
    **dict.fromkeys(("negative", "contradiction"), 2),
}

TEXTS_AT_A_TIME = 10_000  # when counting tokens: bounds the memory, keeps the tokenizer's threads busy


@dataclass(frozen=True)
class PairDataset:
    """Columns of texts, in the order anchor, positive, negative … whatever their names.

    Attributes:
        name: of the data set.
        columns: column name → one text for each row; at least two columns and one row.

    A :class:`~minilm.errors.ColumnWarning` says that columns are likely in another order: ``positive``
    before ``anchor``, or identifiers among the texts.

    Raises:
        InputError: no rows, fewer than two columns, columns of unequal length, a column without a name, or
            one that sentence-transformers would take for labels.
        TextTypeError: a cell is not a text; names the column and the row.
    """

    name: str
    columns: Mapping[str, list[str]]

    def __post_init__(self) -> None:
        columns: dict[str, list[str]] = {}
        for index, (column, texts) in enumerate(self.columns.items()):
            if not isinstance(column, str) or not column.strip():
                raise InputError(
                    f"{self.name}: the column at index {index} is named {column!r}, expected a name (the index that "
                    f"pandas writes has none, nor has a separator at a header's end); {_name_them(self.columns)}"
                )
            if column in NOT_TEXT:
                raise InputError(
                    f"{self.name}: a column named {column!r} holds labels in sentence-transformers, but this loss "
                    f"takes texts only; rename it, or {_name_them(self.columns)}"
                )
            try:
                columns[column] = check_texts(texts)
            except TextTypeError as error:
                raise TextTypeError(f"{self.name}, column {column!r}: {error}") from None
        if len(columns) < 2:
            raise InputError(
                f"{self.name} has {len(columns)} column(s) ({', '.join(columns) or 'none'}), expected at least two: "
                "anchor, positive and any number of negatives"
            )
        lengths = {column: len(texts) for column, texts in columns.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"{self.name}: the columns have unequal lengths: {lengths}")
        if not min(lengths.values()):
            raise InputError(f"{self.name} has no rows; there is nothing to train on")
        object.__setattr__(self, "columns", columns)
        for doubt in (_misplaced(columns), _identifiers(columns)):
            if doubt:
                warnings.warn(ColumnWarning(f"{self.name}: {doubt}"), stacklevel=3)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], columns: Sequence[str | int] | None = None, name: str | None = None
    ) -> PairDataset:
        """Reads a ``.jsonl``, ``.csv`` or ``.tsv`` file.

        Args:
            path: the file.
            columns: the columns to take, in this order, by name or by number (:func:`~minilm.tables.read_table`);
                None takes all in the file's order.
            name: of the data set; None takes the file's name without its ending.

        Raises:
            InputError: the file is missing, empty or broken, or a cell is null or no text; names
                the line. Or ``columns`` is None and a column holds numbers alone, by its name no text.
        """
        table = read_table(path, columns)
        unclear = [c for c in table.columns if c and _place(c) is None and c not in NOT_TEXT]
        numbers = [column for column in unclear if _are_numbers(table.columns[column])]
        if numbers and columns is None:
            raise InputError(
                f"{path}: column {numbers[0]!r} holds numbers alone, and every column would be trained on as text; "
                f"{_name_them([column for column in table.columns if column not in numbers])}"
            )
        return cls(name or Path(path).stem, {column: table.texts(column) for column in table.columns})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def rows(self, indices: Sequence[int]) -> list[list[str]]:
        """The texts of some rows, column by column: one list of ``len(indices)`` for each column."""
        return [[texts[i] for i in indices] for texts in self.columns.values()]

    @cached_property
    def sha256(self) -> str:
        """Of the content: the columns' names and every row in order, as JSON lines. The data set's
        own name and the format of the file it came from have no part in it."""
        digest = hashlib.sha256()
        for row in (list(self.columns), *zip(*self.columns.values(), strict=True)):
            digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()

    @property
    def duplicates(self) -> int:
        """The number of rows that repeat an earlier row in every column."""
        return len(self) - len(set(zip(*self.columns.values(), strict=True)))

    def tokens_lost(self, tokenizer: Tokenizer) -> dict[str, int]:
        """Column → the number of its texts that are over the tokenizer's limit and will be cut."""
        return {
            column: sum(
                len(tokenizer(texts[start : start + TEXTS_AT_A_TIME]).tokens_lost)
                for start in range(0, len(texts), TEXTS_AT_A_TIME)
            )
            for column, texts in self.columns.items()
        }


def _place(column: str) -> int | None:
    name = re.sub(r"^(negatives?)[ _-]?\d+$", r"\1", column.casefold())
    return PLACES.get(name, PLACES.get(name.removesuffix("s")))


def _is_identifier(column: str) -> bool:
    return re.search(r"(^|_)(id|ids|idx)$", column.casefold()) is not None


def _are_numbers(cells: Sequence[object]) -> bool:
    return all(isinstance(cell, (int, float)) or re.fullmatch(r"[-+]?\d+([.,]\d+)?", str(cell)) for cell in cells)


def _misplaced(columns: Iterable[str]) -> str:
    """Which column stands where a column of its name is not expected, or nothing."""
    names = list(columns)
    places = [_place(name) for name in names]
    for index, (name, place) in enumerate(zip(names, places, strict=True)):
        if place is None or index == place or (index > place and places[place] == place):
            continue
        return (
            f"column {name!r} is at index {index}, whereas a column with this name is usually expected at index "
            f"{place}. The first column is the anchor, the second its positive, further ones are negatives, whatever "
            f"their names. If that is not meant, {_name_them(names)}"
        )
    return ""


def _identifiers(columns: Iterable[str]) -> str:
    """Which columns hold identifiers by their names, or nothing."""
    names = list(columns)
    found = [name for name in names if _is_identifier(name)]
    if not found:
        return ""
    shown = ", ".join(map(repr, found))
    return (
        f"by its name, {shown} holds identifiers, and is trained on as text. If that is not meant, {_name_them(names)}"
    )


def _name_them(columns: Iterable[str]) -> str:
    """How to take the columns of texts in their usual order."""
    names = [name for name in columns if isinstance(name, str) and name.strip()]
    texts = [name for name in names if name not in NOT_TEXT and not _is_identifier(name)]
    texts.sort(key=lambda name: 1 if (place := _place(name)) is None else place)
    return f"name the columns to use, in order: --columns {shlex.join(texts)}, or columns={texts} in Python"
