"""Vectors into files, chunk by chunk, so that they need not fit into memory.

``.npy`` and ``.safetensors`` begin with a header that states the number of rows, which is known
only at the end: room is left for it and it is written last. Until then the file has a temporary
name, so a file of the final name is always whole.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from minilm.checkpoint import atomic_path
from minilm.errors import InputError

Array = npt.NDArray[Any]
FORMATS = (".npy", ".jsonl", ".safetensors")
_SAFETENSORS_TYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "int8": "I8", "uint8": "U8"}
_SAFETENSORS_HEADER = 512  # bytes left for it, far more than it needs


class VectorWriter(Protocol):
    """Takes rows in order."""

    def write(self, texts: Sequence[str], vectors: Array) -> None:
        """Appends ``vectors [n, D]``, the vectors of ``texts``."""


@contextmanager
def vector_writer(path: str, dimension: int, dtype: npt.DTypeLike = np.float32) -> Iterator[VectorWriter]:
    """Opens a file for vectors by its ending: .npy, .jsonl or .safetensors (tensor "embeddings").

    ``"-"`` is JSONL on standard output. JSONL has ``{"text": …, "embedding": […]}`` on each line.

    Raises:
        InputError: another ending.
        OSError: the disk is full or the file may not be written; an older file is left as it was.
    """
    ending = Path(path).suffix.lower()
    if path == "-":
        yield _Jsonl(sys.stdout.buffer)
        return
    if ending not in FORMATS:
        raise InputError(
            f"{path} ends in {ending or 'nothing'}, expected {', '.join(FORMATS)}, or - for JSONL on standard output"
        )
    with atomic_path(path) as temporary, open(temporary, "w+b") as file:
        if ending == ".jsonl":
            yield _Jsonl(file)
        else:
            header = _npy_header if ending == ".npy" else _safetensors_header
            writer = _Binary(file, header, dimension, np.dtype(dtype))
            yield writer
            writer.finish()


class _Jsonl:
    def __init__(self, file: IO[bytes]):
        self._file = file

    def write(self, texts: Sequence[str], vectors: Array) -> None:
        for text, vector in zip(texts, vectors.tolist(), strict=True):
            self._file.write(json.dumps({"text": text, "embedding": vector}, ensure_ascii=False).encode() + b"\n")


class _Binary:
    def __init__(self, file: IO[bytes], header: Any, dimension: int, dtype: np.dtype[Any]):
        self._file, self._header, self._dimension, self._dtype = file, header, dimension, dtype
        self._rows = 0
        file.write(header(0, dimension, dtype))

    def write(self, texts: Sequence[str], vectors: Array) -> None:
        self._file.write(np.ascontiguousarray(vectors, dtype=self._dtype).data)
        self._rows += len(vectors)

    def finish(self) -> None:
        self._file.seek(0)
        self._file.write(self._header(self._rows, self._dimension, self._dtype))


def _npy_header(rows: int, dimension: int, dtype: np.dtype[Any]) -> bytes:
    # NumPy itself leaves room for any number of rows, so the header's length never changes.
    buffer = io.BytesIO()
    description = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, dimension)}
    npy_format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _safetensors_header(rows: int, dimension: int, dtype: np.dtype[Any]) -> bytes:
    entry = {
        "dtype": _SAFETENSORS_TYPES[dtype.name],
        "shape": [rows, dimension],
        "data_offsets": [0, rows * dimension * dtype.itemsize],
    }
    # The format allows spaces after the header.
    header = json.dumps({"__metadata__": {"format": "np"}, "embeddings": entry}).encode().ljust(_SAFETENSORS_HEADER)
    return len(header).to_bytes(8, "little") + header
