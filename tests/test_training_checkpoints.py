"""Runs that are killed, resumed, starved of disk space or split over processes."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import (
    Run,
    assert_same_bits,
    assert_same_weights,
    docstring_pairs,
    model_weights,
    our_run,
    write_tiny_model,
)

from minilm import SentenceEncoder
from minilm.errors import CheckpointError, InputError, NonFiniteError
from minilm.tolerances import TRAINING_REORDERED
from minilm.training import PairDataset, TrainingRecipe, train
from minilm.training.checkpoints import checkpoints
from minilm.training.log import read_log

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*over the limit", "ignore:.*repeat an earlier one"),
]

TESTS = Path(__file__).parent
PAIRS = {"pairs": docstring_pairs(80)}
RUN: dict[str, Any] = {"per_device_train_batch_size": 16, "num_train_epochs": 2, "save_steps": 3, "save_total_limit": 2}


def start(model: Path, output: Path, settings: dict[str, Any], *how: str, processes: int = 0) -> Any:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes else []
    command = [sys.executable, *torchrun, str(TESTS / "training_child.py"), str(model), str(output)]
    return subprocess.Popen(
        [*command, json.dumps(settings), *how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"},
    )


def child(*arguments: Any, **options: Any) -> Any:
    process = start(*arguments, **options)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def whole(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A run that nobody interrupted, and how often it touched its folder."""
    output = tmp_path_factory.mktemp("whole") / "output"
    finished = child(tiny_bert, output, RUN, "kill-at", "0")
    assert finished.returncode == 0, finished.stderr
    return output, int(finished.stdout.split()[-1])


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_any_moment_it_ends_with_the_same_bits(
    seed: int, whole: tuple[Path, int], tiny_bert: Path, tmp_path: Path
) -> None:
    expected, events = whole
    moment = random.Random(seed).randint(events * seed // 5, events * (seed + 1) // 5)
    output = tmp_path / "output"
    killed = child(tiny_bert, output, RUN, "kill-at", str(max(1, moment)))
    assert killed.returncode == -9, killed.stderr
    for checkpoint in checkpoints(output):
        SentenceEncoder.from_pretrained(checkpoint)  # what has the name is whole
    settings = {**RUN, "resume_from_checkpoint": True}
    if seed == 2:  # killed again, on the way back
        assert child(tiny_bert, output, settings, "kill-at", "60").returncode == -9
    our_run(tiny_bert, PAIRS, output, TrainingRecipe.trainer(**settings))
    assert_same_weights(model_weights(output), model_weights(expected))
    assert (output / "training_log.jsonl").read_bytes() == (expected / "training_log.jsonl").read_bytes()
    assert files(output) == files(expected)


@pytest.mark.parametrize("lines", [1, 6])
def test_killed_from_outside_while_it_computes(
    lines: int, whole: tuple[Path, int], tiny_bert: Path, tmp_path: Path
) -> None:
    log = tmp_path / "output" / "training_log.jsonl"
    with start(tiny_bert, tmp_path / "output", RUN) as process:
        while not log.exists() or log.read_bytes().count(b"\n") < lines:
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    recipe = TrainingRecipe.trainer(**RUN, resume_from_checkpoint=True)
    our_run(tiny_bert, PAIRS, tmp_path / "output", recipe)
    assert_same_weights(model_weights(tmp_path / "output"), model_weights(whole[0]))
    assert log.read_bytes() == (whole[0] / "training_log.jsonl").read_bytes()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


class Recall:
    """An evaluator whose best is in the middle of a run."""

    primary_metric = "recall"

    def __call__(self, model: Any, output_path: Any, epoch: float, steps: int) -> dict[str, float]:
        return {"recall": float(-abs(steps - 7))}


EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        (PAIRS, {"gradient_accumulation_steps": 3}),
        (PAIRS, {"batch_sampler": "no_duplicates", "layout": "packed"}),
        (PAIRS, {"logging_steps": 3, "warmup_steps": 4}),
        (PAIRS, {"logging_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 4}),
        (PAIRS, {**EVALUATED, "load_best_model_at_end": True}),
        (PAIRS, {"name": "fit", "warmup_steps": 2, "optim": "adamw_torch", **EVALUATED}),
        ({"a": docstring_pairs(50), "b": docstring_pairs(30, skip=50)}, {"weight_decay": 0.1}),
        (
            {"pairs": {name: [*texts[:20], *texts[:1] * 60] for name, texts in PAIRS["pairs"].items()}},
            {
                "batch_sampler": "no_duplicates",
                "dataloader_drop_last": True,
                "per_device_train_batch_size": 10,
                "gradient_accumulation_steps": 4,
                "num_train_epochs": 4,
                "save_strategy": "epoch",
            },
        ),
    ],
    ids=["accumulation", "packed", "sparse log", "epochs", "best", "fit", "two data sets", "leftover gradient"],
)
def test_resumed_from_each_checkpoint_it_ends_with_the_same_bits(
    data: dict[str, Any], settings: dict[str, Any], tiny_bert: Path, tmp_path: Path
) -> None:
    settings = {"num_train_epochs": 2, "save_steps": 1, **settings}
    options = {"evaluator": Recall()} if "eval_strategy" in settings else {}
    output = tmp_path / "output"
    whole = our_run(tiny_bert, data, output, TrainingRecipe.trainer(**settings), **options)
    found = checkpoints(output)
    assert len(found) > 2
    for checkpoint in (found[0], found[len(found) // 2], found[-1]):
        recipe = TrainingRecipe.trainer(**settings, resume_from_checkpoint=str(checkpoint))
        resumed = our_run(tiny_bert, data, output, recipe, **options)
        inputs = whole.inputs[len(whole.inputs) - len(resumed.inputs) :]
        assert_same_bits(resumed, Run(whole.log, inputs, whole.weights, whole.random_state))


def test_another_run_is_not_continued(whole: tuple[Path, int], tiny_bert: Path) -> None:
    output, _ = whole
    model = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    recipe = TrainingRecipe.trainer(**RUN, resume_from_checkpoint=True)
    with pytest.raises(InputError, match=r"learning_rate was 5e-05, is 0\.1"):
        train(model, PairDataset("pairs", PAIRS["pairs"]), recipe.replace(learning_rate=0.1), output_dir=output)
    with pytest.raises(InputError, match="data pairs was"):
        train(model, PairDataset("pairs", docstring_pairs(79)), recipe, output_dir=output)
    model.max_seq_length = 20
    with pytest.raises(InputError, match="model max_seq_length was 48, is 20"):
        train(model, PairDataset("pairs", PAIRS["pairs"]), recipe, output_dir=output)


def test_a_broken_checkpoint_is_said_to_be(whole: tuple[Path, int], tiny_bert: Path, tmp_path: Path) -> None:
    broken = tmp_path / "checkpoint-3"
    broken.mkdir()
    model = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    recipe = TrainingRecipe.trainer(**RUN, resume_from_checkpoint=str(broken))
    with pytest.raises(InputError, match="is no checkpoint"):
        train(model, PairDataset("pairs", PAIRS["pairs"]), recipe, output_dir=tmp_path)
    good = checkpoints(whole[0])[0]
    for file in ("training_state.json", "training_state.safetensors"):
        (broken / file).write_bytes((good / file).read_bytes()[:1000])
    with pytest.raises(CheckpointError):
        train(model, PairDataset("pairs", PAIRS["pairs"]), recipe, output_dir=tmp_path)


def test_a_full_disk_loses_no_checkpoint(whole: tuple[Path, int], tiny_bert: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    settings = {**RUN, "eval_strategy": "steps", "eval_steps": 5}
    failed = child(tiny_bert, output, settings, "full-disk-after", "5")
    assert failed.returncode == 1
    assert "cannot write" in failed.stderr and "checkpoint-6" in failed.stderr
    assert f"the last good checkpoint is {output / 'checkpoint-3'}" in failed.stderr
    assert [path.name for path in checkpoints(output)] == ["checkpoint-3"]
    assert not list(output.glob(".checkpoint*"))
    recipe = TrainingRecipe.trainer(**settings, resume_from_checkpoint=True)
    resumed = our_run(tiny_bert, PAIRS, output, recipe, evaluator=lambda *_, **__: 0.0)
    assert resumed.log[-2]["step"] == 10


def test_numbers_that_are_not_finite_stop_the_run(tiny_bert: Path, tmp_path: Path) -> None:
    model = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    recipe = TrainingRecipe.trainer(learning_rate=1e30, save_steps=1, max_grad_norm=0.0)
    data = PairDataset("quora", PAIRS["pairs"])
    with pytest.raises(NonFiniteError, match=r"of step 2 is (nan|inf)") as caught:
        train(model, data, recipe, output_dir=tmp_path / "output")
    assert f"none of the 1 checkpoints in {tmp_path / 'output'} is good" in str(
        caught.value
    )  # its vectors are not finite
    assert "quora rows" in str(caught.value)
    assert caught.value.step == 2
    rows = list(zip(*PAIRS["pairs"].values(), strict=True))
    assert len(caught.value.texts) == 8 and all(tuple(row) in rows for row in caught.value.texts)


@pytest.mark.parametrize("kind", ["plain", "cached", "accumulated"])
def test_two_processes_train_as_one(kind: str, tmp_path: Path, weights: Path) -> None:
    """Cross-device negatives, dropout off: two processes of 8 pairs give what one of 16 gives."""
    model = write_tiny_model(tmp_path / "model", weights, dropout=0.0)
    settings: dict[str, Any] = {"num_train_epochs": 2, "learning_rate": 1e-3, "save_steps": 4}
    if kind == "accumulated":
        settings["gradient_accumulation_steps"] = 2
    one = our_run(model, PAIRS, tmp_path / "one", TrainingRecipe.trainer(per_device_train_batch_size=16, **settings))
    if kind == "cached":
        settings["mini_batch_size"] = 3
    finished = child(model, tmp_path / "two", settings, "distributed", processes=2)
    assert finished.returncode == 0, finished.stderr
    log = read_log(tmp_path / "two" / "training_log.jsonl")
    assert len(log) == len(one.log)
    for ours, theirs in zip(log, one.log, strict=True):
        assert ours == pytest.approx(theirs, rel=TRAINING_REORDERED)
    base, two = model_weights(model), model_weights(tmp_path / "two")
    update = torch.cat([(one.weights[name] - base[name]).flatten() for name in base])
    error = torch.cat([(two[name] - one.weights[name]).flatten() for name in base])
    assert error.norm() < TRAINING_REORDERED * update.norm()


def test_two_processes_resume_to_the_same_bits(tiny_bert: Path, tmp_path: Path) -> None:
    """Each process has random numbers of its own to go on with, and losses that no line of the log has yet."""
    settings: dict[str, Any] = {"num_train_epochs": 2, "save_steps": 4, "logging_steps": 3}
    assert child(tiny_bert, tmp_path / "out", settings, "distributed", processes=2).returncode == 0
    before, log = model_weights(tmp_path / "out"), read_log(tmp_path / "out" / "training_log.jsonl")
    settings["resume_from_checkpoint"] = str(tmp_path / "out" / "checkpoint-4")
    resumed = child(tiny_bert, tmp_path / "out", settings, "distributed", processes=2)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_weights(model_weights(tmp_path / "out"), before)
    assert read_log(tmp_path / "out" / "training_log.jsonl") == log
