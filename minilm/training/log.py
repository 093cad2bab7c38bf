"""``training_log.jsonl``: a line for each step and each evaluation; and a picture of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from minilm.errors import CheckpointError, InputError
from minilm.plain_json import parse_json, to_json

if sys.platform != "win32":
    import fcntl

LOG_FILE = "training_log.jsonl"
PICTURE_FILE = "training_log.png"
_TRAINING = {"loss", "grad_norm", "learning_rate"}
DRAWN = 6  # more curves than this cannot be told apart


class TrainingLog:
    """Appends lines to a folder's log, each on the disk's queue before the run goes on.

    Args:
        output_dir: the folder; made when missing.
        keep: the bytes of an existing log that stay: those that a checkpoint knows of.
        earlier: the log that they are in; None for the folder's own.
        write: False in all processes but the first; then nothing is written.

    Attributes:
        metric: the evaluations' metric to draw; None draws the first :data:`DRAWN` of them.

    Raises:
        CheckpointError: the bytes to keep are no whole lines of a log.
        InputError: another process writes the log.
    """

    def __init__(self, output_dir: Path, keep: int = 0, write: bool = True, earlier: Path | None = None):
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
            source = earlier or self.path
            kept = _beginning(source, keep)
            try:
                _parse(kept, source)
            except CheckpointError:
                self._file.close()
                raise
            self._file.truncate(len(kept) if source == self.path else 0)
            if source != self.path:
                self._file.write(kept)
            self.bytes = len(kept)

    def write(self, **fields: float) -> None:
        """Adds a line: a JSON object of the fields in their order; null where a number is not finite."""
        if self._file is not None:
            line = to_json(fields, null=True).encode() + b"\n"
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
    ``step`` and ``epoch``.

    Raises:
        CheckpointError: a line is not one of a log; names it.
    """
    return _parse(Path(path).read_bytes(), Path(path))


def _beginning(path: Path, size: int) -> bytes:
    """The first bytes of a file, as many as there are."""
    if not size or not path.exists():
        return b""
    with open(path, "rb") as file:
        return file.read(size)


def _parse(content: bytes, path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            row = parse_json(line)
            whole = {"step", "epoch"} <= row.keys() and ("loss" not in row or row.keys() >= _TRAINING)
            whole = whole and isinstance(row["step"], int)
            whole = whole and all(isinstance(value, (int, float, type(None))) for value in row.values())
        except (ValueError, AttributeError):
            whole = False
        if not whole:
            raise CheckpointError(f"{path}, line {number}: {line[:80]!r} is no line of a log; was it edited?")
        rows.append(row)
    return rows


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
            axes.plot([x for x, _ in points], [y for _, y in points], marker=marker, label=name.removeprefix("eval_"))
        axes.set(title=title, xlabel="step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize="small")
    figure.savefig(path.with_name(PICTURE_FILE), dpi=150)
