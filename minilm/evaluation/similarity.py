"""Do a model's similarities follow those that people gave? Semantic textual similarity (STS)."""

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
from minilm.evaluation.measures import Floats, Integers, pearson, spearman
from minilm.layouts import Layout
from minilm.similarity import PRECISIONS, SIMILARITY, Precision, similarity_name

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder


class EmbeddingSimilarityEvaluator(BaseEvaluator):
    """Pearson's and Spearman's correlation of the model's similarities with given scores.

    Metrics: ``pearson_NAME`` and ``spearman_NAME`` for each similarity, and with several
    ``pearson_max`` and ``spearman_max``. Primary: ``spearman_NAME`` of ``main_similarity`` or of the
    only one, else ``spearman_max``.

    A correlation is undefined, NaN with an :class:`UndefinedMetricWarning`, for one pair (where the
    reference ends with an error) and where all scores of a side are the same.

    Args:
        sentences1, sentences2: the pairs.
        scores: how similar each pair is, on any scale.
        main_similarity: one of cosine, dot, euclidean, manhattan, or the member of sentence-transformers'
            ``SimilarityFunction``.
        similarity_fn_names: the similarities to measure; unless given ``main_similarity``, or else
            the model's own.
        precision: quantize the vectors, normalised first; see
            :func:`~minilm.similarity.quantize_embeddings`. Ranges for int8 come from both sides.

    Further arguments as for :class:`BaseEvaluator`.

    Raises:
        InputError: an argument cannot be used, or a score is NaN or infinite.
    """

    description = "Semantic Similarity"

    def __init__(
        self,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        scores: Sequence[float],
        batch_size: int = 16,
        main_similarity: str | Enum | None = None,
        similarity_fn_names: Sequence[str | Enum] | None = None,
        name: str = "",
        show_progress_bar: bool | None = False,
        write_csv: bool = True,
        precision: Precision | None = None,
        truncate_dim: int | None = None,
        *,
        layout: Layout = "padded",
    ):
        super().__init__(name, batch_size, show_progress_bar, write_csv, truncate_dim, layout)
        self.sentences1, self.sentences2 = text_columns(sentences1=sentences1, sentences2=sentences2)
        check_lengths("pairs", sentences1=self.sentences1, sentences2=self.sentences2, scores=scores)
        self.similarity_fn_names = similarity_names(main_similarity, similarity_fn_names, "main_similarity")
        if precision is not None and precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
        self.scores = np.asarray(scores, dtype=np.float64)
        if not np.isfinite(self.scores).all():
            first = int(np.flatnonzero(~np.isfinite(self.scores))[0])
            raise InputError(f"scores[{first}] is {self.scores[first]}, expected a finite number")
        self.main_similarity = None if main_similarity is None else similarity_name(main_similarity)
        self.precision = precision
        parts = ("similarity_evaluation", name, precision, "results.csv")
        self.csv_file = "_".join(part for part in parts if part)

    def evaluate(self, model: SentenceEncoder) -> Outcome:
        """See :class:`BaseEvaluator`; the items are the pairs."""
        vectors1, vectors2 = self._vectors(model)
        names = self.similarity_fn_names or [model.similarity_fn_name]
        predicted = {name: SIMILARITY[name][1](vectors1, vectors2).cpu().numpy() for name in names}
        metrics: dict[str, float] = {}
        row: Row = []
        for name in names:
            self._warn_if_undefined(name, predicted[name])
            for metric, correlation in (("pearson", pearson), ("spearman", spearman)):
                metrics[f"{metric}_{name}"] = value = correlation(self.scores, predicted[name])
                row.append((f"{name}_{metric}", value))
        if len(names) > 1:
            for metric in ("pearson", "spearman"):
                metrics[f"{metric}_max"] = max(metrics[f"{metric}_{name}"] for name in names)

        main = [self.main_similarity] if self.main_similarity else names

        def resample(items: Integers) -> float:
            return max(spearman(self.scores[items], predicted[name][items]) for name in main)

        primary = f"spearman_{main[0] if len(main) == 1 else 'max'}"
        return Outcome(metrics, primary, len(self.scores), resample, row)

    def _names(self, model: SentenceEncoder) -> list[str]:
        names = self.similarity_fn_names or [model.similarity_fn_name]
        names = [*names, "max"] if len(names) > 1 else names
        return [f"{metric}_{name}" for name in names for metric in ("pearson", "spearman")]

    def _vectors(self, model: SentenceEncoder) -> list[Any]:
        options: dict[str, Any] = {"precision": self.precision, "normalize_embeddings": self.precision is not None}
        if self.precision in ("int8", "uint8"):
            # A vector's bytes depend on the range of all: both sides together, so that equal texts stay equal.
            both = self.embed(model.encode, [*self.sentences1, *self.sentences2], **options)
            sides = [both[: len(self.sentences1)], both[len(self.sentences1) :]]
        else:
            sides = [self.embed(model.encode, texts, **options) for texts in (self.sentences1, self.sentences2)]
        if self.precision == "binary":
            sides = [(side.astype(np.int16) + 128).astype(np.uint8) for side in sides]
        if self.precision in ("binary", "ubinary"):
            sides = [np.unpackbits(side, axis=1) for side in sides]
        if self.precision not in (None, "float32"):
            sides = [side.astype(np.float32) for side in sides]
        return sides

    def _warn_if_undefined(self, name: str, predicted: Floats) -> None:
        if len(predicted) < 2:
            reason = "one pair has no correlation; give more"
        elif (self.scores == self.scores[0]).all():
            reason = f"all the given scores are {self.scores[0]:g}; give pairs of different similarity"
        elif (predicted == predicted[0]).all():
            reason = f"all the model's {name} similarities are {predicted[0]:g}"
        else:
            return
        metrics = f"pearson_{name} and spearman_{name}"
        warnings.warn(f"{metrics} are undefined: {reason}", UndefinedMetricWarning, stacklevel=4)

    def get_config_dict(self) -> dict[str, Any]:
        """See :class:`BaseEvaluator`."""
        return super().get_config_dict() | ({} if self.precision is None else {"precision": self.precision})
