"""What a forked process must know: of its parent's threads it has only the one that forked.

torch's OpenMP and the tokenizer's thread pool are copied as they are, and wait for ever for the threads that were not.
Loading a model starts none. For a parent that has computed already, the child goes on with one thread: the same
vectors as the parent's at ``torch.set_num_threads(1)``, which may be rounded otherwise than at more threads. A child that
wants more is to be started by "spawn" or "forkserver", or is an ``encode(..., pool=...)``.
"""

from __future__ import annotations

import os

import torch

_TOKENIZERS = "TOKENIZERS_PARALLELISM"


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    if _TOKENIZERS in os.environ:  # where it is not set, the library itself sees the fork
        os.environ[_TOKENIZERS] = "false"


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_use_one_thread)
