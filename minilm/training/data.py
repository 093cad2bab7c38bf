"""Pairs to train on: columns of texts, from JSONL, CSV or TSV files or from Python, checked once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from minilm.errors import InputError, TextTypeError
from minilm.tables import read_table
from minilm.tokens import Tokenizer, check_texts

# Columns of these names are labels, or reserved, in sentence-transformers' trainer.
NOT_TEXT = ("label", "labels", "score", "scores", "dataset_name", "return_loss")

TEXTS_AT_A_TIME = 10_000  # when counting tokens: bounds the memory, keeps the tokenizer's threads busy


@dataclass(frozen=True)
class PairDataset:
    """Columns of texts, in the order anchor, positive, negative … whatever their names.

    Attributes:
        name: of the data set.
        columns: column name → one text for each row; at least two columns and one row.

    Raises:
        InputError: no rows, fewer than two columns, columns of unequal length, or a column that
            sentence-transformers would take for labels.
        TextTypeError: a cell is not a text; names the column and the row.
    """

    name: str
    columns: Mapping[str, list[str]]

    def __post_init__(self) -> None:
        columns: dict[str, list[str]] = {}
        for column, texts in self.columns.items():
            if column in NOT_TEXT:
                raise InputError(
                    f"{self.name}: a column named {column!r} holds labels in sentence-transformers, but this loss "
                    "takes texts only; rename it, or name the columns to use"
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

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], columns: Sequence[str] | None = None, name: str | None = None
    ) -> PairDataset:
        """Reads a ``.jsonl``, ``.csv`` or ``.tsv`` file.

        Args:
            path: the file.
            columns: the columns to take, in this order; None takes all in the file's order.
            name: of the data set; None takes the file's name without its ending.

        Raises:
            InputError: the file is missing, empty or broken, or a cell is null or no text; names
                the line.
        """
        table = read_table(path, columns)
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
