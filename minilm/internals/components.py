"""Which heads and feed-forwards does a score rest on? Each is taken away in turn, on pairs of texts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from minilm.config import EncoderConfig
from minilm.errors import InputError, check_choice
from minilm.evaluation.measures import spearman
from minilm.internals.activations import Site
from minilm.internals.attribution import mask_id, packed_batches, score_pairs
from minilm.internals.hooks import Value, by_text, watching
from minilm.internals.intervene import Place, at
from minilm.internals.trace import tokenize
from minilm.layouts import Batch, PackedBatch, TokenIds
from minilm.progress import progress
from minilm.tables import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minilm.sentence_encoder import SentenceEncoder

Ablation: TypeAlias = Literal["zero", "mean", "patch"]
PAIRS_AT_A_TIME = 128  # the vectors of their texts without each component are held at once


@dataclass(frozen=True)
class Component:
    """A part of the encoder that can be taken away.

    Attributes:
        layer: its number.
        part: ``"head"``, ``"attention"`` (all heads and the mixing of them) or ``"feed_forward"``.
        head: its number, of a head.
    """

    layer: int
    part: Literal["head", "attention", "feed_forward"]
    head: int | None = None

    @property
    def name(self) -> str:
        """For example ``layers.0.attention.head.3``."""
        if self.part == "head":
            return f"layers.{self.layer}.attention.head.{self.head}"
        return f"layers.{self.layer}.{self.part}"

    @property
    def activation(self) -> str:
        """The activation that it gives."""
        return f"layers.{self.layer}." + ("attention.head_output" if self.part == "head" else f"{self.part}.output")


@dataclass(frozen=True, repr=False)
class ComponentTable:
    """What the scores of pairs are without each component.

    Attributes:
        pairs: ``P`` pairs of texts.
        components: ``C`` of them: for each layer its heads, its attention, its feed-forward.
        scores: float64 ``[P]``: of the whole model.
        without: float64 ``[C, P]``: with the component taken away.
        ablation: what was put in its place.
        gold: people's scores of the pairs, where there are any.
    """

    pairs: list[tuple[str, str]]
    components: list[Component]
    scores: Tensor
    without: Tensor
    ablation: str
    gold: list[float] | None = None

    @property
    def loss(self) -> Tensor:
        """``[C, P]``: what each score loses without the component; negative where it gains."""
        return self.scores - self.without

    @property
    def mean_loss(self) -> Tensor:
        """``[C]``: the mean over the pairs. Gains and losses cancel: see also :attr:`mean_change`."""
        return self.loss.mean(dim=1)

    @property
    def mean_change(self) -> Tensor:
        """``[C]``: the mean over the pairs of the absolute change."""
        return self.loss.abs().mean(dim=1)

    @property
    def spearman_loss(self) -> Tensor:
        """``[C]``: by how much Spearman's correlation with ``gold`` falls without the component.

        Raises:
            InputError: there are no gold scores.
        """
        if self.gold is None:
            raise InputError("the pairs have no gold scores; give component_table gold=")
        gold = np.array(self.gold)
        whole = spearman(self.scores.numpy(), gold)
        return torch.tensor([whole - spearman(row.numpy(), gold) for row in self.without], dtype=torch.float64)

    def __repr__(self) -> str:
        """The mean change of the score, a line for each layer, thousandths."""
        heads = sum(component.part == "head" and component.layer == 0 for component in self.components)
        lines = [
            f"{len(self.pairs)} pairs, mean score {self.scores.mean():.4f}; "
            f"mean absolute change without each component ({self.ablation} ablation), in thousandths",
            "  layer" + "".join(f"{f'h{head}':>6}" for head in range(heads)) + "  attention  feed_forward",
        ]
        for start in range(0, len(self.components), heads + 2):
            *row, attention, feed_forward = (1000 * self.mean_change[start : start + heads + 2]).tolist()
            cells = "".join(f"{value:6.1f}" for value in row)
            lines.append(f"  {self.components[start].layer:5}{cells}{attention:11.1f}{feed_forward:14.1f}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from minilm.internals import show

        return show.components(self)

    def plot(self) -> Figure:
        """A matplotlib figure: see figures.py."""
        from minilm.internals import figures

        return figures.components(self)


def components(config: EncoderConfig) -> list[Component]:
    """All components of a model: for each layer its heads, its attention, its feed-forward."""
    listed = []
    for layer in range(config.num_hidden_layers):
        listed += [Component(layer, "head", head) for head in range(config.num_attention_heads)]
        listed += [Component(layer, "attention"), Component(layer, "feed_forward")]
    return listed


@torch.no_grad()
def component_table(
    model: SentenceEncoder,
    pairs: Sequence[tuple[str, str]],
    *,
    ablation: Ablation = "zero",
    similarity: str | Enum | None = None,
    gold: Sequence[float] | None = None,
    show_progress_bar: bool | None = None,
) -> ComponentTable:
    """Takes away each head, each layer's attention and each feed-forward in turn, in both texts of
    every pair, and scores the pairs again. What lies before the component is computed once.

    The effects of components do not add up: others step in, and normalisation rescales what is left.

    Args:
        pairs: of texts; :func:`read_pairs` reads them from a file.
        ablation: what takes the component's place at every token: ``"zero"``; ``"mean"``, its mean
            over all tokens of all texts of the pairs; or ``"patch"``, what it gives at the same
            position of a text of the same length that says nothing: every token but ``[CLS]`` and
            ``[SEP]`` is ``[MASK]``.
        similarity: any of the model's four; None takes the model's own.
        gold: people's score of each pair, for :attr:`ComponentTable.spearman_loss`.
        show_progress_bar: None shows one on a terminal when it takes more than a second.

    Raises:
        InputError: no pairs, not two texts in each, or not as many gold scores; or no ``[MASK]``
            in the tokenizer, which ``"patch"`` needs.
        TextTypeError: an input is not a string.
    """
    check_choice("ablation", ablation, ("zero", "mean", "patch"))
    if any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise InputError("pairs has to be a list of pairs of texts, [(text, other), …]")
    if gold is not None and len(gold) != len(pairs):
        raise InputError(f"found {len(gold)} gold scores for {len(pairs)} pairs")
    checked, batch = tokenize(model, [text for pair in pairs for text in pair], "packed")
    ids_of = dict(zip(checked, (ids.tolist() for ids in batch.texts(batch.input_ids)), strict=True))
    model.eval()
    parts = components(model.encoder.config)
    places = dict.fromkeys(part.activation for part in parts)
    means = _means(model, list(ids_of.values()), places) if ablation == "mean" else None
    scores = torch.empty(len(parts) + 1, len(pairs), dtype=torch.float64)
    with progress(len(parts) * len(ids_of), "Components", show_progress_bar, unit=" passes") as bar:
        for start in range(0, len(pairs), PAIRS_AT_A_TIME):
            chunk = pairs[start : start + PAIRS_AT_A_TIME]
            row_of = {text: row for row, text in enumerate(dict.fromkeys(text for pair in chunk for text in pair))}
            ids = [ids_of[text] for text in row_of]
            vectors = torch.empty(len(parts) + 1, len(ids), model.encoder.config.hidden_size, dtype=model.dtype)
            for rows, texts in packed_batches(model, ids):
                instead = means or _instead(model, texts, places, ablation)
                vectors[:, rows] = _without_each(model, texts, parts, instead, bar).cpu()
            for number, row in enumerate(vectors):
                a, b = (row[[row_of[pair[side]] for pair in chunk]] for side in (0, 1))
                scores[number, start : start + len(chunk)] = score_pairs(model, a, b, similarity)
    listed = [(str(a), str(b)) for a, b in pairs]
    return ComponentTable(
        listed, parts, scores[0], scores[1:], ablation, None if gold is None else list(map(float, gold))
    )


Instead: TypeAlias = "Mapping[str, list[Tensor] | Tensor]"  # for each activation: of each text, or of all


def _without_each(
    model: SentenceEncoder, batch: PackedBatch, parts: list[Component], instead: Instead, bar: Any
) -> Tensor:
    """The texts' vectors from the whole model, then without each part: ``[C + 1, B, D]``."""
    whole = model(batch, output_hidden_states=True)
    vectors = [whole.sentence_embedding]
    for part in parts:

        def put(value: Tensor, place: Place) -> Tensor:
            other = instead[place.name]
            return (other[place.text] if isinstance(other, list) else other).expand_as(value)

        with model.intervene({part.activation: at(put, head=part.head)}):
            hidden = whole.hidden_states[part.layer]
            for layer in model.encoder.layers[part.layer :]:
                hidden, _ = layer(hidden, batch, "sdpa")
            vectors.append(model.normalize(model.pooling(hidden, batch)))
        bar.update(len(batch.lengths))
    return torch.stack(vectors)


def _instead(model: SentenceEncoder, batch: PackedBatch, places: Mapping[str, None], ablation: str) -> Instead:
    """What takes the place of each activation in this batch: zero, or a blank text's."""
    if ablation == "zero":
        return dict.fromkeys(places, torch.zeros(1, dtype=model.dtype, device=model.device))
    mask = mask_id(model)
    blank = PackedBatch.from_ids([[ids[0], *[mask] * (len(ids) - 2), ids[-1]] for ids in _rows(batch)])
    kept = _Kept(places)
    with watching(model, kept):
        model(blank.to(model.device))
    return kept.texts


def _means(model: SentenceEncoder, ids: TokenIds, places: Mapping[str, None]) -> Instead:
    """The mean of each activation over all tokens."""
    totals: dict[str, Tensor] = {}
    for _, batch in packed_batches(model, ids):
        kept = _Kept(places)
        with watching(model, kept):
            model(batch)
        for name, texts in kept.texts.items():
            totals[name] = totals.get(name, 0) + torch.cat(texts).double().sum(dim=0)
    tokens = sum(map(len, ids))
    return {name: (total / tokens).to(model.dtype) for name, total in totals.items()}


def _rows(batch: Batch) -> list[list[int]]:
    return [ids.tolist() for ids in batch.texts(batch.input_ids)]


class _Kept:
    """Keeps activations text by text."""

    def __init__(self, names: Mapping[str, None]):
        self.names = names.keys()
        self.texts: dict[str, list[Tensor]] = {}

    def __call__(self, site: Site, value: Value, batch: Batch) -> Value:
        self.texts[site.name] = by_text(site, value, batch)
        return value


class Pairs(NamedTuple):
    """Pairs of texts, and people's scores of them where the file has any."""

    pairs: list[tuple[str, str]]
    gold: list[float] | None


def read_pairs(path: str | os.PathLike[str], columns: tuple[str, str] = ("sentence1", "sentence2")) -> Pairs:
    """Reads pairs from JSONL, CSV or TSV, with or without a column ``score``, as
    :func:`minilm.tables.read_table` reads.

    Args:
        path: the file. CSV and TSV without a header have the two texts in this order, then the score.
        columns: what the columns of the two texts are called, e.g. ``("question", "answer")``.

    Raises:
        InputError: the file cannot be read, lacks a column, a score is not a number, or only some
            pairs have one.
    """
    table = read_table(path, columns, optional=("score",))
    pairs = list(zip(table.texts(columns[0]), table.texts(columns[1]), strict=True))
    scored = any(cell is not None for cell in table.columns["score"])
    return Pairs(pairs, table.numbers("score") if scored else None)
