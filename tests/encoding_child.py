"""Encodes into files and dies: once at each moment at which it touches the disk.

encoding_child.py MODEL FOLDER COUNT: run N, counted from 1, writes FOLDER/N/out.npy and kills itself at
its event N; the first run with fewer events than that ends them. Each run is a fork, which saves the
start of Python and torch.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from minilm import SentenceEncoder

TEXTS_AT_A_TIME = 16


def numbered(count: int) -> Any:
    return (f"text {i} about nothing " * (1 + i % 3) for i in range(count))


def kill_at(number: int, folder: Path) -> None:
    """Counts what touches the folder, and each side of a flush to the disk."""
    events = 0

    def count() -> None:
        nonlocal events
        events += 1
        if events == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if any(isinstance(a, (str, bytes, Path)) and str(a).startswith(str(folder)) for a in arguments):
            count()

    flush = os.fsync

    def counted_flush(descriptor: int) -> None:
        count()
        flush(descriptor)
        count()

    sys.addaudithook(audit)
    os.fsync = counted_flush


if __name__ == "__main__":
    model_path, folder, total = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    model = SentenceEncoder.from_pretrained(model_path, device="cpu")
    killed, number = True, 0
    while killed:
        number += 1
        (folder / str(number)).mkdir()
        process = os.fork()
        if not process:
            kill_at(number, folder / str(number))
            model.encode(numbered(total), output=folder / str(number) / "out.npy", chunk_size=TEXTS_AT_A_TIME)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        killed = os.WIFSIGNALED(status)
        assert killed or status == 0, status
