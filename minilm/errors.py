"""The errors that minilm raises on purpose. Each message says what was found, what was expected
and what to do; each class is also the built-in error that a caller would catch."""

import os
from collections.abc import Mapping, Sequence
from operator import index
from typing import SupportsIndex


class MinilmError(Exception):
    """The base of every error below; the command line prints these without a traceback."""


class CheckpointError(MinilmError, ValueError):
    """A checkpoint folder holds something broken, hostile or unsupported."""


class IntegrityError(CheckpointError):
    """A file is not, byte for byte, the published one."""


class ModelNotFoundError(MinilmError, FileNotFoundError):
    """No folder, cache, hub or package index had the model."""


class PushError(MinilmError, OSError):
    """A folder could not be uploaded to the hub."""


class InputError(MinilmError, ValueError):
    """An argument or an input file cannot be used."""


class TextTypeError(MinilmError, TypeError):
    """Something that should be a text is not a string."""


class NonFiniteError(MinilmError, ArithmeticError):
    """A loss or a gradient is infinite or not a number; training stopped before it could do harm.

    Attributes:
        step: the optimiser step, counted from 1, that was not taken.
        texts: the rows of that step's batches, each a list of its texts.
    """

    def __init__(self, message: str, step: int, texts: list[list[str]]):
        super().__init__(message)
        self.step = step
        self.texts = texts


class TruncationError(MinilmError, ValueError):
    """Texts are longer than the limit and ``truncation="error"`` was asked for.

    Attributes:
        tokens_lost: text index → number of tokens beyond the limit.
    """

    def __init__(self, message: str, tokens_lost: Mapping[int, int]):
        super().__init__(message)
        self.tokens_lost = dict(tokens_lost)


class CheckpointWarning(UserWarning):
    """A checkpoint folder says something that has no effect, or leaves something open."""


class TruncationWarning(UserWarning):
    """Texts were cut at the limit. ``tokens_lost`` maps text index → number of tokens cut off."""

    def __init__(self, message: str, tokens_lost: Mapping[int, int]):
        super().__init__(message)
        self.tokens_lost = dict(tokens_lost)


class ColumnWarning(UserWarning):
    """Columns of a data set are likely in another order than they were meant to be."""


class SlowPrecisionWarning(UserWarning):
    """The processor has no instructions for the weights' type and emulates it."""


class EngineWarning(UserWarning):
    """The fast engine does not compute what the plain encoder does, and steps aside for it."""


class LossyPrecisionWarning(UserWarning):
    """A precision was chosen that changes the vectors beyond rounding of their own type."""


class NonFiniteWarning(UserWarning):
    """Vectors have infinite numbers or numbers that are not numbers (NaN)."""


class IgnoredArgumentWarning(UserWarning):
    """Two arguments were given of which only one can hold; the other is ignored."""


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raises an :class:`InputError` that lists the choices when ``value`` is none of them."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")


def check_positive(**numbers: object) -> None:
    """Raises an :class:`InputError` for what is not a whole number of at least 1."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, SupportsIndex) or index(number) < 1:
            raise InputError(f"{name} is {number!r}, expected a whole number of at least 1")


def describe_cut(
    tokens_lost: Mapping[int, int], total: int, limit: int, first: int = 0, count: int | None = None
) -> str:
    """Which texts are over the limit and by how much, the first five by number; ``first`` is the
    number of the first text, ``count`` how many there are when ``tokens_lost`` does not have all."""
    count = count or len(tokens_lost)
    shown = ", ".join(f"text {first + index} by {lost:,}" for index, lost in list(tokens_lost.items())[:5])
    more = f" and {count - 5:,} more" if count > 5 else ""
    return f"{count:,} of {total:,} texts are over the limit of {limit} tokens ({shown}{more})"


def caller_level() -> int:
    """For a warning, the stack level of the caller outside this package."""
    import inspect

    import torch

    inside = tuple(os.path.join(os.path.dirname(file), "") for file in (__file__, torch.__file__))
    frame = inspect.currentframe()
    frame, level = frame and frame.f_back, 0
    while frame and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    return level + 1
