"""A training run in a process of its own, for the tests that kill it, starve it or run two of it.

training_child.py MODEL OUTPUT SETTINGS.json [kill-at N | full-disk-after STEP | distributed]
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from training_runs import docstring_pairs

from minilm import SentenceEncoder
from minilm.training import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
    PairDataset,
    TrainingRecipe,
    train,
)
from minilm.training.processes import join_processes

model_path, output, settings, how, number = [*sys.argv[1:], "", "0"][:5]
torch.set_num_threads(1)
events = 0


def count(event: str, arguments: tuple[Any, ...]) -> None:
    """Counts what touches the output folder, and dies at the event of the number that was asked for."""
    global events
    if any(isinstance(a, (str, bytes, Path)) and os.path.basename(output) in str(a) for a in arguments):
        events += 1
        if events == int(number):
            os.kill(os.getpid(), signal.SIGKILL)


class FullDisk:
    """An evaluator after which no file may grow beyond 5 MB: less than a checkpoint's moments."""

    def __call__(self, model: Any, output_path: Any, epoch: float, steps: int) -> float:
        if steps == int(number):
            resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, resource.RLIM_INFINITY))
        return 0.0


if __name__ == "__main__":
    if how == "kill-at":
        sys.addaudithook(count)
    options = json.loads(settings)
    loss: Any = MultipleNegativesRankingLoss(gather_across_devices=how == "distributed")
    if (size := options.pop("mini_batch_size", None)) is not None:
        loss = CachedMultipleNegativesRankingLoss(gather_across_devices=True, mini_batch_size=size)
    join_processes()
    train(
        SentenceEncoder.from_pretrained(model_path, device="cpu"),
        PairDataset("pairs", docstring_pairs(80)),
        TrainingRecipe.trainer(**options),
        output_dir=output,
        loss=loss,
        evaluator=FullDisk() if how == "full-disk-after" else None,
    )
    print(events)
