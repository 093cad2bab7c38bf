"""Encoding in several processes on one machine, through torch.multiprocessing.

Each process holds the model on its own device (on the CPU they share one copy of the weights) and
takes chunks of texts from a queue. Arguments are sentence-transformers'; here the caller's model
stays on its device, and processes on the CPU divide the cores among themselves.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import pickle
import queue
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import multiprocessing

from minilm.checkpoint import weights_sha256
from minilm.devices import check_device
from minilm.errors import InputError, TruncationError, TruncationWarning
from minilm.progress import progress

if TYPE_CHECKING:
    from minilm.sentence_encoder import Device, SentenceEncoder

MOST_TEXTS_IN_A_CHUNK = 5000
_ALIVE_CHECK_SECONDS = 1.0


class Pool:
    """Processes that encode, one for each device. A context manager; or call :meth:`stop`.

    Threads may share it. The processes end with the one that started them, also when that is killed.

    Args:
        model: what they encode with, as it is now.
        target_devices: None for every GPU, or else four processes on the CPU.
    """

    def __init__(self, model: SentenceEncoder, target_devices: Sequence[Device] | None = None):
        if target_devices is None:
            gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
            target_devices = gpus or ["cpu"] * 4
        if not target_devices:
            raise InputError("there is no device to start a process for")
        devices = [check_device(device) for device in target_devices]
        on_cpu = sum(device.type == "cpu" for device in devices)
        threads = max(1, torch.get_num_threads() // max(1, on_cpu))
        self.made_of = weakref.ref(model)
        self.shared = shared = copy.deepcopy(model).cpu().share_memory()
        context = multiprocessing.get_context("spawn")  # a forked copy of a threaded process can hang
        self.input: Any = context.Queue()
        self.output: Any = context.Queue()
        self.calls = itertools.count()
        self.arrived: dict[int, deque[Any]] = {}  # call → its results that have come
        self.change = threading.Condition()
        self.reading = False  # whether a call is waiting at the output, for all of them
        self.stopped = False
        self.owner = os.getpid()
        self.processes = [
            context.Process(target=_work, args=(shared, device, threads, self.input, self.output), daemon=True)
            for device in devices
        ]
        for process in self.processes:
            process.start()

    def stop(self) -> None:
        """Ends the processes. Calls that are under way in other threads end with an :class:`InputError`.
        A pool that has been stopped, or was started by another process, is left as it is."""
        with self.change:
            if self.stopped or self.owner != os.getpid():
                return
            self.stopped = True
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()
        with self.change:  # a thread that reads from a queue while it is closed may read another file
            self.change.wait_for(lambda: not self.reading, timeout=2 * _ALIVE_CHECK_SECONDS)
        self.input.cancel_join_thread()
        self.input.close()
        self.output.close()

    def check(self, model: SentenceEncoder) -> None:
        """Raises an :class:`InputError` that says why the pool cannot encode for this model."""
        if self.stopped:
            raise InputError("the pool has been stopped; start another with start_multi_process_pool")
        if self.owner != os.getpid():
            raise InputError("the pool was started by another process; start one here, or encode without a pool")
        other = model is not self.made_of()
        if other and weights_sha256(model.encoder) != weights_sha256(self.shared.encoder):
            raise InputError("the pool was started for a model with other weights; start one for this model")

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def encode_in_pool(
    model: SentenceEncoder,
    texts: list[str],
    pool: Pool | None,
    devices: Sequence[Device] | None,
    chunk_size: int | None,
    show_progress_bar: bool | None,
    options: dict[str, Any],
) -> Any:
    """:meth:`SentenceEncoder.encode_texts` by a pool, or by one for ``devices`` that ends with the call.

    Raises:
        InputError: ``chunk_size`` is below 1, the model is within ``intervene``, or the pool cannot be used.
        RuntimeError: a process died.
        TruncationError: as there; found only when the chunks have been encoded.
    """
    if chunk_size is not None and chunk_size < 1:
        raise InputError(f"chunk_size is {chunk_size}, expected at least 1")
    from minilm.internals.hooks import is_watched

    if is_watched(model):
        raise InputError("interventions do not reach other processes; encode without a pool, on one device")
    if not texts:
        return model.encode_texts(texts, show_progress_bar=False, **options)
    if pool is None:
        with Pool(model, devices) as temporary:
            return encode_in_pool(model, texts, temporary, None, chunk_size, show_progress_bar, options)

    pool.check(model)
    ordered = _encode(model, texts, pool, chunk_size, show_progress_bar, options)
    if options["output_value"] == "sentence_embedding":
        return torch.cat(ordered)
    return [row for chunk in ordered for row in chunk]


def _encode(
    model: SentenceEncoder,
    texts: list[str],
    pool: Pool,
    chunk_size: int | None,
    show_progress_bar: bool | None,
    options: dict[str, Any],
) -> list[Any]:
    """The rows of each chunk, in the order of the texts."""
    even = math.ceil(len(texts) / len(pool.processes) / 10)
    size = chunk_size or max(1, min(even, MOST_TEXTS_IN_A_CHUNK))
    starts = range(0, len(texts), size)
    # A function that is told what was cut need not be one that can be sent to a process.
    sent = {**options, "truncation": "warn"} if callable(options["truncation"]) else options
    chunks: dict[int, Any] = {}
    tokens_lost: dict[int, int] = {}
    call = next(pool.calls)  # what an interrupted call left behind must not pass for this one's
    pool.arrived[call] = deque()
    try:
        with pool.change:
            if not pool.stopped:
                for start in starts:
                    pool.input.put((call, start, texts[start : start + size], sent))
        with progress(len(texts), "Encoding", show_progress_bar, unit=" texts") as bar:
            while len(chunks) < len(starts):
                start, chunks[start], lost = _next_result(pool, call)
                tokens_lost |= {start + index: count for index, count in lost.items()}
                bar.update(min(size, len(texts) - start))
    finally:
        del pool.arrived[call]
    model.report_truncation(dict(sorted(tokens_lost.items())), options["truncation"], len(texts))
    ordered = [chunks[start] for start in starts]
    for chunk in ordered:
        if isinstance(chunk, Exception):
            raise chunk
    return ordered


def _next_result(pool: Pool, call: int) -> tuple[int, Any, dict[int, int]]:
    """Where a chunk starts, its rows or the error it ended with, and the tokens lost in it."""
    while True:
        with pool.change:
            while pool.reading and not pool.arrived[call]:
                pool.change.wait()
            if pool.arrived[call]:
                start, rows, tokens_lost = pool.arrived[call].popleft()
                return start, pickle.loads(rows), tokens_lost
            if pool.stopped:
                raise InputError("the pool was stopped while it was encoding; start another, and encode again")
            pool.reading = True
        made_for, result = -1, []
        try:
            made_for, *result = pool.output.get(timeout=_ALIVE_CHECK_SECONDS)
        except queue.Empty:
            if (dead := [p for p in pool.processes if not p.is_alive()]) and not pool.stopped:
                codes = ", ".join(f"process {p.pid} with exit code {p.exitcode}" for p in dead)
                raise RuntimeError(
                    f"{len(dead)} of {len(pool.processes)} encoding processes died ({codes}); "
                    "the usual causes are too little memory, for which a smaller pool helps, and a script "
                    "that does its work outside `if __name__ == '__main__':`, which each process runs again."
                ) from None
        finally:
            with pool.change:
                pool.reading = False
                if (arrived := pool.arrived.get(made_for)) is not None:
                    arrived.append(result)
                pool.change.notify_all()


def _work(model: SentenceEncoder, device: torch.device, threads: int, source: Any, sink: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if device.type == "cpu":
        torch.set_num_threads(threads)
    model.to(device)
    while True:
        call, start, texts, options = source.get()
        tokens_lost: dict[int, int] = {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", TruncationWarning)
            try:
                rows = _to_cpu(model.encode_texts(texts, show_progress_bar=False, **options))
            except TruncationError as error:
                rows, tokens_lost = [], error.tokens_lost
            except Exception as error:
                rows = RuntimeError(f"encoding on {device} failed: {type(error).__name__}: {error}")
        for warning in caught:
            if isinstance(warning.message, TruncationWarning):
                tokens_lost = warning.message.tokens_lost
        # Pickled here, because a queue sends each tensor as an open file, and those run out.
        sink.put((call, start, pickle.dumps(rows), tokens_lost))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _to_cpu(rows: Any) -> Any:
    if isinstance(rows, torch.Tensor):
        return rows.cpu().clone()  # of a view, all that it looks into would be pickled
    if isinstance(rows, dict):
        return {name: _to_cpu(value) for name, value in rows.items()}
    return [_to_cpu(row) for row in rows]
