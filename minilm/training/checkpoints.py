"""A run's whole state on disk, so that a run killed at any moment can go on to the same bits.

``checkpoint-N`` is the model's folder as it was after step N, which anything that loads models loads,
and beside it ``training_state.safetensors`` (the optimiser's moments, the random generators) and
``training_state.json`` (everything else). Nothing in them can run. A checkpoint appears under its
name only when all of it is on the disk, and loses its name before any of it is deleted.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from minilm.checkpoint import from_json, not_finite, read_json, read_tensors
from minilm.errors import CheckpointError, InputError, MinilmError
from minilm.plain_json import to_json
from minilm.sentence_encoder import SentenceEncoder

STATE_TENSORS = "training_state.safetensors"
STATE_JSON = "training_state.json"

# Settings that a resumed run may change: none of them has a part in the weights.
MAY_CHANGE = ("resume_from_checkpoint", "save_strategy", "save_steps", "save_total_limit")


@dataclass
class TrainingState:
    """Where a run is, apart from weights, moments and random generators.

    Attributes:
        global_step: optimiser steps done.
        epoch, batch: the epoch, from 0, and how many of its batches are done.
        schedule_step: steps of the learning rate's schedule; under fp16 a step that overflowed is none.
        losses: sum of each process's losses since the last line of the log, as float32.
        loss_step: the step of that line.
        grad_norm, learning_rate: of the last step.
        total_loss: sum of the losses up to that line.
        best_metric, best_step: the best evaluation so far.
        best_checkpoint: the step of the best checkpoint that was written.
        log_bytes: the length of the log.
        unevaluated: whether the evaluation after the last step failed, and is to run first of all.
        scaler: the state of fp16's loss scaling.
    """

    global_step: int = 0
    epoch: int = 0
    batch: int = 0
    schedule_step: int = 0
    losses: list[float] = field(default_factory=list)
    loss_step: int = 0
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    total_loss: float = 0.0
    best_metric: float | None = None
    best_step: int | None = None
    best_checkpoint: int | None = None
    log_bytes: int = 0
    unevaluated: bool = False
    scaler: dict[str, Any] = field(default_factory=dict)

    def check(self, processes: int) -> None:
        """Raises :class:`~minilm.errors.CheckpointError` for numbers that no run of so many processes has."""
        for name in ("global_step", "epoch", "batch", "schedule_step", "loss_step", "log_bytes"):
            if getattr(self, name) < 0:
                raise CheckpointError(f"{name} is {getattr(self, name)}, expected at least 0")
        for name in ("schedule_step", "loss_step", "best_step", "best_checkpoint"):
            if (getattr(self, name) or 0) > self.global_step:
                raise CheckpointError(f"{name} is {getattr(self, name)}, but global_step only {self.global_step}")
        if len(self.losses) != processes:
            raise CheckpointError(f"losses has {len(self.losses)} numbers, expected {processes}, one for each process")


def checkpoint_path(output_dir: Path, step: int) -> Path:
    """``DIR/checkpoint-STEP``."""
    return output_dir / f"checkpoint-{step}"


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    found = [p for p in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name) and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]))


def save_checkpoint(
    path: Path,
    model: SentenceEncoder,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    identity: Mapping[str, Any],
    random_states: Mapping[str, Tensor],
) -> None:
    """Writes ``path``, whole or not at all.

    Args:
        path: the checkpoint's folder; one that exists is replaced.
        identity: what makes the run this run: recipe, data, model, loss, number of processes.
        random_states: from :func:`random_states` of every process, each name followed by ``.RANK``.

    Raises:
        OSError: the disk is full or may not be written. Other checkpoints are unharmed.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary)
        tensors = {f"rng.{name}": value for name, value in random_states.items()}
        for name, parameter in model.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value.detach().cpu().contiguous()
            if parameter.grad is not None:  # an epoch that ended within an accumulation
                tensors[f"gradient.{name}"] = parameter.grad.cpu().contiguous()
        safetensors.torch.save_file(tensors, temporary / STATE_TENSORS)
        content = {"state": asdict(state), **identity}
        (temporary / STATE_JSON).write_text(to_json(content, indent=2) + "\n", encoding="utf-8")
        for file in temporary.rglob("*"):
            _sync(file)
        _remove(path)
        os.rename(temporary, path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(
            getattr(error, "errno", None),
            f"cannot write {path}: {error}; {last_good(path.parent)}. Make room and resume.",
        ) from error


def last_good(output_dir: Path) -> str:
    """Which checkpoint to go back to, in words: the last one whose model gives finite vectors."""
    found = checkpoints(output_dir)
    for path in reversed(found):
        try:
            model = SentenceEncoder.from_pretrained(path, device="cpu")
        except (MinilmError, OSError):
            continue
        with torch.no_grad():
            vector = model(model.tokenize(["a text"])).sentence_embedding
        if not_finite(model) is None and vector.isfinite().all():
            return f"the last good checkpoint is {path}"
    return f"none of the {len(found)} checkpoints in {output_dir} is good" if found else "there is no checkpoint yet"


def load_checkpoint(
    path: Path,
    model: SentenceEncoder,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    rank: int,
) -> TrainingState:
    """Puts a checkpoint's weights, moments and random state in place, and returns the rest of it.

    Raises:
        CheckpointError: it is no checkpoint, or a broken one.
        InputError: it belongs to another run: its data or a setting differ; names them.
    """
    content = read_json(path / STATE_JSON)
    if not isinstance(content, dict) or "state" not in content:
        raise CheckpointError(f"{path / STATE_JSON} holds no training state")
    _check_identity(path, content, json.loads(json.dumps(identity)))
    state = from_json(TrainingState, content["state"], f"{path / STATE_JSON} holds no whole training state")
    try:
        state.check(identity["processes"])
    except CheckpointError as error:
        raise CheckpointError(f"{path / STATE_JSON}: {error}; was it edited?") from None
    tensors = read_tensors(path / STATE_TENSORS)
    load_weights(path, model)
    try:
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            moments = {key: tensors[f"optimizer.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for key, value in moments.items():
                if value.shape != (() if key == "step" else parameter.shape) or not value.is_floating_point():
                    raise CheckpointError(f"{path / STATE_TENSORS}: {key} of {name} has another shape or type")
            # Copies, because torch's own allocations are aligned: kernels may round by alignment.
            optimizer.state[parameter] = {key: value.clone() for key, value in moments.items()}
            if (gradient := tensors.get(f"gradient.{name}")) is not None:
                parameter.grad = gradient.to(parameter.device, copy=True)
        optimizer.load_state_dict(optimizer.state_dict())  # puts each moment on the device it belongs to
        torch.set_rng_state(tensors[f"rng.cpu.{rank}"])
        if model.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"rng.cuda.{rank}"], model.device)
        return state
    except (KeyError, TypeError, RuntimeError) as error:  # the last two are torch's
        raise CheckpointError(f"{path} is not a whole checkpoint: {error}") from None


def carry_over(start_from: Path, output_dir: Path, state: TrainingState, best_model: bool) -> None:
    """Copies what a run that is resumed in another folder still needs from its first one.

    Args:
        best_model: whether the folder itself holds the best model, as ``fit`` keeps it.

    Raises:
        CheckpointError: it is not there.
    """
    first = start_from.parent
    if first.resolve() == output_dir.resolve():
        return
    if state.best_checkpoint is not None:
        best = (
            start_from if state.best_checkpoint == state.global_step else checkpoint_path(first, state.best_checkpoint)
        )
        if not best.is_dir():
            raise CheckpointError(f"{start_from} needs the best checkpoint of its run, {best}, which does not exist")
        target = checkpoint_path(output_dir, state.best_checkpoint)
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(best, temporary)
        os.rename(temporary, target)
    if best_model and state.best_step is not None:
        SentenceEncoder.from_pretrained(first, device="cpu").save_pretrained(output_dir)


def load_weights(path: Path, model: nn.Module) -> None:
    """Puts the weights of a model's folder into a model that exists."""
    model.load_state_dict(SentenceEncoder.from_pretrained(path, device="cpu").state_dict())


def rotate_checkpoints(output_dir: Path, limit: int | None, best: int | None) -> None:
    """Deletes the oldest checkpoints beyond ``limit``, but neither the last nor the best one."""
    found = checkpoints(output_dir)
    keep = {found[-1], checkpoint_path(output_dir, best)} if best is not None else set(found[-1:])
    surplus = len(found) - max(limit, len(keep & set(found))) if limit is not None and limit > 0 else 0
    for path in [p for p in found if p not in keep][: max(0, surplus)]:
        _remove(path)


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The state of every generator that a run draws from in this process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def remove_leftovers(output_dir: Path) -> None:
    """Clears away what a killed run was writing or deleting."""
    inside = [path for pattern in (".checkpoint-*", "..checkpoint-*") for path in output_dir.glob(pattern)]
    for path in [*inside, *output_dir.parent.glob(f".{glob.escape(output_dir.name)}.*.tmp")]:
        shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.exists():
        doomed = path.with_name(f".{path.name}.deleted")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(path, doomed)
        shutil.rmtree(doomed)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_identity(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    differences = []
    for part, ours in expected.items():
        theirs = found.get(part)
        if not (isinstance(ours, dict) and isinstance(theirs, dict)):
            ours, theirs = {"": ours}, {"": theirs}
        for name in [n for n in {**theirs, **ours} if n not in MAY_CHANGE and ours.get(n) != theirs.get(n)]:
            differences.append(f"{part} {name}".strip() + f" was {theirs.get(name)!r}, is {ours.get(name)!r}")
    if differences:
        raise InputError(
            f"{path} belongs to another run, which this one cannot continue: {'; '.join(differences)}. "
            "Resume with the same settings and data, or start anew in another output folder."
        )
