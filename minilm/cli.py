"""The command line: ``minilm COMMAND …``. Each command is a module with ``add_arguments`` and ``run``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import minilm
from minilm.errors import MinilmError

COMMANDS = {
    "encode": ("minilm.commands.encode", "turn texts into vectors, in a file"),
    "similarity": ("minilm.commands.similarity", "how similar texts are"),
    "search": ("minilm.commands.search", "find the nearest passages of text files"),
    "train": ("minilm.training.command", "fine-tune a model on pairs of texts"),
    "reproduce": ("minilm.training.reproduce", "train again from a receipt, and say whether the bits are the same"),
    "evaluate": ("minilm.evaluation.command", "measure a model, or two side by side, on data of yours"),
    "compare": ("minilm.commands.compare", "what changed between two checkpoints, e.g. a model and its fine-tune"),
    "explain": ("minilm.commands.explain", "follow a text from characters to vector, and a score to its tokens"),
    "inspect": ("minilm.commands.inspect", "list the tensors of a checkpoint"),
    "verify": ("minilm.commands.verify", "check the weights, and the parity with sentence-transformers"),
    "push": ("minilm.push", "upload a model folder to the hub"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit status: 0, 1 when a check failed, 2 for what cannot be done."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="minilm", description="all-MiniLM-L6-v2, taken apart.")
    parser.add_argument("--version", action="version", version=f"minilm {minilm.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, help_text) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=help_text, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name in arguments[:1]:  # the others are not imported
            command = importlib.import_module(module)
            subparser.description = command.__doc__
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    parsed = parser.parse_args(arguments)
    try:
        with _warnings_in_one_line(parsed.command):
            status: int = parsed.run(parsed)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MinilmError as error:
        print(f"minilm {parsed.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        print(f"minilm {parsed.command}: {about}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"minilm {parsed.command}: interrupted", file=sys.stderr)
        return 130


@contextmanager
def _warnings_in_one_line(command: str) -> Iterator[None]:
    """Without the line of Python that they come from, which says nothing to the reader of a terminal."""
    before = warnings.formatwarning

    def format_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if category.__module__ == "minilm.errors":
            return f"minilm {command}: {message}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = format_warning
    try:
        yield
    finally:
        warnings.formatwarning = before


if __name__ == "__main__":
    sys.exit(main())
