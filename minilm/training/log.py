"""``training_log.jsonl``: a line for each step and each evaluation; and a picture of it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

LOG_FILE = "training_log.jsonl"
PICTURE_FILE = "training_log.png"


class TrainingLog:
    """Appends lines to a folder's log, each on the disk's queue before the run goes on.

    Args:
        output_dir: the folder; made when missing.
        keep: the bytes of an existing log that stay: those that a checkpoint knows of.
        write: False in all processes but the first; then nothing is written.
    """

    def __init__(self, output_dir: Path, keep: int = 0, write: bool = True):
        self.path = output_dir / LOG_FILE
        self.bytes = 0
        self._file = None
        if write:
            output_dir.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  # closed by __exit__
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
                draw_log(self.path)


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a log. Those of training have ``loss``, those of evaluation ``eval_…``; all have
    ``step`` and ``epoch``."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def draw_log(path: Path) -> None:
    """Draws the loss, and each evaluation's metrics beside it, into ``training_log.png``; does
    nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    lines = read_log(path)
    evaluations = [line for line in lines if any(name.startswith("eval_") for name in line)]
    figure = Figure(figsize=(10 if evaluations else 5, 3.5), layout="constrained")
    axes = figure.subplots(1, 2 if evaluations else 1, squeeze=False)[0]
    losses = [line for line in lines if "loss" in line]
    axes[0].plot([line["step"] for line in losses], [line["loss"] for line in losses])
    axes[0].set(title="training loss", xlabel="step")
    for name in [name for name in (evaluations[0] if evaluations else {}) if name.startswith("eval_")]:
        points = [(line["step"], line[name]) for line in evaluations if name in line]
        axes[1].plot(*zip(*points, strict=True), marker=".", label=name.removeprefix("eval_"))
    if evaluations:
        axes[1].set(title="evaluation", xlabel="step")
        axes[1].legend(fontsize="x-small")
    figure.savefig(path.with_name(PICTURE_FILE), dpi=150)
