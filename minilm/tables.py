"""Tables of text in files: JSONL objects, and cells separated by commas, semicolons or tabs, read strictly.

Every command reads its tables here. Nothing is guessed and nothing is skipped in silence: whatever cannot
be read, or could mean two things, is an :class:`~minilm.errors.InputError` that names the file and the line.

Lines end in LF, CRLF or CR, and at no other character. Blank lines are nothing.

**Separators.** ``.tsv`` and ``.tab`` are separated by tabs. Other files are so too if the first line has a tab
outside quotes, else by semicolons if it has those and no comma, else by commas.

**Quotes.** Commas and semicolons: RFC 4180. A cell that starts with ``"`` ends at the next single ``"``, may
span lines, and doubles the quotes within. Tabs: cells are what stands between them, quotes included, as the
published data sets have it. They are read as RFC 4180 only where a CSV writer wrote them, see :func:`_is_quoted`.

**Headers.** The first line of CSV and TSV is a header if it has the columns asked for, or has names that such
files use (:data:`NAMES`). It is data if a cell is a number or a sentence, or if columns are asked for by number.
What is neither, or both, is an error that says how to tell.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from minilm.errors import InputError
from minilm.plain_json import parse_json

Row: TypeAlias = "tuple[int, list[str]]"  # the line that it starts on, counted from 1, and its cells

JSONL = (".jsonl", ".ndjson")
TAB_SEPARATED = (".tsv", ".tab")
SUFFIXES = (*JSONL, ".csv", *TAB_SEPARATED, ".txt")

# Words in the names of columns: what tells a header from a row of data.
NAMES = frozenset(
    "anchor positive negative question answer query response premise hypothesis entailment contradiction sentence text "
    "string source target passage document doc corpus context title label score similarity relatedness quality "
    "duplicate id qid pid docid pairid index idx genre split relevance rel judgment".split()
)


@dataclass(frozen=True)
class Table:
    """The rows of a file, column by column.

    Attributes:
        path: the file.
        columns: name → one cell for each row, in the file's order of columns or the order asked
            for. Cells of CSV and TSV are strings; those of JSONL are what JSON holds.
        lines: for each row the line, counted from 1, that it starts on.
        header: whether a header names the columns. None for JSONL, whose every line does.
        called: name → the file's own name of the column, or its number, where they were given.
    """

    path: Path
    columns: dict[str, list[Any]]
    lines: list[int]
    header: bool | None = None
    called: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lines)

    def __str__(self) -> str:
        """The file, its rows and columns, to be shown: which of them were read, and whether under a header."""
        called = ((name, self.called.get(name, name)) for name in self.columns)
        names = [name if name == other else f"{name} = {other}" for name, other in called]
        no_header = " without a header" if self.header is False else ""
        return f"{self.path}: {len(self):,} rows{no_header}; columns {', '.join(names)}"

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

    def ids(self, column: str) -> list[str]:
        """A column of identifiers: texts, or whole numbers, which become their digits.

        Raises:
            InputError: a cell is something else.
        """
        cells = [str(cell) if type(cell) is int else cell for cell in self.columns[column]]
        return replace(self, columns={column: cells}).texts(column)

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
            raise self.error(row, f"{column} is {_shown(cell)}, expected a finite number")
        return number

    def error(self, row: int, problem: str) -> InputError:
        """An error about a row, to be raised: names the file and the row's line."""
        return _error(self.path, self.lines[row], problem)


def read_table(
    path: str | os.PathLike[str],
    columns: Sequence[str | int] | None = None,
    *,
    optional: Sequence[str] = (),
    called: Sequence[str | int] | None = None,
    spaces: bool = False,
) -> Table:
    """Reads a table: ``.jsonl`` or ``.ndjson`` (an object a line), ``.csv``, ``.tsv``, ``.tab`` or ``.txt``.

    UTF-8, with or without a byte order mark. The module's docstring says how cells and headers are told.

    Args:
        path: the file; its ending tells whether it is JSONL.
        columns: the columns to keep, by name (in headers, case aside). CSV and TSV without a header must
            have just these columns, in this order, then maybe the optional ones; or take columns by number,
            ``("6", "7", "5")``, counted from 1. By number, tab-separated rows may have further cells at
            their ends. None keeps all: those of a header, or else all by number; each object of JSONL must
            have the keys of the first.
        optional: further columns, by name; None stands for each cell that is not there.
        called: what the file calls ``columns``, in their order; or their numbers.
        spaces: a line without tabs is separated at white space, as in TREC's qrels; any ending will do.

    Raises:
        InputError: the file is missing, empty or not UTF-8, has another ending, lacks a column, has
            a column twice, or has a broken line: not JSON, not an object, a quote that is not
            closed, too few or too many cells; or the first line may be a header or not.
    """
    path = Path(path)
    names = None if columns is None else [str(column) for column in columns]
    if called is not None:
        return _under_their_names(read_table(path, called, spaces=spaces), names or ())
    if twice := _repeated(names or ()):
        raise InputError(f"{_listed(twice)} is asked for more than once among the columns {_listed(names or ())}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES and not spaces:
        raise InputError(f"{path} ends in {suffix!r}, expected one of {', '.join(SUFFIXES)}")
    text = _read_text(path)
    if suffix in JSONL:
        table = _from_jsonl(path, text, names, optional)
    else:
        rows = _spaced_rows(text) if spaces else list(delimited_rows(path, io.StringIO(text, newline="")))
        table = _from_rows(path, rows, names, optional, tabs=_delimiter(path, text) == "\t")
    if not len(table):
        raise InputError(f"{path} has no rows{' under its header' if text.strip() else ': it is empty'}")
    return table


def _under_their_names(table: Table, names: Sequence[str]) -> Table:
    called = list(table.columns)
    if len(called) != len(names):
        raise InputError(
            f"{len(called)} columns are asked for, {' '.join(called)}, expected {len(names)}: {_listed(names)}"
        )
    columns = dict(zip(names, table.columns.values(), strict=True))
    return replace(table, columns=columns, called=dict(zip(names, called, strict=True)))


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(_split_lines(raw[: error.start].decode("latin-1")))
        raise _error(path, line, "these bytes are not UTF-8; save the file as UTF-8") from None


def _split_lines(text: str) -> list[str]:
    return re.split("\r\n|\r|\n", text)  # str.splitlines splits at further characters, which texts may hold


# ---- JSONL --------------------------------------------------------------------------------------


def json_rows(path: str | os.PathLike[str], lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSONL, each with the line that it stands on.

    Raises:
        InputError: a line is not JSON, not an object, or has a key twice.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, object_pairs_hook=_no_key_twice)
        except ValueError as error:
            raise _error(path, number, f"this is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise _error(path, number, f"found {_shown(row)}, expected an object of columns: {{...}}")
        yield number, row


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {_listed(_repeated(names))} more than once")
    return row


def _from_jsonl(path: Path, text: str, columns: Sequence[str] | None, optional: Sequence[str]) -> Table:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    names = columns
    for number, row in json_rows(path, _split_lines(text)):
        names = list(row) if names is None else names
        if missing := [name for name in names if name not in row]:
            raise _error(path, number, f"there is no {_listed(missing)}; the columns here are {_listed(row)}")
        if columns is None and len(row) > len(names):
            extra = [name for name in row if name not in names]
            raise _error(path, number, f"there is a column {_listed(extra)} that line {lines[0]} has not")
        rows.append(row)
        lines.append(number)
    return Table(path, {name: [row.get(name) for row in rows] for name in (*(names or ()), *optional)}, lines)


# ---- cells --------------------------------------------------------------------------------------


def delimited_rows(path: str | os.PathLike[str], lines: Iterable[str]) -> Iterator[Row]:
    """The rows of CSV or TSV, from lines with their ends, and none for blank lines. CSV is read line by
    line; TSV is kept whole, because all of it tells how it quotes.

    Raises:
        InputError: the cells cannot be told apart; names the line.
    """
    lines = iter(lines)
    begin = ""
    while not begin.strip("\r\n") and (line := next(lines, "")):
        begin += line
    delimiter = _delimiter(path, begin)
    lines = chain(io.StringIO(begin, newline=""), lines)
    if delimiter == "\t":
        yield from _tab_rows("".join(lines))
    else:
        yield from _csv_rows(path, lines, delimiter)


def _delimiter(path: str | os.PathLike[str], text: str) -> str:
    first_line = re.search(r"[^\r\n]+", text)
    unquoted = re.sub(r'"[^"]*"', "", first_line[0]) if first_line else ""
    if Path(path).suffix.lower() in TAB_SEPARATED or "\t" in unquoted:
        return "\t"
    before_open_quote = unquoted.split('"')[0]
    return ";" if ";" in before_open_quote and "," not in before_open_quote else ","


def _csv_rows(path: str | os.PathLike[str], lines: Iterable[str], delimiter: str) -> Iterator[Row]:
    limit = csv.field_size_limit(2**31 - 1)  # the module's own limit is 128 KiB a cell
    line = 1
    try:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise _error(path, line, f"this cannot be split into cells: {error}; is a quote not closed?") from None
    finally:
        csv.field_size_limit(limit)


def _tab_rows(text: str) -> list[Row]:
    plain = [(number, line.split("\t")) for number, line in enumerate(_split_lines(text), start=1) if line]
    if not any(cell.startswith('"') for _, cells in plain for cell in cells):
        return plain
    quoted = _quoted_cells(text)
    if quoted is None or not _is_quoted(quoted, plain):
        return plain
    return [(number, [cell for _, cell in cells]) for number, cells in quoted]


def _spaced_rows(text: str) -> list[Row]:
    lines = enumerate(_split_lines(text), start=1)
    return [(n, line.split("\t") if "\t" in line else line.split()) for n, line in lines if line.strip()]


_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^\t\r\n"]*))(\t|\r\n|\r|\n|\Z)')


def _quoted_cells(text: str) -> list[tuple[int, list[tuple[bool, str]]]] | None:
    """Tab-separated rows by RFC 4180: for each cell whether it stands in quotes, and its content. None if a
    quote stands where that has none."""
    rows: list[tuple[int, list[tuple[bool, str]]]] = []
    cells: list[tuple[bool, str]] = []
    line = first_line = 1
    position = 0
    while position < len(text) or cells:
        found = _CELL.match(text, position)
        if found is None:
            return None
        inside, plain, end = found.groups()
        cells.append((False, plain) if inside is None else (True, inside.replace('""', '"')))
        position = found.end()
        line += len(_split_lines(found[0])) - 1
        if end != "\t":
            if cells != [(False, "")]:
                rows.append((first_line, cells))
            cells, first_line = [], line
    return rows


def _is_quoted(quoted: list[tuple[int, list[tuple[bool, str]]]], plain: list[Row]) -> bool:
    """Whether a CSV writer wrote a tab-separated file: all quotes are as RFC 4180 has them, every row has
    as many cells, and either lines split at tabs alone have not, or cells are quoted by one of the rules
    that writers have: those with a quote; those with a quote or a comma; all but numbers."""
    if len({len(cells) for _, cells in quoted}) > 1:
        return False
    if len({len(cells) for _, cells in plain}) > 1:
        return True
    cells = [cell for _, row in quoted for cell in row]
    if any(re.search("[\t\r\n]", content) for _, content in cells):
        return False
    return (
        all(in_quotes == ('"' in content) for in_quotes, content in cells)
        or all(in_quotes == ('"' in content or "," in content) for in_quotes, content in cells)
        or all(in_quotes or content in ("", "NA") or _is_number(content) for in_quotes, content in cells)
    )


# ---- headers ------------------------------------------------------------------------------------


def header_names(
    path: str | os.PathLike[str],
    line: int,
    first: Sequence[str],
    columns: Sequence[str] | None,
    optional: Sequence[str] = (),
) -> list[str] | None:
    """The names of the columns if the first row of CSV or TSV is a header, or None if it is data.

    Raises:
        InputError: it may be either, or columns are asked for by number and it is a header.
    """
    wanted = {name.casefold(): name for name in (*(columns or ()), *optional)}
    header = [wanted.get(cell.strip().casefold(), cell.strip()) for cell in first]
    by_number = columns is not None and are_numbers(columns)
    if columns is not None and not by_number and set(columns) <= set(header):
        return header
    named = any(name in wanted.values() or _is_name(name) for name in header)
    filled = [cell for cell in header if cell]
    data = any(_is_number(cell) or _is_sentence(cell) for cell in filled)
    if filled == [str(i) for i in range(len(filled))]:  # 0, 1, 2 …: pandas' names for columns without any
        named = True
    if by_number:
        if named and not data:
            raise _error(path, line, f"this is a header: {_listed(header)}; ask for columns by name, not by number")
        return None
    if named != data:
        return header if named else None
    missing = [name for name in columns or () if name not in header]
    lacking = f"has no {_listed(missing)}, and " if missing else ""
    numbers = " ".join(str(i + 1) for i in range(len(header)))
    raise _error(
        path,
        line,
        f"this {lacking}may be a header or data: {_listed(header)}. If it is a header, ask for columns by its names; "
        f"if it is data, by number: {numbers} (columns=… in Python, --columns of commands)",
    )


def are_numbers(columns: Sequence[str]) -> bool:
    """Whether columns are asked for by number, counted from 1, and not by name."""
    return all(re.fullmatch("[1-9][0-9]*", column) for column in columns)


def _is_name(cell: str) -> bool:
    """``sentence_A``, ``questionText``, ``#1 String``: parted into words, one is of :data:`NAMES`; with spaces, all."""
    words = [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", cell)]
    known = [word in NAMES or word.removesuffix("s") in NAMES for word in words if len(word) > 1]
    return len(words) <= 4 and (all(known) and bool(known) if " " in cell else any(known))


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[-+]?\d[\d.,eE+-]*", cell) is not None


def _is_sentence(cell: str) -> bool:
    return not _is_name(cell) and (
        len(cell.split()) >= 3 or len(cell) > 60 or cell.endswith((".", "?", "!", "…", "。"))
    )


def _from_rows(
    path: Path, rows: list[Row], columns: Sequence[str] | None, optional: Sequence[str], tabs: bool
) -> Table:
    if not rows:
        return Table(path, {}, [])
    line, first = rows[0]
    header = header_names(path, line, first, columns, optional)
    numbers = [str(i + 1) for i in range(len(first))]
    by_number = columns is None or are_numbers(columns)
    names = header or (numbers if by_number else [*(columns or ()), *optional][: max(len(columns or ()), len(first))])
    if missing := [name for name in columns or () if name not in names]:
        what = "the header" if header else "there is no header, and the row"
        raise _error(path, line, f"{what} has no {_listed(missing)}; its columns are {_listed(names)}")
    if twice := _repeated([name for name in names if columns is None or name in (*columns, *optional)]):
        raise _error(path, line, f"the header has {_listed(twice)} more than once")
    least = max(map(int, columns)) if columns and by_number and tabs else None
    rows = rows[1:] if header else rows
    for line, cells in rows:
        if len(cells) != len(names) and (least is None or len(cells) < least):
            hint = "" if header or by_number else "; columns of files without a header can be taken by number"
            raise _error(path, line, f"found {len(cells)} cells, expected {len(names)}: {_listed(names)}{hint}")
    kept = names if columns is None else (*columns, *optional)
    place = {name: i for i, name in enumerate(names)}
    absent = [None] * len(rows)
    found = {name: [cells[place[name]] for _, cells in rows] if name in place else absent for name in kept}
    return Table(path, found, [line for line, _ in rows], header is not None)


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _error(path: str | os.PathLike[str], line: int, problem: str) -> InputError:
    return InputError(f"{path}, line {line}: {problem}")


def _shown(cell: object) -> str:
    if isinstance(cell, (list, dict)):
        return "a list" if isinstance(cell, list) else "an object"
    return "null" if cell is None else f"{cell!r:.60}"


def _listed(names: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(f"{name!r:.60}" for name in names) if names else "none"
