"""Text that is safe to show and stays in its column: on a terminal, in a page, in a picture.

A text may hold characters that move the cursor, reverse the line or cannot be seen. Pages and
terminals show these by number instead; how wide the others are follows Unicode's annex 11.
"""

from __future__ import annotations

import unicodedata
from html import escape as escape_html

JOINERS = "\u200c\u200d"  # invisible, and part of how emoji and several scripts are written


def visible(text: str) -> str:
    """The text with each character that acts rather than shows (control, direction, private, unassigned)
    as its number: ``⟨U+202E⟩``; and with the line breaks and tabs as ``⏎`` and ``⇥``."""
    return "".join(_SHOWN.get(c) or (f"⟨U+{ord(c):04X}⟩" if _acts(c) else c) for c in text)


def html(text: str) -> str:
    """The visible text, escaped for HTML, in quotes or not."""
    return escape_html(visible(text))


_SHOWN = {"\n": "⏎", "\t": "⇥"}


def _acts(character: str) -> bool:
    return character not in JOINERS and unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")


def columns(text: str) -> int:
    """How many columns of a terminal a visible text takes: two for East Asian wide characters and
    most emoji, none for combining ones."""
    return sum(_columns(c) for c in text)


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int, right: bool = False) -> str:
    """The visible text in exactly ``width`` columns (at least 1): filled with spaces, or cut with ``…``."""
    text = visible(text)
    if columns(text) > width:
        kept, room = "", width - 1
        for character in text:
            room -= _columns(character)
            if room < 0:
                break
            kept += character
        text = kept + "…"
    space = " " * (width - columns(text))
    return space + text if right else text + space
