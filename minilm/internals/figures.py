"""The objects here as matplotlib figures: ``pip install 'minilm[plot]'``.

Each function gives a figure that belongs to no global state: show it in a notebook, or
``figure.savefig("map.png")``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from minilm.errors import InputError
from minilm.terminal import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minilm.internals.attribution import TokenAttribution, TokenPairs
    from minilm.internals.components import ComponentTable
    from minilm.internals.faithfulness import DeletionCurve
    from minilm.internals.layers import LayerByLayer
    from minilm.internals.trace import TextTrace

LABELS = 64  # more names along an axis cannot be read
SIGNED = "PuOr_r"  # purple takes, orange adds


def token_pairs(pairs: TokenPairs) -> Figure:
    """The map of a score: a row for each token of the first text."""
    title = f"{pairs.similarity} {pairs.score:.4f}, by pairs of contextual tokens"
    return _map(pairs.matrix, pairs.tokens[0], pairs.tokens[1], title, signed=True)


def token_attribution(found: TokenAttribution) -> Figure:
    """A bar for each token."""
    figure, axes = _figure(6, max(2, 0.22 * len(found.tokens) + 1))
    values = found.values.tolist()
    axes.barh(range(len(values)), values, color=["#d95f02" if value > 0 else "#2b6cb0" for value in values])
    axes.axvline(0, color="gray", linewidth=0.8)
    axes.invert_yaxis()
    _names(axes, "y", found.tokens)
    _plain(axes.set_title(f"{found.method}, score {found.score:.4f}", fontsize="medium"))
    return figure


def components(found: ComponentTable) -> Figure:
    """What the scores lose without each component (several pairs: the mean absolute change)."""
    layers = len({part.layer for part in found.components})
    row = found.components[: len(found.components) // layers]
    names = [f"head {part.head}" if part.part == "head" else part.part for part in row]
    one = len(found.pairs) == 1
    values = (found.loss[:, 0] if one else found.mean_change).view(layers, -1)
    title = "The score loses" if one else f"Mean absolute change of {len(found.pairs)} scores"
    title += f" without each component ({found.ablation} ablation)"
    return _map(values, [f"layer {layer}" for layer in range(layers)], names, title, signed=True)


def layer_by_layer(found: LayerByLayer) -> Figure:
    """Similarity of each text's vector to its last one, and the attention's entropy, by layer."""
    figure, (left, right) = _figure(10, 3.5, 2)
    vectors = found.vectors.double().cpu()
    to_last = (vectors * vectors[-1:]).sum(-1) / (vectors.norm(dim=-1) * vectors[-1:].norm(dim=-1)).clamp(min=1e-12)
    for number, text in enumerate(found.texts[:10]):
        label = visible(text, 30)
        left.plot(range(-1, len(vectors) - 1), to_last[:, number].tolist(), marker="o", label=label)
        entropy = found.entropy[:, number].double().mean(-1).tolist()
        right.plot(range(len(entropy)), entropy, marker="o", label=label)
    left.set(title="cosine with the last layer's vector", xlabel="layer (-1: embeddings)")
    right.set(title="attention entropy, nats", xlabel="layer")
    for text in left.legend(fontsize="small").get_texts():
        _plain(text)
    return figure


def deletion_curve(found: DeletionCurve) -> Figure:
    """The score while tokens go, and in random orders."""
    figure, axes = _figure(6, 3.5)
    axes.plot(found.random.T.tolist(), color="gray", linewidth=0.6, alpha=0.5)
    axes.plot(found.random.mean(dim=0).tolist(), color="gray", label="random orders")
    axes.plot(found.scores.tolist(), color="#d95f02", label="the attribution's order")
    axes.set(title="Deletion curve", xlabel="tokens gone", ylabel="score")
    axes.legend()
    return figure


def attention(found: TextTrace, layer: int, head: int | None = None) -> Figure:
    """Who looks at whom: a row for each token that looks; ``head`` None takes the mean of all.

    Raises:
        InputError: the trace has not kept this layer's probabilities, or there is no such head.
    """
    weights = found[f"layers.{layer}.attention.probabilities"]
    if head is not None and not 0 <= head < len(weights):
        raise InputError(f"there is no head {head}; there are 0 to {len(weights) - 1}")
    values = weights.mean(dim=0) if head is None else weights[head]
    title = f"Attention of layer {layer}, {'mean of heads' if head is None else f'head {head}'}"
    return _map(values, found.tokens, found.tokens, title, signed=False)


def _map(values: Tensor, rows: Sequence[str], columns: Sequence[str], title: str, signed: bool) -> Figure:
    array = values.detach().double().cpu().numpy()
    figure, axes = _figure(2.5 + min(12, 0.3 * len(columns)), 1.5 + min(12, 0.3 * len(rows)))
    most = float(np.abs(array).max()) or 1.0
    image = axes.imshow(array, cmap=SIGNED if signed else "Greens", vmin=-most if signed else 0, vmax=most)
    _names(axes, "x", columns)
    _names(axes, "y", rows)
    figure.colorbar(image, ax=axes, shrink=0.8)
    _plain(axes.set_title(title, fontsize="medium"))
    return figure


def _names(axes: Any, side: str, names: Sequence[str]) -> None:
    if len(names) > LABELS:
        return
    getattr(axes, f"set_{side}ticks")(range(len(names)), [visible(name) for name in names], fontsize="small")
    for label in getattr(axes, f"get_{side}ticklabels")():
        _plain(label)
        if side == "x":
            label.set_rotation(90)


def _plain(text: Any) -> None:
    text.set_parse_math(False)  # a "$" in a text is a dollar


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure as Base
    except ImportError:
        raise InputError("figures need matplotlib: pip install 'minilm[plot]'") from None
    # Shows itself in a notebook, also where pyplot has not been imported.
    kind = type("Figure", (Base,), {"_repr_png_": _png})
    figure: Figure = kind(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def _png(figure: Figure) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
