"""Follows a text from characters to vector, with all the numbers; with a second text, also the score
of the two and what made it: pairs of tokens, words put in, heads and feed-forwards.

  minilm explain "a text"
  minilm explain "a text" "another"
  minilm explain "a text" "another" --html page.html --json figures.json

The page is one file that needs no network: attention by layer and head, the way through the layers,
the token-pair map, the table of components.
"""

from __future__ import annotations

import argparse
import os
import shutil

from minilm.commands.options import add_model_arguments, load_model
from minilm.errors import InputError
from minilm.hub import MODEL_ID
from minilm.internals.explanation import explain
from minilm.internals.walk import walk
from minilm.terminal import is_terminal, note, standard_output

PIPE_WIDTH = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="one text, or two (quote each)")
    parser.add_argument("--html", metavar="FILE", help="write a page; the walk is then not printed")
    parser.add_argument("--json", metavar="FILE", help="write all figures; the walk is then not printed")
    parser.add_argument(
        "--token", type=int, default=0, help="position of the token whose attention is followed (default: 0, [CLS])"
    )
    parser.add_argument(
        "--baseline",
        choices=("pad", "mask", "zero"),
        default="pad",
        help="what integrated gradients put in place of each word piece to start from (default: pad)",
    )
    parser.add_argument("--steps", type=int, default=64, help="points of integrated gradients (default: 64)")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    if len(args.texts) > 2:
        raise InputError(f"found {len(args.texts)} texts, expected one or two (quote each)")
    for file in filter(None, (args.html, args.json)):  # before the work, not after it
        if os.path.isdir(file) or not os.path.isdir(os.path.dirname(file) or "."):
            raise InputError(f"{file} cannot be written: it is a folder, or its folder does not exist")
    model = load_model(args)
    explanation = explain(model, *args.texts, baseline=args.baseline, steps=args.steps, name=args.model or MODEL_ID)
    if args.json:
        explanation.write_json(args.json)
        note(f"{args.json}: all figures")
    if args.html:
        explanation.write_html(args.html)
        note(f"{args.html}: open it in a browser")
    if not (args.html or args.json):
        output = standard_output()
        terminal = is_terminal(output)
        colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        width = shutil.get_terminal_size().columns if terminal else PIPE_WIDTH
        for line in walk(explanation, width=width, colour=colour, token=args.token):
            print(line, file=output)  # clean, but for colours of its own
    return 0
