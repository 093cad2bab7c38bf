"""Texts out of files, one at a time, so that a file of any size can be read."""

from __future__ import annotations

import sys
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TextIO

from minilm.errors import InputError
from minilm.tables import delimited_rows, header_names, json_rows


def read_texts(path: str, field: str | None = None, column: str | None = None) -> Iterator[str]:
    """The texts of a file, or of standard input when ``path`` is ``"-"``.

    Args:
        path: UTF-8 text, with or without a byte-order mark. Lines end in LF, CRLF or CR, and at no
            other character.
        field: read JSONL, one object a line, and take this field.
        column: read CSV or TSV, as :mod:`minilm.tables` tells them, and take this column of its header;
            or, without a header, the column of this number, counted from 1. TSV is kept in memory whole.
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
    """How many lines :func:`read_texts` finds in a file, quickly; None for standard input and for what is not a
    plain file."""
    if path == "-" or not Path(path).is_file():
        return None
    lines, last = 0, b""
    with open(path, "rb") as file:
        if file.read(len(BOM_UTF8)) != BOM_UTF8:
            file.seek(0)
        while block := file.read(1 << 20):
            lines += block.count(b"\n") + block.count(b"\r") - (last + block).count(b"\r\n")
            last = block[-1:]
    return lines + (last not in (b"", b"\n", b"\r"))


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
    for number, record in json_rows(path, file):
        if field not in record:
            there = ", ".join(map(repr, record)) or "nothing"
            raise InputError(f"{path}, line {number}: no field {field!r}; there is {there}")
        if not isinstance(record[field], str):
            raise InputError(f"{path}, line {number}: field {field!r} is {record[field]!r}, expected a string")
        yield record[field]


def _column(file: TextIO, path: str, column: str) -> Iterator[str]:
    rows = delimited_rows(path, file)
    first = next(rows, None)
    if first is None:
        return
    line, cells = first
    header = header_names(path, line, cells, [column])
    names = header or [str(i + 1) for i in range(len(cells))]
    if column not in names:
        raise InputError(f"{path}: no column {column!r}; there is {', '.join(map(repr, names))}")
    place = names.index(column)
    for line, cells in rows if header else chain([first], rows):
        if len(cells) != len(names):
            raise InputError(f"{path}, line {line}: found {len(cells)} cells, expected {len(names)}")
        yield cells[place]
