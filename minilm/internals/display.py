"""Text in a terminal's columns: how wide it is, how it is cut, what shades a number."""

from __future__ import annotations

import math
import unicodedata

from minilm.terminal import visible

# Of the terminal's 256 colours, by strength: adds to the score, takes from it. Black text on each.
ADDS, TAKES = (223, 216, 209, 202), (153, 117, 75, 39)


def columns(text: str) -> int:
    """How many columns of a terminal a text takes, by Unicode's annex 11: two for East Asian wide
    characters and most emoji, none for combining ones."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int, right: bool = False) -> str:
    """The visible text in exactly ``width`` columns (at least 1): filled with spaces, or cut with ``…``."""
    text = visible(text) if text else ""
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


def shaded(cell: str, value: float, largest: float) -> str:
    """The cell on a terminal's colours, the stronger the nearer ``value`` comes to ``largest``; weak
    values stay as they are."""
    strength = math.ceil(5 * abs(value) / largest) - 2 if largest and math.isfinite(value / largest) else -1
    if strength < 0:
        return cell
    return f"\x1b[30;48;5;{(ADDS if value > 0 else TAKES)[min(strength, 3)]}m{cell}\x1b[0m"
