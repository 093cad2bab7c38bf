"""Measures a model on data of yours, or two models side by side.

  minilm evaluate all-MiniLM-L6-v2 --sts pairs.csv
  minilm evaluate all-MiniLM-L6-v2 tuned/ --retrieval DIR

Metrics are those of sentence-transformers' evaluators, under their names. With two models, the
difference in the primary metric has a 95 % interval from a paired bootstrap.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from typing import Any

import torch

from minilm.checkpoint import atomic_path
from minilm.commands.options import check_weights
from minilm.config import DTYPES
from minilm.errors import InputError
from minilm.evaluation.binary_classification import BinaryClassificationEvaluator
from minilm.evaluation.bootstrap import Difference, paired_bootstrap
from minilm.evaluation.evaluator import BaseEvaluator, Outcome
from minilm.evaluation.retrieval import InformationRetrievalEvaluator, load_beir
from minilm.evaluation.similarity import EmbeddingSimilarityEvaluator
from minilm.evaluation.triplets import TripletEvaluator
from minilm.plain_json import to_json
from minilm.sentence_encoder import ENGINES, SentenceEncoder
from minilm.similarity import SIMILARITY
from minilm.tables import Table, read_table
from minilm.terminal import note, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``minilm evaluate``."""
    parser.add_argument("model", help="a folder, or a model's name on the hub")
    parser.add_argument("model_b", nargs="?", help="a second model, to compare with the first")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--sts", metavar="FILE", help="pairs and how similar they are: sentence1, sentence2, score")
    data.add_argument(
        "--retrieval",
        metavar="DIR",
        help="BEIR's layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv; qrels may be TREC's",
    )
    data.add_argument("--triplets", metavar="FILE", help="anchor, positive, negative")
    data.add_argument(
        "--pairs", metavar="FILE", help="pairs that are similar or not: sentence1, sentence2, label (0/1)"
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME",
        help="what the file calls these columns, in their order; or their numbers, from 1, if it has no header",
    )
    parser.add_argument("--split", help="with --retrieval, which qrels (default: test)")
    parser.add_argument(
        "--ignore-identical-ids",
        action="store_true",
        help="with --retrieval, leave out the document with the query's own id (ArguAna, Quora)",
    )
    parser.add_argument(
        "--similarity",
        nargs="+",
        choices=list(SIMILARITY),
        metavar="NAME",
        help=f"measure these similarities, of {', '.join(SIMILARITY)} (default: the model's own)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; '-' prints it in place of the table")
    parser.add_argument("--batch-size", type=int, default=32, help="texts at a time (default: 32)")
    parser.add_argument("--truncate-dim", type=int, metavar="D", help="keep the first D dimensions of each vector")
    parser.add_argument(
        "--layout",
        choices=["packed", "padded"],
        default="packed",
        help="packed is fast; padded gives the bits of sentence-transformers (default: packed)",
    )
    parser.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the computation (default: the checkpoint's)")
    parser.add_argument("--weight-precision", choices=("int8",), help="8-bit weights, in the packed layout")
    parser.add_argument("--engine", choices=ENGINES, default="fast", help="what encodes (default: fast)")
    parser.add_argument("--resamples", type=int, help="draws of the paired bootstrap (default: 1000)")
    parser.add_argument("--seed", type=int, help="of the paired bootstrap (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Runs ``minilm evaluate``; returns the exit status.

    Raises:
        MinilmError: the data, a model or an option cannot be used.
    """
    compares = args.resamples is not None or args.seed is not None
    args.split, split_given = args.split or "test", args.split is not None
    args.resamples = 1000 if args.resamples is None else args.resamples
    args.seed = 0 if args.seed is None else args.seed
    if args.resamples < 1 or args.seed < 0:  # before the models take their time
        raise InputError(f"--resamples is {args.resamples} and --seed {args.seed}, expected at least 1 and at least 0")
    if compares and args.model_b is None:
        raise InputError("--resamples and --seed are of the comparison of two models, but only one is given")
    if split_given and args.retrieval is None:
        raise InputError("--split chooses among the qrels of --retrieval, which is not given")
    if args.ignore_identical_ids and args.retrieval is None:
        raise InputError("--ignore-identical-ids is of --retrieval, which is not given")
    if args.columns and args.retrieval is not None:
        raise InputError(
            "--columns is of --sts, --triplets and --pairs; the files of --retrieval have names of their own"
        )
    evaluator, data, unit = _evaluator(args)
    models = [args.model] if args.model_b is None else [args.model, args.model_b]
    outcomes = [evaluator.evaluate(_load(model, args)) for model in models]
    difference = None
    if len(outcomes) == 2:
        difference = paired_bootstrap(outcomes[0], outcomes[1], args.resamples, args.seed)

    if args.json is not None:
        text = to_json(_result(evaluator, data, unit, models, outcomes, difference), null=True, indent=2)
        if args.json == "-":
            say(*text.split("\n"))
            return 0
        with atomic_path(args.json) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    say(*_table(evaluator, data, unit, models, outcomes, difference).split("\n"))
    return 0


def _evaluator(args: argparse.Namespace) -> tuple[BaseEvaluator, str, str]:
    """The evaluator, where its data are from, and what its items are called."""
    options: dict[str, Any] = {
        "batch_size": args.batch_size,
        "show_progress_bar": None,
        "truncate_dim": args.truncate_dim,
        "layout": args.layout,
    }
    if args.retrieval is not None:
        found = load_beir(args.retrieval, args.split)
        functions = {name: SIMILARITY[name][0] for name in args.similarity} if args.similarity else None
        retrieval = InformationRetrievalEvaluator(
            found.queries,
            found.corpus,
            found.relevant_docs,
            score_functions=functions,
            ignore_identical_ids=args.ignore_identical_ids,
            **options,
        )
        grades = {grade for relevant in found.relevant_docs.values() for grade in relevant.values()}
        graded = f", relevant to a grade of {min(grades):g} to {max(grades):g}" if len(grades) > 1 else ""
        return retrieval, args.retrieval, f"queries in {len(found.corpus):,} documents{graded}"

    options["similarity_fn_names"] = args.similarity
    if args.sts is not None:
        table = _read(args.sts, ("sentence1", "sentence2", "score"), args.columns)
        pairs = table.texts("sentence1"), table.texts("sentence2"), table.numbers("score")
        return EmbeddingSimilarityEvaluator(*pairs, **options), args.sts, "pairs"
    if args.triplets is not None:
        table = _read(args.triplets, ("anchor", "positive", "negative"), args.columns)
        texts = table.texts("anchor"), table.texts("positive"), table.texts("negative")
        return TripletEvaluator(*texts, **options), args.triplets, "triplets"
    table = _read(args.pairs, ("sentence1", "sentence2", "label"), args.columns)
    labels = table.numbers("label")
    for row, label in enumerate(labels):
        if label not in (0, 1):
            raise table.error(row, f"label is {label:g}, expected 0 or 1")
    classification = BinaryClassificationEvaluator(
        table.texts("sentence1"), table.texts("sentence2"), [int(label) for label in labels], **options
    )
    return classification, args.pairs, "pairs"


def _read(path: str, columns: tuple[str, ...], called: list[str] | None) -> Table:
    table = read_table(path, columns, called=called)
    note(f"minilm evaluate: {table}")
    return table


def _load(model: str, args: argparse.Namespace) -> SentenceEncoder:
    dtype = getattr(torch, args.dtype) if args.dtype else None
    loaded = SentenceEncoder.from_pretrained(
        model, device=args.device, dtype=dtype, engine=args.engine, weight_precision=args.weight_precision
    )
    check_weights(loaded, model)
    return loaded


def _result(
    evaluator: BaseEvaluator,
    data: str,
    unit: str,
    models: list[str],
    outcomes: list[Outcome],
    difference: Difference | None,
) -> dict[str, Any]:
    """What ``--json`` writes; NaN becomes null."""
    return {
        "evaluator": type(evaluator).__name__,
        "data": data,
        "items": outcomes[0].items,
        "unit": unit.split()[0],
        "models": [
            {
                "model": model,
                "primary_metric": outcome.primary_metric,
                "metrics": {metric: _or_none(value) for metric, value in outcome.metrics.items()},
            }
            for model, outcome in zip(models, outcomes, strict=True)
        ],
        "difference": difference and {name: _or_none(value) for name, value in asdict(difference).items()},
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _table(
    evaluator: BaseEvaluator,
    data: str,
    unit: str,
    models: list[str],
    outcomes: list[Outcome],
    difference: Difference | None,
) -> str:
    """What is printed."""
    lines = [f"{evaluator.description} on {data}: {outcomes[0].items:,} {unit}"]
    metrics = list(dict.fromkeys(metric for outcome in outcomes for metric in outcome.metrics))
    primary = {outcome.primary_metric for outcome in outcomes}
    rows = []
    for metric in metrics:
        values = [outcome.metrics.get(metric) for outcome in outcomes]
        row = [metric + " *" * (metric in primary), *("" if value is None else f"{value:.4f}" for value in values)]
        if difference is not None and None not in values:
            row.append(f"{values[1] - values[0]:+.4f}")  # type: ignore[operator]  # neither is None
        rows.append(row)
    if difference is None:
        rows.insert(0, ["", models[0]])
    else:
        lines += [f"  A: {models[0]}", f"  B: {models[1]}"]
        rows.insert(0, ["", "A", "B", "B - A"])
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False)),
        ]
        lines.append("  ".join(cells).rstrip())
    lines.append("* primary metric")
    if difference is not None:
        lines += _interval(unit.split()[0], outcomes, difference)
    return "\n".join(lines)


def _interval(unit: str, outcomes: list[Outcome], difference: Difference) -> list[str]:
    first, second = (outcome.primary_metric for outcome in outcomes)
    metric = first if first == second else f"{second} of B less {first} of A"
    lines = [
        f"difference in {metric}: {difference.value:+.4f}, {difference.confidence:.0%} interval "
        f"[{difference.low:+.4f}, {difference.high:+.4f}]",
        f"(paired bootstrap, {difference.resamples:,} resamples of the {outcomes[0].items:,} {unit}, "
        f"seed {difference.seed})",
    ]
    if difference.undefined:
        lines.append(f"({difference.undefined:,} resamples have no value and were left out)")
    return lines
