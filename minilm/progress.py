"""A progress bar for work that takes long: on a terminal, never in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minilm.terminal import is_terminal

QUIET_SECONDS = 1.0  # work that is done by then shows nothing unless a bar was asked for


class _NoBar:
    def update(self, n: int = 1) -> None:
        pass

    def set_postfix_str(self, text: str) -> None:
        pass


@contextmanager
def progress(
    total: int | None, description: str, show: bool | None = None, unit: str = "it", initial: int = 0
) -> Iterator[Any]:
    """A tqdm bar, or something that takes the same calls and shows nothing.

    Args:
        total: how many units there are; None when not known.
        show: True shows it, False does not, None shows it on a terminal once the work takes
            :data:`QUIET_SECONDS`.
        initial: how many are done already.
    """
    if show is False or sys.stderr is None or (show is None and not is_terminal(sys.stderr)):
        yield _NoBar()
        return
    from huggingface_hub.utils import tqdm  # late: a fifth of a second that most calls do not need

    delay = QUIET_SECONDS if show is None else 0
    with tqdm(total=total, desc=description, unit=unit, initial=initial, delay=delay, dynamic_ncols=True) as bar:  # type: ignore[no-untyped-call]
        yield _NoBar() if bar.disable else bar  # by HF_HUB_DISABLE_PROGRESS_BARS or TQDM_DISABLE
