"""Is a difference between two models more than the luck of the draw? The paired bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minilm.errors import InputError
from minilm.evaluation.evaluator import Outcome
from minilm.progress import progress


@dataclass(frozen=True)
class Difference:
    """How much more the second of two models has of the primary metric.

    Attributes:
        value: second less first.
        low, high: the ends of the interval; NaN where fewer than half of the resamples have a value.
        confidence: the share of such intervals, over many data sets, that hold the true difference.
        resamples: how often the items were drawn.
        seed: of the draws.
        undefined: how many resamples have no value, such as a correlation of one pair drawn over and
            over; the interval is that of the others.
    """

    value: float
    low: float
    high: float
    confidence: float
    resamples: int
    seed: int
    undefined: int


def paired_bootstrap(
    first: Outcome, second: Outcome, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> Difference:
    """A confidence interval for the difference of two models in the primary metric.

    Draws as many items as there are, with replacement, the same for both models; measures both
    anew, correlations and average precisions included; and takes the percentiles of the differences
    (Efron, 1979; for systems on the same data Koehn, 2004). The models count as given: it says what
    other pairs, queries or triplets of the same kind would change, not what another seed of their
    training would.

    Args:
        first, second: outcomes of one evaluator.

    Raises:
        InputError: the outcomes are of different data, or an argument is out of range.
    """
    if first.items != second.items:
        raise InputError(f"the models were measured on {first.items:,} and {second.items:,} items, expected the same")
    if resamples < 1:
        raise InputError(f"resamples is {resamples}, expected at least 1")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}, expected a share between 0 and 1")
    if seed < 0:
        raise InputError(f"seed is {seed}, expected at least 0")
    generator = np.random.default_rng(seed)
    differences = np.empty(resamples)
    with progress(resamples, "Bootstrap", unit=" resamples") as bar:
        for draw in range(resamples):
            items = generator.integers(first.items, size=first.items)
            differences[draw] = second.resample(items) - first.resample(items)
            bar.update()
    defined = differences[~np.isnan(differences)]
    low = high = float("nan")
    if 2 * len(defined) >= resamples:
        tail = (1 - confidence) / 2
        low, high = (float(end) for end in np.quantile(defined, (tail, 1 - tail)))
    value = second.metrics[second.primary_metric] - first.metrics[first.primary_metric]
    return Difference(value, low, high, confidence, resamples, seed, resamples - len(defined))
