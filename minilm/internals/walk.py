"""The walk from characters to vector as lines of text, for a terminal or a pipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from torch import Tensor

from minilm.errors import InputError
from minilm.internals.display import columns, fit, shaded
from minilm.internals.explanation import Explanation, TextSteps
from minilm.terminal import visible

TOKENS_SHOWN = 24  # of a long text; the page and the JSON file have all
PAIRS_SHOWN = 8
COMPONENTS_SHOWN = 8
NUMBERS_SHOWN = 5  # the first of a vector's
PIECE = 12  # columns for a word piece in a table
CELL = 7  # columns of the token-pair map

Shade: TypeAlias = Callable[[str, float, float], str]


def walk(explanation: Explanation, *, width: int = 100, colour: bool = False, token: int = 0) -> Iterator[str]:
    """The lines of the walk.

    Args:
        width: of the terminal, in columns; the token-pair map is left out where it does not fit.
        colour: shade values with a terminal's colours.
        token: the position of the token whose attention is followed; 0 is ``[CLS]``.

    Raises:
        InputError: there is no such token in one of the texts.
    """
    for steps in explanation.texts:
        if not 0 <= token < len(steps.tokens):
            raise InputError(
                f"there is no token {token}: {visible(steps.text)[:40]!r} has 0 to {len(steps.tokens) - 1}"
            )
    for number, steps in enumerate(explanation.texts):
        side = f"{'AB'[number]}  " if explanation.score is not None else ""
        yield from _title(side + visible(steps.text), width)
        yield from _tokens(steps)
        yield from _layers(explanation, number, token)
        yield from _vector(explanation, steps)
    if explanation.score is not None:
        yield from _title(f"The score of A and B: {explanation.similarity} {explanation.score:.4f}", width)
        shade: Shade = shaded if colour else lambda cell, value, largest: cell
        yield from _pairs(explanation, width, shade)
        yield from _input(explanation, shade)
        yield from _components(explanation)


def _title(text: str, width: int) -> Iterator[str]:
    text = fit(text, min(columns(text), max(20, width)))
    yield from (text, "═" * columns(text), "")


def _tokens(steps: TextSteps) -> Iterator[str]:
    count = len(steps.text)
    pieces = f"{len(steps.tokens)} pieces"
    if steps.tokens_lost:
        pieces += f", after which {steps.tokens_lost:,} were cut off: the model never sees them"
    yield f"{count:,} characters, {len(steps.text.encode()):,} bytes in UTF-8 → {pieces}"
    yield ""
    yield f"    #  {'piece':{PIECE}}  {'from':{PIECE}}  {'id':>6}  {'‖embedding‖':>11}  its first numbers"
    for position in _some(len(steps.tokens)):
        if position is None:
            yield f"       … {len(steps.tokens) - TOKENS_SHOWN} more"
            continue
        first, last = steps.spans[position]
        row = steps.embeddings[position]
        yield (
            f"  {position:3}  {fit(steps.tokens[position], PIECE)}  {fit(steps.text[first:last], PIECE)}  "
            f"{steps.ids[position]:6}  {row.norm():11.4f}  {_numbers(row)}"
        )
    yield ""


def _layers(explanation: Explanation, number: int, token: int) -> Iterator[str]:
    steps, layers = explanation.texts[number], explanation.layers
    to_last = explanation.similarity_to_last(number)
    name = visible(steps.tokens[token])
    yield "Layer by layer: the vector that each would give, if the model ended there."
    alike = math.log(len(steps.tokens))
    yield f"Entropy is of the heads' attention, in nats: 0 looks at one token, {alike:.2f} at all alike."
    yield ""
    head = f"  {'':10}  {'to the last':>11}  {'drift':>7}  {'‖token‖':>8}  {'entropy':>7}"
    yield f"{head}  {name} looks most at (mean of heads)"
    for place, norm in enumerate(layers.norms[:, number].tolist()):
        line = f"  {'embeddings' if place == 0 else f'layer {place - 1}':10}  {to_last[place]:11.4f}"
        if place == 0:
            yield f"{line}  {'':7}  {norm:8.3f}"
            continue
        looks = steps.attention[place - 1, :, token].mean(dim=0)  # [H, T] → [T]
        best = looks.argsort(descending=True, stable=True)[:3].tolist()
        seen = ", ".join(f"{visible(steps.tokens[i])} {looks[i]:.2f}" for i in best)
        drift, entropy = layers.drift[place - 1, number], layers.entropy[place - 1, number].mean()
        yield f"{line}  {drift:7.4f}  {norm:8.3f}  {entropy:7.3f}  {seen}"
    yield ""


def _vector(explanation: Explanation, steps: TextSteps) -> Iterator[str]:
    pooled = f"mean of the {len(steps.tokens)} tokens" if explanation.pooling_mode == "mean" else "the vector of [CLS]"
    end = "scaled to length 1" if explanation.normalized else "as it is"
    for what, vector in ((pooled, steps.pooled), (end, steps.vector)):
        length = vector.norm().item()
        yield f"  {what:{max(len(pooled), len(end))}}  {len(vector)} numbers of length {length:.4f}: {_numbers(vector)}"
    yield ""


def _pairs(explanation: Explanation, width: int, shade: Shade) -> Iterator[str]:
    pairs = explanation.pairs
    if pairs is None:
        yield f"A {explanation.similarity} similarity is no sum over pairs of tokens; what each piece adds is below."
        yield ""
        return
    matrix = pairs.matrix
    largest = matrix.abs().max().item()
    yield f"It is the sum of {matrix.numel():,} pairs of tokens, exactly: each token of A with each of B, as the last"
    yield f"layer left them (contextual tokens). Sum {matrix.sum():.6f}, score {explanation.score:.6f}:"
    yield f"{abs(pairs.gap):.0e} apart by rounding."
    yield ""
    if PIECE + (CELL + 1) * (matrix.shape[1] + 1) <= width and len(matrix) <= TOKENS_SHOWN:
        yield f"  {'A ↓  B →':{PIECE - 2}}" + "".join(" " + fit(piece, CELL, right=True) for piece in pairs.tokens[1])
        for piece, row in zip(pairs.tokens[0], matrix.tolist(), strict=True):
            cells = (" " + shade(f"{value:{CELL}.4f}", value, largest) for value in row)
            yield f"  {fit(piece, PIECE - 2)}" + "".join(cells)
        yield ""
    yield "  The pairs that add or take most:"
    order = matrix.flatten().abs().argsort(descending=True, stable=True)[:PAIRS_SHOWN].tolist()
    for i, j in (divmod(place, matrix.shape[1]) for place in order):
        cell = shade(f"{matrix[i, j]:+.4f}", matrix[i, j].item(), largest)
        yield f"  {cell}  {fit(pairs.tokens[0][i], PIECE, right=True)} × {visible(pairs.tokens[1][j])}"
    yield ""


def _input(explanation: Explanation, shade: Shade) -> Iterator[str]:
    yield "What each token adds: as a contextual token with all of the other text, and as a word piece put in"
    yield f"({explanation.input[0].method}, [CLS] and [SEP] kept)."
    yield ""
    for side, found in enumerate(explanation.input):
        shares = None
        if explanation.pairs is not None:
            shares = explanation.pairs.first if side == 0 else explanation.pairs.second
        yield (
            f"  {'AB'[side]:>3}  {'piece':{PIECE}}"
            + (f"  {'contextual':>10}" if shares is not None else "")
            + f"  {'input':>10}"
        )
        for position in _some(len(found.tokens)):
            if position is None:
                yield f"       … {len(found.tokens) - TOKENS_SHOWN} more"
                continue
            line = f"  {position:3}  {fit(found.tokens[position], PIECE)}"
            for values in (shares, found.values):
                if values is not None:
                    value = values[position].item()
                    line += "  " + shade(f"{value:+10.4f}", value, values.abs().max().item())
            yield line
        sums = f"  {shares.sum():+10.4f}" if shares is not None else ""
        yield f"       {'sum':{PIECE}}{sums}  {found.values.sum():+10.4f}"
        if found.baseline_score is not None and found.gap is not None:
            change = found.score - found.baseline_score
            share = f", {abs(found.gap / change):.4%}" if change else ""
            yield (
                f"       input: score {found.score:.4f} less {found.baseline_score:.4f} at the baseline is "
                f"{change:+.4f}; gap {abs(found.gap):.0e}{share}"
            )
        yield ""


def _components(explanation: Explanation) -> Iterator[str]:
    table = explanation.components
    if table is None:
        return
    heads = [place for place, part in enumerate(table.components) if part.part != "attention"]
    loss = table.loss[heads, 0]
    yield f"The score without each of the {len(heads)} heads and feed-forwards (set to zero), most changed first:"
    yield ""
    yield f"  {'without':28}  {'score':>7}  {'it loses':>8}"
    for place in loss.abs().argsort(descending=True, stable=True)[:COMPONENTS_SHOWN].tolist():
        score = table.without[heads[place], 0]
        yield f"  {table.components[heads[place]].name:28}  {score:7.4f}  {loss[place]:+8.4f}"
    yield ""


def _some(count: int) -> Sequence[int | None]:
    """The positions to show; None stands for those left out before the last."""
    if count <= TOKENS_SHOWN:
        return range(count)
    return [*range(TOKENS_SHOWN - 1), None, count - 1]


def _numbers(vector: Tensor) -> str:
    return " ".join(f"{value:7.4f}" for value in vector[:NUMBERS_SHOWN].tolist()) + " …"
