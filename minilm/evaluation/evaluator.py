"""What all evaluators have in common: a call that measures a model, and a row in a CSV file."""

from __future__ import annotations

import csv
import io
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from minilm.checkpoint import atomic_path
from minilm.errors import InputError, TextTypeError, TruncationWarning
from minilm.evaluation.measures import Integers
from minilm.layouts import Layout
from minilm.similarity import similarity_name
from minilm.tokens import check_texts

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder

Row: TypeAlias = "list[tuple[str, Any]]"


class UndefinedMetricWarning(UserWarning):
    """A metric says nothing about this data: a correlation with a constant, which is NaN, or an
    average precision without a positive label, which is 0."""


@dataclass(frozen=True)
class Outcome:
    """What an evaluator found out about a model.

    Attributes:
        metrics: name → value; the evaluator's own name is not yet before it.
        primary_metric: the one of them to choose models by.
        items: how many pairs, queries or triplets were measured.
        resample: the primary metric of any ``[n]`` of these items, which are given by number and
            may repeat; what :func:`~minilm.evaluation.bootstrap.paired_bootstrap` needs.
        row: the columns of the CSV file, and their values.
        files: further files, name → content.
    """

    metrics: dict[str, float]
    primary_metric: str
    items: int
    resample: Callable[[Integers], float]
    row: Row
    files: dict[str, str] = field(default_factory=dict)


class BaseEvaluator(ABC):
    """Measures a model: ``evaluator(model)`` gives its metrics.

    Evaluators carry the names, arguments, metrics and files of sentence-transformers' evaluators,
    and give their values, to the bit in the padded layout. Unlike there, an evaluator that was given
    no similarity takes that of the model at hand anew at each call, and ends with an error where a
    model's vectors are NaN or infinite.

    Args:
        name: put before the name of each metric, and into the name of the CSV file.
        batch_size: texts to encode at a time.
        show_progress_bar: as for :meth:`~minilm.SentenceEncoder.encode`.
        write_csv: add a row to the CSV file where ``output_path`` is given.
        truncate_dim: keep only the first dimensions of each vector.
        layout: ``"padded"`` forms the reference's batches; ``"packed"`` is faster, and its scores
            differ in rounding, about 1e-7.

    Attributes:
        primary_metric: the metric to choose models by; known after the first call.
        greater_is_better: whether more of it is better.
        csv_file: the name of the CSV file.
        description: what is evaluated, in words.
    """

    greater_is_better = True
    primary_metric: str | None = None
    description: str
    csv_file: str
    csv_line_end = "\r\n"

    def __init__(
        self,
        name: str,
        batch_size: int,
        show_progress_bar: bool | None,
        write_csv: bool,
        truncate_dim: int | None,
        layout: Layout,
    ):
        self.name = name
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.layout = layout

    def __call__(
        self,
        model: SentenceEncoder,
        output_path: str | os.PathLike[str] | None = None,
        epoch: float = -1,
        steps: int = -1,
    ) -> dict[str, float]:
        """Measures a model, which is left in evaluation mode; no random number is drawn.

        Args:
            model: the model.
            output_path: a folder, made where needed; a row is added to :attr:`csv_file` in it, or, where that
                file has other columns, to a file beside it, with a warning.
            epoch, steps: where in its training the model is, for that row; -1 stands for its end.

        Returns:
            The metrics: name → value.

        Raises:
            InputError: the model's vectors are not finite.
        """
        outcome = self.evaluate(model)
        prefix = f"{self.name}_" if self.name else ""
        self.primary_metric = prefix + outcome.primary_metric
        if output_path is not None:
            folder = Path(output_path)
            if self.write_csv:
                self._add_row(folder, [("epoch", epoch), ("steps", steps), *outcome.row])
            for name, content in outcome.files.items():
                _write(folder / name, content.encode())
        return {prefix + metric: value for metric, value in outcome.metrics.items()}

    @abstractmethod
    def evaluate(self, model: SentenceEncoder) -> Outcome:
        """Measures a model, and keeps what it takes to measure any resample of the data."""

    def metric_names(self, model: SentenceEncoder) -> list[str]:
        """The names of the metrics that a call would give for this model, known without computing them; empty where
        a class does not tell."""
        prefix = f"{self.name}_" if self.name else ""
        return [prefix + name for name in self._names(model)]

    def _names(self, model: SentenceEncoder) -> list[str]:
        return []

    def _add_row(self, folder: Path, row: Row) -> None:
        header = _csv_line((column for column, _ in row), self.csv_line_end).encode()
        path, before = _with_header(folder / self.csv_file, header)
        if path.name != self.csv_file:
            warnings.warn(f"{folder / self.csv_file} has other columns; the row is in {path.name}", stacklevel=3)
        if not before.endswith(b"\n"):
            before += self.csv_line_end.encode()
        _write(path, before + _csv_line((value for _, value in row), self.csv_line_end).encode())

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that the metrics depend on, where they are not the usual ones."""
        return {} if self.truncate_dim is None else {"truncate_dim": self.truncate_dim}

    def embed(
        self, encode: Callable[..., Any], texts: Sequence[str], *, ids: Sequence[object] | None = None, **options: Any
    ) -> Any:
        """The vectors of texts, ``[n, D]``, by one of the model's encode methods; NumPy unless
        ``options`` ask for a tensor. Notices name texts by their ``ids``, where they have any."""

        lost: dict[int, int] = {}
        if ids is not None:
            options["truncation"] = lost.update
        vectors = encode(
            texts,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
            truncate_dim=self.truncate_dim,
            layout=self.layout,
            **options,
        )
        if ids is not None and lost:
            shown = ", ".join(f"{ids[index]!r} by {tokens:,}" for index, tokens in list(lost.items())[:5])
            more = f" and {len(lost) - 5:,} more" if len(lost) > 5 else ""
            message = f"{len(lost):,} of {len(texts):,} texts are over the limit of tokens, of _id {shown}{more}"
            warnings.warn(TruncationWarning(f"{message}; the rest of each was cut off", lost), stacklevel=5)
        finite = torch.as_tensor(vectors).isfinite().all(dim=-1)
        if not finite.all():
            broken = (~finite).nonzero()[:, 0].tolist()
            first = f"{texts[broken[0]]!r:.80}" + ("" if ids is None else f" (_id {ids[broken[0]]!r})")
            raise InputError(
                f"the model gives vectors with NaN or infinite numbers for {len(broken):,} of {len(texts):,} texts, "
                f"first for {first}; its weights are broken, or its floating-point type too narrow"
            )
        return vectors


def _with_header(path: Path, header: bytes) -> tuple[Path, bytes]:
    """The first of ``x.csv``, ``x_2.csv``, ``x_3.csv`` … with this header, or empty, or not there; and what it is to
    hold before a new row."""
    for number in count(1):
        candidate = path if number == 1 else path.with_stem(f"{path.stem}_{number}")
        before = candidate.read_bytes() if candidate.exists() else b""
        if not before:
            return candidate, header
        if before.splitlines()[0] == header.rstrip():
            return candidate, before
    raise AssertionError("count ends never")


def _csv_line(cells: Iterable[object], line_end: str) -> str:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator=line_end).writerow(cells)
    return line.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def check_lengths(unit: str, **columns: Sequence[object]) -> None:
    """Raises :class:`~minilm.errors.InputError` unless columns are equally long, and not empty."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length:,} {name}" for name, length in lengths.items())
        raise InputError(f"found {found}, expected as many of each")
    if not next(iter(lengths.values())):
        raise InputError(f"there are no {unit}, expected at least one")


def text_columns(**columns: Iterable[str]) -> list[list[str]]:
    """Columns of texts, each as a list.

    Raises:
        TextTypeError: a column holds something else than texts; names the column and the item.
    """
    checked = {}
    for name, texts in columns.items():
        try:
            checked[name] = check_texts(texts)
        except TextTypeError as error:
            raise TextTypeError(f"{name}: {error}") from None
    return list(checked.values())


def similarity_names(main: str | Enum | None, names: Iterable[str | Enum] | None, what: str) -> list[str]:
    """The similarities that an evaluator measures: ``names``, or else ``main`` alone; none means the model's own.

    Raises:
        InputError: one is no similarity, or ``main``, which the argument ``what`` gave, is none of ``names``.
    """
    chosen = [similarity_name(name, "similarity_fn_names") for name in names or ()]
    if main is None:
        return chosen
    name = similarity_name(main, what)
    if chosen and name not in chosen:
        raise InputError(f"{what} is {name!r}, expected one of {chosen}")
    return chosen or [name]
