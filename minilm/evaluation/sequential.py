"""Several evaluators as one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from minilm.errors import InputError

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder


def _last(scores: list[float]) -> float:
    return scores[-1]


class SequentialEvaluator:
    """Calls several evaluators, one after the other; can stand wherever one evaluator can.

    Metrics: those of all, and ``sequential_score``, the primary one. A number that an evaluator gives in
    place of metrics is called ``evaluator_0``, or whatever its place is.

    Args:
        evaluators: the evaluators, or whatever else is called as they are; name them, where their metrics have
            the same names.
        main_score_function: the primary metrics' values → ``sequential_score``; the last one's unless given. The
            primary metric of an evaluator that names none is its first.
    """

    name = ""
    description = "Sequential"
    greater_is_better = True
    primary_metric = "sequential_score"

    def __init__(
        self, evaluators: Iterable[Callable[..., Any]], main_score_function: Callable[[list[float]], float] = _last
    ):
        self.evaluators: list[Any] = list(evaluators)
        self.main_score_function = main_score_function
        if not self.evaluators:
            raise InputError("there are no evaluators, expected at least one")
        for evaluator in self.evaluators:
            if not callable(evaluator) or isinstance(evaluator, type):
                raise InputError(f"an evaluator is {evaluator!r:.80}, expected one that can be called with the model")

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
        for index, evaluator in enumerate(self.evaluators):
            found = evaluator(model, output_path=output_path, epoch=epoch, steps=steps)
            metrics = found if isinstance(found, dict) else {f"evaluator_{index}": found}
            if not metrics:
                raise InputError(f"{type(evaluator).__name__} gives no metrics, expected at least one")
            primary = getattr(evaluator, "primary_metric", None) or next(iter(metrics))
            if primary not in metrics:
                raise InputError(
                    f"{type(evaluator).__name__} has no {primary!r}, its primary metric, among its metrics"
                )
            results |= metrics
            scores.append(metrics[primary])
        return {**results, "sequential_score": self.main_score_function(scores)}

    def metric_names(self, model: SentenceEncoder) -> list[str]:
        """As :meth:`BaseEvaluator.metric_names`; empty where an evaluator does not tell."""
        names = [metric_names(evaluator, model) for evaluator in self.evaluators]
        return [*itertools.chain(*names), "sequential_score"] if all(names) else []


def metric_names(evaluator: Any, model: SentenceEncoder) -> list[str]:
    """The names of an evaluator's metrics, where it knows them before it is called; else none."""
    names: list[str] = getattr(evaluator, "metric_names", lambda model: [])(model)
    return names


def one_evaluator(evaluator: Any) -> Any:
    """Several evaluators in a list or a tuple as one; anything else as it is."""
    return SequentialEvaluator(evaluator) if isinstance(evaluator, (list, tuple)) else evaluator
