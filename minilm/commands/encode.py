"""Turns texts into vectors: a file's lines (or a JSONL field, or a CSV column) → one row each.

  minilm encode notes.txt --output notes.npy
  minilm encode pairs.jsonl --field question --output questions.safetensors
  cat notes.txt | minilm encode --output - > notes.jsonl

Reads and writes as a stream, so neither texts nor vectors have to fit into memory. The output
appears when it is whole.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from minilm.commands.options import add_encode_arguments, add_model_arguments, encode_options, load_model
from minilm.errors import TruncationError, TruncationWarning, describe_cut
from minilm.progress import progress
from minilm.text_files import count_lines, read_texts
from minilm.vector_files import vector_writer

TEXTS_AT_A_TIME = 1024  # enough to sort by length, few enough for a bar that moves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("file", nargs="?", default="-", help="the texts, one a line (default: standard input)")
    parser.add_argument(
        "--output", "-o", required=True, help="a .npy, .jsonl or .safetensors file, or - for JSONL on standard output"
    )
    parser.add_argument("--field", help="the file is JSONL: take this field of each object")
    parser.add_argument("--column", help="the file is CSV, or TSV by its name, with a header: take this column")
    parser.add_argument(
        "--precision",
        choices=("float32", "binary", "ubinary"),
        default="float32",
        help="binary keeps the sign of each dimension, eight to a byte; int8, which needs the range of all vectors "
        "before the first is written, is to be had in Python",
    )
    parser.add_argument(
        "--normalize-embeddings", action="store_true", help="scale to length 1, also after --truncate-dim"
    )
    parser.add_argument("--truncate-dim", type=int, help="keep only the first dimensions")
    add_encode_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    model = load_model(args)
    options = {
        **encode_options(args),
        "precision": args.precision,
        "normalize_embeddings": args.normalize_embeddings,
        "truncate_dim": args.truncate_dim,
        "show_progress_bar": False,
    }
    sample = model.encode([""], **options)  # its shape and type are the file's; bad options show here
    total = None if args.column else count_lines(args.file)
    texts = read_texts(args.file, args.field, args.column)
    done, tokens_lost = 0, dict[int, int]()
    with (
        vector_writer(args.output, sample.shape[1], sample.dtype) as writer,
        progress(total, "Encoding", unit=" texts") as bar,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always", TruncationWarning)
        for chunk in _chunks(texts, TEXTS_AT_A_TIME):
            try:
                vectors = model.encode(chunk, **options)
            except TruncationError as error:
                index, lost = next(iter(error.tokens_lost.items()))
                raise TruncationError(
                    f"text {done + index + 1} is {lost:,} tokens over the limit of {model.max_seq_length}; "
                    "nothing was written",
                    {done + index: lost},
                ) from None
            for warning in caught:
                if isinstance(warning.message, TruncationWarning):
                    tokens_lost |= {done + index: lost for index, lost in warning.message.tokens_lost.items()}
            caught.clear()
            writer.write(chunk, vectors)
            done += len(chunk)
            bar.update(len(chunk))
    if tokens_lost:
        cut = describe_cut(tokens_lost, done, model.max_seq_length, first=1)
        print(f"minilm encode: {cut}; the rest of each was cut off", file=sys.stderr)
    if args.output != "-":
        shape = f"{done:,} × {sample.shape[1]}"
        print(f"{args.output}: {shape} {np.dtype(sample.dtype).name}", file=sys.stderr)
    return 0


def _chunks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while chunk := list(islice(iterator, size)):
        yield chunk
