"""Turns texts into vectors: a file's lines (or a JSONL field, or a CSV column) → one row each.

  minilm encode notes.txt --output notes.npy
  minilm encode pairs.jsonl --field question --output questions.safetensors
  cat notes.txt | minilm encode --output - > notes.jsonl

Reads and writes as a stream, so neither texts nor vectors have to fit into memory. The output
appears when it is whole; until then it grows as OUTPUT.part. Killed and started again with the same
texts and options, the command goes on where it was, and the output has the same bits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minilm.commands.options import add_encode_arguments, add_model_arguments, encode_options, load_model
from minilm.errors import TruncationError
from minilm.streaming import Cut, encode_chunks, encode_to_file, split
from minilm.terminal import needs_ascii, note, standard_output
from minilm.text_files import count_lines, read_texts
from minilm.vector_files import FORMATS, check_format, jsonl_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("file", nargs="?", default="-", help="the texts, one a line (default: standard input)")
    parser.add_argument(
        "--output",
        "-o",
        required=True,
        help=f"a file ending in {', '.join(FORMATS)}, or - for JSONL on standard output",
    )
    parser.add_argument("--field", help="the file is JSONL: take this field of each object")
    parser.add_argument(
        "--column", help="the file is CSV or TSV: take this column, by name, or by number if it has no header"
    )
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
    parser.add_argument(
        "--no-resume", action="store_true", help="begin anew, whatever an earlier run of this output has done"
    )
    add_encode_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    if args.output != "-":
        check_format(args.output)
    model = load_model(args)
    options = {
        **encode_options(args),
        "precision": args.precision,
        "normalize_embeddings": args.normalize_embeddings,
        "truncate_dim": args.truncate_dim,
    }
    texts = read_texts(args.file, args.field, args.column)
    cut, done = Cut(), 0
    try:
        if args.output == "-":
            output = standard_output()
            for chunk in encode_chunks(model, split(texts), options):
                lines = jsonl_lines(chunk.texts, chunk.vectors, ensure_ascii=needs_ascii(output))
                output.buffer.write(lines)
                cut.add(chunk.tokens_lost)
                done += len(chunk.texts)
        else:
            total = None if args.column else count_lines(args.file)
            cut, file = encode_to_file(
                model, texts, args.output, resume=not args.no_resume, total=total, say=_say, **options
            )
            done = file.rows
            note(f"{args.output}: {file.description}")
    except KeyboardInterrupt:
        if Path(f"{args.output}.part").exists():
            _say(f"what is done is in {args.output}.part; the same command goes on after it")
        raise
    except TruncationError as error:
        index, lost = next(iter(error.tokens_lost.items()))
        raise TruncationError(
            f"text {index + 1} is {lost:,} tokens over the limit of {model.max_seq_length}; split it, or allow the "
            "cut with --truncation warn",
            error.tokens_lost,
        ) from None
    if cut.texts and args.truncation != "silent":
        _say(f"{cut.describe(done, model.max_seq_length, first=1)}; the rest of each was cut off")
    return 0


def _say(message: str) -> None:
    note(f"minilm encode: {message}")
