"""Texts out of files, one at a time, so that a file of any size can be read."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from minilm.errors import InputError
from minilm.plain_json import parse_json


def read_texts(path: str, field: str | None = None, column: str | None = None) -> Iterator[str]:
    """The texts of a file, or of standard input when ``path`` is ``"-"``.

    Args:
        path: UTF-8 text, with or without a byte-order mark.
        field: read JSONL, one object a line, and take this field.
        column: read CSV with a header (TSV when the name ends in .tsv), and take this column.
            With neither, every line is a text, empty ones included, so that line i is row i.

    Raises:
        InputError: the file is not UTF-8, a line is broken, or the field or column is missing or
            not a string; names the file and the line.
        OSError: the file cannot be read.
    """
    if field is not None and column is not None:
        raise InputError("give a field (JSONL) or a column (CSV), not both")
    with _open(path, newline=None if column is None else "") as file:
        if column is not None:
            yield from _column(file, path, column)
        elif field is not None:
            yield from _field(file, path, field)
        else:
            yield from (line.rstrip("\n") for line in file)


def count_lines(path: str) -> int | None:
    """How many lines a file has, quickly; None for standard input and for what is not a plain file."""
    if path == "-" or not Path(path).is_file():
        return None
    lines, last = 0, b"\n"
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def read_lines(path: str) -> list[str]:
    """All lines of a text file."""
    return list(read_texts(path))


@contextmanager
def _open(path: str, newline: str | None) -> Iterator[TextIO]:
    try:
        if path == "-":
            if sys.stdin is None:
                raise InputError("standard input is closed; give a file")
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict", newline=newline)  # type: ignore[union-attr]
            yield sys.stdin
        else:
            with open(path, encoding="utf-8-sig", newline=newline) as file:
                yield file
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text: {error.reason} (byte 0x{error.object[error.start]:02x}); convert it first"
        ) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, expected a file") from None


def _field(file: TextIO, path: str, field: str) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not valid JSON: {error}") from None
        if not isinstance(record, dict) or field not in record:
            there = ", ".join(map(repr, record)) if isinstance(record, dict) else type(record).__name__
            raise InputError(f"{path}, line {number}: no field {field!r}; there is {there or 'nothing'}")
        if not isinstance(record[field], str):
            raise InputError(f"{path}, line {number}: field {field!r} is {record[field]!r}, expected a string")
        yield record[field]


def _column(file: TextIO, path: str, column: str) -> Iterator[str]:
    limit = csv.field_size_limit(2**31 - 1)  # a text may be longer than the module's 128 KiB
    rows = csv.reader(file, delimiter="\t" if path.lower().endswith(".tsv") else ",", strict=True)
    try:
        header = next(rows, None)
        if header is None:
            return
        if column not in header:
            raise InputError(f"{path}: no column {column!r}; the header has {', '.join(map(repr, header))}")
        place = header.index(column)
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(f"{path}, line {rows.line_num}: {len(row)} cells, but the header has {len(header)}")
            yield row[place]
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: not valid CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)
