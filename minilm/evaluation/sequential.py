"""Several evaluators as one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from minilm.errors import InputError
from minilm.evaluation.evaluator import BaseEvaluator

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder


def _last(scores: list[float]) -> float:
    return scores[-1]


class SequentialEvaluator:
    """Calls several evaluators, one after the other; can stand wherever one evaluator can.

    Metrics: those of all, and ``sequential_score``, the primary one.

    Args:
        evaluators: the evaluators; name them, where their metrics have the same names.
        main_score_function: the primary metrics' values → ``sequential_score``; the last one's
            unless given.
    """

    name = ""
    description = "Sequential"
    greater_is_better = True
    primary_metric = "sequential_score"

    def __init__(
        self, evaluators: Iterable[BaseEvaluator], main_score_function: Callable[[list[float]], float] = _last
    ):
        self.evaluators = list(evaluators)
        self.main_score_function = main_score_function
        if not self.evaluators:
            raise InputError("there are no evaluators, expected at least one")

    def __call__(
        self,
        model: SentenceEncoder,
        output_path: str | os.PathLike[str] | None = None,
        epoch: float = -1,
        steps: int = -1,
    ) -> dict[str, float]:
        """As :meth:`BaseEvaluator.__call__`."""
        results: dict[str, float] = {}
        scores = []
        for evaluator in self.evaluators:
            metrics = evaluator(model, output_path, epoch, steps)
            results |= metrics
            scores.append(metrics[evaluator.primary_metric or ""])
        return {**results, "sequential_score": self.main_score_function(scores)}
