"""The command line: ``minilm COMMAND …``. Each command is a module with ``add_arguments`` and ``run``."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import select
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import minilm
from minilm.errors import MinilmError
from minilm.terminal import clean, note, open_standard_streams, standard_output

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
    """Runs one command. Returns the exit status: 0, 1 when a check failed, 2 for what cannot be done, 130 after
    Ctrl-C. An error that is nobody's mistake but ours keeps its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    program = f"minilm {arguments[0]}" if arguments and arguments[0] in COMMANDS else "minilm"
    try:
        open_standard_streams()
        with _warnings_in_one_line(program):
            try:
                return _run(arguments)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
    except KeyboardInterrupt:
        note(f"{program}: interrupted")
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():  # it, e.g. head, has seen enough
            reason, status = None, 0
        elif reason := _reason(error):
            status = 2
        else:
            raise
        _discard_output()
        if reason:
            note(f"{program}: {reason}")
        return status


def _run(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="minilm", description="all-MiniLM-L6-v2, taken apart.")
    parser.add_argument("--version", action="version", version=f"minilm {minilm.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, help_text) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=help_text, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name in arguments[:1]:  # the others are not imported
            command = importlib.import_module(module)
            subparser.description = command.__doc__
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    if not all(map(_can_be_an_argument, arguments)):
        parser.error("an argument has a NUL or half a character")
    parsed = parser.parse_args(arguments)
    status: int = parsed.run(parsed)
    return status


def _can_be_an_argument(text: str) -> bool:
    """Whether a system can hand it over, as an argument or as a file's name."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


class _Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one line, and whose numbers are ones to compute with."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.register("type", int, _integer)
        self.register("type", float, _number)

    def _print_message(self, message: str, file: object = None) -> None:
        # Help and version. The original passes over what cannot be written.
        print(message, end="", file=standard_output(), flush=True)

    def error(self, message: str) -> NoReturn:
        note(f"{self.prog}: {message}; see {self.prog} --help")
        sys.exit(2)


def _integer(text: str) -> int:
    with suppress(ValueError):
        if abs(value := int(text)) < 2**63:  # what torch can hold
            return value
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no integer of at most 64 bits")


def _number(text: str) -> float:
    with suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no finite number")


def _reason(error: Exception) -> str:
    """What went wrong outside the program, in words; empty for what only a fault of the program explains."""
    if isinstance(error, MinilmError):
        return str(error)
    if isinstance(error, OSError):
        about = f"{error.filename}: " if error.filename else ""
        return f"{about}{error.strerror or error}"
    # torch has a class of its own for each kind of device, and none for the CPU
    if isinstance(error, MemoryError) or any(words in str(error) for words in ("out of memory", "allocate memory")):
        return "not enough memory; give it less at a time, e.g. a smaller batch or fewer texts"
    return ""


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads from any more."""
    with suppress(AttributeError, OSError, ValueError):  # no poll on Windows; a stream without a number
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    return False


def _discard_output() -> None:
    """What standard output could not take is not tried once more when the program ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _warnings_in_one_line(program: str) -> Iterator[None]:
    """Without the line of Python that they come from, which says nothing to the reader of a terminal."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_: f"{program}: {clean(' '.join(str(message).split()))}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


if __name__ == "__main__":
    sys.exit(main())
