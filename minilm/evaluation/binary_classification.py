"""How well does a threshold on the similarity tell similar pairs from dissimilar ones?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from minilm.errors import InputError
from minilm.evaluation.evaluator import (
    BaseEvaluator,
    Outcome,
    Row,
    UndefinedMetricWarning,
    check_lengths,
    similarity_names,
    text_columns,
)
from minilm.evaluation.measures import Integers, average_precision, best_accuracy, best_f1, matthews_corrcoef
from minilm.layouts import Layout
from minilm.similarity import SIMILARITY

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder

DISTANCES = ("euclidean", "manhattan")
CSV_METRICS = ("accuracy", "accuracy_threshold", "f1", "precision", "recall", "f1_threshold", "ap", "mcc")


class BinaryClassificationEvaluator(BaseEvaluator):
    """The accuracy and F1 of the best threshold, and the average precision over all thresholds.

    Metrics, for each similarity: ``NAME_accuracy`` with its ``NAME_accuracy_threshold``; ``NAME_f1``
    with its ``NAME_f1_threshold``, ``NAME_precision``, ``NAME_recall`` and ``NAME_mcc`` (Matthews);
    ``NAME_ap``. With several, ``max_…`` of each. Primary: ``NAME_ap`` or ``max_ap``. Thresholds of
    euclidean and manhattan are distances: pairs below are similar.

    Each different text is encoded once. The reference's batches then follow Python's hashes, which
    differ from process to process; here they follow the order of the texts, so the last digits of
    its scores may differ.

    Args:
        sentences1, sentences2: the pairs.
        labels: 1 for similar, 0 for dissimilar.
        similarity_fn_names: the similarities to measure; unless given the model's own.

    Further arguments as for :class:`BaseEvaluator`.

    Raises:
        InputError: an argument cannot be used.
    """

    description = "Binary Classification"

    def __init__(
        self,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        labels: Sequence[int],
        name: str = "",
        batch_size: int = 32,
        show_progress_bar: bool | None = False,
        write_csv: bool = True,
        truncate_dim: int | None = None,
        similarity_fn_names: Sequence[str | Enum] | None = None,
        *,
        layout: Layout = "padded",
    ):
        super().__init__(name, batch_size, show_progress_bar, write_csv, truncate_dim, layout)
        self.sentences1, self.sentences2 = text_columns(sentences1=sentences1, sentences2=sentences2)
        check_lengths("pairs", sentences1=self.sentences1, sentences2=self.sentences2, labels=labels)
        self.similarity_fn_names = similarity_names(None, similarity_fn_names, "")
        for index, label in enumerate(labels):
            if label not in (0, 1):
                raise InputError(f"labels[{index}] is {label!r}, expected 0 or 1")
        self.labels = np.asarray(labels) == 1
        self.csv_file = "_".join(part for part in ("binary_classification_evaluation", name, "results.csv") if part)

    def evaluate(self, model: SentenceEncoder) -> Outcome:
        """See :class:`BaseEvaluator`; the items are the pairs."""
        texts = list(dict.fromkeys([*self.sentences1, *self.sentences2]))
        place = {text: index for index, text in enumerate(texts)}
        vectors = self.embed(model.encode, texts)
        vectors1 = vectors[[place[text] for text in self.sentences1]]
        vectors2 = vectors[[place[text] for text in self.sentences2]]

        if not self.labels.any():
            warnings.warn("no pair is labelled 1; ap and f1 are 0", UndefinedMetricWarning, stacklevel=3)
        names = self.similarity_fn_names or [model.similarity_fn_name]
        scores, by_name = {}, {}
        for name in names:
            scores[name] = SIMILARITY[name][1](vectors1, vectors2).cpu().numpy()
            by_name[name] = self._measure(scores[name], is_distance=name in DISTANCES)
        metrics = {f"{name}_{metric}": float(value) for name in names for metric, value in by_name[name].items()}
        row: Row = [(f"{name}_{metric}", by_name[name][metric]) for name in names for metric in CSV_METRICS]
        if len(names) > 1:
            for metric in by_name[names[0]]:
                metrics[f"max_{metric}"] = max(metrics[f"{name}_{metric}"] for name in names)

        def resample(items: Integers) -> float:
            return max(average_precision(scores[name][items], self.labels[items]) for name in names)

        primary = f"{names[0] if len(names) == 1 else 'max'}_ap"
        return Outcome(metrics, primary, len(self.labels), resample, row)

    def _names(self, model: SentenceEncoder) -> list[str]:
        names = self.similarity_fn_names or [model.similarity_fn_name]
        names = [*names, "max"] if len(names) > 1 else names
        return [f"{name}_{metric}" for name in names for metric in CSV_METRICS]

    def _measure(self, similarities: Any, is_distance: bool) -> dict[str, Any]:
        scores = -similarities if is_distance else similarities
        accuracy, accuracy_threshold = best_accuracy(scores, self.labels, not is_distance)
        f1, precision, recall, f1_threshold = best_f1(scores, self.labels, not is_distance)
        predicted = scores <= f1_threshold if is_distance else scores >= f1_threshold
        return {
            "accuracy": accuracy,
            "accuracy_threshold": accuracy_threshold,
            "f1": f1,
            "f1_threshold": f1_threshold,
            "precision": precision,
            "recall": recall,
            "ap": average_precision(similarities, self.labels),
            "mcc": matthews_corrcoef(self.labels, predicted),
        }
