"""What the command line writes: the one place that cleans text from outside, such as texts, names and paths.

Commands print through :func:`say`, and messages go through :func:`note`. Both write what cannot be seen as
escapes, so no text can steer the terminal, forge a line, or turn the direction of its neighbours.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import unicodedata
from contextlib import suppress
from typing import TextIO

from minilm.plain_json import to_json

_JOINERS = "\u200c\u200d"  # part of Persian words and of emoji; they reorder nothing
_MARKS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


def visible(text: str, most: int | None = None) -> str:
    """The text on one line, with what cannot be seen written out, e.g. ``\\u202e``, and cut after
    ``most`` characters. Nothing in it can steer a terminal or turn the direction of its neighbours.
    """
    cut = most is not None and len(text) > most
    shown = clean(text[: most - 1] if cut and most else text)
    return (shown + "…" if cut else shown) or "(empty)"


def clean(text: str) -> str:
    """:func:`visible`, without a word for the empty text."""
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in _MARKS:
        return _MARKS[character]
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS:
        return f"\\u{ord(character):04x}"
    return character


def clean_lines(text: str) -> str:
    """:func:`clean`, but a line break stays where an indented line follows it, as in a message with details.
    A line break from outside cannot begin a line that looks like a message of its own."""
    return "\n".join(map(clean, re.split(r"\n(?=  )", text)))


def standard_output() -> TextIO:
    """Standard output.

    Raises:
        OSError: it is closed (``>&-``).
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    return sys.stdout


def say(*lines: str) -> None:
    """Prints lines to standard output."""
    for line in lines:
        print(clean(line), file=standard_output(), flush=True)


def say_json(value: object) -> None:
    """Prints a value as a line of JSON to standard output, null in place of NaN and infinity."""
    print(to_json(value, null=True, ensure_ascii=needs_ascii(standard_output())), file=standard_output(), flush=True)


def needs_ascii(stream: TextIO) -> bool:
    """Whether JSON for a stream is to have escapes for all but ASCII: a terminal obeys some characters, and
    an encoding other than UTF-8 lacks some."""
    return is_terminal(stream) or (stream.encoding or "").lower().replace("-", "") != "utf8"


def note(message: str) -> None:
    """Prints a message to standard error, if that can be written to."""
    with suppress(OSError, ValueError):
        print(clean_lines(message), file=sys.stderr, flush=True)


def is_terminal(stream: object) -> bool:
    """Whether a stream is a terminal. None, a program's ``sys.stderr`` where it has no console, is not."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError):  # not a stream, or a closed one
        return False


def open_standard_streams() -> None:
    """Makes the standard streams safe to use.

    The number of a closed stream (``2>&-``) would go to the next file that is opened, and native code would
    print into it; /dev/null takes the number. Characters that an output's encoding lacks become escapes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
