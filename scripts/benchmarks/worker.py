"""A process for each contender, so that no library disturbs another's threads or memory.

The parent sends the name of a method with its arguments and gets its result; whoever has nothing to
do sleeps in a read. Threads keep their libraries' own waiting: OMP_WAIT_POLICY=passive would let
idle ones sleep at once, but makes torch's short queries two to four times as slow.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

SCRIPTS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """What a worker is told when it starts.

    Attributes:
        name: a contender, ``"gemm"``, ``"export"``, or ``"train"`` and a contender's name.
        folder: the model's.
        exports: file kind → path, of the models made for ONNX Runtime and OpenVINO.
        max_seq_length: the most tokens of a text.
    """

    name: str
    folder: str
    device: str
    threads: int
    max_seq_length: int
    exports: Mapping[str, str]


class WorkerError(RuntimeError):
    """What a contender could not do, in one line; ``details`` has its traceback or last words."""

    def __init__(self, message: str, details: str):
        super().__init__(message)
        self.details = details


class Worker:
    """The parent's end of a process. A context manager: the process ends with it."""

    def __init__(self, settings: Settings, environment: Mapping[str, str] | None = None):
        self.name = settings.name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        threads = str(settings.threads)
        own = {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(SCRIPTS), os.environ.get("PYTHONPATH")])),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "RAYON_NUM_THREADS": threads,  # the tokenizer's
            "TOKENIZERS_PARALLELISM": "true",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            env={**os.environ, **own, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._send(settings)

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of a method of the worker's job.

        Raises:
            WorkerError: it raised an error, or the process ended.
        """
        self._send((method, arguments))
        try:
            answer, result = pickle.load(self._process.stdout)  # type: ignore[arg-type]
        except EOFError:
            raise self._ended() from None
        if answer == "error":
            raise WorkerError(result.strip().splitlines()[-1], result)
        return result

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, message: object) -> None:
        try:
            pickle.dump(message, self._process.stdin)  # type: ignore[arg-type]
            self._process.stdin.flush()  # type: ignore[union-attr]
        except BrokenPipeError:
            raise self._ended() from None

    def _ended(self) -> WorkerError:
        status = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace")[-4000:]
        return WorkerError(f"the process of {self.name} ended with status {status}", last)


def start_job(settings: Settings) -> Any:
    """The object whose methods the parent calls."""
    kind, _, name = settings.name.partition(" ")
    if kind == "gemm":
        from benchmarks.gemm import Gemm

        return Gemm(settings)
    if kind == "export":
        from benchmarks.exports import Exporter

        return Exporter(settings)
    if kind == "train":
        from benchmarks.training import Trainings

        return Trainings(settings, name)
    from benchmarks.contenders import Encodings

    return Encodings(settings)


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    job = None
    try:
        settings = pickle.load(sys.stdin.buffer)
        while True:
            method, arguments = pickle.load(sys.stdin.buffer)
            try:
                job = job or start_job(settings)
                answer = ("done", getattr(job, method)(*arguments))
            except Exception:
                answer = ("error", traceback.format_exc())
            pickle.dump(answer, answers)
            answers.flush()
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        pass  # the parent has gone


if __name__ == "__main__":
    main()
