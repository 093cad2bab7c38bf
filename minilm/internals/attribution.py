"""Which tokens made the score of two texts? One answer that is exact, three that go to the input.

* :func:`token_pairs` splits a score over pairs of tokens with no approximation. It speaks of the
  last layer's vectors, each of which has already taken in its whole text (*contextual* tokens).
* :func:`integrated_gradients` and :func:`gradient_x_input` speak of the word pieces that were put in.
* :func:`occlusion` leaves tokens out and looks: a check that needs no theory.

:func:`~minilm.internals.faithfulness.deletion_curve` measures how far any of them can be trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from minilm.errors import InputError, check_choice
from minilm.internals.trace import tokenize
from minilm.layouts import Layout, PackedBatch, TokenIds
from minilm.pooling import list_after_pooling
from minilm.similarity import SIMILARITY, similarity_name, truncate_embeddings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minilm.sentence_encoder import SentenceEncoder

Baseline: TypeAlias = Literal["pad", "mask", "zero"]
MASKS = ("[MASK]", "<mask>")  # BERT's and XLM-R's
TOKENS_AT_A_TIME = 2048  # in one forward pass: bounds the memory, and fits the processor's cache
MOST_STEPS = 1000  # the points are eigenvalues of a matrix of this size


# ---- exact: pairs of contextual tokens ------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class TokenPairs:
    """A score, split over the pairs of tokens of two texts.

    Attributes:
        texts: the two.
        tokens: the word pieces of each, ``Ta`` and ``Tb`` of them.
        matrix: float64 ``[Ta, Tb]``: what each pair adds.
        score: what the model gives for the two texts.
        gap: ``score`` less the sum of ``matrix``: rounding, below 1e-6 in float32.
        similarity: ``"cosine"`` or ``"dot"``.
    """

    texts: tuple[str, str]
    tokens: tuple[list[str], list[str]]
    matrix: Tensor
    score: float
    gap: float
    similarity: str

    @property
    def first(self) -> Tensor:
        """``[Ta]``: what each token of the first text adds, with all of the second. Sums to the score."""
        return self.matrix.sum(dim=1)

    @property
    def second(self) -> Tensor:
        """``[Tb]``: what each token of the second text adds, with all of the first."""
        return self.matrix.sum(dim=0)

    def __repr__(self) -> str:
        """The score and the pairs that add most."""
        order = self.matrix.flatten().argsort(descending=True)[:5].tolist()
        lines = [
            f"{self.similarity} {self.score:.4f}, the sum of {self.matrix.numel()} token pairs (gap {self.gap:.0e})"
        ]
        for number in order:
            i, j = divmod(number, self.matrix.shape[1])
            lines.append(f"  {self.matrix[i, j]:+.4f}  {self.tokens[0][i]} × {self.tokens[1][j]}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from minilm.internals import show

        return show.token_pairs(self)

    def plot(self) -> Figure:
        """A matplotlib figure: see figures.py."""
        from minilm.internals import figures

        return figures.token_pairs(self)


@torch.no_grad()
def token_pairs(
    model: SentenceEncoder, text: str, other: str, *, similarity: str | Enum | None = None, layout: Layout = "padded"
) -> TokenPairs:
    """Splits the similarity of two texts over all pairs of their tokens, exactly.

    A text's vector is a mean of token vectors, ``u = Σ_i h_i / Ta``, and so
    ``cos(u, v) = Σ_ij h_i · g_j / (Ta Tb ‖u‖ ‖v‖)``: each term is what the pair (i, j) adds. This
    is contextual-token attribution: ``h_i`` is the last layer's vector at token i, and holds
    what that token gathered from its text, not the word alone. Where the model takes the vector of
    ``[CLS]`` in place of the mean, the pair of the two ``[CLS]`` adds everything.

    Args:
        text, other: the two.
        similarity: ``"cosine"`` or ``"dot"``; None takes the model's.
        layout: of the batch that the two texts form.

    Raises:
        InputError: a similarity that is no sum over token pairs (Euclidean, Manhattan).
    """
    name = similarity_name(similarity or model.similarity_fn_name)
    if name not in ("cosine", "dot"):
        raise InputError(
            f"similarity is {name!r}, which is no sum over token pairs; expected 'cosine' or 'dot'. "
            "integrated_gradients and occlusion take any similarity"
        )
    (first, second), batch = tokenize(model, [text, other], layout)
    model.eval()
    output = model(batch)
    score = score_pairs(model, output.sentence_embedding[:1], output.sentence_embedding[1:], name).item()
    parts = []
    for hidden in batch.texts(output.last_hidden_state):
        part = model.pooling.shares(hidden.double())  # [T, D], sums to the text's pooled vector
        if None in list_after_pooling(model.normalize):
            part = part / part.sum(dim=0).norm().clamp(min=1e-12)
        part = truncate_embeddings(part, model.truncate_dim)
        if name == "cosine":
            part = part / part.sum(dim=0).norm().clamp(min=1e-12)
        parts.append(part)
    matrix = parts[0] @ parts[1].T
    tokens = [model.tokenizer.pieces(ids.tolist()) for ids in batch.texts(batch.input_ids)]
    return TokenPairs((first, second), (tokens[0], tokens[1]), matrix, score, score - matrix.sum().item(), name)


# ---- to the input ---------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class TokenAttribution:
    """What each token of a text adds to its score with another text.

    Attributes:
        text, other: the text whose tokens are asked, and the one that it is compared with.
        tokens: its word pieces, or whatever the values belong to.
        values: float64 ``[T]``.
        score: what the model gives for the two texts.
        method: how the values were found, baseline and steps included.
        baseline_score: the score at the baseline; None where the method has none.
        gap: the sum of the values less what they should sum to, ``score - baseline_score``
            (completeness); None where the method promises no sum.
    """

    text: str
    other: str
    tokens: list[str]
    values: Tensor
    score: float
    method: str
    baseline_score: float | None = None
    gap: float | None = None

    def __repr__(self) -> str:
        """The method, the score and a line for each token."""
        lines = [f"{self.method}: score {self.score:.4f}"]
        if self.gap is not None:
            lines[0] += f", {self.baseline_score:.4f} at the baseline, gap {self.gap:.1e}"
        lines += [f"  {value:+.4f}  {token}" for token, value in zip(self.tokens, self.values.tolist(), strict=True)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from minilm.internals import show

        return show.token_attribution(self)

    def plot(self) -> Figure:
        """A matplotlib figure: see figures.py."""
        from minilm.internals import figures

        return figures.token_attribution(self)


def integrated_gradients(
    model: SentenceEncoder,
    text: str,
    other: str,
    *,
    baseline: Baseline = "pad",
    steps: int = 64,
    similarity: str | Enum | None = None,
) -> TokenAttribution:
    """What each word piece of ``text`` adds to its score with ``other``, which is held fixed.

    Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks" (https://arxiv.org/abs/1703.01365):
    the gradient of the score with respect to the word embeddings, integrated along the straight line
    from a baseline x′ to the text x, times x - x′. The values sum to ``score - baseline_score``
    (completeness); ``gap`` says how nearly. The integral is Gauss and Legendre's rule.

    Args:
        text, other: swap them for the attribution to the other one.
        baseline: what stands in place of every word piece, positions kept: ``"pad"`` and
            ``"mask"``, the vectors of these tokens, or ``"zero"``. ``[CLS]`` and ``[SEP]`` stay what
            they are, and so get 0: the baseline is a text of the same length that says nothing.
        steps: points on the line.
        similarity: any of the model's four; None takes the model's own.

    Raises:
        InputError: an unknown baseline, one that the tokenizer does not have, or a number of steps out of range.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise InputError(f"steps is {steps}, expected 1 to {MOST_STEPS:,}")
    places, weights = np.polynomial.legendre.leggauss(steps)  # on -1 … 1
    method = f"integrated gradients from {baseline}, {steps} steps"
    return _along_the_line(model, text, other, baseline, (places + 1) / 2, weights / 2, similarity, method, True)


def gradient_x_input(
    model: SentenceEncoder, text: str, other: str, *, baseline: Baseline = "zero", similarity: str | Enum | None = None
) -> TokenAttribution:
    """The gradient of the score at the text itself, times the word embeddings (less the baseline's).

    One backward pass in place of many. It is what the score would lose if it were linear in the input,
    which it is not: the values have no promised sum. Arguments as in :func:`integrated_gradients`.
    """
    return _along_the_line(
        model, text, other, baseline, np.ones(1), np.ones(1), similarity, f"gradient × input from {baseline}", False
    )


def _along_the_line(
    model: SentenceEncoder,
    text: str,
    other: str,
    baseline: Baseline,
    places: np.ndarray,
    weights: np.ndarray,
    similarity: str | Enum | None,
    method: str,
    complete: bool,
) -> TokenAttribution:
    """Σ_k w_k ∇score(x′ + α_k (x - x′)) · (x - x′), for each token."""
    (text, other), batch = tokenize(model, [text, other], "packed")
    ids, other_ids = (row.tolist() for row in batch.texts(batch.input_ids))
    model.eval()
    with torch.inference_mode(False), torch.enable_grad():
        fixed = model(_packed(model, [other_ids])).sentence_embedding.detach()
        end = model.encoder.embeddings.word(torch.tensor(ids, device=model.device)).detach()  # [T, D]
        start = end.clone()
        start[1:-1] = _baseline_vector(model, baseline)

        def scores(points: Tensor) -> Tensor:
            """The scores of copies of the text whose word embeddings are ``points``, ``[n, T, D]`` → ``[n]``."""
            with model.intervene({"embeddings.word": lambda value, place: points[place.text]}):
                vectors = model(_packed(model, [ids] * len(points))).sentence_embedding
            return score_pairs(model, vectors, fixed, similarity)

        gradient = torch.zeros(end.shape, dtype=torch.float64, device=end.device)
        chunk = max(1, TOKENS_AT_A_TIME // len(ids))
        for first in range(0, len(places), chunk):
            alpha = torch.tensor(places[first : first + chunk], dtype=end.dtype, device=end.device)
            weight = torch.tensor(weights[first : first + chunk], dtype=torch.float64, device=end.device)
            points = (start + alpha[:, None, None] * (end - start)).requires_grad_()
            (slope,) = torch.autograd.grad(scores(points).sum(), points)
            gradient += (weight[:, None, None] * slope).sum(dim=0)
        with torch.no_grad():
            at_start, at_end = scores(torch.stack([start, end])).tolist()
    values = (gradient * (end - start)).sum(dim=-1)  # [T, D] → [T]
    gap = values.sum().item() - (at_end - at_start) if complete else None
    tokens = model.tokenizer.pieces(ids)
    return TokenAttribution(text, other, tokens, values, at_end, method, at_start if complete else None, gap)


def _baseline_vector(model: SentenceEncoder, baseline: str) -> Tensor:
    """``[D]``, what stands in place of each word piece."""
    check_choice("baseline", baseline, ("pad", "mask", "zero"))
    word = model.encoder.embeddings.word.weight.detach()
    if baseline == "zero":
        return torch.zeros_like(word[0])
    if baseline == "mask":
        return word[mask_id(model)]
    return word[model.tokenizer.pad_token_id]


# ---- occlusion ------------------------------------------------------------------------------------


@torch.no_grad()
def occlusion(
    model: SentenceEncoder,
    text: str,
    other: str,
    *,
    by: Literal["mask", "delete"] = "mask",
    unit: Literal["token", "word"] = "token",
    similarity: str | Enum | None = None,
) -> TokenAttribution:
    """What the score of ``text`` with ``other`` loses without each token: one forward pass a token.

    Args:
        text, other: the text whose tokens are left out, and the one that it is compared with.
        by: ``"mask"`` puts ``[MASK]`` in place; ``"delete"`` takes the token out, and those behind
            it move up.
        unit: ``"token"``, or ``"word"``: the pieces of one word together.
        similarity: any of the model's four; None takes the model's own.

    Returns:
        The losses. ``[CLS]`` and ``[SEP]``, which every text has, stay and get 0. They promise no sum.
    """
    check_choice("by", by, ("mask", "delete"))
    check_choice("unit", unit, ("token", "word"))
    (text, other), batch = tokenize(model, [text, other], "packed")
    ids, other_ids = (row.tolist() for row in batch.texts(batch.input_ids))
    pieces = model.tokenizer.pieces(ids)
    words = model.tokenizer.words((model._resolve_prompt(None, None) or "") + text)
    units = word_positions(words) if unit == "word" else [[i] for i in range(len(ids))]
    variants = [without(model, ids, positions, by) for positions in units[1:-1]]
    scores = score_variants(model, [ids, *variants], other_ids, similarity)
    values = torch.zeros(len(units), dtype=torch.float64)
    values[1:-1] = scores[0] - scores[1:]
    tokens = ["".join(pieces[i].removeprefix("##") if n else pieces[i] for n, i in enumerate(u)) for u in units]
    return TokenAttribution(text, other, tokens, values, scores[0].item(), f"occlusion of each {unit} by {by}")


def word_positions(words: Sequence[int | None]) -> list[list[int]]:
    """The positions of each word, from the number of each token's word; a token of none stands alone."""
    together = groupby(enumerate(words), key=lambda item: (item[1], item[1] is None and item[0]))
    return [[position for position, _ in group] for _, group in together]


def without(model: SentenceEncoder, ids: Sequence[int], positions: Iterable[int], by: str) -> list[int]:
    """Token ids with the positions masked or deleted."""
    gone = set(positions)
    if by == "delete":
        return [token for position, token in enumerate(ids) if position not in gone]
    mask = mask_id(model)
    return [mask if position in gone else token for position, token in enumerate(ids)]


def score_variants(
    model: SentenceEncoder, variants: TokenIds, other: Sequence[int], similarity: str | Enum | None
) -> Tensor:
    """The score of each list of token ids with ``other``: float64 ``[n]`` on the CPU."""
    model.eval()
    fixed = model(_packed(model, [other])).sentence_embedding
    scores = torch.empty(len(variants), dtype=torch.float64)
    for rows, batch in packed_batches(model, variants):
        scores[rows] = score_pairs(model, model(batch).sentence_embedding, fixed, similarity).double().cpu()
    return scores


# ---- what all of them need ------------------------------------------------------------------------


def score_pairs(model: SentenceEncoder, a: Tensor, b: Tensor, similarity: str | Enum | None = None) -> Tensor:
    """The similarity of rows at equal places, as ``similarity_pairwise`` of what ``encode`` gives.

    Raises:
        InputError: a similarity that does not exist.
    """
    name = similarity_name(similarity or model.similarity_fn_name)
    return SIMILARITY[name][1](truncate_embeddings(a, model.truncate_dim), truncate_embeddings(b, model.truncate_dim))


def mask_id(model: SentenceEncoder) -> int:
    """The id of ``[MASK]``, or of ``<mask>``.

    Raises:
        InputError: the tokenizer knows neither.
    """
    for mask in MASKS:
        ids = model.tokenizer([mask]).ids[0]  # [CLS], [MASK], [SEP]
        if model.tokenizer.pieces(ids)[1:-1] == [mask]:
            return ids[1]
    raise InputError(f"the tokenizer has no {' or '.join(MASKS)}; choose another baseline, or by='delete'")


def packed_batches(model: SentenceEncoder, ids: TokenIds) -> Iterator[tuple[list[int], PackedBatch]]:
    """Lists of token ids → batches of bounded size, equal lengths side by side, and which they hold."""
    rows: list[int] = []
    tokens = 0
    for index in sorted(range(len(ids)), key=lambda i: -len(ids[i])):
        if rows and tokens + len(ids[index]) > TOKENS_AT_A_TIME:
            yield rows, _packed(model, [ids[i] for i in rows])
            rows, tokens = [], 0
        rows.append(index)
        tokens += len(ids[index])
    if rows:
        yield rows, _packed(model, [ids[i] for i in rows])


def _packed(model: SentenceEncoder, ids: TokenIds) -> PackedBatch:
    return PackedBatch.from_ids(ids).to(model.device)
