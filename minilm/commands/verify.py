"""Checks a model, and shows each check on a line:

  files     every file's SHA-256 against the published one (all-MiniLM-L6-v2)
  receipt   of a fine-tuned model: files, weights, recipe and, where they are here, base model and data are those that
            training_receipt.json names
  tensors   names, shapes and types as config.json says; no NaN, no infinity
  layouts   the packed layout gives the padded one's vectors
  company   a text's vector has the same bits whatever it is encoded with, in the packed layout
  parity    sentence-transformers gives the same bits, where it is installed

The exit status is 1 when a check fails.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from minilm import hub
from minilm.checkpoint import weights_sha256
from minilm.errors import CheckpointError, MinilmError
from minilm.invariance import check_batch_invariance
from minilm.layouts import Layout
from minilm.parity import TEXTS, compare_encode, load_reference
from minilm.sentence_encoder import SentenceEncoder
from minilm.terminal import say, say_json
from minilm.tolerances import PACKED_FLOAT32
from minilm.training.receipt import RECEIPT_FILE, Receipt, file_sha256


@dataclass(frozen=True)
class Check:
    """One line of the table. ``result`` is "ok", "FAILED", or "-" where nothing was compared."""

    check: str
    found: str
    result: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("model", nargs="?", help="a folder, or a model's name on the hub (default: all-MiniLM-L6-v2)")
    parser.add_argument(
        "--compositions", type=int, default=12, help="how often the company is changed (default: 12, some seconds)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    folder = hub.find_model(args.model)
    checks = []
    if not args.json:
        say(str(folder))
    published = args.model is None or args.model in hub.ALIASES
    for check in _checks(folder, published, args.compositions):
        checks.append(check)
        if args.json:
            say_json(asdict(check))
        else:
            say(f"{check.check:44}  {check.found:64}  {check.result}")
    return int(any(check.result == "FAILED" for check in checks))


def _checks(folder: Path, published: bool, compositions: int) -> Iterator[Check]:
    for file in hub.check_files(folder):
        result = _judge(file.ok) if published else ("published" if file.ok else "-")
        yield Check(f"file {file.name}", file.found, result)
        if result == "FAILED":
            yield Check("  published", file.expected, "")
    if (folder / RECEIPT_FILE).exists():
        yield from _receipt_checks(folder)
    try:
        model = SentenceEncoder.from_pretrained(folder, device="cpu", dtype=torch.float32)
    except CheckpointError as error:
        yield Check("tensors", str(error), "FAILED")
        return
    parameters = dict(model.encoder.named_parameters())
    count = sum(parameter.numel() for parameter in parameters.values())
    finite = all(bool(parameter.isfinite().all()) for parameter in parameters.values())
    aside = f", {n} others left aside" if (n := len(model.unused_tensors)) else ""
    yield Check("tensors", f"{len(parameters)} used{aside}; {count:,} parameters", _judge(finite))

    threads = torch.get_num_threads()
    texts = list(TEXTS)
    padded = model.encode(texts, layout="padded", truncation="silent")
    packed = model.encode(texts, layout="packed", truncation="silent")
    largest = float(abs(padded - packed).max())
    yield Check(
        "layouts, packed against padded", f"largest difference {largest:.1e}", _judge(largest <= PACKED_FLOAT32)
    )
    scan = check_batch_invariance(model, compositions=compositions)
    found = (
        f"{scan.differ} of {scan.vectors:,} vectors differ from the text's alone, in {scan.compositions} compositions"
    )
    yield Check(f"batch invariance, float32, {threads} thread(s)", found, _judge(scan.differ == 0))
    if importlib.util.find_spec("sentence_transformers") is None:
        yield Check("parity with sentence-transformers", "not installed: pip install 'minilm[reference]'", "-")
        return
    reference = load_reference(folder, torch.float32)
    theirs = reference.preprocess(texts)["input_ids"].tolist()
    ours = model.tokenize(texts).input_ids.tolist()
    yield Check(
        f"token ids, sentence-transformers {version('sentence-transformers')}",
        f"{len(texts)} texts",
        _judge(theirs == ours),
    )
    layouts: tuple[Layout, ...] = ("padded", "packed")
    for layout in layouts:
        parity = compare_encode(model, reference, texts, layout)
        equal = parity.equal_rows == parity.rows if layout == "padded" else parity.largest <= PACKED_FLOAT32
        found = f"{parity.equal_rows} of {parity.rows} rows bit-equal, largest difference {parity.largest:.1e}"
        yield Check(f"{layout} vectors at {threads} thread(s)", found, _judge(equal))


def _receipt_checks(folder: Path) -> Iterator[Check]:
    """Whether a fine-tuned model is what its receipt says, without training."""
    try:
        receipt = Receipt.load(folder)
    except CheckpointError as error:
        yield Check("receipt", str(error), "FAILED")
        return
    for name, found, expected in receipt.hashes(folder):
        yield Check(f"receipt, {name}", found, _judge(found == expected))
        if found != expected:
            yield Check("  expected", expected, "")
    try:
        found = weights_sha256(SentenceEncoder.from_pretrained(folder, device="cpu").encoder)
    except CheckpointError:
        found = "cannot be read"
    yield Check("receipt, weights", found, _judge(found == receipt.weights))
    yield _base_check(receipt)
    for record in receipt.data:
        path = folder / Path(record.file or "").name
        what = f"receipt, data {record.name}"
        if record.file_sha256 is None or not path.is_file():
            yield Check(what, f"{record.rows:,} rows, not in the folder", "-")
        else:
            yield Check(what, found := file_sha256(path), _judge(found == record.file_sha256))


def _base_check(receipt: Receipt) -> Check:
    if receipt.base_model is None:
        return Check("receipt, base model", "not named: it was a folder", "-")
    try:
        base = SentenceEncoder.from_pretrained(
            receipt.base_model,
            revision=receipt.base_model_revision,
            device="cpu",
            dtype=getattr(torch, receipt.environment["dtype"]),
            local_files_only=True,
        )
    except MinilmError:
        return Check("receipt, base model", f"{receipt.base_model} is not on this machine", "-")
    return Check(
        "receipt, base model", receipt.base_model, _judge(weights_sha256(base.encoder) == receipt.base_weights)
    )


def _judge(ok: bool) -> str:
    return "ok" if ok else "FAILED"
