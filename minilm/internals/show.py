"""What notebooks show of the objects here: static HTML, without scripts, all text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from minilm.internals.html import Html, escape, fragment, table, text_cell

if TYPE_CHECKING:
    from minilm.internals.attribution import TokenAttribution, TokenPairs
    from minilm.internals.components import ComponentTable
    from minilm.internals.layers import LayerByLayer
    from minilm.internals.trace import Trace

MAP_LIMIT = 40  # tokens; a larger map is a list of its largest cells
LISTED = 20
ADDS, TAKES = "217,95,2", "43,108,176"  # orange and blue, behind text of either theme

STYLE = """
.minilm .map td, .minilm .map th { padding: .15em .35em; min-width: 0; font-size: .8rem; white-space: nowrap; }
.minilm .pieces span { padding: .1em .25em; border-radius: .2em; display: inline-block; white-space: pre; }
"""


def token_pairs(pairs: TokenPairs) -> Html:
    """The map of a score."""
    matrix = pairs.matrix
    head = (
        f"<p><b>{pairs.similarity} {pairs.score:.4f}</b>, the sum of {matrix.numel():,} pairs of contextual tokens "
        f"(gap {abs(pairs.gap):.0e})</p>"
    )
    if max(matrix.shape) <= MAP_LIMIT:
        return fragment(head + heat(matrix, pairs.tokens[0], pairs.tokens[1]), STYLE)
    order = matrix.flatten().abs().argsort(descending=True, stable=True)[:LISTED].tolist()
    cells = [(matrix[i, j], i, j) for i, j in (divmod(place, matrix.shape[1]) for place in order)]
    rows = [[escape(f"{pairs.tokens[0][i]} × {pairs.tokens[1][j]}"), f"{value:+.4f}"] for value, i, j in cells]
    return fragment(head + table(["pair", "adds"], rows, caption=f"The {len(rows)} pairs that add or take most"), STYLE)


def token_attribution(found: TokenAttribution) -> Html:
    """The text with its tokens shaded, and their values."""
    most = found.values.abs().max().item()
    pieces = " ".join(
        f'<span style="{_shade(value, most)}" title="{value:+.4f}">{escape(piece)}</span>'
        for piece, value in zip(found.tokens, found.values.tolist(), strict=True)
    )
    sums = f", sum {found.values.sum():+.4f}"
    if found.gap is not None:
        sums += f", score at the baseline {found.baseline_score:.4f}, gap {abs(found.gap):.0e}"
    rows = [[escape(piece), f"{value:+.4f}"] for piece, value in zip(found.tokens, found.values.tolist(), strict=True)]
    body = f'<p>{escape(found.method)}: <b>score {found.score:.4f}</b>{sums}</p><p class="pieces">{pieces}</p>'
    return fragment(f"{body}<details><summary>values</summary>{table(['piece', 'adds'], rows)}</details>", STYLE)


def components(found: ComponentTable) -> Html:
    """The mean change of the score without each component, a row for each layer."""
    layers = len({part.layer for part in found.components})
    row = found.components[: len(found.components) // layers]
    names = [f"head {part.head}" if part.part == "head" else part.part for part in row]
    one = len(found.pairs) == 1
    values = (found.loss[:, 0] if one else found.mean_change).view(layers, -1)
    what = "what the score loses" if one else "mean absolute change of the score"
    head = (
        f"<p>{len(found.pairs)} pair{'' if one else 's'}, score {found.scores.mean():.4f}; {what} without each "
        f"component ({found.ablation} ablation)</p>"
    )
    return fragment(head + heat(values, [f"layer {layer}" for layer in range(layers)], names), STYLE)


def layer_by_layer(found: LayerByLayer) -> Html:
    """A row for each layer: means over the texts, and the score of the first two."""
    two = len(found.texts) > 1
    rows = []
    for number in range(len(found.vectors)):
        layer = number - 1
        row = ["embeddings" if number == 0 else f"layer {layer}", f"{found.norms[number].mean():.3f}"]
        row += [f"{found.drift[layer].mean():.4f}", f"{found.entropy[layer].mean():.3f}"] if number else ["", ""]
        rows.append([*row, f"{found.similarities[number, 0, 1]:.4f}"] if two else row)
    head = ["", "token norm", "drift", "attention entropy", *(["first with second text"] if two else [])]
    return fragment(table(head, rows, caption=f"{len(found.texts)} texts, layer by layer"), STYLE)


def trace(found: Trace) -> Html:
    """The texts with their tokens, and what is kept."""
    tokens = map(" ".join, found.tokens)
    texts = [[text_cell(text, 80), text_cell(row)] for text, row in zip(found.texts, tokens, strict=True)]
    kept = []
    for name in found:
        value = found[name]
        shape = str(list(value.shape)) if isinstance(value, Tensor) else f"{len(value)} × [H, T, T]"
        kept.append([escape(name), escape(shape)])
    activations = f"<details><summary>{len(kept)} activations</summary>{table(['name', 'shape'], kept)}</details>"
    return fragment(table(["text", "tokens"], texts, numbers=0) + activations, STYLE)


def heat(values: Tensor, rows: Sequence[str], columns: Sequence[str]) -> Html:
    """A matrix as a table whose cells are shaded by their values."""
    most = values.abs().max().item()
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = []
    for name, row in zip(rows, values.tolist(), strict=True):
        cells = "".join(f'<td class="n" style="{_shade(value, most)}">{value:.4f}</td>' for value in row)
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return f'<div class="wide"><table class="map"><tr><th></th>{head}</tr>{"".join(lines)}</table></div>'


def _shade(value: float, most: float) -> str:
    strength = 0.8 * abs(value) / most if most else 0.0
    return f"background: rgba({ADDS if value > 0 else TAKES},{strength:.2f})"
