"""A training step: minilm's loop beside SentenceTransformerTrainer, on the same pairs in the same order.

A step is the time from one call of the optimiser to the next, tokenising included, which torch's own
hook shows for both alike.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.figures import Spread, ratios
from benchmarks.machine import peak_memory_mib
from benchmarks.measure import Say, Workers, turns
from benchmarks.worker import Settings

# name → what it is; of minilm's, "padded" has the reference's bits.
TRAININGS = {
    "st-fp32": "SentenceTransformerTrainer fp32",
    "st-bf16": "SentenceTransformerTrainer bf16",
    "minilm-padded-fp32": "minilm padded fp32",
    "minilm-packed-fp32": "minilm packed fp32",
    "minilm-packed-bf16": "minilm packed bf16",
}
BASELINE = "st-fp32"
WARM_UP = 2  # steps


class Trainings:
    """What the worker of a training contender does."""

    def __init__(self, settings: Settings, name: str):
        import torch

        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.trainer, *layout, precision = name.split("-")
        self.layout = layout[0] if layout else None
        self.options: dict[str, Any] = {"bf16": precision == "bf16", "seed": 42}

    def run(self, pairs: Mapping[str, list[str]], batch_size: int, steps: int, max_seq_length: int) -> dict[str, Any]:
        """Trains anew from the published weights: the seconds and the loss of each step after the first."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        at: list[float] = []
        hook = register_optimizer_step_post_hook(lambda *_: at.append(self._now()))
        options = self.options | {
            "max_steps": WARM_UP + steps,
            "per_device_train_batch_size": batch_size,
            "logging_steps": 1,
            "save_strategy": "no",
        }
        try:
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run = self._theirs if self.trainer == "st" else self._ours
                losses = run(Path(folder) / "run", pairs, max_seq_length, options)
        finally:
            hook.remove()
        seconds = [after - before for before, after in pairwise(at)]
        return {"seconds": seconds[WARM_UP - 1 :], "losses": losses}

    def peak_memory_mib(self) -> float:
        """See :meth:`Encodings.peak_memory_mib`."""
        return peak_memory_mib(self.settings.device)

    def _now(self) -> float:
        if self.settings.device != "cpu":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def _theirs(
        self, folder: Path, pairs: Mapping[str, list[str]], length: int, options: dict[str, Any]
    ) -> list[float]:
        from datasets import Dataset
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        from minilm.parity import load_reference

        logging.getLogger("transformers").setLevel(logging.ERROR)
        on_cpu = self.settings.device == "cpu"
        model = load_reference(Path(self.settings.folder)).to(self.settings.device)
        model.max_seq_length = length
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(folder), report_to="none", use_cpu=on_cpu, disable_tqdm=True, **options
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(dict(pairs)),
            loss=MultipleNegativesRankingLoss(model),
        )
        trainer.train()
        return [line["loss"] for line in trainer.state.log_history if "loss" in line]

    def _ours(self, folder: Path, pairs: Mapping[str, list[str]], length: int, options: dict[str, Any]) -> list[float]:
        from minilm import SentenceEncoder
        from minilm.training import PairDataset, TrainingRecipe, train
        from minilm.training.log import read_log

        model = SentenceEncoder.from_pretrained(self.settings.folder, device=self.settings.device)
        model.max_seq_length = length
        recipe = TrainingRecipe.trainer(layout=self.layout, **options)
        train(model, PairDataset("pairs", dict(pairs)), recipe, output_dir=folder, show_progress_bar=False)
        return [line["loss"] for line in read_log(folder / "training_log.jsonl") if "loss" in line]


def measure_training(
    workers: Workers,
    pairs: Mapping[str, list[str]],
    *,
    batch_size: int,
    steps: int,
    max_seq_length: int,
    rounds: int,
    say: Say,
) -> dict[str, dict[str, Any]]:
    """Runs every contender for some steps, ``rounds`` times; the median step of each round counts."""
    steps = max(1, min(steps, len(pairs["anchor"]) // batch_size - WARM_UP))  # within one epoch
    rows = batch_size * (WARM_UP + steps)
    data = {column: list(texts[:rows]) for column, texts in pairs.items()}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for i, name in turns(list(workers), rounds):
        runs[name].append(workers[name].call("run", data, batch_size, steps, max_seq_length))
        say(f"  round {i + 1} of {rounds}: {TRAININGS[name]}")
    medians = {name: [Spread.of(run["seconds"]).median for run in found] for name, found in runs.items()}
    return {
        name: {
            "step_seconds": Spread.of(medians[name]),
            "ratio": ratios(medians[BASELINE], medians[name]),
            "losses": found[0]["losses"],
            "same_losses": found[0]["losses"] == runs[BASELINE][0]["losses"],
            "memory_mib": workers[name].call("peak_memory_mib"),
        }
        for name, found in runs.items()
    }
