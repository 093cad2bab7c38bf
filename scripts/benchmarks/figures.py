"""From seconds and vectors to what is printed: spreads, ratios, errors, floating-point operations."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from minilm.config import EncoderConfig
from minilm.tolerances import BENCHMARK_COSINE


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements, with the lowest and the highest."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))


def ratios(baseline: Sequence[float], seconds: Sequence[float]) -> Spread:
    """How many times as fast as the baseline, round by round: a machine whose speed drifts changes both
    times of a round alike."""
    return Spread.of(a / b for a, b in zip(baseline, seconds, strict=True))


@dataclass(frozen=True)
class VectorCheck:
    """How far vectors are from the float32 reference's.

    Attributes:
        problem: why these vectors are wrong, or None.
    """

    mean_cosine: float
    smallest_cosine: float
    largest_difference: float
    problem: str | None


def check_vectors(found: np.ndarray, expected: np.ndarray, precision: str) -> VectorCheck:
    """Compares vectors ``[n, D]`` with the reference's, within what ``precision`` ("fp32", "bf16" or
    "int8") allows: :data:`minilm.tolerances.BENCHMARK_COSINE`."""
    if found.shape != expected.shape:
        return VectorCheck(0.0, 0.0, np.inf, f"the vectors have shape {found.shape}, expected {expected.shape}")
    a, b = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    mean, smallest, largest = float(cosines.mean()), float(cosines.min()), float(np.abs(a - b).max())
    needed_mean, needed_smallest = BENCHMARK_COSINE[precision]
    problem = None
    if not (mean >= needed_mean and smallest >= needed_smallest):  # so that nan is a problem
        wrong = int((~(cosines >= needed_smallest)).sum())
        problem = (
            f"cosine with float32: mean {mean:.6f}, expected at least {needed_mean:g}; smallest {smallest:.6f}, "
            f"expected at least {needed_smallest:g} ({wrong:,} of {len(cosines):,} texts below)"
        )
    return VectorCheck(mean, smallest, largest, problem)


def flop(config: EncoderConfig, lengths: Iterable[int]) -> int:
    """Floating-point operations of the matrix products for texts of ``lengths`` tokens, a
    multiplication and an addition counting as two: per token and layer ``2 · (4 D² + 2 D I)`` in the
    linear maps, and ``4 · T · D`` in attention, whose cost grows with the text's length."""
    D, I = config.hidden_size, config.intermediate_size  # noqa: E741
    linear, attention = 2 * (4 * D * D + 2 * D * I), 4 * D
    return config.num_hidden_layers * sum(length * (linear + length * attention) for length in lengths)
