"""Fine-tunes a model on files of pairs.

  minilm train pairs.jsonl --output out/ --num_train_epochs 1
  torchrun --nproc_per_node 2 -m minilm train pairs.jsonl --output out/ --gather_across_devices

Every setting of the recipe (minilm/training/recipe.py) is an option of the same name, with dashes too.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from minilm.errors import InputError
from minilm.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator, SequentialEvaluator
from minilm.sentence_encoder import SentenceEncoder
from minilm.similarity import SIMILARITY
from minilm.tables import read_table
from minilm.terminal import note, say
from minilm.training.data import PairDataset
from minilm.training.losses import (
    DIRECTIONS,
    HARDNESS_MODES,
    PARTITION_MODES,
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from minilm.training.processes import Processes, join_processes
from minilm.training.recipe import REFUSED, TrainingRecipe, refusal
from minilm.training.run import train_with_records


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``minilm train``."""
    parser.add_argument(
        "pairs",
        nargs="+",
        metavar="PAIRS",
        help="JSONL, CSV or TSV with the columns anchor, positive and maybe negatives, in this order, whatever their "
        "names; several files are several data sets",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder for model, log and checkpoints")
    parser.add_argument("--model", help="a folder, or a model's name on the hub (default: all-MiniLM-L6-v2)")
    parser.add_argument(
        "--recipe",
        choices=["trainer", "fit"],
        default="trainer",
        help="whose defaults to take: SentenceTransformerTrainer's, or those of SentenceTransformer.fit (default: "
        "trainer)",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME",
        help="the columns to use, in this order, by name, or by number from 1 in files without a header; of "
        "--eval_pairs too (default: all)",
    )
    parser.add_argument("--max_seq_length", "--max-seq-length", type=int, help="cut texts at this many tokens")
    parser.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")

    loss = parser.add_argument_group("loss")
    loss.add_argument("--scale", type=float, default=20.0, help="one over the temperature (default: 20)")
    loss.add_argument(
        "--similarity",
        choices=list(SIMILARITY),
        default="cosine",
        help="of anchor and document (default: cosine)",
    )
    loss.add_argument(
        "--directions",
        nargs="+",
        choices=DIRECTIONS,
        default=["query_to_doc"],
        metavar="NAME",
        help=f"what an anchor and its positive are told from, of {', '.join(DIRECTIONS)} (default: query_to_doc)",
    )
    loss.add_argument(
        *_flags("partition_mode"),
        choices=PARTITION_MODES,
        default="joint",
        help="several directions: one sum over all, or the mean of each one's (default: joint)",
    )
    loss.add_argument(
        *_flags("hardness_mode"), choices=HARDNESS_MODES, help="which negatives weigh more the nearer they are"
    )
    loss.add_argument(
        *_flags("hardness_strength"), type=float, default=0.0, metavar="X", help="by how much (default: 0)"
    )
    loss.add_argument(
        "--mini_batch_size",
        "--mini-batch-size",
        type=int,
        metavar="N",
        help="embed N texts at a time, for batches that do not fit into memory (the cached loss)",
    )
    loss.add_argument(
        "--gather_across_devices",
        "--gather-across-devices",
        action="store_true",
        help="take the texts of all processes as negatives",
    )

    evaluation = parser.add_argument_group(
        "evaluation while training", "after each epoch, unless --eval_strategy says otherwise"
    )
    evaluation.add_argument(
        "--eval_pairs",
        "--eval-pairs",
        metavar="FILE",
        help="held-out pairs: how well does each anchor find its positive among all?",
    )
    evaluation.add_argument(
        "--eval_columns",
        "--eval-columns",
        nargs="+",
        metavar="NAME",
        help="the columns of --eval_pairs, where they are others",
    )
    evaluation.add_argument(
        "--eval_sts", "--eval-sts", metavar="FILE", help="pairs and how similar they are: sentence1, sentence2, score"
    )
    evaluation.add_argument(
        "--eval_sts_columns",
        "--eval-sts-columns",
        nargs="+",
        metavar="NAME",
        help="what the file of --eval_sts calls these three, or their numbers",
    )
    parser.add_argument(
        "--no_card_samples",
        "--no-card-samples",
        action="store_true",
        help="keep the texts of the data out of the model card",
    )

    recipe = parser.add_argument_group("recipe", "named as in Hugging Face's TrainingArguments")
    hints = get_type_hints(TrainingRecipe)
    for field in dataclasses.fields(TrainingRecipe):
        if field.name != "name":
            _add_setting(recipe, field.name, hints[field.name], field.default, field.metadata["meaning"])
    for name in REFUSED:
        recipe.add_argument(*_flags(name), dest=name, action=_Refuse, nargs="*", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Runs ``minilm train``; returns the exit status.

    Raises:
        MinilmError: the data, the model or an option cannot be used, or training had to stop.
    """
    settings = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainingRecipe) if hasattr(args, f.name)}
    datasets = [PairDataset.from_file(path, args.columns) for path in args.pairs]
    evaluator = _evaluator(args, datasets[0])
    if evaluator is not None and args.recipe == "trainer":
        settings.setdefault("eval_strategy", "epoch")
    recipe = TrainingRecipe.fit(**settings) if args.recipe == "fit" else TrainingRecipe.trainer(**settings)
    names = "scale gather_across_devices directions partition_mode hardness_mode hardness_strength".split()
    options = {name: getattr(args, name) for name in names} | {"similarity_fct": SIMILARITY[args.similarity][0]}
    loss = (
        MultipleNegativesRankingLoss(**options)
        if args.mini_batch_size is None
        else CachedMultipleNegativesRankingLoss(**options, mini_batch_size=args.mini_batch_size)
    )
    model = SentenceEncoder.from_pretrained(args.model, device=join_processes(args.device))
    if Processes().first:
        for path, dataset in zip(args.pairs, datasets, strict=True):
            note(f"minilm train: {path}: {len(dataset):,} rows; columns {', '.join(dataset.columns)}")
    if args.max_seq_length is not None:
        model.max_seq_length = args.max_seq_length
    result = train_with_records(
        model,
        datasets,
        recipe,
        output_dir=args.output,
        loss=loss,
        evaluator=evaluator,
        data_files=args.pairs,
        card_samples=not args.no_card_samples,
    )
    if Processes().first:
        say(f"{result.global_step:,} steps, mean loss {result.training_loss:.4f}; the model is in {args.output}")
        if result.best_metric is not None:
            say(f"best evaluation: {result.best_metric:.4f}")
    return 0


def retrieval_evaluator(pairs: PairDataset, batch_size: int = 32) -> InformationRetrievalEvaluator:
    """How well anchors find their positives among all positives of some held-out pairs. Equal texts
    count once; an anchor with several positives has found one when it finds any."""
    anchors, positives = list(pairs.columns.values())[:2]
    queries = {text: f"q{i}" for i, text in enumerate(dict.fromkeys(anchors))}
    corpus = {text: f"d{i}" for i, text in enumerate(dict.fromkeys(positives))}
    relevant: dict[str, set[str]] = {}
    for anchor, positive in zip(anchors, positives, strict=True):
        relevant.setdefault(queries[anchor], set()).add(corpus[positive])
    return InformationRetrievalEvaluator(
        {key: text for text, key in queries.items()},
        {key: text for text, key in corpus.items()},
        relevant,
        batch_size=batch_size,
        name=pairs.name,
    )


def _evaluator(args: argparse.Namespace, trained_on: PairDataset) -> Any:
    evaluators: list[Any] = []
    if args.eval_pairs is not None:
        evaluators.append(retrieval_evaluator(_held_out_pairs(args, trained_on)))
    if args.eval_sts is not None:
        table = read_table(args.eval_sts, ("sentence1", "sentence2", "score"), called=args.eval_sts_columns)
        pairs = table.texts("sentence1"), table.texts("sentence2"), table.numbers("score")
        evaluators.append(EmbeddingSimilarityEvaluator(*pairs, name=Path(args.eval_sts).stem))
    return SequentialEvaluator(evaluators) if len(evaluators) > 1 else next(iter(evaluators), None)


def _held_out_pairs(args: argparse.Namespace, trained_on: PairDataset) -> PairDataset:
    """The pairs of ``--eval_pairs``: its columns are those of ``--eval_columns``, or else of ``--columns``."""
    try:
        pairs = PairDataset.from_file(args.eval_pairs, args.eval_columns or args.columns)
    except InputError as error:
        if args.columns is None or args.eval_columns is not None:
            raise
        raise InputError(f"{error}. Where --eval_pairs has other columns than --columns, give --eval_columns") from None
    found, expected = list(pairs.columns), list(trained_on.columns)
    if args.eval_columns is None and found != expected and sorted(found) == sorted(expected):
        raise InputError(
            f"{args.eval_pairs} has the columns {', '.join(found)}, training has them in the order "
            f"{', '.join(expected)}; give --columns for both, or --eval_columns for this file"
        )
    return pairs


def _add_setting(group: Any, name: str, hint: Any, default: Any, meaning: str) -> None:
    shown = "the recipe's" if name in _DIFFERS else default
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": f"{meaning} (default: {shown})"}
    options["help"] = options["help"].replace("%", "%%")
    types = [t for t in get_args(hint) if t is not type(None)]
    if get_origin(hint) is Literal:
        options["choices"] = get_args(hint)
    elif hint is bool or types == [bool]:
        options |= {"type": _boolean, "nargs": "?", "const": True, "metavar": "True|False"}
    elif bool in types:
        options |= {"type": _boolean_or_text, "nargs": "?", "const": True, "metavar": "CHECKPOINT|True"}
    else:
        kind = types[0] if types else hint
        options |= {"type": kind, "metavar": {int: "N", float: "X", str: "NAME"}[kind]}
    group.add_argument(*_flags(name), **options)


# The settings that the two recipes' defaults give different values.
_DIFFERS = {name for name, value in TrainingRecipe.fit().to_dict().items() if value != TrainingRecipe().to_dict()[name]}


def _flags(name: str) -> list[str]:
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def _boolean_or_text(text: str) -> bool | str:
    return text.lower() == "true" if text.lower() in ("true", "false") else text


class _Refuse(argparse.Action):
    """An option of TrainingArguments that has no meaning here; says so when it is used."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> NoReturn:
        raise refusal(self.dest)
