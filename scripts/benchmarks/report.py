"""What was measured, as tables, as JSON and as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import label
from benchmarks.figures import Spread
from benchmarks.texts import Corpus
from benchmarks.training import TRAININGS
from minilm.checkpoint import atomic_path


def head(machine: Mapping[str, Any], versions: Mapping[str, str], settings: Mapping[str, Any]) -> Iterator[str]:
    """The lines that say what was measured where."""
    load = machine["load_average"]
    yield f"machine   {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
    yield f"flags     {' '.join(machine['flags']) or 'not known'}"
    yield f"versions  Python {machine['python']}, " + ", ".join(
        f"{name} {version}" for name, version in versions.items()
    )
    threads, rounds, date = settings["threads"], settings["rounds"], settings["date"]
    yield f"run       {threads} threads each, device {settings['device']}, {rounds} rounds, {date}"
    if settings["force_isa"]:
        yield (
            f"forced    {settings['force_isa']} for torch and oneDNN; ONNX Runtime chooses its kernels by CPUID and "
            "cannot be forced, and of OpenVINO see the kernels that it names below"
        )
    if load is not None and load > 0.5:
        yield f"ATTENTION the load average was {load} at the start: something else runs here, and the figures suffer"


def speed_table(corpus: Corpus, results: Mapping[str, Mapping[str, Any]], baseline: str) -> Iterator[str]:
    """The main table, the fastest first; what was refused below it."""
    lengths = corpus.lengths
    yield (
        f"{corpus.name}: {len(lengths):,} distinct texts of {corpus.source}, {sum(lengths):,} tokens "
        f"(mean {sum(lengths) / len(lengths):.0f}, at most {max(lengths)})"
    )
    yield (
        f"{'':28}{'texts/s':>9}  {'(min … max)':18}{'ratio':>7}  {'(min … max)':16}{'tokens/s':>9}{'GEMM':>7}"
        f"{'batch':>7}   cosine mean, min; largest difference"
    )
    ranked = [name for name in results if "seconds" in results[name]]
    for name in sorted(ranked, key=lambda name: -results[name]["ratio"].median):
        row = results[name]
        speed, ratio, check = row["texts_per_second"], row["ratio"], row["check"]
        share = f"{row['gemm_share']:.0%}" if "gemm_share" in row else ""
        yield (
            f"{label(name):28}{speed.median:9,.0f}  {f'({speed.lowest:,.0f} … {speed.highest:,.0f})':18}"
            f"{ratio.median:7.2f}  {f'({ratio.lowest:.2f} … {ratio.highest:.2f})':16}"
            f"{row['tokens_per_second'].median:9,.0f}{share:>7}{row['batch_size']:7}   "
            f"{check.mean_cosine:.5f}, {check.smallest_cosine:.5f}; {check.largest_difference:.1e}"
        )
    yield f"ratio: against {label(baseline)}, median of the rounds; GEMM: share of the machine's own rate"
    for name, row in results.items():
        for wrong in row.get("wrong_at", ()):
            yield f"{label(name)}, batches of {wrong['batch_size']}: WRONG VECTORS, {wrong['check'].problem}"
        if "refused" in row:
            yield f"{label(name)}: REFUSED, not ranked: {row['refused']}"


def gemm_table(gemm: Mapping[str, Spread]) -> Iterator[str]:
    yield "the machine's own rate for the model's matrix products, GFLOP/s: " + ", ".join(
        f"{dtype} {rate.median:,.0f} ({rate.lowest:,.0f} … {rate.highest:,.0f})" for dtype, rate in gemm.items()
    )


def contender_table(contenders: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield f"{'':28}{'load':>8}{'memory: loaded':>16}{'peak':>12}   computes in"
    for name, row in contenders.items():
        if "refused" in row:
            yield f"{label(name):28}could not be loaded: {row['refused']}"
            continue
        peak = f"{row['peak_memory_mib']:6,.0f} MiB" if "peak_memory_mib" in row else ""
        loaded = f"{row['load_seconds']:6.2f} s{row['loaded_memory_mib']:12,.0f} MiB"
        yield f"{label(name):28}{loaded}{peak:>12}   {row['precision']}"


def latency_table(latency: Mapping[str, Mapping[int, Mapping[str, Spread]]], baseline: str) -> Iterator[str]:
    """Medians; their spread is in the JSON."""
    lengths = list(next(iter(latency.values())))
    yield f"one query, warm, by its number of tokens: milliseconds, and the part of {label(baseline)}'s time"
    yield f"{'':28}" + "".join(f"{length:>17}" for length in lengths)
    for name, row in latency.items():
        cells = (f"{cell['milliseconds'].median:10.2f} {cell['part'].median:6.2f}" for cell in row.values())
        yield f"{label(name):28}" + "".join(cells)


def growth_table(growth: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Iterator[str]:
    counts = list(next(iter(growth.values())))
    yield "more texts, short: microseconds a text (min … max), and the peak of memory so far in MiB"
    yield f"{'':28}" + "".join(f"{f'{count:,} texts':>34}" for count in counts)
    for name, row in growth.items():
        cells = []
        for count, cell in row.items():
            s = cell["seconds"]
            low, mid, high = (1e6 * value / count for value in (s.lowest, s.median, s.highest))
            cells.append(f"{mid:,.0f} ({low:,.0f} … {high:,.0f}) {cell['memory_mib']:8,.0f}")
        yield f"{label(name):28}" + "".join(f"{cell:>34}" for cell in cells)


def training_table(training: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield f"{'':34}{'step, ms':>10}  {'(min … max)':20}{'ratio':>7}  {'(min … max)':16}{'memory':>12}   losses"
    for name, row in training.items():
        step, ratio = row["step_seconds"], row["ratio"]
        spread = f"({1e3 * step.lowest:,.0f} … {1e3 * step.highest:,.0f})"
        losses = "equal to the bit" if row["same_losses"] else f"last {row['losses'][-1]:.4f}"
        yield (
            f"{TRAININGS[name]:34}{1e3 * step.median:10,.0f}  {spread:20}{ratio.median:7.2f}  "
            f"{f'({ratio.lowest:.2f} … {ratio.highest:.2f})':16}{row['memory_mib']:8,.0f} MiB   {losses}"
        )


def write_json(path: str, report: Mapping[str, Any]) -> None:
    """Everything, raw seconds included."""
    with atomic_path(path) as file:
        file.write_text(json.dumps(_plain(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Data classes as dicts; what is not a finite number, which JSON cannot say, as null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(path: str, corpora: Sequence[Corpus], report: Mapping[str, Any]) -> None:
    """Bars of the ratios, a panel for each corpus, and the latency by length where it was measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator

    latency = report.get("latency")
    panels = len(corpora) + bool(latency)
    figure, axes = plt.subplots(1, panels, figsize=(5.5 * panels, 4.2), squeeze=False, layout="constrained")
    for axis, corpus in zip(axes[0], corpora, strict=False):
        results = report["texts"][corpus.name]["results"]
        names = sorted((n for n in results if "ratio" in results[n]), key=lambda n: results[n]["ratio"].median)
        spreads = [results[name]["ratio"] for name in names]
        middles = [s.median for s in spreads]
        errors = [[s.median - s.lowest for s in spreads], [s.highest - s.median for s in spreads]]
        colors = ["tab:blue" if name.startswith("minilm") else "0.65" for name in names]
        bars = axis.barh([label(name) for name in names], middles, xerr=errors, color=colors, ecolor="0.3")
        axis.bar_label(bars, [f" {value:.2f}" for value in middles], padding=4)
        axis.set_xlim(0, 1.2 * max(s.highest for s in spreads))
        axis.set_title(f"{corpus.name}, mean {sum(corpus.lengths) / len(corpus.lengths):.0f} tokens")
        axis.set_xlabel(f"times as fast as {label(report['settings']['baseline'])}")
    if latency:
        axis = axes[0][-1]
        lengths = list(next(iter(latency.values())))
        for name, row in latency.items():
            times = [row[length]["milliseconds"].median for length in lengths]
            axis.plot(lengths, times, "o-", linewidth=2.5 if name.startswith("minilm") else 1, label=label(name))
        axis.set(title="one query", xlabel="tokens", ylabel="milliseconds", xscale="log", yscale="log")
        axis.set_xticks(lengths, [str(length) for length in lengths])
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        axis.legend(fontsize="x-small")
    machine, settings = report["machine"], report["settings"]
    figure.suptitle(f"{machine['cpu']}, {settings['threads']} threads, {settings['date']}", fontsize="medium")
    with atomic_path(path) as file:
        figure.savefig(file, format=Path(path).suffix[1:] or "png", dpi=150)
    plt.close(figure)
