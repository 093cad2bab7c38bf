"""JSON as its standard has it, read and written: every fault of a text is one :class:`ValueError`, and no
``NaN`` or ``Infinity``, which other programs refuse, is written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from minilm.errors import InputError


def parse_json(text: str | bytes, **options: Any) -> Any:
    """The value of a JSON text; ``options`` are those of ``json.loads``.

    Raises:
        ValueError: it is not JSON, not UTF-8, nested too deeply, or has an integer of thousands of digits.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def to_json(value: object, *, null: bool = False, **options: Any) -> str:
    """A value as JSON; ``options`` are those of ``json.dumps``. Half a character, as in a file's name that
    is not UTF-8, becomes its escape.

    Args:
        null: write null for NaN and infinity, as is right for a measurement that has no value.

    Raises:
        InputError: there is a NaN or an infinity, and ``null`` is False.
    """
    try:
        text = json.dumps(_finite(value) if null else value, allow_nan=False, **options)
    except ValueError as error:
        raise InputError(f"a value is NaN or infinite, and JSON has neither ({error})") from None
    return text.encode(errors="backslashreplace").decode()


def _finite(value: Any) -> Any:
    """The value, with None in place of every float that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
