"""Explain: everything between the characters of one or two texts and their vectors, in one object.

:func:`explain` gathers what the other modules here find, with its full figures; ``minilm explain``
prints it (walk.py) and writes it as a page (page.py).
"""

from __future__ import annotations

import base64
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minilm.checkpoint import atomic_path
from minilm.errors import TruncationWarning
from minilm.internals.attribution import (
    Baseline,
    TokenAttribution,
    TokenPairs,
    integrated_gradients,
    score_pairs,
    token_pairs,
)
from minilm.internals.components import ComponentTable, component_table
from minilm.internals.layers import LayerByLayer, layer_by_layer
from minilm.internals.trace import trace
from minilm.plain_json import to_json
from minilm.pooling import PoolingMode, list_after_pooling
from minilm.similarity import truncate_embeddings
from minilm.tokens import check_texts

if TYPE_CHECKING:
    from minilm.sentence_encoder import SentenceEncoder


@dataclass(frozen=True, repr=False)
class TextSteps:
    """One text on its way to a vector. ``T`` tokens, ``L`` layers, ``H`` heads, ``D`` dimensions.

    Attributes:
        text: as the tokenizer got it: with the model's prompt, if it has one.
        tokens: the ``T`` word pieces.
        ids: their numbers in the vocabulary.
        spans: where each comes from: its first character, and one past its last.
        tokens_lost: how many tokens were over the limit and cut off.
        embeddings: ``[T, D]``: what layer 0 reads.
        attention: ``[L, H, T, T]``, a row for each token that looks; each row sums to 1.
        pooled: ``[D]``: the mean of the last layer's tokens, or the vector of ``[CLS]``.
        vector: ``[D]``, or ``truncate_dim`` numbers: what ``encode`` gives.
    """

    text: str
    tokens: list[str]
    ids: list[int]
    spans: list[tuple[int, int]]
    tokens_lost: int
    embeddings: Tensor
    attention: Tensor
    pooled: Tensor
    vector: Tensor


@dataclass(frozen=True, repr=False)
class Explanation:
    """What :func:`explain` found.

    Attributes:
        model: the model's name or folder, as given.
        texts: the steps of one text, or of two.
        layers: layer by layer, both texts.
        similarity: how the model compares vectors.
        pooling_mode: ``"mean"`` or ``"cls"``: what it makes of the tokens' vectors.
        normalized: whether it scales its vectors to length 1.
        score: of the two texts; None for one.
        pairs: the score, split over the pairs of tokens; None for one text, and where ``similarity``
            is no sum over pairs.
        input: integrated gradients of the score, for each text; empty for one text.
        components: the score without each part of the encoder; None for one text.
    """

    model: str
    texts: list[TextSteps]
    layers: LayerByLayer
    similarity: str
    pooling_mode: PoolingMode
    normalized: bool
    score: float | None
    pairs: TokenPairs | None
    input: list[TokenAttribution]
    components: ComponentTable | None

    def __repr__(self) -> str:
        """The walk, in plain text."""
        from minilm.internals.walk import walk

        return "\n".join(walk(self))

    def _repr_html_(self) -> str:
        shown = [*self.input] if self.pairs is None else [self.pairs, *self.input]
        return "".join(part._repr_html_() for part in (*shown, self.layers, self.components) if part is not None)

    def to_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON. Attention, which is large, is float32 in base64, in C order."""
        texts = []
        for number, steps in enumerate(self.texts):
            attention = steps.attention.float().contiguous()
            record = {
                "text": steps.text,
                "tokens": steps.tokens,
                "ids": steps.ids,
                "spans": steps.spans,
                "tokens_lost": steps.tokens_lost,
                "embeddings": steps.embeddings.tolist(),
                "attention": {
                    "shape": list(attention.shape),
                    "dtype": "float32",
                    "base64": base64.b64encode(attention.numpy().tobytes()).decode(),
                },
                "pooled": steps.pooled.tolist(),
                "vector": steps.vector.tolist(),
                "layers": {
                    "vectors": self.layers.vectors[:, number].tolist(),
                    "similarity_to_last": self.similarity_to_last(number).tolist(),
                    "drift": self.layers.drift[:, number].tolist(),
                    "norms": self.layers.norms[:, number].tolist(),
                    "entropy": self.layers.entropy[:, number].tolist(),
                },
            }
            if self.input:
                found = self.input[number]
                record["integrated_gradients"] = {
                    "method": found.method,
                    "values": found.values.tolist(),
                    "score": found.score,
                    "baseline_score": found.baseline_score,
                    "gap": found.gap,
                }
            texts.append(record)
        result: dict[str, Any] = {"model": self.model, "similarity": self.similarity, "texts": texts}
        if self.score is not None:
            result |= {"score": self.score, "score_by_layer": self.layers.similarities[:, 0, 1].tolist()}
        if self.pairs is not None:
            result["token_pairs"] = {"matrix": self.pairs.matrix.tolist(), "gap": self.pairs.gap}
        if self.components is not None:
            result["components"] = {
                "ablation": self.components.ablation,
                "without": {
                    part.name: score
                    for part, score in zip(
                        self.components.components, self.components.without[:, 0].tolist(), strict=True
                    )
                },
            }
        return result

    def similarity_to_last(self, number: int) -> Tensor:
        """``[L + 1]``: the cosine of each layer's vector of a text with the last one's."""
        vectors = self.layers.vectors[:, number].double()
        return torch.cosine_similarity(vectors, vectors[-1:], dim=-1)

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Writes :meth:`to_dict` into a file."""
        with atomic_path(path) as temporary:
            temporary.write_text(to_json(self.to_dict(), ensure_ascii=False), encoding="utf-8")

    def write_html(self, path: str | os.PathLike[str]) -> None:
        """Writes one self-contained page: see page.py."""
        from minilm.internals.page import explanation_page

        with atomic_path(path) as temporary:
            temporary.write_text(explanation_page(self), encoding="utf-8")


def explain(
    model: SentenceEncoder,
    text: str,
    other: str | None = None,
    *,
    baseline: Baseline = "pad",
    steps: int = 64,
    name: str = "",
    show_progress_bar: bool | None = None,
) -> Explanation:
    """Follows a text from characters to vector; with ``other``, also what made the score of the two.

    Texts over the model's limit are cut, with one warning.

    Args:
        text, other: the texts.
        baseline, steps: of :func:`~minilm.internals.attribution.integrated_gradients`.
        name: what to call the model.
        show_progress_bar: None shows one on a terminal when it takes more than a second.

    Raises:
        InputError: a baseline that the model does not have, or no steps.
        TextTypeError: an input is not a string.
    """
    texts = check_texts([text] if other is None else [text, other])
    prompt = model._resolve_prompt(None, None)
    tokens_lost = model.tokens_lost(texts)
    model.report_truncation(tokens_lost, "warn", len(texts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # said once above
        layers = layer_by_layer(model, texts)
        traced = trace(model, texts, ("embeddings", "*.probabilities", "pooled", "sentence_embedding"))
        score, pairs, inputs, components = None, None, [], None
        if other is not None:
            score = score_pairs(model, *traced.sentence_embedding.split(1)).item()
            if model.similarity_fn_name in ("cosine", "dot"):
                pairs = token_pairs(model, text, other)
            inputs = [
                integrated_gradients(model, a, b, baseline=baseline, steps=steps) for a, b in (texts, texts[::-1])
            ]
            components = component_table(model, [(text, other)], show_progress_bar=show_progress_bar)
    steps_of = []
    for number, row in enumerate(traced.batch.texts(traced.batch.input_ids)):
        one = traced.text(number)
        steps_of.append(
            TextSteps(
                text=prompt + texts[number],
                tokens=one.tokens,
                ids=row.tolist(),
                spans=model.tokenizer.spans(prompt + texts[number]),
                tokens_lost=tokens_lost.get(number, 0),
                embeddings=one["embeddings"].cpu(),
                attention=torch.stack([one[key] for key in one if key.endswith("probabilities")]).cpu(),
                pooled=one["pooled"].cpu(),
                vector=truncate_embeddings(one.sentence_embedding, model.truncate_dim).cpu(),
            )
        )
    normalized = None in list_after_pooling(model.normalize)
    mode = model.pooling.mode
    return Explanation(
        name, steps_of, layers, model.similarity_fn_name, mode, normalized, score, pairs, inputs, components
    )
