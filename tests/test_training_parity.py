"""Training against sentence-transformers' trainer: the same bits, dropout on, batch by batch."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses as reference_losses
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from sentence_transformers.sentence_transformer.readers import InputExample
from torch.utils.data import DataLoader
from training_runs import (
    Run,
    assert_same_bits,
    assert_same_weights,
    docstring_pairs,
    model_weights,
    our_run,
)

from minilm import SentenceEncoder
from minilm.training import CachedMultipleNegativesRankingLoss, PairDataset, TrainingRecipe
from minilm.training.batches import batches_per_epoch, epoch_batches

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*over the limit", "ignore:.*repeat an earlier one"),
]

PAIRS = {"pairs": docstring_pairs(86)}
HARD = {"pairs": {**docstring_pairs(86), "negative": docstring_pairs(86, skip=20)["positive"]}}
MORE = docstring_pairs(86, skip=31)["anchor"]
HARDER = {"pairs": {**PAIRS["pairs"], "negative_1": HARD["pairs"]["negative"], "negative_2": MORE}}
# One name begins with the other and an underscore, which makes the reference embed each column by itself.
HARDER_APART = {"pairs": {**HARD["pairs"], "negative_2": MORE}}
TWO = {"first": docstring_pairs(50), "second": docstring_pairs(36, skip=50)}
UNEQUAL = {"small": docstring_pairs(9), "large": docstring_pairs(77, skip=9), "middle": docstring_pairs(30, skip=40)}
REPEATED = {"pairs": {name: [texts[i % 37] for i in range(86)] for name, texts in docstring_pairs(86).items()}}
ONE_TEXT_OFTEN = {"pairs": {name: texts[:30] + [texts[0]] * 56 for name, texts in docstring_pairs(86).items()}}
CROSSED = {  # most anchors twice, and some of them as positives of others
    "pairs": {
        "anchor": [PAIRS["pairs"]["anchor"][i // 2] for i in range(86)],
        "positive": [PAIRS["pairs"]["positive" if i % 5 else "anchor"][i // 2 + 1] for i in range(86)],
    }
}


class MeanSimilarity(SentenceEvaluator):
    """The mean similarity of some pairs; works for both libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.primary_metric = "similarity"

    def __call__(self, model: Any, output_path: Any = None, epoch: float = -1, steps: int = -1) -> dict[str, float]:
        options = {"layout": "padded", "truncation": "silent"} if isinstance(model, SentenceEncoder) else {}
        texts = docstring_pairs(12)
        first, second = (model.encode(column, convert_to_tensor=True, **options) for column in texts.values())
        return {"similarity": (first @ second.T).diagonal().mean().item()}  # a product that autocast would round


def reference_run(
    folder: Path,
    data: dict[str, dict[str, list[str]]],
    output_dir: Path,
    evaluator: Any = None,
    loss: str = "MultipleNegativesRankingLoss",
    **arguments: Any,
) -> Run:
    model = SentenceTransformer(str(folder), device="cpu")
    inputs = watch(model)
    settings = {"logging_steps": 1, "report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    datasets = DatasetDict({name: Dataset.from_dict(columns) for name, columns in data.items()})
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(output_dir=str(output_dir), **(settings | arguments)),
        train_dataset=next(iter(datasets.values())) if len(datasets) == 1 else datasets,
        loss=getattr(reference_losses, loss)(model),
        evaluator=evaluator,
    )
    trainer.train()
    state = torch.get_rng_state()
    log = []
    for line in trainer.state.log_history:
        if "loss" in line:
            log.append({key: line[key] for key in ("step", "epoch", "loss", "grad_norm", "learning_rate")})
        elif "eval_similarity" in line:
            log.append({key: line[key] for key in ("step", "epoch", "eval_similarity")})
    model.save_pretrained(str(output_dir / "model"))
    return Run(log, inputs, model_weights(output_dir / "model"), state)


def watch(model: SentenceTransformer) -> list[torch.Tensor]:
    inputs: list[torch.Tensor] = []

    def note(_: Any, arguments: Any) -> None:
        if model.training:
            inputs.append(arguments[0]["input_ids"])

    model.register_forward_pre_hook(note)
    return inputs


VARIANTS: dict[str, tuple[dict[str, dict[str, list[str]]], dict[str, Any]]] = {
    "default": (PAIRS, {"num_train_epochs": 1}),
    "several epochs": (PAIRS, {"num_train_epochs": 2}),
    "part of an epoch": (PAIRS, {"num_train_epochs": 1.5}),
    "another seed": (PAIRS, {"seed": 7, "num_train_epochs": 2}),
    "data seed": (PAIRS, {"data_seed": 11, "num_train_epochs": 2}),
    "data seed, no duplicates": (REPEATED, {"data_seed": 11, "batch_sampler": "no_duplicates", "max_steps": 5}),
    "weight decay": (PAIRS, {"weight_decay": 0.01, "num_train_epochs": 1}),
    "warm-up steps": (PAIRS, {"warmup_steps": 4, "num_train_epochs": 1}),
    "warm-up ratio": (PAIRS, {"warmup_ratio": 0.3, "num_train_epochs": 1}),
    "warm-up longer than the run": (PAIRS, {"warmup_steps": 100, "num_train_epochs": 1}),
    "accumulation": (PAIRS, {"gradient_accumulation_steps": 4, "num_train_epochs": 2}),
    "accumulation, drop last": (
        PAIRS,
        {"gradient_accumulation_steps": 3, "dataloader_drop_last": True, "num_train_epochs": 2},
    ),
    "drop last": (PAIRS, {"dataloader_drop_last": True, "num_train_epochs": 2}),
    "max steps": (PAIRS, {"max_steps": 13}),
    "batch larger than the data": (PAIRS, {"per_device_train_batch_size": 200, "num_train_epochs": 2}),
    "no duplicates": (REPEATED, {"batch_sampler": "no_duplicates", "num_train_epochs": 2}),
    "no duplicates, across columns": (CROSSED, {"batch_sampler": "no_duplicates", "num_train_epochs": 2}),
    "no duplicates, drop last": (
        REPEATED,
        {
            "batch_sampler": "no_duplicates",
            "dataloader_drop_last": True,
            "per_device_train_batch_size": 30,
            "num_train_epochs": 2,
        },
    ),
    "no duplicates, too few batches": (
        ONE_TEXT_OFTEN,
        {
            "batch_sampler": "no_duplicates",
            "dataloader_drop_last": True,
            "per_device_train_batch_size": 12,
            "gradient_accumulation_steps": 4,
            "num_train_epochs": 2,
        },
    ),
    "hard negatives": (HARD, {"num_train_epochs": 1}),
    "two hard negatives": (HARDER, {"num_train_epochs": 1}),
    "two hard negatives, one named after the other": (HARDER_APART, {"num_train_epochs": 1}),
    "round robin": (TWO, {"multi_dataset_batch_sampler": "round_robin", "num_train_epochs": 2}),
    "proportional": (UNEQUAL, {"num_train_epochs": 2}),
    "proportional, drop last": (UNEQUAL, {"num_train_epochs": 2, "dataloader_drop_last": True}),
    "proportional, no duplicates": (UNEQUAL, {"batch_sampler": "no_duplicates", "num_train_epochs": 2}),
    "round robin, no duplicates": (
        TWO,
        {"batch_sampler": "no_duplicates", "multi_dataset_batch_sampler": "round_robin", "num_train_epochs": 2},
    ),
    "evaluation half-way": (PAIRS, {"eval_strategy": "steps", "eval_steps": 5, "num_train_epochs": 1}),
    "evaluation each epoch": (PAIRS, {"eval_strategy": "epoch", "num_train_epochs": 2}),
    "cosine": (PAIRS, {"lr_scheduler_type": "cosine", "warmup_steps": 3, "num_train_epochs": 1}),
    "constant": (PAIRS, {"lr_scheduler_type": "constant", "warmup_steps": 3, "max_steps": 5}),
    "constant with warm-up": (
        PAIRS,
        {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 3, "max_steps": 5},
    ),
    "no clipping": (PAIRS, {"max_grad_norm": 0.0, "max_steps": 5}),
    "hard clipping": (PAIRS, {"max_grad_norm": 0.1, "max_steps": 5}),
    "unfused AdamW": (PAIRS, {"optim": "adamw_torch", "max_steps": 5}),
    "betas and epsilon": (PAIRS, {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6, "max_steps": 5}),
    "log every third step": (PAIRS, {"logging_steps": 3, "max_steps": 8}),
    "log every tenth of the run": (PAIRS, {"logging_steps": 0.1, "num_train_epochs": 3}),
    "log each epoch": (PAIRS, {"logging_strategy": "epoch", "num_train_epochs": 2}),
    "gradient checkpointing": (PAIRS, {"gradient_checkpointing": True, "max_steps": 5}),
    "bfloat16": (PAIRS, {"bf16": True, "max_steps": 5}),
    "bfloat16, evaluated": (PAIRS, {"bf16": True, "max_steps": 4, "eval_strategy": "steps", "eval_steps": 2}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_trainer(variant: str, tiny_bert: Path, tmp_path: Path) -> None:
    data, settings = VARIANTS[variant]
    evaluator = MeanSimilarity() if "eval_strategy" in settings else None
    theirs = reference_run(tiny_bert, data, tmp_path / "theirs", evaluator, **settings)
    recipe = TrainingRecipe.trainer(save_strategy="no", **settings)
    assert_same_bits(our_run(tiny_bert, data, tmp_path / "ours", recipe, evaluator=evaluator), theirs)


def test_cached_loss(tiny_bert: Path, tmp_path: Path) -> None:
    theirs = reference_run(
        tiny_bert,
        PAIRS,
        tmp_path / "theirs",
        loss="CachedMultipleNegativesRankingLoss",
        max_steps=3,
        per_device_train_batch_size=40,
    )
    recipe = TrainingRecipe.trainer(save_strategy="no", max_steps=3, per_device_train_batch_size=40)
    ours = our_run(
        tiny_bert, PAIRS, tmp_path / "ours", recipe, loss=CachedMultipleNegativesRankingLoss(mini_batch_size=32)
    )
    assert_same_bits(ours, theirs)


@pytest.mark.parametrize(
    "settings",
    [
        {"save_strategy": "steps", "save_steps": 4, "save_total_limit": 2},
        {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 3, "greater_is_better": False},
        {"save_strategy": "best", "save_total_limit": 1},
    ],
    ids=["steps", "lowest", "best"],
)
def test_best_model_at_the_end(settings: dict[str, Any], tiny_bert: Path, tmp_path: Path) -> None:
    settings = {
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "similarity",
        **settings,
    }
    theirs = reference_run(tiny_bert, PAIRS, tmp_path / "theirs", MeanSimilarity(), **settings)
    ours = our_run(tiny_bert, PAIRS, tmp_path / "ours", TrainingRecipe.trainer(**settings), evaluator=MeanSimilarity())
    assert_same_bits(ours, theirs)
    kept = {path.name for path in (tmp_path / "theirs").glob("checkpoint-*")}
    assert {path.name for path in (tmp_path / "ours").glob("checkpoint-*")} == kept


@pytest.mark.parametrize(
    ("data", "settings", "epochs"),
    [
        (PAIRS, {"warmup_steps": 10000}, 1),
        (PAIRS, {"warmup_steps": 3}, 2),
        (TWO, {"warmup_steps": 2, "weight_decay": 0.1, "optimizer_params": {"lr": 1e-3}}, 2),
    ],
    ids=["default", "short warm-up", "two data sets"],
)
def test_fit(data: Any, settings: dict[str, Any], epochs: int, tiny_bert: Path, tmp_path: Path) -> None:
    """``fit`` logs no steps of its own, so the losses are those that its loss modules gave."""
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    inputs = watch(model)
    values: list[float] = []
    objectives = []
    for columns in data.values():
        loss = reference_losses.MultipleNegativesRankingLoss(model)
        loss.register_forward_hook(lambda _, __, output: values.append(output.item()))
        examples = [InputExample(texts=list(row)) for row in zip(*columns.values(), strict=True)]
        objectives.append((DataLoader(examples, batch_size=16, shuffle=False), loss))
    model.fit(
        objectives,
        epochs=epochs,
        show_progress_bar=False,
        checkpoint_path=None,
        output_path=str(tmp_path / "theirs"),
        **settings,
    )
    state = torch.get_rng_state()

    changed = {key: value for key, value in settings.items() if key != "optimizer_params"}
    changed |= {"learning_rate": settings["optimizer_params"]["lr"]} if "optimizer_params" in settings else {}
    recipe = TrainingRecipe.fit(per_device_train_batch_size=16, num_train_epochs=epochs, **changed)
    ours = our_run(tiny_bert, data, tmp_path / "ours", recipe)
    assert [line["loss"] for line in ours.log] == values
    assert_same_bits(ours, Run(ours.log, inputs, model_weights(tmp_path / "theirs"), state))


class SameOrder:
    """Our batches, as a batch sampler for the reference's loader: epoch after epoch."""

    def __init__(self, data: PairDataset, recipe: TrainingRecipe) -> None:
        self.data, self.recipe, self.epoch = data, recipe, -1

    def __iter__(self) -> Iterator[list[int]]:
        self.epoch += 1
        return (batch.rows for batch in epoch_batches([self.data], self.recipe, self.epoch))

    def __len__(self) -> int:
        return batches_per_epoch([self.data], self.recipe)


def test_old_fit_in_the_same_order(tiny_bert: Path, tmp_path: Path) -> None:
    """The loop from before version 3 takes its batches as the loader gives them, shuffled by the
    process's generator or not at all, so only that order has to be handed to it."""
    settings: dict[str, Any] = {"weight_decay": 0.01, "warmup_steps": 4}
    recipe = TrainingRecipe.trainer(
        optim="adamw_torch", learning_rate=2e-5, num_train_epochs=2, save_strategy="no", **settings
    )
    ours = our_run(tiny_bert, PAIRS, tmp_path / "ours", recipe)

    model = SentenceTransformer(str(tiny_bert), device="cpu")
    inputs = watch(model)
    values: list[float] = []
    loss = reference_losses.MultipleNegativesRankingLoss(model)
    loss.register_forward_hook(lambda _, __, output: values.append(output.item()))
    examples = [InputExample(texts=list(row)) for row in zip(*PAIRS["pairs"].values(), strict=True)]
    loader = DataLoader(examples, batch_sampler=SameOrder(PairDataset("pairs", PAIRS["pairs"]), recipe))
    torch.manual_seed(recipe.seed)
    model.old_fit([(loader, loss)], epochs=2, show_progress_bar=False, output_path=str(tmp_path / "theirs"), **settings)
    assert [line["loss"] for line in ours.log] == values
    theirs = Run(ours.log, inputs, model_weights(tmp_path / "theirs"), ours.random_state)
    assert_same_bits(ours, theirs)


def test_fit_keeps_the_best_evaluation(tiny_bert: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    loss = reference_losses.MultipleNegativesRankingLoss(model)
    examples = [InputExample(texts=list(row)) for row in zip(*PAIRS["pairs"].values(), strict=True)]
    settings: dict[str, Any] = {"epochs": 3, "warmup_steps": 2, "optimizer_params": {"lr": 1e-2}}
    settings["evaluation_steps"] = 4
    loader = DataLoader(examples, batch_size=16, shuffle=False)
    model.fit(
        [(loader, loss)], MeanSimilarity(), show_progress_bar=False, output_path=str(tmp_path / "theirs"), **settings
    )
    recipe = TrainingRecipe.fit(
        per_device_train_batch_size=16,
        num_train_epochs=3,
        warmup_steps=2,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=4,
    )
    ours = our_run(tiny_bert, PAIRS, tmp_path / "ours", recipe, evaluator=MeanSimilarity())
    assert_same_weights(ours.weights, model_weights(tmp_path / "theirs"))


@pytest.mark.parametrize("threads", [1, 2])
def test_real_weights(threads: int, weights: Path, tmp_path: Path) -> None:
    torch.set_num_threads(threads)
    settings: dict[str, Any] = {"per_device_train_batch_size": 16, "max_steps": 6 if threads == 2 else 2}
    theirs = reference_run(weights, PAIRS, tmp_path / "theirs", **settings)
    ours = our_run(weights, PAIRS, tmp_path / "ours", TrainingRecipe.trainer(save_strategy="no", **settings))
    assert_same_bits(ours, theirs)
