"""A training run with its records: the loop of trainer.py, then the receipt and the model card."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from minilm.checkpoint import weights_sha256
from minilm.errors import MinilmError
from minilm.evaluation.sequential import one_evaluator
from minilm.sentence_encoder import SentenceEncoder
from minilm.training.data import PairDataset
from minilm.training.log import LOG_FILE, read_log
from minilm.training.losses import MultipleNegativesRankingLoss
from minilm.training.model_card import EvaluationCard, describe_run
from minilm.training.processes import Processes
from minilm.training.receipt import make_receipt
from minilm.training.recipe import TrainingRecipe
from minilm.training.trainer import TrainingResult, train


def train_with_records(
    model: SentenceEncoder,
    datasets: PairDataset | Sequence[PairDataset],
    recipe: TrainingRecipe | None = None,
    *,
    output_dir: str | os.PathLike[str],
    loss: nn.Module | None = None,
    evaluator: Any = None,
    base_model: str | None = None,
    base_model_revision: str | None = None,
    data_files: Sequence[str | os.PathLike[str]] = (),
    card_samples: bool = True,
    show_progress_bar: bool | None = None,
) -> TrainingResult:
    """:func:`minilm.training.train`, and then ``training_receipt.json`` and ``README.md`` beside the
    result. Its arguments and errors are that function's, and:

    Args:
        base_model, base_model_revision: what ``model`` is on the hub, for card and receipt; unless given, what
            it was loaded by, if its weights are still those. A folder's path is not written to them.
        data_files: the file of each data set, in order, for the receipt.
        card_samples: whether the card may show texts of the data.
    """
    recipe = recipe or TrainingRecipe.trainer()
    datasets = [datasets] if isinstance(datasets, PairDataset) else list(datasets)
    loss = loss if loss is not None else MultipleNegativesRankingLoss()
    evaluator = one_evaluator(evaluator)
    base_weights = weights_sha256(model.encoder)
    frozen = [name for name, parameter in model.encoder.named_parameters() if not parameter.requires_grad]
    origin = _origin(model, base_weights)
    started = time.monotonic()
    result = train(
        model,
        datasets,
        recipe,
        output_dir=Path(output_dir),
        loss=loss,
        evaluator=evaluator,
        show_progress_bar=show_progress_bar,
    )
    # A resumed run's earlier part was not timed.
    seconds = None if recipe.resume_from_checkpoint else time.monotonic() - started
    processes = Processes()
    if not processes.first:
        processes.wait()  # until the records are there
        return result
    if recipe.name == "fit" and evaluator is not None:
        # fit leaves the best evaluation's weights in the folder, the last step's in the model.
        model = SentenceEncoder.from_pretrained(output_dir, device=model.device)
    if base_model is None:
        base_model, base_model_revision = origin or (None, None)
    elif Path(base_model).exists():
        base_model = None  # a path of this machine says nothing elsewhere, and may say too much
    receipt = make_receipt(
        output_dir,
        model,
        datasets,
        recipe,
        loss,
        base_weights=base_weights,
        global_step=result.global_step,
        evaluator=evaluator,
        base_model=base_model,
        base_model_revision=base_model_revision,
        data_files=data_files,
        frozen=frozen,
    )
    receipt.save(output_dir)
    log = read_log(Path(output_dir) / LOG_FILE)
    primary = f"eval_{getattr(evaluator, 'primary_metric', None) or 'evaluator'}"
    kept = _kept_evaluation(log, result, recipe, primary)
    metrics = result.metrics if kept is None else {k: v for k, v in kept.items() if k.startswith("eval_")}
    card = describe_run(
        model,
        {dataset.name: dataset.columns for dataset in datasets},
        card_samples=card_samples,
        base_model=base_model,
        base_model_revision=base_model_revision,
        loss=type(loss).__name__,
        loss_config={name: value for name, value in receipt.loss.items() if name != "class"},
        hyperparameters=receipt.recipe,
        defaults=TrainingRecipe.trainer().to_dict(),
        evaluations=_evaluations(evaluator, metrics),
        training_log=[_card_row(row, primary) for row in log],
        best_step=None if kept is None else kept["step"],
        training_seconds=seconds,
    )
    card.save(output_dir)
    processes.wait()
    return result


def _origin(model: SentenceEncoder, weights: str) -> tuple[str, str | None] | None:
    """The name and revision that a model was loaded by, if its weights are those."""
    if model.origin is None:
        return None
    try:
        loaded = SentenceEncoder.from_pretrained(model.origin.folder, device="cpu", dtype=model.dtype)
    except MinilmError:
        return None
    return (model.origin.name, model.origin.revision) if weights_sha256(loaded.encoder) == weights else None


def _evaluations(evaluator: Any, metrics: dict[str, float]) -> list[EvaluationCard]:
    plain = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    parts = getattr(evaluator, "evaluators", [evaluator])  # of a SequentialEvaluator, whose metrics are theirs
    cards = []
    for part in parts if plain else []:
        name = getattr(part, "name", "") or ""
        own = plain if len(parts) == 1 else {k: v for k, v in plain.items() if k.startswith(f"{name}_")}
        cards.append(
            EvaluationCard(
                type(part).__name__,
                name,
                own,
                getattr(part, "primary_metric", None),
                getattr(part, "description", None),
                getattr(part, "get_config_dict", dict)(),
            )
        )
    return cards


def _card_row(row: dict[str, Any], primary: str) -> dict[str, Any]:
    """A line of the log with, of an evaluation, the primary metric alone."""
    kept = {name: value for name, value in row.items() if not name.startswith("eval_")}
    return kept | ({primary.removeprefix("eval_"): row[primary]} if primary in row else {})


def _kept_evaluation(
    log: Sequence[dict[str, Any]], result: TrainingResult, recipe: TrainingRecipe, primary: str
) -> dict[str, Any] | None:
    """The line of the log with the evaluation of the weights that were kept, when not the last ones."""
    if result.best_metric is None or not (recipe.load_best_model_at_end or recipe.name == "fit"):
        return None
    metric = f"eval_{recipe.metric_for_best_model.removeprefix('eval_')}" if recipe.metric_for_best_model else primary
    return next((row for row in log if row.get(metric) == result.best_metric), None)
