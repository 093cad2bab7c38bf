"""What changed between two checkpoints, A before and B after, e.g. a model and its fine-tune.

  minilm compare all-MiniLM-L6-v2 tuned
  minilm compare all-MiniLM-L6-v2 tuned --texts notes.txt --pairs pairs.csv --html report.html

Compares tensors, settings and tokenizers; layer by layer the activations on the texts; the texts'
vectors and nearest neighbours; and the scores of pairs, with the token pairs that changed them. Without
--texts and --pairs: on 256 summary lines of docstrings of this Python's standard library.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from minilm.checkpoint import atomic_path
from minilm.errors import InputError
from minilm.internals.compare import compare
from minilm.internals.components import read_pairs
from minilm.terminal import say
from minilm.text_files import read_texts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("a", metavar="A", help="a folder, or a model's name on the hub")
    parser.add_argument("b", metavar="B", help="another")
    parser.add_argument("--texts", metavar="FILE", help="texts, one a line; - for standard input")
    parser.add_argument("--field", help="the texts are JSONL: take this field of each object")
    parser.add_argument("--column", help="the texts are CSV or TSV: take this column, by name or number")
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help="pairs whose scores to compare, CSV, TSV or JSONL: sentence1, sentence2 and, if people scored them, score "
        "(default: each text with its nearest neighbours)",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON; '-' prints it in place of the report")
    parser.add_argument("--html", metavar="FILE", help="write the report as one page that needs no network")
    parser.add_argument("--top", type=int, default=5, help="texts and pairs of each kind to show (default: 5)")
    parser.add_argument(
        "--neighbours", type=int, default=10, metavar="K", help="nearest neighbours of each text (default: 10)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: the best there is)")
    parser.add_argument(
        "--fail-if-different",
        action="store_true",
        help="end with status 1 unless tensors, tokenizer and settings are equal to the bit",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    if (args.field or args.column) and args.texts is None:
        raise InputError("--field and --column are of the file of --texts, which is not given")
    if args.top < 0:
        raise InputError(f"--top is {args.top}, expected at least 0")
    options: dict[str, Any] = {}
    if args.texts is not None:
        options["texts"] = list(read_texts(args.texts, args.field, args.column))
        if not options["texts"]:
            raise InputError(f"{args.texts} has no texts")
        options["texts_source"] = "standard input" if args.texts == "-" else os.path.basename(args.texts)
    if args.pairs is not None:
        options["pairs"], options["gold"] = read_pairs(args.pairs)
        options["pairs_source"] = os.path.basename(args.pairs)
    found = compare(
        args.a, args.b, neighbours=args.neighbours, explain=max(args.top, 10), device=args.device, **options
    )
    if args.html is not None:
        _write(args.html, found.to_html(max(args.top, 10)))
    if args.json == "-":
        say(*found.to_json().split("\n"))
    else:
        if args.json is not None:
            _write(args.json, found.to_json() + "\n")
        say(*found.to_text(args.top).split("\n"))
    return int(args.fail_if_different and not found.same)


def _write(path: str, content: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
