"""all-MiniLM-L6-v2, taken apart: a hand-written BERT encoder, mean pooling and normalisation.

>>> from minilm import SentenceEncoder
>>> model = SentenceEncoder.from_pretrained()
>>> model.encode(["a text", "another"]).shape
(2, 384)
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from minilm import forks as _forks  # noqa: F401  (a forked process must not wait for its parent's threads)

if TYPE_CHECKING:
    from minilm.api import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """A module of the package, or a name of api.py, imported when it is first asked for: torch takes a second,
    and until it is needed the command line already answers ``--help`` and Ctrl-C."""
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec(f"{__name__}.{name}"):
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        value = getattr(importlib.import_module("minilm.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *importlib.import_module("minilm.api").__all__]
