"""What changed between two checkpoints: their tensors, settings, layers, vectors and scores.

For whoever signs off a fine-tuned model. Nothing in the folders is executed. All of it is measured on
texts: yours, or :data:`TEXTS` summary lines of docstrings, which every machine has.

>>> comparison = compare("all-MiniLM-L6-v2", "tuned", texts)
>>> comparison.verdict
'Same tokenizer and settings; 101 of 101 tensors changed, …'
>>> comparison.layers[0].cka
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minilm.checkpoint import WEIGHTS_FILE, is_used, read_tensors
from minilm.errors import InputError, TruncationWarning
from minilm.evaluation.measures import spearman
from minilm.folder import Pipeline, read_folder
from minilm.hub import find_model
from minilm.internals.attribution import token_pairs
from minilm.internals.cka import LinearCKA
from minilm.plain_json import to_json
from minilm.plan import packed_batches
from minilm.progress import progress
from minilm.sentence_encoder import SentenceEncoder
from minilm.similarity import SIMILARITY, semantic_search
from minilm.tokens import TokenizedTexts, check_texts

TEXTS = 256  # summary lines of docstrings, where no texts are given
QUANTILES = {"least": 0.0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "most": 1.0}
PAIRS_PER_TEXT = 3  # nearest neighbours in either model that a text forms pairs with, where none are given
TOKEN_PAIRS = 5  # that are named for a pair of texts
SHOWN_PIECES = 20  # of a vocabulary that the other has not

_NUMBERS_AT_A_TIME = 1 << 22
_TOKENS_AT_A_TIME = 2048  # of which all layers' activations are kept
_TEXTS_AT_A_TIME = 256  # queries of a search among the texts
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


# ---- what is found ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorChange:
    """A tensor of either file, by its name there.

    Attributes:
        part: ``"embeddings"``, ``"layer 0"`` …, or ``"unused"``: the encoder does not read it.
        shape_a, shape_b, dtype_a, dtype_b: None where the file has no such tensor.
        equal: the same type, shape and bits.
        elements: its numbers, in A if it is there.
        changed: how many numbers have other bits, or another value where the types differ; None, as
            are the next four, where the shapes differ or one file lacks the tensor.
        largest: the largest absolute change of a number; None also where a number is not finite.
        change: the L2 norm of the change.
        norm: the L2 norm in A.
        relative: ``change / norm``; None also where ``norm`` is 0 and the change is not.
        not_finite_a, not_finite_b: numbers that are infinite or NaN.
    """

    name: str
    part: str
    shape_a: tuple[int, ...] | None
    shape_b: tuple[int, ...] | None
    dtype_a: str | None
    dtype_b: str | None
    equal: bool
    elements: int
    changed: int | None = None
    largest: float | None = None
    change: float | None = None
    norm: float | None = None
    relative: float | None = None
    not_finite_a: int = 0
    not_finite_b: int = 0


@dataclass(frozen=True)
class PartChange:
    """The tensors of a part together: embeddings, a layer, or what the encoder does not use.

    Attributes:
        tensors, tensors_changed: how many, in A or B, and how many of them are not equal.
        elements, changed: numbers, and how many of them changed, of the tensors that both have in one shape.
        largest, relative: as of a tensor; None where one of the part's tensors has none.
    """

    part: str
    tensors: int
    tensors_changed: int
    elements: int
    changed: int
    largest: float | None
    relative: float | None


@dataclass(frozen=True)
class SettingChange:
    """A field of config.json, or of the pipeline around the encoder, that differs."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class SplitExample:
    """A text that the two tokenizers split differently."""

    text: str
    a: list[str]
    b: list[str]


@dataclass(frozen=True)
class TokenizerChange:
    """The two tokenizers.

    Attributes:
        same: everything in tokenizer.json that has an effect here is the same.
        vocabulary_a, vocabulary_b: SHA-256 of the pieces with their ids.
        pieces_a, pieces_b: how many pieces.
        only_in_a, only_in_b: how many of them the other has not.
        examples_only_in_a, examples_only_in_b: the first of these, by id.
        other_id: pieces that both have under different ids.
        split_differently: how many of the texts; where one is cut earlier, up to there.
        examples: the first of these texts.
    """

    same: bool
    vocabulary_a: str
    vocabulary_b: str
    pieces_a: int
    pieces_b: int
    only_in_a: int
    only_in_b: int
    examples_only_in_a: list[str]
    examples_only_in_b: list[str]
    other_id: int
    split_differently: int
    examples: list[SplitExample]


@dataclass(frozen=True)
class LayerChange:
    """A layer's output on the texts that both models read as the same pieces.

    With ``h`` for the token vectors of A and ``g`` for those of B:

    Attributes:
        name: as in :data:`~minilm.internals.ACTIVATIONS`.
        equal: the same bits on all texts.
        largest: the largest absolute change of a number.
        relative: ``‖g - h‖ / ‖h‖`` over all tokens of all texts.
        relative_of_texts: quantiles of the same for each text.
        cosine: of the two vectors of a token, mean over all tokens.
        lowest_cosine: of any token.
        cka: of the texts' means, see :class:`~minilm.internals.cka.LinearCKA`.
    """

    name: str
    equal: bool
    largest: float
    relative: float
    relative_of_texts: dict[str, float]
    cosine: float
    lowest_cosine: float
    cka: float | None


@dataclass(frozen=True)
class TextChange:
    """A text's vector and its neighbours among the texts.

    Attributes:
        distance: cosine distance from A's vector to B's; None where their dimensions differ.
        overlap: the share of the nearest neighbours that are the same.
        before, after: the neighbours in A and in B, nearest first, as numbers of texts.
    """

    text: str
    distance: float | None
    overlap: float
    before: list[int]
    after: list[int]


@dataclass(frozen=True)
class VectorChange:
    """How far the texts' vectors moved.

    Attributes:
        dimension_a, dimension_b: of the vectors.
        equal: the same bits for all texts.
        distance: quantiles of the texts' cosine distance; None where the dimensions differ.
        neighbours: k, how many of each text are compared.
        overlap: the mean share of neighbours that are the same.
        texts: each text, in the order given.
    """

    dimension_a: int
    dimension_b: int
    equal: bool
    distance: dict[str, float] | None
    neighbours: int
    overlap: float
    texts: list[TextChange]

    def moved_most(self, count: int) -> list[TextChange]:
        """The texts whose vectors moved most, those that did not move left out."""
        moved = [text for text in self.texts if text.distance]
        return sorted(moved, key=lambda text: -(text.distance or 0))[:count]

    def other_neighbours(self, count: int) -> list[TextChange]:
        """The texts with the fewest neighbours in common, those that have all left out; of equals, those
        that moved further first."""
        changed = [text for text in self.texts if text.overlap < 1]
        return sorted(changed, key=lambda text: (text.overlap, -(text.distance or 0)))[:count]


@dataclass(frozen=True)
class TokenPairChange:
    """What a pair of tokens adds to a score, in A and in B."""

    first: str
    second: str
    first_position: int
    second_position: int
    a: float
    b: float
    change: float


@dataclass(frozen=True)
class PairChange:
    """A pair's score in A and in B.

    Attributes:
        gold: the score given with the pair.
        tokens: the token pairs whose part of the score changed most; None: not asked for, or the two
            models split the texts differently.
        gap: the pair's change less the sum of all its token pairs' changes: rounding.
    """

    first: str
    second: str
    a: float
    b: float
    change: float
    gold: float | None = None
    tokens: list[TokenPairChange] | None = None
    gap: float | None = None


@dataclass(frozen=True)
class ScoreChange:
    """The scores of pairs of texts, each by its model's own similarity.

    Attributes:
        source: where the pairs are from.
        change: quantiles of the pairs' change, B less A.
        absolute_change: quantiles of its size.
        spearman: rank correlation of A's and B's scores; None where undefined.
        gold_spearman_a, gold_spearman_b: with the scores given with the pairs.
        pairs: each pair, in the order given; those that changed most have their tokens.
    """

    source: str
    change: dict[str, float]
    absolute_change: dict[str, float]
    spearman: float | None
    gold_spearman_a: float | None
    gold_spearman_b: float | None
    pairs: list[PairChange]

    def changed_most(self, count: int) -> list[PairChange]:
        """The pairs whose score changed most, those that did not change left out."""
        changed = [pair for pair in self.pairs if pair.change]
        return sorted(changed, key=lambda pair: -abs(pair.change))[:count]


@dataclass(frozen=True, repr=False)
class Comparison:
    """What :func:`compare` found; printing it gives the report.

    Attributes:
        a, b: the models, as they were named.
        texts: where the texts are from; ``text_count`` of them.
        tensors: every tensor of either file, by layer.
        settings: those that differ.
        layers: embeddings and layers; empty where there is nothing to compare (``notes`` says why).
        vectors, scores: None likewise.
        notes: what was not compared, and what to know of the figures.
    """

    a: str
    b: str
    texts: str
    text_count: int
    tensors: list[TensorChange]
    settings: list[SettingChange]
    tokenizer: TokenizerChange
    layers: list[LayerChange]
    vectors: VectorChange | None
    scores: ScoreChange | None
    notes: list[str]

    @property
    def same(self) -> bool:
        """All tensors that the encoder uses, the tokenizer and the settings are equal, to the bit."""
        used = all(tensor.equal for tensor in self.tensors if tensor.part != "unused")
        return used and self.tokenizer.same and not self.settings

    @property
    def parts(self) -> list[PartChange]:
        """The tensors summed up by layer."""
        names = dict.fromkeys(tensor.part for tensor in self.tensors)
        return [_sum_up(name, [t for t in self.tensors if t.part == name]) for name in names]

    @property
    def verdict(self) -> str:
        """The comparison in a sentence."""
        used = [tensor for tensor in self.tensors if tensor.part != "unused"]
        changed = [tensor for tensor in used if not tensor.equal]
        unused = sum(not tensor.equal for tensor in self.tensors) - len(changed)
        aside = f"; {unused} of the tensors that the encoder does not use differ" if unused else ""
        if self.same:
            bits = f"all {len(used)} tensors that the encoder uses, the tokenizer and the settings"
            return f"Same bits: {bits} are equal{aside}"
        said = []
        for name, counts in (("A", [t.not_finite_a for t in used]), ("B", [t.not_finite_b for t in used])):
            if any(counts):
                said.append(f"{name} has {sum(counts):,} numbers that are not finite")
        names = ", ".join(setting.name for setting in self.settings)
        if self.tokenizer.same:
            said.append(f"same tokenizer, other settings ({names})" if names else "same tokenizer and settings")
        else:
            said.append(f"another tokenizer, other settings ({names})" if names else "another tokenizer, same settings")
        both = [tensor for tensor in used if tensor.changed is not None]
        share = sum(t.changed or 0 for t in both) / max(1, sum(t.elements for t in both))
        if changed:
            said.append(f"{len(changed)} of {len(used)} tensors changed ({percent(share)} of the numbers)")
        else:
            said.append(f"all {len(used)} tensors equal")
        if self.layers:
            first = next((layer.name for layer in self.layers if not layer.equal), None)
            said.append(f"activations differ from {first} on" if first else "the same activations on all texts")
        if self.vectors is not None and self.vectors.distance is not None:
            said.append(
                f"vectors moved by {self.vectors.distance['median']:.2g} in cosine distance "
                f"(median; at most {self.vectors.distance['most']:.2g})"
            )
        sentence = "; ".join(said) + aside
        return sentence[0].upper() + sentence[1:]

    def to_dict(self) -> dict[str, Any]:
        """All of it, as ``--json`` writes it; nothing in it is NaN or infinite."""
        return {
            "verdict": self.verdict,
            "same": self.same,
            **dataclasses.asdict(self),
            "parts": [dataclasses.asdict(part) for part in self.parts],
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON."""
        return to_json(self.to_dict(), indent=1)

    def to_html(self, top: int = 10) -> str:
        """The report as one self-contained page, with the ``top`` texts and pairs."""
        from minilm.internals.compare_report import to_html

        return to_html(self, top)

    def to_text(self, top: int = 5) -> str:
        """The report for a terminal, with the ``top`` texts and pairs."""
        from minilm.internals.compare_report import to_text

        return to_text(self, top)

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        from minilm.internals.compare_report import body
        from minilm.internals.html import fragment

        return fragment(body(self, top=5))


# ---- the comparison --------------------------------------------------------------------------------


def compare(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    texts: Iterable[str] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    gold: Sequence[float] | None = None,
    *,
    neighbours: int = 10,
    explain: int = 10,
    device: str | None = None,
    show_progress_bar: bool | None = None,
    texts_source: str | None = None,
    pairs_source: str | None = None,
) -> Comparison:
    """Compares two checkpoints; A is the one before, B the one after.

    Tensors are read from the files one at a time, each memory-mapped. Vectors are those of
    ``encode``, each model with its own prompt, limit and type. Layers are compared where both have
    as many, of one size, on the texts that both read as the same pieces.

    Args:
        a, b: folders, or names of models on the hub.
        texts: at least 2; repeated ones count once. None: the texts of ``pairs``, or else
            :data:`TEXTS` summary lines of docstrings of this Python's standard library.
        pairs: texts whose score to compare. None: each text with its nearest neighbours in A and B.
        gold: how similar the texts of each pair are, on any scale.
        neighbours: how many nearest neighbours of each text are compared.
        explain: for so many pairs, those whose score changed most, the token pairs are named.
        device: for both models; None: the best there is.
        show_progress_bar: None: on a terminal.
        texts_source, pairs_source: where they are from, for the report.

    Raises:
        InputError: fewer than 2 texts, no pairs, or as many ``gold`` scores as pairs are not there.
        TextTypeError: a text is not a string.
        CheckpointError: a folder is broken or holds another kind of model.
        ModelNotFoundError: a model is nowhere to be had.
    """
    if neighbours < 1 or explain < 0:
        raise InputError(f"neighbours is {neighbours} and explain {explain}, expected at least 1 and at least 0")
    if gold is not None and pairs is None:
        raise InputError("gold scores are of pairs, which are not given")
    given_pairs = None if pairs is None else _check_pairs(pairs, gold)
    if texts is None and given_pairs is None:
        from minilm.training.docstrings import docstring_summaries

        texts, texts_source = docstring_summaries(TEXTS), "summary lines of the standard library's docstrings"
    elif texts is None:
        texts, texts_source = [text for pair in given_pairs or () for text in pair], "the texts of the pairs"
    distinct = list(dict.fromkeys(check_texts(texts)))
    if len(distinct) < 2:
        raise InputError(
            f"found {len(distinct)} different text{'s' * (len(distinct) != 1)}, expected at least 2: "
            "neighbours and pairs are formed among them"
        )

    folders = [find_model(a), find_model(b)]
    pipelines = [read_folder(folder) for folder in folders]
    models = [SentenceEncoder.from_pretrained(folder, device=device) for folder in folders]
    notes: list[str] = []
    files = [pipeline.transformer_dir / WEIGHTS_FILE for pipeline in pipelines]
    tensors = compare_tensors(files[0], files[1], show_progress_bar)
    tokenized = [_tokenize(model, distinct) for model in models]
    for name, model, tokens in zip("AB", models, tokenized, strict=True):
        if tokens.tokens_lost:
            notes.append(
                f"{name} cuts {len(tokens.tokens_lost):,} of {len(distinct):,} texts at its limit of "
                f"{model.max_seq_length} tokens."
            )
    pieces = [[model.tokenizer.pieces(ids) for ids in t.ids] for model, t in zip(models, tokenized, strict=True)]
    tokenizer = _compare_tokenizers(models, tokenized, pieces, distinct)

    layers: list[LayerChange] = []
    vectors: VectorChange | None = None
    scores: ScoreChange | None = None
    every = list(dict.fromkeys([*distinct, *(text for pair in given_pairs or () for text in pair)]))
    encoded = [
        model.encode(
            every,
            convert_to_tensor=True,
            truncation="silent",
            non_finite="silent",
            show_progress_bar=show_progress_bar,
        ).cpu()
        for model in models
    ]
    if broken := _not_finite(encoded, every, tensors):
        notes.append(f"{broken}; layers, vectors and scores are not compared.")
    else:
        layers = _compare_layers(models, tokenized, pieces, notes, show_progress_bar)
        among = [vectors[: len(distinct)] for vectors in encoded]
        vectors = _compare_vectors(models, among, distinct, min(neighbours, len(distinct) - 1), show_progress_bar)
        if vectors.distance is None:
            notes.append(
                f"A's vectors have {vectors.dimension_a} dimensions and B's {vectors.dimension_b}: no distance between "
                "them; neighbours and scores are compared."
            )
        if given_pairs is None:
            numbers = _neighbouring(vectors)
            pairs_source = f"each text with its {PAIRS_PER_TEXT} nearest in A and in B"
        else:
            place = {text: number for number, text in enumerate(every)}
            numbers = [(place[first], place[second]) for first, second in given_pairs]
        scores = _compare_scores(
            models, encoded, every, numbers, gold, pairs_source or "the pairs given", explain, notes
        )
    return Comparison(
        os.fspath(a),
        os.fspath(b),
        texts_source or "the texts given",
        len(distinct),
        tensors,
        _compare_settings(pipelines, models),
        tokenizer,
        layers,
        vectors,
        scores,
        notes,
    )


def _check_pairs(pairs: Sequence[tuple[str, str]], gold: Sequence[float] | None) -> list[tuple[str, str]]:
    checked = []
    for number, pair in enumerate(pairs):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(f"pairs[{number}] is {pair!r:.60}, expected two texts")
        first, second = check_texts(pair)
        checked.append((first, second))
    if not checked:
        raise InputError("there are no pairs; give at least one, or None to have them formed among the texts")
    if gold is not None and len(gold) != len(checked):
        raise InputError(f"there are {len(checked):,} pairs, but {len(gold):,} gold scores")
    return checked


def _tokenize(model: SentenceEncoder, texts: list[str]) -> TokenizedTexts:
    """As ``encode`` does, with the model's default prompt."""
    prompt = model._resolve_prompt(None, None)
    return model.tokenizer([prompt + text for text in texts])


def _not_finite(encoded: list[Tensor], texts: list[str], tensors: list[TensorChange]) -> str | None:
    """What is wrong with the first model that gives NaN or infinity."""
    for name, vectors in zip("AB", encoded, strict=True):
        broken = (~vectors.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if broken:
            where = [t.name for t in tensors if (t.not_finite_a if name == "A" else t.not_finite_b)]
            cause = f"; its weights are not finite in {', '.join(where[:3])}" if where else ""
            return f"{name}'s vectors of {len(broken):,} of {len(texts):,} texts are not finite{cause}"
    return None


def quantiles(values: Sequence[float] | Tensor) -> dict[str, float]:
    """The values at :data:`QUANTILES`, interpolated linearly."""
    array = np.asarray(values, dtype=np.float64)
    return {
        name: float(value) for name, value in zip(QUANTILES, np.quantile(array, [*QUANTILES.values()]), strict=True)
    }


def percent(share: float) -> str:
    """A share in per cent. Only none at all is 0 %, and only all is 100 %."""
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    if share < 0.0001:
        return "<0.01 %"
    return f"{100 * share:.3g} %" if share < 0.9995 else f"{min(100 * share, 99.99):.2f} %"


# ---- tensors ---------------------------------------------------------------------------------------


def compare_tensors(a: Path, b: Path, show_progress_bar: bool | None = None) -> list[TensorChange]:
    """Every tensor of two safetensors files, embeddings first, then layer by layer.

    Raises:
        CheckpointError: a file cannot be read.
    """
    files = read_tensors(a), read_tensors(b)  # memory-mapped: a tensor is read when it is used
    names = sorted({*files[0], *files[1]}, key=_place)
    changes = []
    with progress(len(names), "Comparing tensors", show_progress_bar, unit=" tensors") as bar:
        for name in names:
            changes.append(_compare_tensor(name, files[0].get(name), files[1].get(name)))
            bar.update()
    return changes


def _place(name: str) -> tuple[int, int, str]:
    layer = _LAYER.match(name)
    return (not is_used(name), int(layer[1]) if layer else -1, name)


def _compare_tensor(name: str, a: Tensor | None, b: Tensor | None) -> TensorChange:
    layer = _LAYER.match(name)
    part = "unused" if not is_used(name) else f"layer {layer[1]}" if layer else "embeddings"
    described: dict[str, Any] = {"name": name, "part": part}
    for side, tensor in (("a", a), ("b", b)):
        described[f"shape_{side}"] = None if tensor is None else tuple(tensor.shape)
        described[f"dtype_{side}"] = None if tensor is None else str(tensor.dtype).removeprefix("torch.")
        described[f"not_finite_{side}"] = 0 if tensor is None else _count_not_finite(tensor)
    described["elements"] = (b if a is None else a).numel()  # type: ignore[union-attr]  # one is there
    if a is None or b is None or a.shape != b.shape:
        return TensorChange(equal=False, **described)
    equal, changed, largest, squares, norm_squares = a.dtype == b.dtype, 0, 0.0, 0.0, 0.0
    bits = _BITS[a.element_size()] if equal else None
    for x, y in zip(_pieces(a), _pieces(b), strict=True):
        old, new = x.double(), y.double()
        other = x.view(bits) != y.view(bits) if bits else old != new
        difference = (new - old).abs()
        changed += int(other.sum())
        largest = max(largest, float(difference.max()))
        squares += float(difference.square().sum())
        norm_squares += float(old.square().sum())
    change, norm = math.sqrt(squares), math.sqrt(norm_squares)
    finite = not (described["not_finite_a"] or described["not_finite_b"])
    return TensorChange(
        equal=equal and changed == 0,
        changed=changed,
        largest=largest if finite else None,
        change=change if finite else None,
        norm=norm if finite else None,
        relative=(change / norm if norm else 0.0 if not change else None) if finite else None,
        **described,
    )


def _pieces(tensor: Tensor) -> list[Tensor]:
    """The numbers in a line, so many at a time that their copies in float64 stay small."""
    return list(tensor.reshape(-1).split(_NUMBERS_AT_A_TIME)) if tensor.numel() else []


def _count_not_finite(tensor: Tensor) -> int:
    return sum(int((~piece.isfinite()).sum()) for piece in _pieces(tensor))


def _sum_up(part: str, tensors: list[TensorChange]) -> PartChange:
    both = [tensor for tensor in tensors if tensor.changed is not None]
    largest = [tensor.largest for tensor in both]
    norm = math.hypot(*(tensor.norm or 0.0 for tensor in both))
    change = math.hypot(*(tensor.change or 0.0 for tensor in both))
    known = None not in largest
    return PartChange(
        part,
        len(tensors),
        sum(not tensor.equal for tensor in tensors),
        sum(tensor.elements for tensor in both),
        sum(tensor.changed or 0 for tensor in both),
        max((value for value in largest if value is not None), default=None) if known else None,
        (change / norm if norm else 0.0 if not change else None) if known and both else None,
    )


# ---- settings and tokenizer ------------------------------------------------------------------------


def _compare_settings(pipelines: list[Pipeline], models: list[SentenceEncoder]) -> list[SettingChange]:
    a, b = (
        {
            **dataclasses.asdict(pipeline.config),
            "dtype": str(model.dtype).removeprefix("torch."),
            "max_seq_length": pipeline.max_seq_length,
            "pooling_mode": pipeline.pooling_mode,
            "normalize": pipeline.normalize,
            "prompts": model.prompts,
            "default_prompt_name": pipeline.default_prompt_name,
            "similarity_fn_name": pipeline.similarity_fn_name,
        }
        for pipeline, model in zip(pipelines, models, strict=True)
    )
    return [SettingChange(name, a[name], b[name]) for name in a if a[name] != b[name]]


def _compare_tokenizers(
    models: list[SentenceEncoder], tokenized: list[TokenizedTexts], pieces: list[list[list[str]]], texts: list[str]
) -> TokenizerChange:
    vocabularies = [model.tokenizer.vocabulary() for model in models]
    only = [
        sorted(vocabularies[i].keys() - vocabularies[1 - i].keys(), key=lambda piece: vocabularies[i][piece])
        for i in range(2)
    ]
    shared = vocabularies[0].keys() & vocabularies[1].keys()
    examples = []
    for number, (text, first, second) in enumerate(zip(texts, *pieces, strict=True)):
        first, second = first[:-1], second[:-1]  # without the [SEP] that stands where one is cut
        cut = [len(p) for p, t in zip((first, second), tokenized, strict=True) if number in t.tokens_lost]
        most = min(cut, default=None)
        if first[:most] != second[:most]:
            examples.append(SplitExample(text, first, second))
    hashes = [hashlib.sha256(json.dumps(sorted(v.items())).encode()).hexdigest() for v in vocabularies]
    return TokenizerChange(
        same=models[0].tokenizer.to_json() == models[1].tokenizer.to_json(),
        vocabulary_a=hashes[0],
        vocabulary_b=hashes[1],
        pieces_a=len(vocabularies[0]),
        pieces_b=len(vocabularies[1]),
        only_in_a=len(only[0]),
        only_in_b=len(only[1]),
        examples_only_in_a=only[0][:SHOWN_PIECES],
        examples_only_in_b=only[1][:SHOWN_PIECES],
        other_id=sum(vocabularies[0][piece] != vocabularies[1][piece] for piece in shared),
        split_differently=len(examples),
        examples=examples[:5],
    )


# ---- layers ----------------------------------------------------------------------------------------


@torch.inference_mode()
def _compare_layers(
    models: list[SentenceEncoder],
    tokenized: list[TokenizedTexts],
    pieces: list[list[list[str]]],
    notes: list[str],
    show_progress_bar: bool | None,
) -> list[LayerChange]:
    configs = [model.encoder.config for model in models]
    for name in ("num_hidden_layers", "hidden_size"):
        a, b = (getattr(config, name) for config in configs)
        if a != b:
            notes.append(f"Layers are not compared: {name} is {a} in A and {b} in B.")
            return []
    texts = [number for number, (first, second) in enumerate(zip(*pieces, strict=True)) if first == second]
    if not texts:
        notes.append("Layers are not compared: no text is the same pieces in both models.")
        return []
    if len(texts) < len(pieces[0]):
        notes.append(
            f"Layers are compared on the {len(texts):,} of {len(pieces[0]):,} texts that are the same pieces in both."
        )
    ids = [[t.ids[number] for number in texts] for t in tokenized]
    names = ["embeddings", *(f"layers.{i}.output" for i in range(configs[0].num_hidden_layers))]
    size = configs[0].hidden_size
    sums = [_LayerSums(size, models[0].device) for _ in names]
    with progress(len(texts), "Comparing layers", show_progress_bar, unit=" texts") as bar:
        for rows in packed_batches([len(row) for row in ids[0]], _TOKENS_AT_A_TIME):
            states = []
            for model, own in zip(models, ids, strict=True):
                batch = model._batch([own[row] for row in rows], "packed").to(model.device)
                states.append(model(batch, output_hidden_states=True).hidden_states)
            lengths = torch.tensor(batch.lengths, device=models[0].device)
            for layer, a, b in zip(sums, *states, strict=True):
                layer.update(a, b, lengths)
            bar.update(len(rows))
    return [layer.result(name) for layer, name in zip(sums, names, strict=True)]


class _LayerSums:
    """One layer, batch by batch; memory does not grow with the texts but for a number for each."""

    def __init__(self, size: int, device: torch.device):
        self.cka = LinearCKA(size, size, device)
        self.equal, self.largest = True, 0.0
        self.change, self.norm = 0.0, 0.0  # squares
        self.of_texts: list[float] = []
        self.cosines, self.tokens, self.lowest = 0.0, 0, 1.0

    def update(self, a: Tensor, b: Tensor, lengths: Tensor) -> None:
        """Token vectors ``[N, D]`` of texts with so many tokens each."""
        self.equal = self.equal and torch.equal(a, b)
        a, b = a.double(), b.double()
        text = torch.repeat_interleave(torch.arange(len(lengths), device=a.device), lengths)  # [N]: which text

        def by_text(x: Tensor) -> Tensor:
            return x.new_zeros(len(lengths), *x.shape[1:]).index_add_(0, text, x)

        difference = b - a
        change, norm = by_text(difference.square().sum(dim=1)), by_text(a.square().sum(dim=1))  # [B]
        self.largest = max(self.largest, difference.abs().max().item())
        self.change += change.sum().item()
        self.norm += norm.sum().item()
        self.of_texts += (change / norm.clamp(min=1e-300)).sqrt().tolist()
        # 1 - ½‖u - v‖² of unit vectors: 1 to the bit where they are equal.
        unit = [x / x.norm(dim=1, keepdim=True).clamp(min=1e-300) for x in (a, b)]
        cosines = 1 - (unit[0] - unit[1]).square().sum(dim=1) / 2  # [N]
        self.cosines += cosines.sum().item()
        self.tokens += len(cosines)
        self.lowest = min(self.lowest, cosines.min().item())
        self.cka.update(by_text(a) / lengths[:, None], by_text(b) / lengths[:, None])

    def result(self, name: str) -> LayerChange:
        return LayerChange(
            name,
            self.equal,
            self.largest,
            math.sqrt(self.change / self.norm) if self.norm else 0.0,
            quantiles(self.of_texts),
            self.cosines / self.tokens,
            self.lowest,
            self.cka.value(),
        )


# ---- vectors ---------------------------------------------------------------------------------------


def _compare_vectors(
    models: list[SentenceEncoder], vectors: list[Tensor], texts: list[str], k: int, show_progress_bar: bool | None
) -> VectorChange:
    a, b = vectors
    distances: list[float] | None = None
    if a.shape == b.shape:
        unit = [x.double() / x.double().norm(dim=1, keepdim=True).clamp(min=1e-300) for x in vectors]
        distances = ((unit[0] - unit[1]).square().sum(dim=1) / 2).tolist()  # 1 - cosine; 0 to the bit for equals
    with progress(2 * len(texts), "Finding neighbours", show_progress_bar, unit=" texts") as bar:
        before, after = (nearest(x, k, m.similarity_fn_name, bar) for m, x in zip(models, vectors, strict=True))
    overlaps = [len({*old} & {*new}) / k for old, new in zip(before, after, strict=True)]
    return VectorChange(
        a.shape[1],
        b.shape[1],
        a.dtype == b.dtype and torch.equal(a, b),
        None if distances is None else quantiles(distances),
        k,
        sum(overlaps) / len(overlaps),
        [
            TextChange(text, distances[i] if distances is not None else None, overlaps[i], before[i], after[i])
            for i, text in enumerate(texts)
        ],
    )


def nearest(vectors: Tensor, k: int, similarity: str = "cosine", bar: Any = None) -> list[list[int]]:
    """For each of ``[n, D]`` the numbers of its ``k`` nearest others, nearest first."""
    found = []
    for start in range(0, len(vectors), _TEXTS_AT_A_TIME):
        chunk = vectors[start : start + _TEXTS_AT_A_TIME]
        hits = semantic_search(chunk, vectors, top_k=k + 1, score_function=SIMILARITY[similarity][0])
        for number, row in enumerate(hits, start):
            found.append([hit["corpus_id"] for hit in row if hit["corpus_id"] != number][:k])
        if bar is not None:
            bar.update(len(chunk))
    return found


# ---- scores ----------------------------------------------------------------------------------------


def _neighbouring(vectors: VectorChange) -> list[tuple[int, int]]:
    """The pairs of texts of which one is among the other's nearest, in A or in B, each once."""
    pairs: dict[tuple[int, int], None] = {}
    for number, text in enumerate(vectors.texts):
        for other in (*text.before[:PAIRS_PER_TEXT], *text.after[:PAIRS_PER_TEXT]):
            pairs[min(number, other), max(number, other)] = None
    return sorted(pairs)


def _compare_scores(
    models: list[SentenceEncoder],
    encoded: list[Tensor],
    texts: list[str],
    numbers: list[tuple[int, int]],
    gold: Sequence[float] | None,
    source: str,
    explain: int,
    notes: list[str],
) -> ScoreChange:
    first, second = (torch.tensor(side) for side in zip(*numbers, strict=True))
    a, b = (
        model.similarity_pairwise(vectors[first], vectors[second]).double().numpy()
        for model, vectors in zip(models, encoded, strict=True)
    )
    change = b - a
    pairs = [
        PairChange(texts[i], texts[j], *row, gold=None if gold is None else float(gold[number]))
        for number, ((i, j), row) in enumerate(
            zip(numbers, zip(a.tolist(), b.tolist(), change.tolist(), strict=True), strict=True)
        )
    ]
    names = {model.similarity_fn_name for model in models}
    if len(names) == 1 and names <= {"cosine", "dot"}:
        for number in np.argsort(-abs(change), kind="stable")[:explain].tolist():
            if change[number]:
                pairs[number] = _explain(models, pairs[number])
    else:
        notes.append(
            f"Scores are not split over token pairs: the similarity is {' and '.join(sorted(names))}, and only cosine "
            "and dot, the same in both, are sums over them."
        )

    def correlation(x: Any, y: Any) -> float | None:
        value = spearman(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        return None if math.isnan(value) else value

    return ScoreChange(
        source,
        quantiles(change),
        quantiles(abs(change)),
        correlation(a, b),
        None if gold is None else correlation(a, gold),
        None if gold is None else correlation(b, gold),
        pairs,
    )


def _explain(models: list[SentenceEncoder], pair: PairChange) -> PairChange:
    """The pair with the token pairs whose part of the score changed most."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # counted for all texts already
        a, b = (token_pairs(model, pair.first, pair.second, layout="packed") for model in models)
    if a.tokens != b.tokens:
        return pair
    change = (b.matrix - a.matrix).cpu()
    tokens = []
    for place in change.abs().flatten().argsort(descending=True, stable=True)[:TOKEN_PAIRS].tolist():
        i, j = divmod(place, change.shape[1])
        parts = a.matrix[i, j].item(), b.matrix[i, j].item(), change[i, j].item()
        tokens.append(TokenPairChange(a.tokens[0][i], a.tokens[1][j], i, j, *parts))
    return dataclasses.replace(pair, tokens=tokens, gap=pair.change - change.sum().item())
