"""Layer by layer: the vector that each layer would give, how far it moved, and what attention did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minilm.internals.attribution import score_pairs
from minilm.internals.trace import trace
from minilm.layouts import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minilm.sentence_encoder import SentenceEncoder


@dataclass(frozen=True, repr=False)
class LayerByLayer:
    """What :func:`layer_by_layer` found. ``L`` layers; index 0 of the first axis is the embeddings'
    where it has ``L + 1`` places.

    Attributes:
        texts: ``B`` of them.
        tokens: for each text its word pieces.
        vectors: ``[L + 1, B, D]``: the sentence embedding if the model ended there, pooled and
            normalised as at its end. The last is the model's own, to the bit.
        drift: ``[L, B]``: 1 - cosine of the vectors before and after each layer.
        norms: ``[L + 1, B]``: the mean length of the token vectors.
        entropy: ``[L, B, H]``: of each head's attention in nats, the mean over the tokens that look;
            0 looks at one token, ln T at all T alike.
        similarities: ``[L + 1, B, B]``: of all pairs of texts, by the model's similarity.
    """

    texts: list[str]
    tokens: list[list[str]]
    vectors: Tensor
    drift: Tensor
    norms: Tensor
    entropy: Tensor
    similarities: Tensor

    def __repr__(self) -> str:
        """A line for each layer, means over the texts."""
        lines = [f"{len(self.texts)} texts{'':14}drift  token norm  attention entropy"]
        for number in range(len(self.vectors)):
            name = "embeddings" if number == 0 else f"layers.{number - 1}.output"
            line = f"  {name:18}"
            line += " " * 7 if number == 0 else f"{self.drift[number - 1].mean():7.4f}"
            line += f"{self.norms[number].mean():12.3f}"
            line += "" if number == 0 else f"{self.entropy[number - 1].mean():15.3f} nats"
            lines.append(line)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from minilm.internals import show

        return show.layer_by_layer(self)

    def plot(self) -> Figure:
        """A matplotlib figure: see figures.py."""
        from minilm.internals import figures

        return figures.layer_by_layer(self)


@torch.no_grad()
def layer_by_layer(model: SentenceEncoder, texts: Iterable[str], *, layout: Layout = "padded") -> LayerByLayer:
    """How the texts' vectors come about, layer by layer. The layers were trained to be read at the end
    only: a vector from the middle says what is there already, not how good a shorter model would be.

    Raises:
        InputError: no texts, or an unknown layout.
        TextTypeError: an input is not a string.
    """
    traced = trace(model, texts, ("embeddings", "layers.*.output", "*.probabilities"), layout)
    states = [name for name in traced if not name.endswith("probabilities")]
    vectors, norms, entropy = [], [], []
    for name in states:
        hidden = traced[name]
        assert isinstance(hidden, Tensor)
        vectors.append(model.normalize(model.pooling(hidden, traced.batch)))
        norms.append(torch.stack([text.norm(dim=-1).mean() for text in traced.by_text(name)]))
    for name in traced:
        if name.endswith("probabilities"):
            # entr is -p ln p, 0 where p is 0
            entropy.append(torch.stack([torch.special.entr(p).sum(-1).mean(-1) for p in traced.by_text(name)]))
    stacked = torch.stack(vectors)
    drift = 1 - torch.cosine_similarity(stacked[1:], stacked[:-1], dim=-1)
    B = len(traced.texts)
    pairs = [score_pairs(model, v.repeat_interleave(B, 0), v.repeat(B, 1)).view(B, B) for v in stacked]
    return LayerByLayer(
        traced.texts, traced.tokens, stacked, drift, torch.stack(norms), torch.stack(entropy), torch.stack(pairs)
    )
