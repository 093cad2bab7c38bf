"""What is measured, in what order: everyone takes turns, round after round.

The order moves on by one each round, so that nobody always runs after the same neighbour, and a
short rest between two lets the threads of the one go to sleep before the other begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from benchmarks.contenders import precision_of
from benchmarks.figures import Spread, check_vectors, flop, ratios
from benchmarks.texts import Corpus
from benchmarks.worker import WorkerError
from minilm.config import EncoderConfig

Say = Callable[[str], None]

SAMPLE = 256  # texts on which the batch size is chosen
REST = 0.3  # seconds


class Answering(Protocol):
    """A worker, or in tests something that answers like one."""

    name: str

    def call(self, method: str, *arguments: Any) -> Any: ...


Workers = Mapping[str, Answering]


def turns(names: Sequence[str], rounds: int) -> Iterable[tuple[int, str]]:
    """(round, name), everyone once a round."""
    for i in range(rounds):
        shift = i % max(len(names), 1)
        for name in (*names[shift:], *names[:shift]):
            time.sleep(REST)
            yield i, name


def measure_speed(
    workers: Workers,
    corpus: Corpus,
    *,
    reference: str,
    baseline: str,
    rounds: int,
    batch_sizes: Sequence[int],
    say: Say,
) -> dict[str, dict[str, Any]]:
    """Encodes the corpus with every contender, ``rounds`` times.

    Each first encodes a sample in every batch size. It goes on with the fastest of those in which its
    vectors of the whole corpus are right, and is refused when there is none.

    Args:
        reference: the contender whose float32 vectors are the right ones.
        baseline: the contender that the others' times are divided by.

    Returns:
        name → batch size, vector check, seconds of each round, texts/s and ratio with their spread;
        or name → why it was refused.
    """
    for worker in workers.values():
        worker.call("put", corpus.name, corpus.texts)
        worker.call("put", "sample", corpus.texts[:: max(1, len(corpus.texts) // SAMPLE)])
    expected = workers[reference].call("vectors", corpus.name, batch_sizes[0])
    results: dict[str, dict[str, Any]] = {}
    for name, worker in workers.items():
        try:
            results[name] = _choose(worker, corpus, expected, batch_sizes)
        except WorkerError as error:
            results[name] = {"refused": str(error)}
        chosen = results[name].get("batch_size")
        say(f"  {name}: " + (f"batches of {chosen}" if chosen else f"refused, {results[name]['refused']}"))
    if "refused" in results[baseline]:
        raise WorkerError(f"the baseline {baseline} was refused: {results[baseline]['refused']}", "")

    racing = [name for name in workers if "refused" not in results[name]]
    seconds: dict[str, list[float]] = {name: [] for name in racing}
    for i, name in turns(racing, rounds):
        seconds[name].append(workers[name].call("seconds", corpus.name, results[name]["batch_size"]))
        if all(len(times) > i for times in seconds.values()):
            say(f"  round {i + 1} of {rounds}")
    for name in racing:
        results[name] |= {
            "seconds": seconds[name],
            "texts_per_second": Spread.of(len(corpus.texts) / s for s in seconds[name]),
            "tokens_per_second": Spread.of(sum(corpus.lengths) / s for s in seconds[name]),
            "ratio": ratios(seconds[baseline], seconds[name]),
        }
    return results


def _choose(worker: Answering, corpus: Corpus, expected: np.ndarray, batch_sizes: Sequence[int]) -> dict[str, Any]:
    worker.call("seconds", "sample", batch_sizes[0])  # whatever is done once
    tried = {size: worker.call("seconds", "sample", size) for size in batch_sizes}
    problems = []
    for size in sorted(tried, key=lambda size: tried[size]):
        check = check_vectors(worker.call("vectors", corpus.name, size), expected, precision_of(worker.name))
        if check.problem is None:
            return {"batch_size": size, "check": check, "wrong_at": problems}
        problems.append({"batch_size": size, "check": check})
    return {"refused": problems[0]["check"].problem, "wrong_at": problems}  # type: ignore[attr-defined]


class GemmRates:
    """GFLOP/s of the model's matrix products on this machine, measured before and after each corpus."""

    def __init__(self, worker: Answering, dtypes: Sequence[str]):
        self.worker = worker
        self.rates: dict[str, list[float]] = {dtype: [] for dtype in dtypes}

    def measure(self, rounds: int) -> None:
        for _, dtype in turns(list(self.rates), rounds):
            self.rates[dtype].append(self.worker.call("rate", dtype))

    def spreads(self) -> dict[str, Spread]:
        return {dtype: Spread.of(rates) for dtype, rates in self.rates.items()}


def add_gemm_share(
    results: Mapping[str, dict[str, Any]], corpus: Corpus, config: EncoderConfig, gemm: Mapping[str, Spread]
) -> None:
    """Adds to each result which part of the machine's own rate it reaches, in the type it computes in;
    int8 has no rate to compare with in torch's public functions."""
    work = flop(config, corpus.lengths)
    for name, result in results.items():
        limit = gemm.get({"fp32": "float32", "bf16": "bfloat16"}.get(precision_of(name), ""))
        if limit and "seconds" in result:
            result["gemm_share"] = work / Spread.of(result["seconds"]).median / 1e9 / limit.median


def measure_latency(
    workers: Workers, queries: Mapping[int, str], *, baseline: str, rounds: int, repeats: int
) -> dict[str, dict[int, dict[str, Spread]]]:
    """Milliseconds of one query, by its number of tokens: the median of each round's repeats. And
    what part of the baseline's time that is."""
    times: dict[str, dict[int, list[float]]] = {name: {length: [] for length in queries} for name in workers}
    for _, name in turns(list(workers), rounds):
        for length, text in queries.items():
            seconds = workers[name].call("query_seconds", text, repeats)
            times[name][length].append(1000 * Spread.of(seconds).median)
    return {
        name: {
            length: {"milliseconds": Spread.of(found), "part": ratios(found, times[baseline][length])}
            for length, found in by_length.items()
        }
        for name, by_length in times.items()
    }


def measure_growth(
    workers: Workers, texts: Sequence[str], counts: Sequence[int], batch_sizes: Mapping[str, int], rounds: int
) -> dict[str, dict[int, dict[str, Any]]]:
    """Seconds, and the peak of memory so far, for more and more texts; the smallest count first."""
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in workers}
    for count in sorted(counts):
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        for worker in workers.values():
            worker.call("put", "growth", list(texts[:count]))
        for _, name in turns(list(workers), rounds):
            seconds[name].append(workers[name].call("seconds", "growth", batch_sizes[name]))
        for name, worker in workers.items():
            found[name][count] = {"seconds": Spread.of(seconds[name]), "memory_mib": worker.call("peak_memory_mib")}
    return found
