"""Finds the passages of text files that are nearest to a query.

  minilm search "when does the ferry leave" notes.txt letters/*.txt

Files are divided at empty lines, and further where a paragraph is longer than the model reads.
Each result is: score, file:line, the passage. Files that are not text are named and passed over.
"""

from __future__ import annotations

import argparse
import shutil
import sys

from minilm.commands.options import add_encode_arguments, add_model_arguments, encode_options, load_model
from minilm.errors import InputError
from minilm.passages import Passage, read_passages
from minilm.similarity import semantic_search
from minilm.terminal import clean, is_terminal, note, say, say_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("query")
    parser.add_argument("files", nargs="+", metavar="FILE", help="text files; - for standard input")
    parser.add_argument("--top-k", type=int, default=5, help="how many passages to show (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with the whole passage")
    add_encode_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    model = load_model(args)
    prompt = model.document_prompt()
    passages: list[Passage] = []
    for path in args.files:
        try:
            passages += read_passages(path, model.tokenizer, prompt)
        except (InputError, OSError) as error:
            if len(args.files) == 1:
                raise
            note(f"minilm search: passed over: {error}")
    if not passages:
        raise InputError("there is no text in these files")
    options = encode_options(args)
    query = model.encode_query(args.query, convert_to_tensor=True, **options)
    options |= {"prompt": prompt, "prompt_name": None}  # those asked for are the query's; passages have the model's own
    corpus = model.encode_document([passage.text for passage in passages], convert_to_tensor=True, **options)
    (hits,) = semantic_search(query, corpus, top_k=args.top_k)
    for hit in hits:
        passage = passages[hit["corpus_id"]]
        if args.json:
            record = {"score": hit["score"], "file": passage.path, "line": passage.line, "text": passage.text}
            say_json(record)
        else:
            start = clean(f"{hit['score']:6.3f}  {passage.path}:{passage.line}  ")
            say(start + _fitting(clean(passage.text), len(start)))
    return 0


def _fitting(text: str, used: int) -> str:
    """The text, cut to the terminal's width; whole in a pipe."""
    if not is_terminal(sys.stdout):
        return text
    room = max(20, shutil.get_terminal_size().columns - used)
    return text if len(text) <= room else text[: room - 1] + "…"
