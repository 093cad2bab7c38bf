"""Runs a training run again from its receipt and says whether the same bits come out.

  minilm reproduce out/ --data pairs.jsonl

First, before any training: is the folder what its receipt says, is the data the run's data, are the
base weights the run's? Then the run, in a folder of its own, and the comparison step by step. The same
bits can be expected on the same kind of processor with the same versions and number of threads.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minilm.checkpoint import weights_sha256
from minilm.errors import CheckpointError, InputError
from minilm.pooling import list_after_pooling
from minilm.sentence_encoder import SentenceEncoder
from minilm.terminal import say
from minilm.tolerances import TRAINING_REORDERED
from minilm.training.data import PairDataset
from minilm.training.log import LOG_FILE, read_log
from minilm.training.processes import Processes, join_processes
from minilm.training.receipt import Receipt, environment
from minilm.training.recipe import TrainingRecipe
from minilm.training.trainer import train

COMPARED = ("loss", "grad_norm", "learning_rate")


@dataclass(frozen=True)
class StepDifference:
    """How far a figure of the log is from the receipt's.

    Attributes:
        first_step: the first step at which it has other bits.
        at_first: the absolute difference there, and ``largest`` the largest of all steps.
        steps: how many steps differ.
    """

    first_step: int
    at_first: float
    largest: float
    steps: int


@dataclass(frozen=True)
class Reproduction:
    """What came out of running a run again.

    Attributes:
        same_bits: every weight, and every step's loss, gradient norm and learning rate are equal.
        differences: figure → how far it is off; figures that are equal throughout are absent.
        weights_differ: tensors with other bits.
        update_error: ``‖w′ − w‖ / ‖w − w₀‖`` over all weights, ``w₀`` the base, ``w`` the result,
            ``w′`` the result of the new run: rounding stays below 3e-4, another run is near 1.
        environment: what differs between then and now, name → (then, now).
        steps: steps compared.
    """

    same_bits: bool
    differences: dict[str, StepDifference]
    weights_differ: list[str]
    update_error: float
    environment: dict[str, tuple[Any, Any]]
    steps: int

    def report(self) -> str:
        """The result in words, several lines."""
        lines = [f"  {name}: then {then}, now {now}" for name, (then, now) in self.environment.items()]
        if lines:
            lines.insert(0, "The environment is not the run's, so other rounding is to be expected:")
        if self.same_bits:
            return "\n".join([*lines, f"The same bits: all weights, and all {self.steps:,} lines of the log."])
        lines.append("Not the same bits.")
        for name, d in self.differences.items():
            lines.append(
                f"  {name}: from step {d.first_step:,} on (by {d.at_first:.3g}), at {d.steps:,} of {self.steps:,} "
                f"lines, at most by {d.largest:.3g}"
            )
        if not self.differences:
            lines.append(f"  all {self.steps:,} lines of the log are equal")
        if self.weights_differ:
            cause = "rounding" if self.update_error <= TRAINING_REORDERED else "more than rounding"
            lines.append(
                f"  weights: {len(self.weights_differ)} tensors differ; relative L2 of the update "
                f"{self.update_error:.3g} ({cause})"
            )
        else:
            lines.append("  weights: all equal")
        return "\n".join(lines)


def reproduce(
    folder: str | os.PathLike[str],
    data: Sequence[str | os.PathLike[str] | PairDataset],
    *,
    base_model: str | os.PathLike[str] | None = None,
    loss: nn.Module | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    device: str | torch.device | None = None,
    show_progress_bar: bool | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Reproduction:
    """Checks a folder against its receipt, trains again, and compares.

    Evaluations are not run again, for they have no part in the weights but through the choice of
    the best: their metrics are read from the log.

    Args:
        folder: a training run's output.
        data: the run's files, or data sets, in its order.
        base_model: the folder or name of the base model; None takes the name in the receipt.
        loss: the run's loss, where it was not one of minilm's with one of minilm's similarities.
        output_dir: keep the new run's folder here; None throws it away.
        threads: None takes the run's number; the process's own is restored afterwards.
        device: None takes the run's kind.
        say: is told what was checked, line by line.

    Raises:
        CheckpointError: the folder does not match its receipt.
        InputError: the data or base weights are not the run's, or the run needs other processes.
    """
    folder = Path(folder)
    receipt = Receipt.load(folder)
    receipt.check_folder(folder)
    say(f"{folder}: {len(receipt.files)} files and the recipe match the receipt")
    if len(data) != len(receipt.data):
        names = ", ".join(record.file or record.name for record in receipt.data)
        raise InputError(f"the run had {len(receipt.data)} data set(s) ({names}), but {len(data)} are given")
    datasets = [
        item if isinstance(item, PairDataset) else PairDataset.from_file(item, record.columns, record.name)
        for item, record in zip(data, receipt.data, strict=True)
    ]
    receipt.check_data(datasets, [i.name if isinstance(i, PairDataset) else os.fspath(i) for i in data])
    say(f"data: {sum(map(len, datasets)):,} rows, the very texts of the run")
    processes, count = Processes(), receipt.environment["processes"]
    if processes.count != count:
        raise InputError(
            f"the run had {count} process(es), this one has {processes.count}; start it by "
            f"torchrun --nproc-per-node {count} -m minilm reproduce …"
        )

    result = SentenceEncoder.from_pretrained(folder, device="cpu")
    if (found := weights_sha256(result.encoder)) != receipt.weights:
        raise CheckpointError(
            f"the weights in {folder} are not the receipt's\n  found    {found}\n  expected {receipt.weights}"
        )
    loss = receipt.make_loss(loss)
    model = SentenceEncoder.from_pretrained(
        base_model or receipt.base_model,
        revision=None if base_model else receipt.base_model_revision,
        device="cpu",
        dtype=getattr(torch, receipt.environment["dtype"]),
    )
    _prepare(model, result, receipt, base_model)
    model.to(device or _device(receipt.environment["device"]))
    for name, parameter in model.encoder.named_parameters():
        parameter.requires_grad_(name not in receipt.frozen)
    say("base weights: the run's")
    before = {name: p.detach().cpu().clone() for name, p in model.encoder.named_parameters()}

    recipe = TrainingRecipe.from_dict(receipt.recipe | {"resume_from_checkpoint": None})
    if not recipe.load_best_model_at_end:
        recipe = recipe.replace(save_strategy="no")
    log = read_log(folder / LOG_FILE)
    replay = None if receipt.evaluator is None else _Replay(log, receipt.evaluator)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads or receipt.environment["threads"])
    try:
        now = environment(model)
        with tempfile.TemporaryDirectory(prefix="minilm-reproduce-") as scratch:
            target = Path(output_dir or Path(scratch) / "run")
            train(
                model,
                datasets,
                recipe,
                output_dir=target,
                loss=loss,
                evaluator=replay,
                show_progress_bar=show_progress_bar,
            )
            outcome = None
            if processes.first:  # the others have written nothing
                again = SentenceEncoder.from_pretrained(target, device="cpu")
                outcome = _compare(receipt, log, read_log(target / LOG_FILE), before, result, again, now)
    finally:
        torch.set_num_threads(threads_before)
    outcome = processes.share(outcome)
    processes.wait()  # one that ended at once would close connections that others still read from
    return outcome  # type: ignore[return-value]  # the first process's is not None


def _prepare(
    model: SentenceEncoder, result: SentenceEncoder, receipt: Receipt, base_model: str | os.PathLike[str] | None
) -> None:
    """Gives the base model the limit of the run, and makes sure that nothing else is another."""
    name = base_model or receipt.base_model or "the published all-MiniLM-L6-v2"
    if (found := weights_sha256(model.encoder)) != receipt.base_weights:
        raise InputError(
            f"the weights of {name} are not those that the run began with; give its base model with --model"
            f"{'' if receipt.base_model else ' (the receipt names none: it was a folder)'}\n"
            f"  found    {found}\n  expected {receipt.base_weights}"
        )
    # Not in the weights' hash, but in the folder, whose files were checked: tokenizer, limit, dropout.
    if model.tokenizer.to_json() != result.tokenizer.to_json():
        raise InputError(f"the tokenizer of {name} is not the run's, though its weights are; give its base model")
    pooling = [(m.pooling.mode, list_after_pooling(m.normalize)) for m in (model, result)]
    if model.encoder.config != result.encoder.config or pooling[0] != pooling[1]:
        raise InputError(f"config.json or the pipeline of {name} is not the run's, though its weights are")
    model.max_seq_length = result.max_seq_length


class _Replay:
    """In place of an evaluator: the metrics that it gave in the run, from the log."""

    def __init__(self, log: Sequence[Mapping[str, Any]], evaluator: Mapping[str, Any]):
        self.primary_metric = evaluator["primary_metric"]
        if evaluator["greater_is_better"] is not None:
            self.greater_is_better = evaluator["greater_is_better"]
        rows = ({k: v for k, v in row.items() if k.startswith("eval_")} | {"step": row["step"]} for row in log)
        self._rows = {row.pop("step"): row for row in rows if len(row) > 1}

    def __call__(self, model: object, output_path: str | None = None, epoch: float = -1, steps: int = -1) -> Any:
        return {name: math.nan if value is None else value for name, value in self._rows.get(steps, {}).items()}


def _compare(
    receipt: Receipt,
    log: Sequence[Mapping[str, Any]],
    log_again: Sequence[Mapping[str, Any]],
    before: Mapping[str, torch.Tensor],
    result: SentenceEncoder,
    again: SentenceEncoder,
    now: Mapping[str, Any],
) -> Reproduction:
    then_rows = {row["step"]: row for row in log if "loss" in row}
    now_rows = {row["step"]: row for row in log_again if "loss" in row}
    if then_rows.keys() != now_rows.keys():
        raise InputError(
            f"the log has {len(then_rows):,} lines of training up to step {max(then_rows, default=0):,}, the new run "
            f"{len(now_rows):,} up to {max(now_rows, default=0):,}: training_log.jsonl is not a whole run's"
        )
    differences = {}
    for name in COMPARED:
        off = {
            step: abs(_number(row[name]) - _number(now_rows[step][name]))
            for step, row in then_rows.items()
            if row[name] != now_rows[step][name]
        }
        if off:
            first = min(off)
            differences[name] = StepDifference(first, off[first], max(off.values()), len(off))

    parameters = dict(again.encoder.named_parameters())
    differ, error, update = [], 0.0, 0.0
    for name, parameter in result.encoder.named_parameters():
        if not torch.equal(parameter, parameters[name]):
            differ.append(name)
        error += float((parameters[name].detach().double() - parameter.detach().double()).square().sum())
        update += float((parameter.detach().double() - before[name].double()).square().sum())
    then_environment = _flat(receipt.environment)
    changed = {
        name: (then_environment.get(name), value)
        for name, value in _flat(now).items()
        if then_environment.get(name) != value
    }
    return Reproduction(
        same_bits=not differences and weights_sha256(again.encoder) == receipt.weights,
        differences=differences,
        weights_differ=differ,
        update_error=(error / update) ** 0.5 if update else float(error > 0),
        environment=changed,
        steps=len(then_rows),
    )


def _number(value: float | None) -> float:
    return math.inf if value is None else value  # the log's null: not finite


def _device(kind: str) -> str:
    """The run's kind of device, if this machine has it."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, True):
        raise InputError(f"the run was on {kind}, which this machine does not have; choose another with --device")
    return kind


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in content.items() if k != "versions"} | dict(content.get("versions", {}))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("folder", metavar="DIR", help="the output folder of a training run")
    parser.add_argument("--data", metavar="PAIRS", nargs="+", required=True, help="the run's files, in its order")
    parser.add_argument("--model", metavar="MODEL", help="the base model (default: the one named in the receipt)")
    parser.add_argument("--output", metavar="DIR", help="keep the new run's folder here")
    parser.add_argument("--threads", type=int, metavar="N", help="default: the run's number")
    parser.add_argument("--device", help="default: the run's kind")


def run(args: argparse.Namespace) -> int:
    """Runs the command. Returns 0 when the bits are the same, 1 when they are not."""
    device = join_processes(args.device)
    first = Processes().first
    result = reproduce(
        args.folder,
        args.data,
        base_model=args.model,
        output_dir=args.output,
        threads=args.threads,
        device=device,
        say=lambda message: say(message) if first else None,
    )
    if first:
        say(*result.report().split("\n"))
    return 0 if result.same_bits else 1
