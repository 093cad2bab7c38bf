"""What a forked process must know: of its parent's threads it has only the one that forked.

torch's OpenMP and the tokenizer's thread pool are copied as they are, and would wait for ever for the threads
that were not. Loading a model starts none of them. As a parent may have computed before it forked, every child
has one thread; its vectors are those of ``torch.set_num_threads(1)``, which may be rounded otherwise than with
more threads. Start a child that needs more threads by "spawn" or "forkserver".
"""

from __future__ import annotations

import os
import sys

_TOKENIZERS = "TOKENIZERS_PARALLELISM"


def _use_one_thread() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    if _TOKENIZERS in os.environ:  # where it is not set, the library itself sees the fork
        os.environ[_TOKENIZERS] = "false"


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_use_one_thread)
