"""How similar texts are, from -1 to 1 (cosine).

minilm similarity "a text" "another"       the score of two texts
minilm similarity --pairwise A.txt B.txt   line 1 with line 1, line 2 with line 2, …
minilm similarity --all A.txt [B.txt]      every line with every line: a row for each line of A
"""

from __future__ import annotations

import argparse

from minilm.commands.options import add_encode_arguments, add_model_arguments, encode_options, load_model
from minilm.errors import InputError
from minilm.terminal import say, standard_output
from minilm.text_files import read_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="TEXT_OR_FILE", help="two texts; files with --pairwise or --all")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--pairwise", action="store_true", help="two files: each line with the same line of the other")
    mode.add_argument("--all", action="store_true", help="one or two files: every line with every line")
    add_encode_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    expected = (1, 2) if args.all else (2,)
    if len(args.inputs) not in expected:
        what = "files" if args.pairwise or args.all else "texts (quote each)"
        raise InputError(f"found {len(args.inputs)} {what}, expected {' or '.join(map(str, expected))}")
    if not (args.pairwise or args.all):
        model = load_model(args)
        first, second = model.encode(args.inputs, **encode_options(args))
        say(f"{model.similarity(first, second).item():.4f}")
        return 0
    sides = [read_lines(path) for path in args.inputs]
    if args.pairwise and len(sides[0]) != len(sides[1]):
        raise InputError(
            f"{args.inputs[0]} has {len(sides[0])} lines and {args.inputs[1]} has {len(sides[1])}; pairs need as many"
        )
    model = load_model(args)
    vectors = [model.encode(side, convert_to_tensor=True, **encode_options(args)) for side in sides]
    output = standard_output()
    if args.pairwise:
        for score in model.similarity_pairwise(*vectors).tolist():
            print(f"{score:.4f}", file=output)
    else:
        for left in vectors[0].split(1024):  # a thousand rows at a time, whatever the files' length
            for row in model.similarity(left, vectors[-1]).tolist():
                print("\t".join(f"{score:.4f}" for score in row), file=output)
    return 0
