"""What the evaluators measure, on plain arrays: correlations, rankings, thresholds.

Definitions and roundings are those of the functions that sentence-transformers calls (scipy's
``pearsonr`` and ``spearmanr``, scikit-learn's ``average_precision_score`` and
``matthews_corrcoef``) or has itself. In the shapes, n counts items, Q queries, K ranks.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Bools: TypeAlias = npt.NDArray[np.bool_]
Integers: TypeAlias = npt.NDArray[np.int64]


# ---- correlation --------------------------------------------------------------------------------


def pearson(x: Floats, y: Floats) -> float:
    """Pearson's correlation of ``[n]`` and ``[n]``: the cosine of the two, each less its mean.

    NaN where it is undefined: fewer than two items, a constant side, or a NaN.
    """
    if _undefined(x) or _undefined(y):
        return float("nan")
    r = float(np.clip(np.dot(_centred_unit(x), _centred_unit(y)), -1, 1))
    return float(round(r)) if len(x) == 2 else r  # two points lie on a line


def spearman(x: Floats, y: Floats) -> float:
    """Spearman's correlation of ``[n]`` and ``[n]``: Pearson's, of the ranks. NaN as there."""
    if _undefined(x) or _undefined(y):
        return float("nan")
    return float(np.corrcoef(ranks(x), ranks(y))[1, 0])


def ranks(x: Floats) -> Floats:
    """The rank of each of ``[n]`` values, the smallest 1; equal values share their mean rank."""
    _, group, sizes = np.unique(x, return_inverse=True, return_counts=True)
    last = sizes.cumsum()  # the rank that each group's last member would have
    mean_ranks: Floats = (last - (sizes - 1) / 2)[group.ravel()]
    return mean_ranks


def _undefined(x: Floats) -> bool:
    return len(x) < 2 or bool((x == x[0]).all()) or bool(np.isnan(x).any())


def _centred_unit(x: Floats) -> Floats:
    centred = x.astype(np.float64) - x.astype(np.float64).mean()
    peak = np.abs(centred).max()  # so that no square overflows or vanishes
    unit: Floats = centred / (peak * np.sqrt(((centred / peak) ** 2).sum()))
    return unit


# ---- retrieval ----------------------------------------------------------------------------------


class RankedResults(NamedTuple):
    """How relevant the results of each query are.

    Attributes:
        gains: ``[Q, K]``, the grade of the result at each rank, best first: 0 if it is not relevant, as past
            the end of a corpus of fewer than K documents, and 1 for every relevant one where there are no grades.
        relevant_docs: ``[Q]``, how many relevant documents each query has, found or not.
        ideal_gains: ``[Q, K]``, the grades of these documents, the highest first, then zeros.
    """

    gains: Floats
    relevant_docs: Integers
    ideal_gains: Floats

    @property
    def relevant(self) -> Bools:
        """``[Q, K]``, whether the result at each rank is relevant."""
        return self.gains > 0


def accuracy_at_k(results: RankedResults, k: int) -> Floats:
    """For each query 1 if any of the first k results is relevant, else 0, ``[Q]``."""
    found: Bools = np.asarray(results.relevant[:, :k].any(axis=1))
    return found.astype(np.float64)


def precision_at_k(results: RankedResults, k: int) -> Floats:
    """For each query the share of the first k results that are relevant, ``[Q]``."""
    share: Floats = results.relevant[:, :k].sum(axis=1) / k
    return share


def recall_at_k(results: RankedResults, k: int) -> Floats:
    """For each query the share of its relevant documents among the first k results, ``[Q]``."""
    share: Floats = results.relevant[:, :k].sum(axis=1) / results.relevant_docs
    return share


def mrr_at_k(results: RankedResults, k: int) -> Floats:
    """For each query 1 / the rank of its first relevant result, 0 if that is beyond k, ``[Q]``."""
    relevant = results.relevant[:, :k]
    first = relevant.argmax(axis=1) + 1
    reciprocal_ranks: Floats = np.where(relevant.any(axis=1), 1 / first, 0.0)
    return reciprocal_ranks


def ndcg_at_k(results: RankedResults, k: int) -> Floats:
    """For each query its discounted cumulative gain over the best there could be, ``[Q]``.

    ``DCG@k = Σ gain_i / log2(i + 1)`` over ranks i = 1 … k, linear in the grade (Järvelin and Kekäläinen,
    2002), as trec_eval and with it BEIR compute it; not ``2^gain − 1``.
    """
    ndcg: Floats = _dcg(results.gains[:, :k]) / _dcg(results.ideal_gains[:, :k])
    return ndcg


def _dcg(gains: Floats) -> Floats:
    # cumsum adds one after the other, as the reference does; sum would round in another order.
    dcg: Floats = (gains / np.log2(np.arange(2, gains.shape[1] + 2))).cumsum(axis=1)[:, -1]
    return dcg


def map_at_k(results: RankedResults, k: int) -> Floats:
    """For each query its average precision: the mean of precision@i over the ranks i ≤ k of
    relevant results, those not found counting 0, ``[Q]``."""
    relevant = results.relevant[:, :k]
    precisions = relevant.cumsum(axis=1) / np.arange(1, relevant.shape[1] + 1)
    average: Floats = (relevant * precisions).cumsum(axis=1)[:, -1] / np.minimum(k, results.relevant_docs)
    return average


# ---- binary classification ----------------------------------------------------------------------


class Cuts(NamedTuple):
    """The places where a list of scores, best first, can be cut in two: after each group of equals.

    Attributes:
        scores: ``[G]``, the score of each group.
        predicted: ``[G]``, how many items are in this group and those before it.
        correct: ``[G]``, how many of these are positive.
    """

    scores: Floats
    predicted: Integers
    correct: Integers


def cuts(scores: Floats, labels: Bools, greater_is_better: bool = True) -> Cuts:
    """Sorts ``[n]`` scores, best first, and counts at every cut; ``labels`` is ``[n]``."""
    order = np.argsort(-scores if greater_is_better else scores, kind="stable")
    scores, labels = scores[order], labels[order]
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    return Cuts(scores[last], last + 1, labels.cumsum()[last])


def best_accuracy(scores: Floats, labels: Bools, greater_is_better: bool = True) -> tuple[float, Any]:
    """The highest accuracy that any threshold reaches, and that threshold.

    The threshold lies midway between the scores around it, in the scores' own type; of equally good
    ones it is the strictest, which calls the fewest pairs similar.
    """
    ordered = cuts(scores, labels, greater_is_better)
    false_positives = ordered.predicted - ordered.correct
    negatives = len(labels) - labels.sum()
    accuracies = (ordered.correct + (negatives - false_positives)) / len(labels)
    best = int(accuracies.argmax())
    if accuracies[best] > negatives / len(labels):
        return float(accuracies[best]), _midway(ordered.scores, best)
    # Nothing beats calling every pair dissimilar.
    beyond = np.array(np.inf if greater_is_better else -np.inf, dtype=scores.dtype)
    return float(negatives / len(labels)), np.nextafter(ordered.scores[0], beyond)


def best_f1(scores: Floats, labels: Bools, greater_is_better: bool = True) -> tuple[float, float, float, Any]:
    """The highest F1 that any threshold reaches, with its precision, recall and threshold (as in
    :func:`best_accuracy`). All 0 when there is no positive label."""
    if not labels.any():
        return 0, 0, 0, 0
    ordered = cuts(scores, labels, greater_is_better)
    precision, recall = ordered.correct / ordered.predicted, ordered.correct / labels.sum()
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    best = int(f1.argmax())
    return float(f1[best]), float(precision[best]), float(recall[best]), _midway(ordered.scores, best)


def _midway(scores: Floats, index: int) -> Any:
    """Between this group's score and the next one's, but never the next one's itself."""
    if index == len(scores) - 1:
        return scores[index]
    middle = (scores[index] + scores[index + 1]) / 2
    return scores[index] if middle == scores[index + 1] else middle


def average_precision(scores: Floats, labels: Bools) -> float:
    """``Σ (R_i − R_{i−1}) P_i`` over the cuts, of scores ``[n]`` where greater is better: the area
    under the precision–recall curve, in steps. 0 when there is no positive label."""
    if not labels.any():
        return 0.0
    ordered = cuts(scores, labels)
    precision, recall = ordered.correct / ordered.predicted, ordered.correct / ordered.correct[-1]
    steps = np.diff(recall, prepend=0.0) * precision
    return float(steps[::-1].sum())  # from the last cut to the first: scikit-learn's order, and so its rounding


def matthews_corrcoef(labels: Bools, predicted: Bools) -> float:
    """Matthews' correlation of true and predicted labels, ``[n]`` each; 0 where either is constant."""
    n, positives, claimed = float(len(labels)), float(labels.sum()), float(predicted.sum())
    correct = float((labels == predicted).sum())
    covariance = correct * n - (positives * claimed + (n - positives) * (n - claimed))
    variances = (n**2 - (claimed**2 + (n - claimed) ** 2)) * (n**2 - (positives**2 + (n - positives) ** 2))
    return 0.0 if variances == 0 else float(covariance / np.sqrt(variances))
