"""Vectors into files, chunk by chunk: they need not fit into memory, and a kill loses none that is written.

While ``big.npy`` grows, its rows stand in ``big.npy.part``, and ``big.npy.part.json``, the journal, says
how many of them are safely on the disk and what run they belong to. Rows come first and the journal
after them, each time; what a killed process wrote beyond the journal is cut off and written again.
The file gets its own name when it is whole, and the journal goes.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from minilm.checkpoint import read_json
from minilm.errors import CheckpointError, InputError
from minilm.plain_json import to_json

if sys.platform != "win32":
    import fcntl

Array = npt.NDArray[Any]
FORMATS = (".npy", ".jsonl", ".safetensors")
FORMAT = 1  # of the journal
_SAFETENSORS_TYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "int8": "I8", "uint8": "U8"}
_SAFETENSORS_HEADER = 512  # bytes left for it, far more than it needs


class VectorFile:
    """A file of vectors that is being written; a context manager.

    The ending decides the format: ``.npy``, ``.safetensors`` (tensor "embeddings"), or ``.jsonl``,
    with ``{"text": …, "embedding": […]}`` on each line.

    Args:
        path: the file; an older one stays until the new one is whole.
        dimension, dtype: of the vectors.
        run: all that decides the vectors; what an earlier run left is gone on with only when its own
            is equal. Numbers, strings and None.
        resume: False begins anew in any case.

    Attributes:
        rows: how many rows are safely on the disk; at first, those of the run that is gone on with.
        state: what was last given to :meth:`append`; empty when there are no rows.

    Raises:
        InputError: another ending; another process is writing the file; what is there belongs to
            another run.
        OSError: the file may not be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        dimension: int,
        dtype: npt.DTypeLike,
        run: Mapping[str, Any],
        resume: bool = True,
    ):
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.rows = 0
        self.state: dict[str, Any] = {}
        self._journal = self.path.with_name(self.path.name + ".part.json")
        self._temporary = self.path.with_name(self.path.name + ".part.json.tmp")  # only ours: see the lock
        self._finished = False
        self._format = _format(self.path, dimension, np.dtype(dtype))
        self._run = json.loads(json.dumps({**run, "dimension": dimension, "dtype": np.dtype(dtype).name}))
        if self.path.is_dir():
            raise InputError(f"{self.path} is a folder, expected a file")
        with self._clear_errors():
            self._file = self._open_alone()
        try:
            if resume:
                self._go_on()
            if not self.rows:
                with self._clear_errors():
                    self._journal.unlink(missing_ok=True)
                    self._file.truncate(0)
                    self._file.write(self._format.header(0))
        except BaseException:
            self._close()
            raise

    def append(self, texts: Sequence[str], vectors: Array, state: Mapping[str, Any]) -> None:
        """Writes ``vectors [n, D]``, the vectors of ``texts``. When it returns they are on the disk, and
        a later run goes on after them, with ``state``.

        Raises:
            OSError: the disk is full or the file may not be written; earlier rows are unharmed.
        """
        with self._clear_errors():
            self._file.write(self._format.body(texts, vectors))
            self._file.flush()
            os.fsync(self._file.fileno())
            journal = {"format": FORMAT, "rows": self.rows + len(vectors), "bytes": self._file.tell()}
            with open(self._temporary, "w", encoding="utf-8", opener=_open_no_link) as file:
                file.write(to_json({**journal, "state": state, "run": self._run}, indent=2))
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._temporary, self._journal)
        self.rows += len(vectors)
        self.state = dict(state)

    def finish(self) -> None:
        """Gives the file its name."""
        with self._clear_errors():
            self._file.seek(0)
            self._file.write(self._format.header(self.rows))
            self._file.flush()
            os.fsync(self._file.fileno())
            if sys.platform == "win32":  # no open file can be renamed there
                self._close()
            os.replace(self.part, self.path)
            self._finished = True
            _sync_folder(self.path.parent)
            self._journal.unlink(missing_ok=True)

    @property
    def description(self) -> str:
        """Rows, dimensions and type, as text."""
        return f"{self.rows:,} × {self._format.dimension} {self._format.dtype.name}"

    def open_array(self) -> Array | None:
        """The finished file's vectors ``[n, D]``, read from the disk as they are used; None for JSONL."""
        dtype, dimension = self._format.dtype, self._format.dimension
        offset = len(self._format.header(self.rows))
        if not offset:
            return None
        if not self.rows:  # nothing that could be mapped
            return np.empty((0, dimension), dtype)
        return np.memmap(self.path, dtype, "r", offset, (self.rows, dimension))

    def __enter__(self) -> VectorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            names = [self._temporary] if self.rows else [self._temporary, self._journal, self.part]
            for path in names:  # nothing is left that could not be gone on with
                path.unlink(missing_ok=True)
        self._close()

    def _open_alone(self) -> IO[bytes]:
        """Opens ``.part`` under a lock that ends with the process, however it ends."""
        while True:
            file = open(_open_no_link(self.part, os.O_RDWR | os.O_CREAT), "r+b")  # noqa: SIM115
            try:
                if sys.platform != "win32":
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # While we waited, the one that had the lock may have finished and renamed the file.
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.part)):
                    return file
            except FileNotFoundError:
                pass
            except BlockingIOError:
                file.close()
                raise InputError(
                    f"{self.path} is being written by another process or thread; wait for it, or choose another name"
                ) from None
            except BaseException:
                file.close()
                raise
            file.close()

    def _go_on(self) -> None:
        """Takes up what an earlier run left, if it was this one."""
        if not self._journal.exists() or not (size := os.fstat(self._file.fileno()).st_size):
            return
        anew = f"to begin anew, pass resume=False (--no-resume) or delete {self.part}"
        try:
            journal: Any = read_json(self._journal)
            earlier, rows, end, state = (journal[name] for name in ("run", "rows", "bytes", "state"))
            if journal["format"] != FORMAT or not 0 < rows <= end <= size:
                raise ValueError
        except (CheckpointError, KeyError, TypeError, ValueError):
            raise InputError(
                f"{self._journal} and {self.part.name} cannot be gone on with: they are cut short, edited or of "
                f"another version of minilm; {anew}"
            ) from None
        if different := [
            f"{name} was {earlier.get(name)!r}, is {self._run.get(name)!r}"
            for name in {**earlier, **self._run}
            if earlier.get(name) != self._run.get(name)
        ]:
            raise InputError(
                f"{self.part} has {rows:,} rows of another run: {'; '.join(different)}. To go on with it, use the "
                f"same model and options; {anew}"
            )
        self.rows, self.state = rows, state
        with self._clear_errors():
            self._file.truncate(end)
            self._file.seek(end)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Names the file, the disk when it is the disk's fault, and what is kept."""
        try:
            yield
        except OSError as error:
            reason = "no space left on the disk" if error.errno == errno.ENOSPC else error.strerror or str(error)
            kept = f"{self.rows:,} rows are kept, and the next run goes on after them" if self.rows else ""
            message = f"cannot write {self.path}: {reason}; {kept or 'nothing was changed'}"
            raise OSError(error.errno or errno.EIO, message) from error

    def _close(self) -> None:
        with suppress(OSError):  # of what could not be written before either
            self._file.close()  # and with it the lock


def jsonl_lines(texts: Sequence[str], vectors: Array, ensure_ascii: bool = False) -> bytes:
    """``{"text": …, "embedding": […]}`` for each row, in UTF-8."""
    records = ({"text": text, "embedding": row} for text, row in zip(texts, vectors.tolist(), strict=True))
    return b"".join(to_json(record, ensure_ascii=ensure_ascii).encode() + b"\n" for record in records)


class _Jsonl:
    def __init__(self, dimension: int, dtype: np.dtype[Any]):
        self.dimension, self.dtype = dimension, dtype

    def header(self, rows: int) -> bytes:
        return b""

    def body(self, texts: Sequence[str], vectors: Array) -> Any:
        return jsonl_lines(texts, vectors)


class _Npy(_Jsonl):
    def header(self, rows: int) -> bytes:
        # NumPy itself leaves room for any number of rows, so the header's length never changes.
        buffer = io.BytesIO()
        shape = (rows, self.dimension)
        description = {"descr": npy_format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        npy_format.write_array_header_1_0(buffer, description)
        return buffer.getvalue()

    def body(self, texts: Sequence[str], vectors: Array) -> Any:
        return np.ascontiguousarray(vectors, self.dtype).data


class _Safetensors(_Npy):
    def header(self, rows: int) -> bytes:
        entry = {
            "dtype": _SAFETENSORS_TYPES[self.dtype.name],
            "shape": [rows, self.dimension],
            "data_offsets": [0, rows * self.dimension * self.dtype.itemsize],
        }
        # The format allows spaces after the header.
        header = json.dumps({"__metadata__": {"format": "np"}, "embeddings": entry}).encode().ljust(_SAFETENSORS_HEADER)
        return len(header).to_bytes(8, "little") + header


def check_format(path: str | os.PathLike[str]) -> None:
    """Raises an :class:`InputError` for an ending that is none of :data:`FORMATS`."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"{path} ends in {ending or 'nothing'}, expected {', '.join(FORMATS)}")


def _format(path: Path, dimension: int, dtype: np.dtype[Any]) -> _Jsonl:
    check_format(path)
    kinds = dict(zip(FORMATS, (_Npy, _Jsonl, _Safetensors), strict=True))
    return kinds[path.suffix.lower()](dimension, dtype)


def _open_no_link(path: str | os.PathLike[str], flags: int) -> int:
    """Opens a file that is ours; a link at its name, which somebody else may have put there, is an error."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _sync_folder(path: Path) -> None:
    if sys.platform == "win32":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
