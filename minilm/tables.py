"""Tables of text in files: JSONL objects, CSV and TSV, read whole and strictly.

Nothing is guessed and nothing is skipped in silence: whatever cannot be read is an
:class:`~minilm.errors.InputError` that names the file and the line.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilm.errors import InputError
from minilm.plain_json import parse_json

JSONL = (".jsonl", ".ndjson")
DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Table:
    """The rows of a file, column by column.

    Attributes:
        path: the file.
        columns: name → one cell for each row, in the file's order of columns or the order asked
            for. Cells of CSV and TSV are strings; those of JSONL are what JSON holds.
        lines: for each row the line, counted from 1, that it starts on.
    """

    path: Path
    columns: dict[str, list[Any]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def texts(self, column: str, default: str | None = None) -> list[str]:
        """A column as texts; an empty text is a text. ``default``, where given, stands for null.

        Raises:
            InputError: a cell is null, not a string, or has a lone surrogate, which UTF-8 cannot hold.
        """
        cells: list[Any] = [default if cell is None else cell for cell in self.columns[column]]
        for row, cell in enumerate(cells):
            if not isinstance(cell, str):
                raise self.error(row, f"{column} is {_shown(cell)}, expected a text")
            if not cell.isascii() and any("\ud800" <= character <= "\udfff" for character in cell):
                raise self.error(row, f"{column} has a lone surrogate, which is no character; mend the text's encoding")
        return cells

    def numbers(self, column: str) -> list[float]:
        """A column as finite numbers, whether written as JSON numbers or as text.

        Raises:
            InputError: a cell is null, not a number, infinite or NaN.
        """
        return [self._number(row, column, cell) for row, cell in enumerate(self.columns[column])]

    def _number(self, row: int, column: str, cell: object) -> float:
        number = math.nan
        if isinstance(cell, (str, int, float)) and not isinstance(cell, bool):
            with suppress(ValueError, OverflowError):
                number = float(cell)
        if not math.isfinite(number):
            hint = (
                f"; if this line is a header, name the column {column} in it"
                if row == 0 and isinstance(cell, str)
                else ""
            )
            raise self.error(row, f"{column} is {_shown(cell)}, expected a finite number{hint}")
        return number

    def error(self, row: int, problem: str) -> InputError:
        """An error about a row, to be raised: names the file and the row's line."""
        return _error(self.path, self.lines[row], problem)


def read_table(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, *, optional: Sequence[str] = ()
) -> Table:
    """Reads a table: ``.jsonl`` or ``.ndjson`` (an object a line), ``.csv`` or ``.tsv``.

    UTF-8, with or without a byte order mark; lines end in LF or CRLF; blank lines are nothing. CSV
    and TSV quote as RFC 4180 says: a cell that starts with ``"`` ends at the next single ``"``, may
    span lines, and doubles the quotes within.

    Args:
        path: the file; its ending tells its format.
        columns: the columns to keep. JSONL has them by name. In CSV and TSV, a first line with any
            of these names (case aside) is a header, and must have all of them; without one, every
            line must have just these columns, in this order, then maybe the optional ones. None keeps
            all: the first line of CSV and TSV is then the header, and each object of JSONL must have
            the keys of the first.
        optional: further columns, by name; None stands for each cell that is not there.

    Raises:
        InputError: the file is missing, empty or not UTF-8, has another ending, lacks a column, has
            a column twice, or has a broken line: not JSON, not an object, a quote that is not
            closed, too few or too many cells.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (*JSONL, *DELIMITERS):
        raise InputError(f"{path} ends in {suffix!r}, expected one of {', '.join((*JSONL, *DELIMITERS))}")
    text = _read_text(path)
    if suffix in JSONL:
        table = _from_jsonl(path, text, columns, optional)
    else:
        table = _from_csv(path, text, DELIMITERS[suffix], columns, optional)
    if not len(table):
        raise InputError(f"{path} has no rows{' under its header' if text.strip() else ': it is empty'}")
    return table


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _error(path, line, "these bytes are not UTF-8; save the file as UTF-8") from None


def _from_jsonl(path: Path, text: str, columns: Sequence[str] | None, optional: Sequence[str]) -> Table:
    # Split at LF alone: JSON strings may hold other characters that str.splitlines splits at.
    rows: list[dict[str, object]] = []
    lines: list[int] = []
    names = columns
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise _error(path, number, f"this is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise _error(path, number, f"found {_shown(row)}, expected an object of columns: {{...}}")
        names = list(row) if names is None else names
        if missing := [name for name in names if name not in row]:
            raise _error(path, number, f"there is no {_listed(missing)}; the columns here are {_listed(row)}")
        if columns is None and len(row) > len(names):
            extra = [name for name in row if name not in names]
            raise _error(path, number, f"there is a column {_listed(extra)} that line {lines[0]} has not")
        rows.append(row)
        lines.append(number)
    return Table(path, {name: [row.get(name) for row in rows] for name in (*(names or ()), *optional)}, lines)


def _from_csv(path: Path, text: str, delimiter: str, columns: Sequence[str] | None, optional: Sequence[str]) -> Table:
    records = _records(path, text, delimiter)
    if not records:
        return Table(path, {}, [])
    line, first = records[0]
    header = [cell.strip() for cell in first]
    if columns is not None:
        wanted = {name.casefold(): name for name in (*columns, *optional)}
        header = [wanted.get(name.casefold(), name) for name in header]
    if columns is not None and not set(columns) & set(header):  # there is none: the first line tells how many
        header = [*columns, *optional][: max(len(columns), len(first))]
    else:
        del records[0]
    if missing := [name for name in columns or () if name not in header]:
        raise _error(path, line, f"the header has no {_listed(missing)}; its columns are {_listed(header)}")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise _error(path, line, f"the header has {_listed(twice)} more than once")
    for line, cells in records:
        if len(cells) != len(header):
            raise _error(path, line, f"found {len(cells)} cells, expected {len(header)}: {_listed(header)}")
    column_of: dict[str, list[Any]] = {name: [cells[i] for _, cells in records] for i, name in enumerate(header)}
    names = header if columns is None else (*columns, *optional)
    absent = [None] * len(records)
    return Table(path, {name: column_of.get(name, absent) for name in names}, [line for line, _ in records])


def _records(path: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Each record of a CSV, with the line it starts on."""
    limit = csv.field_size_limit(2**31 - 1)  # the module's own limit is 128 KiB a cell
    records = []
    line = 1
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for cells in reader:
            if cells:
                records.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise _error(path, line, f"this cannot be split into cells: {error}; is a quote not closed?") from None
    finally:
        csv.field_size_limit(limit)
    return records


def _error(path: Path, line: int, problem: str) -> InputError:
    return InputError(f"{path}, line {line}: {problem}")


def _shown(cell: object) -> str:
    if isinstance(cell, (list, dict)):
        return "a list" if isinstance(cell, list) else "an object"
    return "null" if cell is None else f"{cell!r:.60}"


def _listed(names: Sequence[str] | dict[str, object]) -> str:
    return ", ".join(map(repr, names)) if names else "none"
