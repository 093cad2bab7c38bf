"""Can an attribution be trusted? Tokens are taken out in its order, and the score is watched.

Samek et al. 2017, "Evaluating the Visualization of What a Deep Neural Network Has Learned"
(https://arxiv.org/abs/1509.06321): the sooner the score falls, compared with a random order, the
better the attribution has found what it rests on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from minilm.errors import InputError, check_choice
from minilm.internals.attribution import TokenAttribution, score_variants, without
from minilm.internals.trace import tokenize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minilm.sentence_encoder import SentenceEncoder


@dataclass(frozen=True, repr=False)
class DeletionCurve:
    """A score while tokens go.

    Attributes:
        order: the positions in the order in which they went, ``n`` of them: all but ``[CLS]`` and ``[SEP]``.
        scores: float64 ``[n + 1]``: with 0 … n tokens gone.
        random: float64 ``[orders, n + 1]``: the same in random orders.
    """

    order: list[int]
    scores: Tensor
    random: Tensor

    @property
    def area(self) -> float:
        """The mean height of the curve, by the trapezoid rule: low is good."""
        return _height(self.scores).item()

    @property
    def random_area(self) -> float:
        """The same, the mean over the random orders."""
        return _height(self.random).mean().item()

    @property
    def advantage(self) -> float:
        """By how much the curve lies below the random ones: 0 is no better than chance."""
        return self.random_area - self.area

    def __repr__(self) -> str:
        return (
            f"DeletionCurve over {len(self.order)} tokens: score {self.scores[0]:.4f} to {self.scores[-1]:.4f}, "
            f"mean height {self.area:.4f}, of random orders {self.random_area:.4f}"
        )

    def plot(self) -> Figure:
        """A matplotlib figure: see figures.py."""
        from minilm.internals import figures

        return figures.deletion_curve(self)


@torch.no_grad()
def deletion_curve(
    model: SentenceEncoder,
    text: str,
    other: str,
    attribution: TokenAttribution | Tensor | Sequence[float],
    *,
    by: Literal["mask", "delete"] = "mask",
    orders: int = 20,
    seed: int = 0,
    similarity: str | Enum | None = None,
) -> DeletionCurve:
    """The score of ``text`` with ``other`` while the tokens of ``text`` go, the one with the largest
    value first.

    Args:
        text, other: the two.
        attribution: a value for each token of ``text``, ``[CLS]`` and ``[SEP]`` included (which stay).
        by: ``"mask"`` or ``"delete"``, see :func:`~minilm.internals.attribution.occlusion`.
        orders: how many random orders to compare with.
        seed: of the random orders.
        similarity: any of the model's four; None takes the model's own.

    Raises:
        InputError: not one value for each token, or a value that is not a number.
    """
    check_choice("by", by, ("mask", "delete"))
    if orders < 1:
        raise InputError(f"orders is {orders}, expected at least 1")
    values = attribution.values if isinstance(attribution, TokenAttribution) else torch.as_tensor(attribution)
    (text, other), batch = tokenize(model, [text, other], "packed")
    ids, other_ids = (row.tolist() for row in batch.texts(batch.input_ids))
    if values.shape != (len(ids),) or values.isnan().any():
        raise InputError(f"found {list(values.shape)} values, expected a number for each of the {len(ids)} tokens")
    n = len(ids) - 2
    generator = torch.Generator().manual_seed(seed)
    ranked = values[1:-1].argsort(descending=True, stable=True).cpu()
    sequences = torch.stack([ranked, *(torch.randperm(n, generator=generator) for _ in range(orders))]) + 1
    variants = [without(model, ids, order[:gone], by) for order in sequences.tolist() for gone in range(n + 1)]
    distinct = list(dict.fromkeys(map(tuple, variants)))  # all orders begin and end alike
    score_of = dict(zip(distinct, score_variants(model, distinct, other_ids, similarity).tolist(), strict=True))
    curves = torch.tensor([score_of[tuple(v)] for v in variants], dtype=torch.float64).view(orders + 1, n + 1)
    return DeletionCurve(sequences[0].tolist(), curves[0], curves[1:])


def _height(scores: Tensor) -> Tensor:
    """The mean height of curves ``[..., n + 1]`` → ``[...]``; of a single point, its height."""
    if scores.shape[-1] == 1:
        return scores[..., 0]
    return torch.trapezoid(scores, dim=-1) / (scores.shape[-1] - 1)
