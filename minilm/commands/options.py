"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from minilm.checkpoint import not_finite
from minilm.config import DTYPES
from minilm.errors import CheckpointError
from minilm.hub import MODEL_ID
from minilm.sentence_encoder import ENGINES, SentenceEncoder


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--device`` and ``--dtype``."""
    parser.add_argument(
        "--model", metavar="MODEL", help="a folder, or a model's name on the hub (default: all-MiniLM-L6-v2)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: the best there is)")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the computation (default: the checkpoint's)")


def add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``SentenceEncoder.encode``, under their names, and the weights' precision, which it heeds."""
    parser.add_argument(
        "--batch-size", type=int, default=32, help="texts at a time; packed: 128 tokens for each (default: 32)"
    )
    parser.add_argument(
        "--layout",
        choices=("packed", "padded"),
        default="packed",
        help="packed is fast; padded gives the reference's bits (default: packed)",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="fast",
        help="fast is a copy of the plain encoder that proves itself against it; plain runs encoder.py itself "
        "(default: fast)",
    )
    parser.add_argument(
        "--truncation",
        choices=("warn", "error", "silent"),
        default="warn",
        help="what to do about texts over the model's limit of tokens (default: warn)",
    )
    parser.add_argument(
        "--weight-precision",
        choices=("int8",),
        help="8-bit weights: faster on a CPU with VNNI and without bfloat16; changes the vectors a little",
    )
    parser.add_argument(
        "--non-finite",
        choices=("warn", "error", "silent"),
        default="error",
        help="what to do about vectors with NaN or infinite numbers, which broken weights give (default: error)",
    )
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", help="text to put before each text")
    prompt.add_argument("--prompt-name", help="the model's prompt of this name, to put before each text")


def load_model(args: argparse.Namespace) -> SentenceEncoder:
    """The model that the arguments describe.

    Raises:
        CheckpointError: a weight is NaN or infinite, or what ``SentenceEncoder.from_pretrained`` says.
    """
    model = SentenceEncoder.from_pretrained(
        args.model,
        device=args.device,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        engine=getattr(args, "engine", "fast"),
        weight_precision=getattr(args, "weight_precision", None),
    )
    if getattr(args, "non_finite", "error") == "error":  # torch's kernels hide some of them
        check_weights(model, args.model)
    return model


def check_weights(model: SentenceEncoder, name: str | None) -> None:
    """Raises a :class:`CheckpointError` when a weight is NaN or infinite, since such vectors mean nothing."""
    if broken := not_finite(model.encoder):
        raise CheckpointError(
            f"{name or MODEL_ID} has NaN or infinity in {broken}, so its vectors would mean nothing; 'minilm inspect' "
            "shows every tensor"
        )


def encode_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments for ``SentenceEncoder.encode`` that :func:`add_encode_arguments` collected."""
    names = ("batch_size", "layout", "truncation", "non_finite", "prompt", "prompt_name")
    return {name: getattr(args, name) for name in names}
