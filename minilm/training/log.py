"""``training_log.jsonl``: a line for each step and each evaluation; and a picture of it."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from minilm.errors import InputError

if sys.platform != "win32":
    import fcntl

LOG_FILE = "training_log.jsonl"
PICTURE_FILE = "training_log.png"
DRAWN = 6  # more curves than this cannot be told apart


class TrainingLog:
    """Appends lines to a folder's log, each on the disk's queue before the run goes on.

    Args:
        output_dir: the folder; made when missing.
        keep: the bytes of an existing log that stay: those that a checkpoint knows of.
        write: False in all processes but the first; then nothing is written.

    Attributes:
        metric: the evaluations' metric to draw; None draws the first :data:`DRAWN` of them.

    Raises:
        InputError: another process writes the log.
    """

    def __init__(self, output_dir: Path, keep: int = 0, write: bool = True):
        self.path = output_dir / LOG_FILE
        self.bytes = 0
        self.metric: str | None = None
        self._file = None
        if write:
            output_dir.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  # closed by __exit__
            if sys.platform != "win32":
                try:  # a lock that ends with the process, however it ends
                    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    self._file.close()
                    raise InputError(
                        f"{output_dir} is being trained in by another process; wait for it, or choose another folder"
                    ) from None
            self._file.truncate(min(keep, os.path.getsize(self.path)))
            self.bytes = os.path.getsize(self.path)

    def write(self, **fields: float) -> None:
        """Adds a line: a JSON object of the fields in their order; null where a number is not finite."""
        if self._file is not None:
            finite = {name: value if math.isfinite(value) else None for name, value in fields.items()}
            line = json.dumps(finite).encode() + b"\n"
            if self._file.write(line) != len(line):
                raise OSError(f"cannot write {self.path}: the disk is full")
            self.bytes += len(line)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            if error is None:
                draw_log(self.path, self.metric)


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a log. Those of training have ``loss``, those of evaluation ``eval_…``; all have
    ``step`` and ``epoch``."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def draw_log(path: Path, metric: str | None = None) -> None:
    """Draws the loss, and beside it a metric of the evaluations, into ``training_log.png``; does
    nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    lines = read_log(path)
    curves = {"training loss": ["loss"]}
    if evaluated := list(dict.fromkeys(n for line in lines for n in line if n.startswith("eval_"))):
        curves["evaluation"] = [metric] if metric in evaluated else evaluated[:DRAWN]
    figure = Figure(figsize=(5 * len(curves), 3.5), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
            marker = "." if len(points) < 100 else ""
            axes.plot(*zip(*points, strict=True), marker=marker, label=name.removeprefix("eval_"))
        axes.set(title=title, xlabel="step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize="small")
    figure.savefig(path.with_name(PICTURE_FILE), dpi=150)
