"""The names of all intermediate results, in one table, and how names are chosen by pattern.

The table is the one place that knows the names: documentation, matching, shapes and errors read it.
Dimensions as in encoder.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

from minilm.config import EncoderConfig
from minilm.errors import InputError

TOKENS, HEADS, PAIRS, SENTENCE = "[..., D]", "[..., H, d]", "[B, H, T, T]", "[B, D]"


@dataclass(frozen=True)
class Activation:
    """An intermediate result.

    Attributes:
        name: with ``{i}`` for the number of the layer.
        shape: of a whole batch, where ``...`` is ``B, T`` (padded) or ``N`` (packed).
        module: the submodule of :class:`~minilm.sentence_encoder.SentenceEncoder` where it appears.
        side: whether it is what goes into that module or what comes out. ``"inside"``: the kernel
            never forms it, so it is computed beside the kernel from query and key.
        meaning: what it is.
    """

    name: str
    shape: str
    module: str
    side: Literal["input", "output", "inside"]
    meaning: str

    @property
    def axes(self) -> tuple[str, ...]:
        """What the axes of one text's value are called: the arguments that restrict an intervention."""
        return _AXES[self.shape]


_AXES = {
    TOKENS: ("position", "dimension"),
    "[..., F]": ("position", "dimension"),
    HEADS: ("position", "head", "dimension"),
    PAIRS: ("head", "position", "key"),
    SENTENCE: ("dimension",),
}

_E, _L = "encoder.embeddings", "encoder.layers.{i}"

# In the order of computation.
ACTIVATIONS: tuple[Activation, ...] = (
    Activation("embeddings.word", TOKENS, f"{_E}.word", "output", "the word piece's vector"),
    Activation("embeddings.token_type", TOKENS, f"{_E}.token_type", "output", "the segment's vector, always segment 0"),
    Activation("embeddings.position", TOKENS, f"{_E}.position", "output", "the position's vector"),
    Activation("embeddings.sum", TOKENS, f"{_E}.norm", "input", "the sum of the three"),
    Activation("embeddings", TOKENS, _E, "output", "the sum, normalised: what layer 0 reads"),
    Activation("layers.{i}.attention.query", HEADS, f"{_L}.attention.query", "output", "what a token looks for"),
    Activation("layers.{i}.attention.key", HEADS, f"{_L}.attention.key", "output", "what a token is found by"),
    Activation("layers.{i}.attention.value", HEADS, f"{_L}.attention.value", "output", "what a token hands over"),
    Activation("layers.{i}.attention.scores", PAIRS, f"{_L}.attention", "inside", "q kᵀ / √d, -inf at padding"),
    Activation("layers.{i}.attention.probabilities", PAIRS, f"{_L}.attention", "inside", "softmax over the keys"),
    Activation(
        "layers.{i}.attention.head_output", HEADS, f"{_L}.attention.output", "input", "what each head has gathered"
    ),
    Activation("layers.{i}.attention.output", TOKENS, f"{_L}.attention.output", "output", "the heads, mixed"),
    Activation("layers.{i}.attention_residual", TOKENS, f"{_L}.attention_norm", "input", "output + the layer's input"),
    Activation("layers.{i}.attention_norm", TOKENS, f"{_L}.attention_norm", "output", "the residual, normalised"),
    Activation("layers.{i}.feed_forward.up", "[..., F]", f"{_L}.feed_forward.up", "output", "before the non-linearity"),
    Activation("layers.{i}.feed_forward.hidden", "[..., F]", f"{_L}.feed_forward.down", "input", "after it"),
    Activation("layers.{i}.feed_forward.output", TOKENS, f"{_L}.feed_forward.down", "output", "down to D again"),
    Activation(
        "layers.{i}.feed_forward_residual", TOKENS, f"{_L}.feed_forward_norm", "input", "output + attention_norm"
    ),
    Activation("layers.{i}.output", TOKENS, f"{_L}.feed_forward_norm", "output", "the residual, normalised"),
    Activation("pooled", SENTENCE, "pooling", "output", "the mean of the last layer's tokens, or its [CLS]"),
    Activation("sentence_embedding", SENTENCE, "normalize", "output", "length 1, where the model does so"),
)


@dataclass(frozen=True)
class Site(Activation):
    """An activation of one model: the name has its layer's number.

    Attributes:
        layer: its number; -1: it belongs to no layer.
        kind: the name with ``{i}``, as it stands in :data:`ACTIVATIONS`.
    """

    layer: int
    kind: str


def sites(config: EncoderConfig) -> dict[str, Site]:
    """Name → every activation of a model with this configuration, in the order of computation."""
    first = next(number for number, a in enumerate(ACTIVATIONS) if "{i}" in a.name)
    last = len(ACTIVATIONS) - next(number for number, a in enumerate(reversed(ACTIVATIONS)) if "{i}" in a.name)
    order = [(a, -1) for a in ACTIVATIONS[:first]]
    order += [(a, i) for i in range(config.num_hidden_layers) for a in ACTIVATIONS[first:last]]
    order += [(a, -1) for a in ACTIVATIONS[last:]]
    named = [Site(a.name.format(i=i), a.shape, a.module.format(i=i), a.side, a.meaning, i, a.name) for a, i in order]
    return {site.name: site for site in named}


def choose(names: str | Iterable[str], known: dict[str, Site]) -> list[str]:
    """The known names that any of the patterns matches, in the order of computation.

    Args:
        names: a name or pattern, or several. ``*`` stands for one part of a name between dots; as
            the first or last part for any number of parts. ``?`` and ``[0-3]`` as in file names:
            ``"*"``, ``"layers.*.output"``, ``"*.probabilities"``, ``"layers.[0-2].attention.*"``.

    Raises:
        InputError: a pattern matches nothing; lists the names that are near.
    """
    patterns = [names] if isinstance(names, str) else list(names)
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InputError(f"found {pattern!r} in place of an activation's name, expected a string")
        found = [name for name in known if _matches(pattern, name)]
        if not found:
            near = get_close_matches(pattern, known, n=4, cutoff=0.5) or ["embeddings", "layers.0.output", "pooled"]
            layers = 1 + max(site.layer for site in known.values())
            raise InputError(
                f"no activation is named {pattern!r}; near it: {', '.join(near)}. Layers count from 0 to "
                f"{layers - 1}; minilm.internals.ACTIVATIONS lists all names"
            )
        chosen.update(found)
    return [name for name in known if name in chosen]


def _matches(pattern: str, name: str) -> bool:
    wanted, parts = pattern.split("."), name.split(".")
    missing = len(parts) - len(wanted)
    for before in range(missing + 1):  # a star at an end may stand for several parts
        after = missing - before
        if (before and wanted[0] != "*") or (after and wanted[-1] != "*"):
            continue
        if all(map(fnmatchcase, parts, ["*"] * before + wanted + ["*"] * after)):
            return True
    return False
