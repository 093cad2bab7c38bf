"""Is the positive nearer to its anchor than the negative is?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from minilm.evaluation.evaluator import BaseEvaluator, Outcome, check_lengths, similarity_names, text_columns
from minilm.evaluation.measures import Integers
from minilm.layouts import Layout
from minilm.similarity import SIMILARITY, similarity_name

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder


class TripletEvaluator(BaseEvaluator):
    """The share of triplets with ``similarity(anchor, positive) > similarity(anchor, negative) + margin``.

    Metrics: ``NAME_accuracy`` for each similarity, and with several ``max_accuracy``. Primary: that
    of ``main_similarity_function`` or of the only one, else ``max_accuracy``. A tie is a miss.

    Args:
        anchors: encoded with the model's "query" prompt.
        positives, negatives: encoded with its "document" prompt.
        main_similarity_function: one of cosine, dot, euclidean, manhattan, or the member of
            sentence-transformers' ``SimilarityFunction``.
        margin: for all similarities, or similarity → its own, others 0. Euclidean and manhattan
            similarities are negative distances.
        similarity_fn_names: the similarities to measure; unless given ``main_similarity_function``,
            or else the model's own.

    Further arguments as for :class:`BaseEvaluator`.

    Raises:
        InputError: an argument cannot be used.
    """

    description = "Triplet"

    def __init__(
        self,
        anchors: Sequence[str],
        positives: Sequence[str],
        negatives: Sequence[str],
        main_similarity_function: str | Enum | None = None,
        margin: float | Mapping[str, float] | None = None,
        name: str = "",
        batch_size: int = 16,
        show_progress_bar: bool | None = False,
        write_csv: bool = True,
        truncate_dim: int | None = None,
        similarity_fn_names: Sequence[str | Enum] | None = None,
        *,
        layout: Layout = "padded",
    ):
        super().__init__(name, batch_size, show_progress_bar, write_csv, truncate_dim, layout)
        self.anchors, self.positives, self.negatives = text_columns(
            anchors=anchors, positives=positives, negatives=negatives
        )
        check_lengths("triplets", anchors=self.anchors, positives=self.positives, negatives=self.negatives)
        margins = margin if isinstance(margin, Mapping) else dict.fromkeys(SIMILARITY, margin or 0)
        self.margin = dict.fromkeys(SIMILARITY, 0.0)
        self.margin |= {similarity_name(name, "margin's key"): value for name, value in margins.items()}
        main = main_similarity_function
        self.similarity_fn_names = similarity_names(main, similarity_fn_names, "main_similarity_function")
        self.main_similarity_function = None if main is None else similarity_name(main)
        self.csv_file = "_".join(part for part in ("triplet_evaluation", name, "results.csv") if part)

    def evaluate(self, model: SentenceEncoder) -> Outcome:
        """See :class:`BaseEvaluator`; the items are the triplets."""
        anchors = self.embed(model.encode_query, self.anchors)
        positives = self.embed(model.encode_document, self.positives)
        negatives = self.embed(model.encode_document, self.negatives)
        names = self.similarity_fn_names or [model.similarity_fn_name]
        hits, metrics = {}, {}
        for name in names:
            similarity = SIMILARITY[name][1]
            hit = similarity(anchors, positives) > similarity(anchors, negatives) + self.margin[name]
            metrics[f"{name}_accuracy"] = hit.float().mean().item()
            hits[name] = hit.cpu().numpy()
        row = [(f"accuracy_{name}", metrics[f"{name}_accuracy"]) for name in names]
        if len(names) > 1:
            metrics["max_accuracy"] = max(metrics.values())

        main = [self.main_similarity_function] if self.main_similarity_function else names

        def resample(items: Integers) -> float:
            return max(float(np.mean(hits[name][items])) for name in main)

        primary = f"{main[0] if len(main) == 1 else 'max'}_accuracy"
        return Outcome(metrics, primary, len(self.anchors), resample, row)

    def _names(self, model: SentenceEncoder) -> list[str]:
        names = self.similarity_fn_names or [model.similarity_fn_name]
        return [f"{name}_accuracy" for name in ([*names, "max"] if len(names) > 1 else names)]

    def get_config_dict(self) -> dict[str, Any]:
        """See :class:`BaseEvaluator`."""
        return ({"margin": self.margin} if any(self.margin.values()) else {}) | super().get_config_dict()
