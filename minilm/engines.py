"""Encoding past one machine: one callable that Ray Data, ``datasets.map`` and Spark take as it is.

None of these libraries is imported here.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from minilm.errors import InputError, TextTypeError

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder

_models: dict[str, SentenceEncoder] = {}  # of this process, by all that was asked for
_lock = threading.Lock()
_forked = False  # whether this process is a copy of one that had imported this module


def _note_fork() -> None:
    global _forked, _lock
    _forked, _lock = True, threading.Lock()  # the copied lock may be held by a thread that was not copied


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


class EncodeBatch:
    """Adds a column of vectors to a batch of rows.

    Cheap to make and to send to other processes: the model is loaded with the first batch, once in
    each process, on the machine that the process runs on.

    Args:
        model_name_or_path: as in :meth:`SentenceEncoder.from_pretrained`; a folder has to be there on
            every machine.
        column: where the texts are.
        output_column: where the vectors go; a column of this name is replaced.
        device: None takes the GPU of the worker's number (``rank``), where there are several, or else the
            best device that the worker sees. Ray and Spark show each worker its own.
        num_threads: of each process, on the CPU: its share of the machine's cores. None leaves what is
            set: Ray and Spark set the CPUs of a task. The processes of ``datasets`` are forks, which have
            one thread each (forks.py).
        model_kwargs: other arguments of :meth:`SentenceEncoder.from_pretrained`.
        encode_options: of :meth:`SentenceEncoder.encode`.

    Raises:
        InputError: an option that no batch alone can have.
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        column: str = "text",
        output_column: str = "embedding",
        device: str | None = None,
        num_threads: int | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        **encode_options: Any,
    ):
        for name in ("output", "resume", "output_value", "pool", "convert_to_numpy", "convert_to_tensor"):
            if name in encode_options:
                raise InputError(f"{name} has no meaning here: each batch gets a column of vectors")
        if encode_options.get("precision") in ("int8", "uint8"):
            raise InputError(
                f"with precision={encode_options['precision']!r} a vector's numbers would depend on its batch; "
                "encode to float32, and quantize_embeddings afterwards with ranges for all"
            )
        if num_threads is not None and num_threads < 1:
            raise InputError(f"num_threads is {num_threads}, expected at least 1")
        self.model_name_or_path = None if model_name_or_path is None else os.fspath(model_name_or_path)
        self.column = column
        self.output_column = output_column
        self.device = device
        self.num_threads = num_threads
        self.model_kwargs = dict(model_kwargs or {})
        self.encode_options = {"show_progress_bar": False, **encode_options}

    def __call__(self, batch: Any, rank: int | None = None) -> Any:
        """Encodes one batch.

        Args:
            batch: columns by name, which are lists, NumPy arrays, a pandas DataFrame or a pyarrow Table;
                or the texts alone, a pandas Series.
            rank: the worker's number, from ``datasets.map(..., with_rank=True)``.

        Returns:
            The same kind of batch with the column added, ``[n, D]`` or a list of vectors as the kind
            asks for; for a Series, a Series of vectors.

        Raises:
            InputError: there is no such column, or another kind of batch.
            TextTypeError: something in the column is not a string; names its place in the batch.
        """
        # Whoever hands over an object of these libraries has imported them.
        pandas, pyarrow = sys.modules.get("pandas"), sys.modules.get("pyarrow")
        if pandas and isinstance(batch, pandas.Series):
            return pandas.Series(list(self._encode(batch, rank)), index=batch.index, dtype=object)
        if pandas and isinstance(batch, pandas.DataFrame):
            vectors = self._encode(self._column(batch, list(batch.columns)), rank)
            return batch.assign(**{self.output_column: pandas.Series(list(vectors), index=batch.index, dtype=object)})
        if pyarrow and isinstance(batch, (pyarrow.Table, pyarrow.RecordBatch)):
            vectors = self._encode(self._column(batch, batch.schema.names).to_pylist(), rank)
            flat = pyarrow.array(vectors.ravel())
            column = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            place = batch.schema.get_field_index(self.output_column)
            if place < 0:
                return batch.append_column(self.output_column, column)
            return batch.set_column(place, self.output_column, column)
        if isinstance(batch, Mapping):
            return {**batch, self.output_column: self._encode(self._column(batch, list(batch)), rank)}
        raise InputError(
            f"the batch is {type(batch).__name__}, expected columns by name (with datasets.map: batched=True)"
        )

    def _column(self, batch: Any, names: list[Any]) -> Any:
        if self.column not in names:
            raise InputError(f"there is no column {self.column!r}; there are {', '.join(map(repr, names))}")
        return batch[self.column]

    def _encode(self, texts: Any, rank: int | None) -> Any:
        if isinstance(texts, str):
            raise InputError(f"column {self.column!r} is one text, expected a batch (with datasets.map: batched=True)")
        try:
            return self._model(rank).encode(texts, **self.encode_options)
        except TextTypeError as error:
            raise TextTypeError(f"column {self.column!r}: {error}") from None

    def _model(self, rank: int | None) -> SentenceEncoder:
        from minilm.sentence_encoder import SentenceEncoder

        device = self.device
        if device is None and rank is not None and torch.cuda.device_count() > 1:
            device = f"cuda:{rank % torch.cuda.device_count()}"
        key = json.dumps([self.model_name_or_path, device, self.model_kwargs], default=str, sort_keys=True)
        num_threads = self.num_threads
        if _forked and num_threads not in (None, 1):
            raise InputError(f"num_threads is {num_threads}, but a forked process can have 1; use more processes")
        with _lock:
            if num_threads is not None:
                torch.set_num_threads(num_threads)
            if key not in _models:
                _models[key] = SentenceEncoder.from_pretrained(
                    self.model_name_or_path, device=device, **self.model_kwargs
                )
        return _models[key]
