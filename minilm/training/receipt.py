"""``training_receipt.json``: what a run was made of and what came out, by SHA-256.

With the receipt, the base model and the data, :mod:`minilm.training.reproduce` runs it again and
compares the bits. The receipt holds no text of the data and no path, only names and hashes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minilm.checkpoint import atomic_path, from_json, read_json, weights_sha256
from minilm.config import DTYPES
from minilm.errors import CheckpointError, InputError
from minilm.plain_json import to_json
from minilm.sentence_encoder import SentenceEncoder
from minilm.similarity import SIMILARITY
from minilm.training.data import PairDataset
from minilm.training.log import LOG_FILE
from minilm.training.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
    describe_loss,
)
from minilm.training.model_card import framework_versions
from minilm.training.processes import Processes
from minilm.training.recipe import TrainingRecipe

RECEIPT_FILE = "training_receipt.json"
FORMAT = 1

# The files of the result that a receipt vouches for. README.md is not among them: people edit it.
RESULT_FILES = (
    "model.safetensors",
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "tokenizer.json",
    LOG_FILE,
    "config_sentence_transformers.json",  # receipts of earlier versions do not have this and the next one
    "tokenizer_config.json",
)

DEVICES = ("cpu", "cuda", "mps")

# What reproducing a run reads from the parts of a receipt.
_NEEDED = {
    "files": RESULT_FILES[:7],
    "environment": ("device", "dtype", "threads", "processes", "versions"),
    "loss": ("class",),
    "recipe": ("name", "seed"),
    "evaluator": ("primary_metric", "greater_is_better"),
}


@dataclass(frozen=True)
class DataRecord:
    """One data set of a run.

    Attributes:
        columns: those that were used, in order.
        sha256: of the columns' names and texts (:attr:`PairDataset.sha256`), whatever file held them.
        file: its name without folders, and ``file_sha256`` its bytes'; None for data that came from Python.
    """

    name: str
    rows: int
    columns: list[str]
    sha256: str
    file: str | None = None
    file_sha256: str | None = None


@dataclass(frozen=True)
class Receipt:
    """All that decides a run's bits, and their hashes.

    Attributes:
        base_model: the base model's name on the hub; None for a folder.
        base_weights: :func:`~minilm.checkpoint.weights_sha256` before training.
        base_model_revision: of the base model, where it is known.
        frozen: the weights that were not trained.
        recipe: every setting, and ``recipe_sha256`` of them.
        loss: class and options.
        evaluator: class, ``primary_metric`` and ``greater_is_better``; None without evaluations.
        environment: :func:`environment` of the run.
        weights: :func:`~minilm.checkpoint.weights_sha256` after it.
        files: name → SHA-256 of :data:`RESULT_FILES`.
    """

    base_model: str | None
    base_weights: str
    data: list[DataRecord]
    recipe: dict[str, Any]
    recipe_sha256: str
    loss: dict[str, Any]
    evaluator: dict[str, Any] | None
    environment: dict[str, Any]
    global_step: int
    weights: str
    files: dict[str, str]
    base_model_revision: str | None = None
    frozen: list[str] = field(default_factory=list)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes ``training_receipt.json``."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        with atomic_path(Path(folder) / RECEIPT_FILE) as file:
            file.write_bytes((to_json(content, indent=2, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Receipt:
        """Reads the receipt of a folder.

        Raises:
            CheckpointError: there is none, it is broken, or of another format.
        """
        path = Path(folder) / RECEIPT_FILE
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise CheckpointError(f"{path}: the format is not {FORMAT}, the only one that is known; was it edited?")
        del content["format"]
        receipt = from_json(cls, content, f"{path} is not a whole receipt")
        for part, keys in _NEEDED.items():
            found = getattr(receipt, part)
            if found is not None and not set(keys) <= set(found):
                raise CheckpointError(f"{path} is not a whole receipt: {part} is {found!r:.80}, expected {keys} in it")
        expected: list[tuple[str, object, object]] = [
            ("environment.device", receipt.environment["device"] in DEVICES, f"one of {', '.join(DEVICES)}"),
            ("environment.dtype", receipt.environment["dtype"] in DTYPES, f"one of {', '.join(DTYPES)}"),
            ("environment.threads", _is_count(receipt.environment["threads"]), "a number of threads"),
            ("environment.processes", _is_count(receipt.environment["processes"]), "a number of processes"),
            ("environment.versions", isinstance(receipt.environment["versions"], dict), "an object"),
            ("loss.class", isinstance(receipt.loss["class"], str), "a text"),
        ]
        if receipt.evaluator is not None:
            metric, greater = receipt.evaluator["primary_metric"], receipt.evaluator["greater_is_better"]
            expected.append(("evaluator.primary_metric", isinstance(metric, (str, type(None))), "a text or null"))
            expected.append(("evaluator.greater_is_better", greater in (True, False, None), "true, false or null"))
        for place, fits, what in expected:
            if not fits:
                raise CheckpointError(f"{path} is not a whole receipt: {place} is not {what}; was it edited?")
        if unknown := set(receipt.files) - set(RESULT_FILES):
            raise CheckpointError(f"{path} names {', '.join(sorted(unknown))}, which no run writes; was it edited?")
        return receipt

    def hashes(self, folder: str | os.PathLike[str]) -> list[tuple[str, str, str]]:
        """What the receipt vouches for in a folder: name, SHA-256 found and SHA-256 expected."""
        hashes = [(name, _found_sha256(Path(folder) / name), expected) for name, expected in self.files.items()]
        return [*hashes, ("the recipe in the receipt", _json_sha256(self.recipe), self.recipe_sha256)]

    def check_folder(self, folder: str | os.PathLike[str]) -> None:
        """Makes sure that the folder holds what the receipt says.

        Raises:
            CheckpointError: names every file that is missing or another one, and the recipe if its hash is wrong.
        """
        problems = [
            f"{name}\n    found    {found}\n    expected {expected}"
            for name, found, expected in self.hashes(folder)
            if found != expected
        ]
        if problems:
            raise CheckpointError(f"{RECEIPT_FILE} does not match {folder}:\n  " + "\n  ".join(problems))

    def check_data(self, datasets: Sequence[PairDataset], called: Sequence[str] = ()) -> None:
        """Makes sure that these are the data sets of the run, in its order.

        Args:
            called: what to call each in a message; empty for their names.

        Raises:
            InputError: says which is not, and how it differs.
        """
        if len(datasets) != len(self.data):
            names = ", ".join(record.file or record.name for record in self.data)
            raise InputError(f"the run had {len(self.data)} data set(s) ({names}), but {len(datasets)} are given")
        called = called or [dataset.name for dataset in datasets]
        for name, dataset, record in zip(called, datasets, self.data, strict=True):
            if dataset.sha256 == record.sha256:
                continue
            if any(dataset.sha256 == other.sha256 for other in self.data):
                raise InputError(f"the data is in another order; give {', '.join(r.file or r.name for r in self.data)}")
            what = "the texts differ"
            if list(dataset.columns) != record.columns:
                what = f"the columns are {list(dataset.columns)}, expected {record.columns}"
            elif len(dataset) != record.rows:
                what = f"it has {len(dataset):,} rows, expected {record.rows:,}"
            raise InputError(
                f"{name} is not the run's data {record.file or record.name}: {what}\n"
                f"  found    {dataset.sha256}\n  expected {record.sha256}"
            )

    def make_loss(self, given: nn.Module | None = None) -> nn.Module:
        """The loss that the receipt describes.

        Args:
            given: the loss, where minilm cannot make it.

        Raises:
            InputError: the loss, or its similarity, is not minilm's and none is given, or another one is.
        """
        if given is not None:
            if (found := describe_loss(given)) != self.loss:
                raise InputError(f"the loss is not the run's:\n  found    {found}\n  expected {self.loss}")
            return given
        losses = {c.__name__: c for c in (MultipleNegativesRankingLoss, CachedMultipleNegativesRankingLoss)}
        similarities = {function.__name__: function for function, _ in SIMILARITY.values()}
        options = dict(self.loss)
        name, function = options.pop("class"), str(options.pop("similarity_fct", "cos_sim"))
        if name not in losses or function not in similarities:
            raise InputError(
                f"the run's loss is {name} with {function}, which is not minilm's and cannot be made from its name; "
                "give the same one from Python: minilm.training.reproduce.reproduce(…, loss=…)"
            )
        try:
            loss: nn.Module = losses[name](similarity_fct=similarities[function], **options)
        except TypeError as error:
            raise InputError(f"the loss in the receipt cannot be made: {error}; was it edited?") from None
        return loss


def make_receipt(
    folder: str | os.PathLike[str],
    model: SentenceEncoder,
    datasets: Sequence[PairDataset],
    recipe: TrainingRecipe,
    loss: nn.Module,
    *,
    base_weights: str,
    global_step: int,
    evaluator: Any = None,
    base_model: str | None = None,
    base_model_revision: str | None = None,
    data_files: Sequence[str | os.PathLike[str]] = (),
    frozen: Sequence[str] = (),
) -> Receipt:
    """The receipt of a run that has just left its result in ``folder``.

    Args:
        base_weights: :func:`~minilm.checkpoint.weights_sha256` of the model before the run.
        data_files: the file of each data set, in order; empty for data from Python.
        frozen: the names of the weights that were not trained.
    """
    # Where a run was resumed has no part in its bits, and would be a path of this machine.
    recipe = recipe.replace(resume_from_checkpoint=True if recipe.resume_from_checkpoint else None)
    files: list[Path | None] = [Path(file) for file in data_files]
    files = files or [None] * len(datasets)
    return Receipt(
        base_model=base_model,
        base_weights=base_weights,
        data=[
            DataRecord(
                name=dataset.name,
                rows=len(dataset),
                columns=list(dataset.columns),
                sha256=dataset.sha256,
                file=file.name if file else None,
                file_sha256=file_sha256(file) if file else None,
            )
            for dataset, file in zip(datasets, files, strict=True)
        ],
        recipe=recipe.to_dict(),
        recipe_sha256=_json_sha256(recipe.to_dict()),
        loss=describe_loss(loss),
        evaluator=None
        if evaluator is None
        else {
            "class": type(evaluator).__name__,
            "primary_metric": getattr(evaluator, "primary_metric", None),
            "greater_is_better": getattr(evaluator, "greater_is_better", None),
        },
        environment=environment(model),
        global_step=global_step,
        weights=weights_sha256(model.encoder),
        files={name: file_sha256(Path(folder) / name) for name in RESULT_FILES if (Path(folder) / name).is_file()},
        base_model_revision=base_model_revision,
        frozen=list(frozen),
    )


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _found_sha256(path: Path) -> str:
    return file_sha256(path) if path.is_file() else "missing"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 100_000


def environment(model: SentenceEncoder) -> dict[str, Any]:
    """What else decides rounding: kernels are chosen by versions, processor and number of threads."""
    device = model.device
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": Processes().count,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "versions": framework_versions(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _json_sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
